"""What ``errors`` generates, against generations of the pipeline itself."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from ecdiff_core.config import TunedConfig
from ecdiff_core.errors import NonFiniteLatentsError
from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_core.sampling.plan_of_params import plan
from ecdiff_tune.data.calibration import CalibrationSet
from ecdiff_tune.evaluation.baseline_trajectory import prepare
from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.evaluation.reference import Reference
from ecdiff_tune.experiments.bounds import Coefficients
from ecdiff_tune.experiments.error_runs import BatchErrors, Work, gaussian_nudge, measure, runs_beside
from ecdiff_tune.experiments.error_tables import (
    Errors,
    checks_table,
    figure1_table,
    latent_error_table,
    lines,
)
from ecdiff_tune.experiments.trace import rms, trace
from ecdiff_tune.metrics.images import ssim

from ...refusals import refused
from ..conftest import Calls

STEPS = 12
ROWS = [0, 1, 2]


@pytest.fixture(scope="module")
def work(tiny_config: TunedConfig, pipe: ECDiffPipeline) -> Work:
    return Work((1e-4, 0.3), runs_beside(tiny_config), Coefficients.of(pipe.scheduler, STEPS))


@pytest.fixture(scope="module")
def errors(pipe: ECDiffPipeline, prompts: CalibrationSet, work: Work) -> Errors:
    """Of two batches, the later one first."""
    return Errors.of(work, [measure(pipe, prompts, work, [2]), measure(pipe, prompts, work, [0, 1])])


def final(pipe: ECDiffPipeline, prompts: CalibrationSet, mode: str) -> Tensor:
    """The final latents of the pipeline's own generations."""
    generators = [torch.Generator().manual_seed(seed) for seed in prompts.seeds]
    return pipe(prompts.prompts, generator=generators, mode=mode).latents  # type: ignore[arg-type]


def test_the_methods(work: Work) -> None:
    assert [(run.name, run.plan.schedule) for run in work.runs] == [
        ("EC-Diff", "3C2A1C2A1C3E"),
        ("HybridSD, 2 edge steps", "10C2E"),
        ("HybridSD, 6 edge steps", "6C6E"),
    ]


def test_the_last_latent_error_is_the_pipelines(
    pipe: ECDiffPipeline, prompts: CalibrationSet, errors: Errors
) -> None:
    apart = rms(final(pipe, prompts, "ecdiff") - final(pipe, prompts, "cloud"))
    assert errors.latent_errors[:, 0, -1] == pytest.approx(apart.tolist(), rel=1e-3)


def test_the_latent_error_begins_where_the_methods_leave_the_cloud(errors: Errors) -> None:
    # The first approximated step is 3, so the latents before step 4 are the first that differ.
    for run, first in enumerate((4, 11, 7)):
        found = errors.latent_errors[:, run]
        assert (found[:, :first] == 0).all()
        assert (found[:, first:] > 0).all()


def test_shared_steps_change_nothing(pipe: ECDiffPipeline, prompts: CalibrationSet, work: Work) -> None:
    batch, run = prepare(pipe, prompts, ROWS), work.runs[0]
    whole = ECDiffParams.cloud_only(STEPS)
    cloud = trace(pipe, batch, Candidate(whole), plan(whole, STEPS), keep=[3])
    shared = trace(pipe, batch, run.candidate, run.plan, after=cloud, begin=3)
    fresh = trace(pipe, batch, run.candidate, run.plan)
    assert len(shared.latents) == STEPS + 1
    assert len(shared.noises) == STEPS
    torch.testing.assert_close(shared.error(fresh), torch.zeros(3, STEPS + 1))
    assert (cloud.error(cloud) == 0).all()


@pytest.mark.parametrize("estimator", ["edge", "secant"])
def test_other_estimators_share_what_they_may(
    pipe: ECDiffPipeline, prompts: CalibrationSet, tiny_config: TunedConfig, estimator: str
) -> None:
    config = replace(tiny_config, sampling=replace(tiny_config.sampling, estimator=estimator))
    only = Work((0.1,), runs_beside(config)[:1], None)
    own = replace(pipe.config, sampling=config.sampling)
    apart = final(ECDiffPipeline(pipe.pair, own), prompts, "ecdiff") - final(pipe, prompts, "cloud")
    found = measure(pipe, prompts, only, ROWS)
    assert found.latent_errors[:, 0, -1] == pytest.approx(rms(apart).tolist(), rel=1e-3)


