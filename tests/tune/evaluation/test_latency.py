"""Seconds of a plan by hand, and a real measurement of the tiny pair."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_core.sampling.estimators import get_estimator
from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_core.sampling.plan import Plan
from ecdiff_core.sampling.plan_of_params import plan
from ecdiff_tune.evaluation import latency as latency_module
from ecdiff_tune.evaluation.latency import LatencyProfile, Timing
from ecdiff_tune.evaluation.link import Link


@pytest.mark.parametrize(
    ("params", "seconds"),
    [
        pytest.param(ECDiffParams.cloud_only(12), 0.003 + 12 * 0.020 + 0.005, id="cloud"),
        pytest.param(ECDiffParams.edge_only(), 0.003 + 12 * 0.008 + 0.005, id="edge"),
        pytest.param(ECDiffParams.hybrid(9), 0.003 + 9 * 0.020 + 3 * 0.008 + 0.005 + 0.010, id="HybridSD"),
        # 3C2A1C2A1C3E: approximated steps cost nothing, the handoff a transfer.
        pytest.param(ECDiffParams(3, 2, 0.3, 9), 0.003 + 5 * 0.020 + 3 * 0.008 + 0.005 + 0.010, id="EC-Diff"),
        pytest.param(ECDiffParams(3, 2, 0.3, 12), 0.003 + 6 * 0.020 + 0.005, id="stage 1"),
    ],
)
def test_seconds_of_a_plan(latency: LatencyProfile, params: ECDiffParams, seconds: float) -> None:
    assert latency.seconds(plan(params, 12)) == pytest.approx(seconds)


def test_seconds_count_the_edge_calls_beside_the_cloud_s_steps(latency: LatencyProfile) -> None:
    steps = plan(ECDiffParams(3, 2, 0.3, 9), 12, "aligned", get_estimator("edge"))  # 2C1B2M1B2M1C3E
    assert latency.seconds(steps) == pytest.approx(0.003 + 5 * 0.020 + 9 * 0.008 + 0.005 + 0.010)


def test_a_later_cloud_call_takes_a_round_trip_and_two_tensors(latency: LatencyProfile) -> None:
    """Its request carries the latents up, its answer the noise down."""
    profile = replace(latency, payload_values=6_000, tensor_values=1_000).over(Link(16.0, 0.05))
    one_way, in_turns = Plan.from_schedule("2C3E"), Plan.from_schedule("2C2E2C1E")
    assert profile.transfer(one_way) == pytest.approx(0.05 + 0.006)
    assert profile.transfer(in_turns) == pytest.approx(3 * 0.05 + 0.006 + 2 * 2 * 0.001)


def test_the_paper_s_sdxl_and_vega() -> None:
    # Table 6 over 50 steps: 6.25 s and 3.27 s; 11 cloud and 14 edge calls and 0.32 s of transfer: 2.61 s.
    none = Timing(0, 0, 0)
    profile = LatencyProfile(Timing(6.25 / 50, 0, 0), Timing(3.27 / 50, 0, 0), none, none, 0.32)
    assert profile.seconds(plan(ECDiffParams(6, 5, 0.2, 36), 50)) == pytest.approx(2.61, abs=0.005)


def test_seconds_alone_are_those_of_the_baselines(latency: LatencyProfile) -> None:
    cloud, edge = latency.alone(12)
    assert cloud == pytest.approx(latency.seconds(plan(ECDiffParams.cloud_only(12), 12)))
    assert edge == pytest.approx(latency.seconds(plan(ECDiffParams.edge_only(), 12)))


def test_saved_and_loaded(latency: LatencyProfile, tmp_path: Path) -> None:
    profile = replace(latency, transfer_seconds=1 / 3, encode=Timing(0.1, 1e-9, 2 / 7))
    profile.save(tmp_path / "new" / "latency.json")
    assert LatencyProfile.load(tmp_path / "new" / "latency.json") == profile


def test_a_file_that_is_older_than_the_payload(latency: LatencyProfile, tmp_path: Path) -> None:
    path = tmp_path / "latency.json"
    replace(latency, payload_values=7).save(path)
    assert LatencyProfile.load(path) == replace(latency, payload_values=7)
    tree = json.loads(path.read_text())
    del tree["payload_values"], tree["conditions"]
    path.write_text(json.dumps(tree))
    assert LatencyProfile.load(path) == latency
    assert latency.payload_values is None


def test_measured(pipe: ECDiffPipeline) -> None:
    profile = latency_module.measure(pipe, Link(mbps=None))
    for name, timing in asdict(profile).items():
        if name.endswith("_call") or name in ("encode", "decode"):
            assert 0 < timing["low"] <= timing["median"] <= timing["high"] < 1, name
    assert profile.cloud_call.median > profile.edge_call.median
    assert profile.transfer_seconds == profile.tensor_seconds == profile.crossing_seconds == 0
    assert profile.tensor_values == 256
    linked = profile.over(Link(mbps=1.0, round_trip_seconds=0.02))
    assert linked.tensor_seconds == pytest.approx(256 * 16 / 1e6)
    assert linked.transfer(Plan.from_schedule("6C6E")) == pytest.approx(linked.transfer_seconds)
    turns = Plan.from_schedule("2C1B2M1A1B5M")  # a handoff with one noise more, then up and down once
    assert linked.transfer(turns) == pytest.approx(linked.transfer_seconds + 3 * linked.tensor_seconds + 0.02)


def test_it_says_what_it_was_measured_under(
    pipe: ECDiffPipeline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(latency_module, "CALLS", latency_module.WARM_UP_CALLS + 2)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    profile = latency_module.measure(pipe, Link())
    found = profile.conditions
    assert found is not None
    assert (found.pair, found.dtype, found.threads, found.wait_policy) == ("tiny", "float32", 1, "passive")
    assert found.device.startswith("cpu (")
    profile.save(tmp_path / "latency.json")
    assert LatencyProfile.load(tmp_path / "latency.json") == profile


@pytest.mark.parametrize(
    ("cloud", "note"),
    [
        pytest.param(Timing(0.064, 0.061, 0.066), "", id="idle"),
        pytest.param(Timing(0.020, 0.019, 0.023), "", id="a spread of a fifth"),
        pytest.param(
            Timing(0.100, 0.070, 0.300),
            "cloud call 70 … 300 ms between quartiles",
            id="beside another process",
        ),
        pytest.param(Timing(0.0, 0.0, 0.0), "", id="no time at all"),
    ],
)
def test_a_busy_machine_is_seen_by_the_spread(latency: LatencyProfile, cloud: Timing, note: str) -> None:
    quiet = replace(latency, edge_call=Timing(0.008, 0.0078, 0.0082))
    profile, kept = replace(quiet, cloud_call=cloud), Path("out/latency.json")
    found = profile.spread_note(kept)
    assert note in found
    assert ("give the new file" in profile.spread_note(kept, "server.json")) == bool(note)
    assert ("Delete out/latency.json to measure again" in found) == bool(note)
    assert bool(found) == bool(note)


def test_every_operation_is_called_as_often(pipe: ECDiffPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = dict.fromkeys(("cloud", "edge"), 0)
    batches: list[int] = []

    def count(name: str) -> object:
        def hook(_module: object, inputs: tuple, _output: object) -> None:
            counts[name] += 1
            batches.append(len(inputs[0]))

        return hook

    hooks = [
        model.register_forward_hook(count(name))  # type: ignore[arg-type]
        for name, model in (("cloud", pipe.pair.cloud), ("edge", pipe.pair.edge))
    ]
    monkeypatch.setattr(latency_module, "WARM_UP_CALLS", 1)
    monkeypatch.setattr(latency_module, "CALLS", 3)
    latency_module.measure(pipe, Link())
    for hook in hooks:
        hook.remove()
    assert counts == {"cloud": 3, "edge": 3}
    assert set(batches) == {2}  # one image, with and without its prompt


def test_the_link_carries_latents_and_embeddings(
    pipe: ECDiffPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency_module, "CALLS", latency_module.WARM_UP_CALLS + 2)
    found = latency_module.measure(pipe, Link(mbps=1.0, round_trip_seconds=0.5))
    tokens = pipe.pair.family.pipeline.tokenizer.model_max_length
    values = 4 * 8 * 8 + 2 * tokens * 32
    assert found.transfer_seconds == pytest.approx(0.5 + values * 16 / 1e6)
    assert found.payload_values == values


def test_a_pair_whose_models_take_the_prompt_alone(
    pipe: ECDiffPipeline, latency: LatencyProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Distilled ones have no half without the prompt, whatever the guidance scale: nor has the handoff."""
    link, family = Link(10.0), pipe.pair.family
    guided = latency_module.of_this_pair(replace(latency, payload_values=None), pipe, link, "a file")
    monkeypatch.setattr(family, "needs_negatives", lambda *_: False)
    latents = family.initial_latents(1, pipe.size, family.scheduler, None)
    own = family.payload_values(pipe.encode([latency_module.PROMPT]), latents)
    profile = replace(latency, payload_values=own)
    assert latency_module.of_this_pair(profile, pipe, link, "a file").payload_values == own
    assert guided.payload_values is not None
    assert own < guided.payload_values
