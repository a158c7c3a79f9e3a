"""Bad input: one line, exit status 2, nothing that looks like a result."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ecdiff_tune.evaluation import latency as latency_module
from ecdiff_tune.evaluation.latency import LatencyProfile

from ..studies import Study, refuses


@pytest.mark.parametrize(
    ("override", "about"),
    [
        ("pair.cloud=/no/such/folder", {"key": "/no/such/folder"}),
        ("search.k=[12]", {"key": "search.k", "expected": "within 0 … 11"}),
        ("calibration.file=/no/such/file.csv", {"key": "/no/such/file.csv", "line": "No such"}),
        ("sampling.scheduler=DDIMSchedular", {"got": "DDIMSchedular", "nearest": "DDIMScheduler"}),
        ("sampling.scheduler=HeunDiscreteScheduler", {"key": "scheduler", "expected": "one timestep a step"}),
        ("sampling.height=33", {"key": "height and width", "got": {"height": 33, "width": 32}}),
        ("device=abacus", {"key": "device", "got": "abacus"}),
    ],
)
def test_bad_input(study: Study, override: str, about: dict[str, Any]) -> None:
    refuses(study("tune", override), **about)
    assert {path.name for path in study.folder.iterdir()} <= {".lock", "latency.json"}  # the study is free


@pytest.mark.parametrize("adapters", ["[identity,matched]", "[matched]"])
def test_an_adapter_to_search_that_the_models_cannot_have(
    study: Study, sd3_pair: Path, adapters: str
) -> None:
    models = (f"pair.cloud={sd3_pair / 'cloud'}", f"pair.edge={sd3_pair / 'edge'}")
    flow = "sampling.scheduler=FlowMatchEulerDiscreteScheduler"
    outcome = study("tune", *models, flow, f"search.handoff_adapter={adapters}")
    refuses(outcome, key="handoff_adapter", got="matched", expected="identity")
    assert {path.name for path in study.folder.iterdir()} == {"latency.json", ".lock"}  # the study is free
    assert not list((study.outputs / "tiny").rglob("*.safetensors"))


@pytest.mark.parametrize("adapter", [(), ("search.handoff_adapter=[identity,matched]",)])
def test_an_edge_that_answers_in_other_terms(study: Study, tmp_path: Path, adapter: tuple[str, ...]) -> None:
    edge = shutil.copytree(study.pair / "edge", tmp_path / "edge")
    path = edge / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "prediction_type": "v_prediction"}))
    got = {"cloud": "epsilon", "edge": "v_prediction"}
    outcome = study("tune", f"pair.edge={edge}", *adapter)
    refuses(outcome, key="handoff_adapter", got=got, expected="matched")
    assert {path.name for path in study.folder.iterdir()} == {"latency.json", ".lock"}  # the study is free


def test_corrupt_weights(study: Study, tmp_path: Path) -> None:
    cloud = shutil.copytree(study.pair / "cloud", tmp_path / "cloud")
    weights = cloud / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    refuses(study("tune", f"pair.cloud={cloud}"), key=weights)
    weights.unlink()
    refuses(study("tune", f"pair.cloud={cloud}"), key=cloud / "unet", got=[])


def test_a_cloud_that_is_not_slower(study: Study, latency: LatencyProfile) -> None:
    study.with_latency(replace(latency, cloud_call=latency.edge_call))
    refuses(study("tune"), key="efficiency")
    assert not list((study.outputs / "tiny").rglob("*.safetensors"))  # told before the work begins


def test_a_machine_that_was_busy_is_measured_again(
    study: Study, latency: LatencyProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    (study.folder / "latency.json").unlink()
    measured = iter([replace(latency, cloud_call=latency.edge_call), latency])
    monkeypatch.setattr(latency_module, "measure", lambda *_, **__: next(measured))
    small = ("calibration.num_prompts=1", "heldout.num_prompts=0")
    refuses(study("reference", *small), key="efficiency")
    for _ in range(2):  # measured, then read
        outcome = study("reference", *small)
        assert outcome.status == 0, outcome
    found = LatencyProfile.load(study.folder / "latency.json")
    assert (found.cloud_call, found.edge_call) == (latency.cloud_call, latency.edge_call)
    assert found.transfer_seconds == latency.transfer_seconds
    assert found.tensor_values == 256  # which the profile that was read did not say


@pytest.mark.parametrize("name", ["reference", "stage1", "tune"])
def test_k_and_alpha_by_hand_are_for_stage2(study: Study, name: str) -> None:
    outcome = study(name, "params.k=2", "params.alpha=0.3")
    refuses(outcome, key="params.k", got=["params.k", "params.alpha"], expected="none")


@pytest.mark.parametrize("name", ["latency.json", "ledger.sqlite", "stage1.yaml", "study.json", "trials.csv"])
def test_damaged_files_of_a_study(done: Study, tmp_path: Path, name: str) -> None:
    again = done.copy(tmp_path / "outputs")
    (again.folder / name).write_text("nonsense: [")
    refuses(again("stage2"), key=again.folder / name)


def test_stage2_needs_a_stage_1(study: Study) -> None:
    refuses(study("stage2"), key="params.k and params.alpha", got=str(study.folder))


def test_no_guidance_is_said(study: Study) -> None:
    small = ("calibration.num_prompts=1", "heldout.num_prompts=0", "sampling.num_inference_steps=3")
    outcome = study("reference", *small, "sampling.guidance_scale=0", "search.k=[1]")
    assert "note: sampling.guidance_scale=0 runs without guidance, as 1 does.\n" in outcome.out