def test_calls(pipe: ECDiffPipeline, prompts: CalibrationSet, work: Work, calls: Calls) -> None:
    """The cloud alone and two disturbed runs whole; the methods from where they leave the cloud."""
    measure(pipe, prompts, work, [0])
    assert calls.both == (3 * STEPS + 2, 3 + 2 + 6)


def test_other_ranks_can_do_it(pipe: ECDiffPipeline, prompts: CalibrationSet, work: Work) -> None:
    """What they answer goes through pickle."""
    found = measure(pipe, prompts, work, [1])
    again: BatchErrors = pickle.loads(pickle.dumps(found))
    assert (again.rows, again.checks) == (found.rows, found.checks)


def test_noise_after_each_step(
    pipe: ECDiffPipeline, prompts: CalibrationSet, made: Reference, work: Work, errors: Errors
) -> None:
    found = measure(pipe, prompts, work, ROWS)
    cloud = torch.stack([made.prompts[i].cloud for i in ROWS]).float()
    assert (found.stills[:, 0].float() - cloud).abs().max() < 2e-3
    again = ssim(found.stills[:, 2].float(), found.stills[:, 0].float())
    assert found.ssim[:, 1] == pytest.approx(again.tolist(), abs=1e-3)
    assert found.ssim[:, 0].min() > 0.999
    assert found.ssim[:, 1].max() < 0.9
    # Neither the batch nor its order matters.
    np.testing.assert_allclose(errors.ssim, found.ssim, atol=1e-4)
    np.testing.assert_allclose(errors.latent_errors, found.latent_errors, rtol=1e-3, atol=1e-6)


def test_the_noise_has_the_size_that_was_asked_for(pipe: ECDiffPipeline, prompts: CalibrationSet) -> None:
    batch, whole = prepare(pipe, prompts, ROWS), ECDiffParams.cloud_only(STEPS)
    seen: list[tuple[Tensor, Tensor]] = []
    nudge = gaussian_nudge(0.02, prompts.seeds)

    def watched(step: int, latents: Tensor) -> Tensor:
        seen.append((latents, nudge(step, latents)))
        return seen[-1][1]

    trace(pipe, batch, Candidate(whole), plan(whole, STEPS), nudge=watched)
    assert len(seen) == STEPS
    shares = [rms(after - before) / rms(before) for before, after in seen]
    assert torch.stack(shares).mean().item() == pytest.approx(0.02, rel=0.05)
    added = torch.stack([(after - before).flatten() for before, after in seen])
    assert torch.corrcoef(added).fill_diagonal_(0).abs().max() < 0.2  # fresh noise at every step


def test_the_theorems_equations_hold_on_a_real_pair(errors: Errors) -> None:
    table = checks_table(errors)
    assert table.groupby(["theorem", "window"])["prompt"].apply(list).to_dict() == {
        (1, 1): [0, 1, 2],
        (2, 2): [0, 1, 2],
    }
    assert table["residual"].max() < 1e-2
    assert table["held"].all()


def test_tables(errors: Errors) -> None:
    disturbed = figure1_table(errors, 0)
    assert disturbed["noise_percent"].tolist() == pytest.approx([0.01, 30.0])
    assert disturbed["ssim"].tolist() == pytest.approx(errors.ssim.mean(axis=0).tolist())
    assert (disturbed["ssim_ci95_low"] <= disturbed["ssim"]).all()
    curves = latent_error_table(errors)
    assert len(curves) == 3 * 3 * (STEPS + 1)
    (row,) = curves.query("method == 'EC-Diff' and prompt == 2 and step == 7").to_dict("records")
    assert row["error"] == errors.latent_errors[2, 0, 7]
    assert row["action"] == "A"


def test_lines(errors: Errors) -> None:
    told = "\n".join(lines(errors, 0))
    assert "noise of 0.01 % after each step: SSIM" in told
    assert "latent error at the end (root mean square): EC-Diff" in told
    assert "of 6 corrections: at once in" in told
    assert "f <= 1 and g <= 1, of which the proofs make use, do not both hold" in told
    assert "Theorem 1: as printed it held in" in told
    assert "Theorem 2: as printed it held in" in told
    without = replace(errors, work=replace(errors.work, coefficients=None))
    assert "no theorem is checked" in lines(without, 0)[-1]


def test_latents_that_are_not_finite(pipe: ECDiffPipeline, prompts: CalibrationSet) -> None:
    batch, whole = prepare(pipe, prompts, [0]), ECDiffParams.cloud_only(STEPS)
    with refused(NonFiniteLatentsError, key="dtype", got="float32"):
        trace(pipe, batch, Candidate(whole), plan(whole, STEPS), nudge=lambda _, x: x * float("inf"))
