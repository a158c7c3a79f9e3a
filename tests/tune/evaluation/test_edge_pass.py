"""The edge model asked along the cloud's trajectory: what it holds, what it costs, and its files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from ecdiff_core.models.memory import Batches
from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_core.sampling.params import ECDiffParams, Factors
from ecdiff_core.sampling.plan_of_params import plan
from ecdiff_core.sampling.sampler import advance
from ecdiff_core.tuned_pair import Prepared
from ecdiff_tune.data.calibration import CalibrationSet
from ecdiff_tune.evaluation import baseline_trajectory, reference_runs
from ecdiff_tune.evaluation.edge_pass import EdgePass
from ecdiff_tune.evaluation.reference_files import DamagedReferenceError

from ...refusals import refused
from ..conftest import Calls
from ..studies import STEPS, Study

Passes = list[dict[str, Tensor]]


def make(edge_pass: EdgePass, batch_size: int = 2) -> tuple[Passes, list[int]]:
    """The passes, and the numbers of prompts that were reported ready."""
    ready: list[int] = []
    return edge_pass.make("identity", Batches(batch_size), ready.append), ready


def with_reference(edge_pass: EdgePass, batch_size: int = 2) -> None:
    batches, pipe, folder = Batches(batch_size), edge_pass.pipe, edge_pass.folder
    reference_runs.make(
        pipe, edge_pass.prompts, folder, batches=batches, on_prompts=lambda _: None, callback=edge_pass
    )


@pytest.fixture(scope="module")
def expected(pipe: ECDiffPipeline, prompts: CalibrationSet) -> Passes:
    """Prompt by prompt."""
    return [step_by_step(pipe, baseline_trajectory.prepare(pipe, prompts, [i])) for i in range(len(prompts))]


def step_by_step(pipe: ECDiffPipeline, batch: Prepared) -> dict[str, Tensor]:
    cloud, edge = pipe.bind(batch.conditioning)
    asked: list[Tensor] = []
    answers: list[Tensor] = []

    def both(latents: Tensor, timestep: Tensor) -> Tensor:
        asked.append(latents)
        answers.append(torch.stack([cloud(latents, timestep), edge(latents, timestep)]))
        return answers[-1][0]

    def own(latents: Tensor, timestep: Tensor) -> Tensor:
        asked.append(latents)
        return edge(latents, timestep)

    for params in (ECDiffParams.cloud_only(STEPS), ECDiffParams.edge_only()):
        asked.append(
            advance(batch.start, plan(params, STEPS), both, own, pipe.estimator, Factors(1.0)).latents
        )
    noises = torch.stack(answers, dim=1).reshape(2 * STEPS, -1).double()
    on_cloud, on_edge = torch.stack(asked).flatten(1).double().chunk(2)
    return {"gram": noises @ noises.T, "divergence": (on_cloud - on_edge).square().sum(dim=1)}


def check(passes: Passes, expected: Passes) -> None:
    for found, right in zip(passes, expected, strict=True):
        assert found["gram"].shape == (2 * STEPS, 2 * STEPS)
        assert found["divergence"].shape == (STEPS + 1,)
        assert found["divergence"][0] == 0 < found["divergence"][1]
        torch.testing.assert_close(found["gram"], right["gram"], rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(found["divergence"], right["divergence"], rtol=1e-3, atol=1e-6)


def test_made_with_the_reference(
    pipe: ECDiffPipeline, prompts: CalibrationSet, tmp_path: Path, calls: Calls, expected: Passes
) -> None:
    edge_pass = EdgePass(pipe, prompts, tmp_path)
    with_reference(edge_pass)
    assert calls.both == (2 * STEPS, 4 * STEPS)  # two batches; the edge alone, and along
    assert edge_pass.missing("identity") == []

    calls.reset()
    passes, ready = make(edge_pass)
    assert calls.both == (0, 0)
    assert ready == [3]
    check(passes, expected)


def test_made_later(
    pipe: ECDiffPipeline, prompts: CalibrationSet, tmp_path: Path, calls: Calls, expected: Passes
) -> None:
    edge_pass = EdgePass(pipe, prompts, tmp_path)
    assert edge_pass.missing_calls("identity") == (3 * STEPS, 6 * STEPS)
    passes, ready = make(edge_pass, batch_size=1)
    assert calls.both == along_calls(3)
    assert ready == [0, 1, 1, 1]
    check(passes, expected)
    assert edge_pass.missing_calls("identity") == (0, 0)


def along_calls(prompts: int) -> tuple[int, int]:
    return prompts * STEPS, 2 * prompts * STEPS


def test_only_what_is_missing_is_made(
    pipe: ECDiffPipeline, prompts: CalibrationSet, tmp_path: Path, calls: Calls, expected: Passes
) -> None:
    edge_pass = EdgePass(pipe, prompts, tmp_path)
    make(edge_pass, batch_size=1)
    lost = tmp_path / f"{prompts.keys[1]}.along-identity.safetensors"
    lost.unlink()
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert edge_pass.missing("identity") == [1]

    calls.reset()
    with_reference(edge_pass)  # all three references, one pass
    assert calls.both == (2 * STEPS, 3 * STEPS)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    check(make(edge_pass)[0], expected)


def test_the_first_prompts_only(
    pipe: ECDiffPipeline, prompts: CalibrationSet, tmp_path: Path, expected: Passes
) -> None:
    edge_pass = EdgePass(pipe, prompts, tmp_path, first=1)
    with_reference(edge_pass, batch_size=3)
    passes, _ = make(edge_pass)
    assert len(passes) == 1
    check(passes, expected[:1])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [f"{key}.safetensors" for key in prompts.keys] + [f"{prompts.keys[0]}.along-identity.safetensors"]
    )


def test_another_adapter_has_its_own_files(
    pipe: ECDiffPipeline, prompts: CalibrationSet, tmp_path: Path, calls: Calls, expected: Passes
) -> None:
    edge_pass = EdgePass(pipe, prompts, tmp_path, first=2)
    passes = edge_pass.make("matched", Batches(2), lambda _: None)
    assert calls.both == (STEPS, STEPS)
    assert edge_pass.missing("identity") == [0, 1]
    for found, right in zip(passes, expected, strict=False):
        assert set(found) == {"gram"}
        # One schedule on both sides: matching changes nothing but the rounding.
        torch.testing.assert_close(found["gram"], right["gram"], rtol=1e-3, atol=1e-2)


def test_a_damaged_file_is_named(pipe: ECDiffPipeline, prompts: CalibrationSet, tmp_path: Path) -> None:
    edge_pass = EdgePass(pipe, prompts, tmp_path, first=1)
    path = tmp_path / f"{prompts.keys[0]}.along-identity.safetensors"
    path.write_bytes(b"no")
    with refused(DamagedReferenceError, key=path):
        make(edge_pass)


def test_greedy_pays_nothing_for_it(done: Study) -> None:
    assert list(done.outputs.rglob("*.safetensors"))
    assert not list(done.outputs.rglob("*along*"))
