"""rerank: the best config by other weights, links and limits, and what it writes and says of it."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from ecdiff_core.config import TunedConfig
from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_core.sampling.plan_of_params import plan
from ecdiff_tune.data.conf_folder import config_folder
from ecdiff_tune.evaluation.latency import LatencyProfile, Timing
from ecdiff_tune.objective import burden, efficiency
from ecdiff_tune.study.config_sections import DIGITS

from ..recorded_study import GRID, SPEC, STEPS, RecordedStudy, quality, with_payload
from ..studies import Command, Study, refuses


@pytest.fixture
def recorded(tmp_path: Path, latency: LatencyProfile) -> RecordedStudy:
    return RecordedStudy(tmp_path, with_payload(latency)).write()


def best_by_hand(
    latency: LatencyProfile, weights: tuple[float, float, float], earliest_s: int = 7
) -> tuple[ECDiffParams, float]:
    """Eq. 12 over the grid, written out."""

    def objective(params: ECDiffParams) -> float:
        seconds = latency.seconds(plan(params, STEPS))
        gained = efficiency(seconds, *latency.alone(STEPS))
        taken = burden(params.s, STEPS, earliest_s)
        return sum(w * x for w, x in zip(weights, (quality(params), gained, taken), strict=True))

    best = max(GRID, key=objective)
    return best, objective(best)


@pytest.mark.parametrize(
    ("overrides", "weights", "earliest_s"),
    [
        ([], (0.3, 0.3, 0.4), 7),
        (["objective.w1=5"], (5.0, 0.3, 0.4), 7),
        (["objective.w1=0", "objective.w2=1", "objective.w3=0"], (0.0, 1.0, 0.0), 7),
        (["objective.w1=3", "objective.earliest_s=2"], (3.0, 0.3, 0.4), 2),
    ],
)
def test_other_weights(
    recorded: RecordedStudy,
    command: Command,
    latency: LatencyProfile,
    overrides: list[str],
    weights: tuple[float, float, float],
    earliest_s: int,
) -> None:
    outcome = command("rerank", *recorded.arguments(*overrides))
    assert outcome.status == 0, outcome
    params, objective = best_by_hand(latency, weights, earliest_s)
    config = TunedConfig.load(recorded.folder / "rerank.yaml")
    assert (config.params, config.pair) == (params, SPEC)
    assert config.sampling.num_inference_steps == STEPS
    assert config.score is not None
    assert config.score["objective"] == round(objective, DIGITS)
    low, high = config.score["objective_ci95"]
    assert low <= config.score["objective"] <= high
    assert (low < high) == (weights[0] > 0)
    assert config.provenance is not None
    assert config.provenance["objective"]["w1"] == weights[0]
    chosen = config.provenance["chosen"]
    assert (chosen["by"], chosen["configs"], len(chosen["changed"])) == ("rerank", len(GRID), len(overrides))


def test_weights_choose_different_configs(latency: LatencyProfile) -> None:
    cases = [(0.3, 0.3, 0.4), (5.0, 0.3, 0.4), (0.0, 1.0, 0.0)]
    assert len({best_by_hand(latency, weights)[0] for weights in cases}) == 3


def test_another_link_and_another_machine(
    recorded: RecordedStudy, command: Command, latency: LatencyProfile, tmp_path: Path
) -> None:
    machine = tmp_path / "fast.json"
    fast = replace(with_payload(latency), cloud_call=Timing(0.100, 0.09, 0.11))
    fast.save(machine)
    weights = ["objective.w1=1", "objective.w2=1", "objective.w3=0"]
    slow = "link.round_trip_seconds=5"
    outcome = command("rerank", *recorded.arguments(*weights, slow, f"rerank.latency={machine}"))
    assert outcome.status == 0, outcome
    expected, _ = best_by_hand(replace(fast, transfer_seconds=5.01), (1.0, 1.0, 0.0))
    config = TunedConfig.load(recorded.folder / "rerank.yaml")
    assert config.params == expected
    assert config.params.s == STEPS  # nothing is sent
    assert config.provenance is not None
    assert config.provenance["latency"]["source"] == str(machine)
    assert config.provenance["latency"]["transfer_seconds"] == 5.01
    assert config.provenance["chosen"]["changed"] == [
        "link.round_trip_seconds 0.0 -> 5.0",
        "objective.w1 0.3 -> 1.0",
        "objective.w2 0.3 -> 1.0",
        "objective.w3 0.4 -> 0.0",
        f"latency profile {machine}",
    ]
    assert "scored with link.round_trip_seconds 0.0 -> 5.0; objective.w1 0.3 -> 1.0" in outcome.out


def test_metrics_of_comparisons_are_no_measurements_of_the_study(
    recorded: RecordedStudy, command: Command
) -> None:
    given = recorded.arguments("metrics.names=[psnr,clip]", "metrics.clip=clip", "metrics.lpips_net=vgg")
    outcome = command("rerank", *given)
    assert outcome.status == 0, outcome


def test_limits(recorded: RecordedStudy, command: Command, latency: LatencyProfile) -> None:
    seconds = {params: latency.seconds(plan(params, STEPS)) for params in GRID}
    outcome = command("rerank", *recorded.arguments("rerank.min_quality=0.85", "rerank.max_seconds=0.165"))
    assert outcome.status == 0, outcome
    allowed = [one for one in GRID if quality(one) >= 0.85 and seconds[one] <= 0.165]
    assert 0 < len(allowed) < len(GRID)
    rows = [line for line in outcome.out.splitlines() if re.match(r"\| \d", line)]
    assert len(rows) == len(allowed)
    assert [row.split("|")[1].strip() for row in rows] == [str(i + 1) for i in range(len(rows))]
    assert TunedConfig.load(recorded.folder / "rerank.yaml").params in allowed
    (recorded.folder / "rerank.yaml").unlink()

    best = max(map(quality, GRID))
    outcome = command("rerank", *recorded.arguments("rerank.min_quality=0.99"))
    refuses(outcome, key="rerank.min_quality", got=0.99, expected=f"<= {best:.4f}")
    both = recorded.arguments("rerank.min_quality=0.9", "rerank.max_seconds=0.12")
    refuses(command("rerank", *both), key="rerank.max_seconds", got=0.12)
    assert not (recorded.folder / "rerank.yaml").exists()


def test_held_out_prompts_are_told_where_they_were_measured(
    tmp_path: Path, latency: LatencyProfile, command: Command
) -> None:
    best, _ = best_by_hand(latency, (0.3, 0.3, 0.4))
    study = RecordedStudy(tmp_path, latency).write(heldout=[best])
    assert "held-out ones" in command("rerank", *study.arguments()).out
    config = TunedConfig.load(study.folder / "rerank.yaml")
    assert config.score is not None
    assert config.score["heldout"]["quality"] == pytest.approx(quality(best))
    other = command("rerank", *study.arguments("objective.w1=5")).out
    assert "note: held-out prompts were measured with the study's own winner alone" in other
    assert "heldout" not in (TunedConfig.load(study.folder / "rerank.yaml").score or {})


# A study that was really measured.


def test_a_real_study_reranked(done: Study, tmp_path: Path, command: Command) -> None:
    again = done.copy(tmp_path / "outputs")
    before = again.bytes()
    outcome = again("rerank")
    assert outcome.status == 0, outcome
    assert "scored as the study itself was" in outcome.out
    assert again.bytes() == before
    own, found = again.config(), again.config("rerank.yaml")
    assert found.score == own.score
    assert (found.params, found.sampling, found.pair) == (own.params, own.sampling, own.pair)
    assert own.provenance is not None
    assert found.provenance is not None
    for name in ("calibration", "objective", "latency", "device", "versions", "created"):
        assert found.provenance[name] == own.provenance[name]
    assert "is chosen here too" in outcome.out

    outcome = again("rerank", "objective.w1=50", "link=none")
    assert outcome.status == 0, outcome
    found = again.config("rerank.yaml")
    assert found.score is not None
    assert own.score is not None
    assert found.score["quality"] > own.score["quality"]
    told = re.search(
        r"ecdiff\.yaml's config \(p=.*\) -> this one: quality (\S+) -> (\S+), objective", outcome.out
    )
    assert told
    assert [float(one) for one in told.groups()] == pytest.approx(
        [own.score["quality"], found.score["quality"]], abs=5e-5
    )


@pytest.mark.parametrize(
    ("given", "transfer"),
    [
        pytest.param([], 0.010, id="as the study"),
        pytest.param(["link.mbps=null"], 0.0, id="another link"),
        pytest.param(["link.mbps=1.0"], 0.1888, id="a slow link"),
    ],
)
def test_a_config_that_is_faster_and_better_is_named_with_its_command(
    recorded: RecordedStudy, command: Command, latency: LatencyProfile, given: list[str], transfer: float
) -> None:
    latency = replace(latency, transfer_seconds=transfer)
    outcome = command("rerank", *recorded.arguments("objective.w3=2", *given))
    assert outcome.status == 0, outcome
    winner = TunedConfig.load(recorded.folder / "rerank.yaml").params
    assert winner.s < STEPS
    seconds = {params: latency.seconds(plan(params, STEPS)) for params in GRID}
    faster = [one for one in GRID if seconds[one] < seconds[winner]]
    best = max(faster, key=quality)
    assert quality(best) > quality(winner)
    (note,) = [line for line in outcome.out.splitlines() if "nearer to the cloud's images" in line]
    assert note.startswith(
        f"note: p={best.p} k={best.k} alpha={best.alpha:g} s={best.s} is faster and nearer to the cloud's "
        f"images: quality {quality(best):.4f} in {seconds[best]:.2f} s an image, the winner "
        f"{quality(winner):.4f} in {seconds[winner]:.2f} s; the winner leads by its burden alone"
    )
    written = shlex.split(note.partition("To write it: python -m ecdiff_tune ")[2])
    assert set(given) <= set(written)
    assert command(*written).status == 0, written
    assert TunedConfig.load(recorded.folder / "pareto.yaml").params == best


@pytest.mark.parametrize("measured", [5, 4], ids=["on enough to be held against it", "on fewer"])
def test_of_one_config_on_all_prompts_there_is_no_choice(
    tmp_path: Path, latency: LatencyProfile, command: Command, measured: int
) -> None:
    study = RecordedStudy(tmp_path, with_payload(latency), spread=(0.0,) * 6)
    study.write(rows=dict.fromkeys(GRID[1:], measured))
    outcome = command("rerank", *study.arguments())
    assert outcome.status == 0, outcome
    assert ("pareto shows those measured on fewer prompts" in outcome.out) == (measured == 5)
    assert TunedConfig.load(study.folder / "rerank.yaml").params == GRID[0]


def test_an_objective_is_a_named_choice(recorded: RecordedStudy, command: Command) -> None:
    outcome = command("rerank", *recorded.arguments("objective=quality_time"))
    assert outcome.status == 0, outcome
    assert "nearer to the cloud's images" not in outcome.out
    provenance = TunedConfig.load(recorded.folder / "rerank.yaml").provenance
    assert provenance is not None
    assert [provenance["objective"][name] for name in ("w1", "w2", "w3")] == [0.5, 0.5, 0.0]


@pytest.mark.parametrize("name", sorted(path.stem for path in (config_folder() / "objective").glob("*.yaml")))
def test_named_objectives_add_up_to_one(name: str) -> None:
    weights = yaml.safe_load((config_folder() / "objective" / f"{name}.yaml").read_text())
    assert set(weights) == {"w1", "w2", "w3", "burden", "earliest_s"}
    assert sum(weights[one] for one in ("w1", "w2", "w3")) == pytest.approx(1)
