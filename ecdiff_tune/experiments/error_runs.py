"""What ``errors`` generates: the cloud's own runs, disturbed ones, and those of the methods beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ecdiff_core.config import TunedConfig
from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_core.sampling.plan import Action, Plan
from ecdiff_core.sampling.plan_of_params import plan
from ecdiff_core.tuned_pair import Prepared
from ecdiff_tune.data.calibration import CalibrationSet
from ecdiff_tune.evaluation.baseline_trajectory import prepare
from ecdiff_tune.evaluation.candidate import Candidate, PlannedCandidate
from ecdiff_tune.experiments.baselines import HYBRID_EDGE_STEPS, hybrid_edge_steps
from ecdiff_tune.experiments.bounds import Check, Coefficients, checks
from ecdiff_tune.experiments.trace import Nudge, Trace, rms, trace
from ecdiff_tune.metrics.images import psnr, ssim

NUDGE_SEED = 2**32
"""Added to a prompt's seed for the noise of Figure 1, which must not be the initial one."""


@dataclass(frozen=True)
class Run:
    """A method whose latent error is followed."""

    name: str
    candidate: Candidate
    plan: Plan


def runs_beside(config: TunedConfig) -> tuple[Run, ...]:
    """The config itself first, then HybridSD with as many edge steps as in the paper, in proportion."""
    own, steps = PlannedCandidate.of_config(config), config.sampling.num_steps
    runs = [Run("EC-Diff", own.candidate, own.plan)]
    for paper in HYBRID_EDGE_STEPS:
        edge_steps = hybrid_edge_steps(paper, config.sampling)
        params = ECDiffParams.hybrid(steps - edge_steps)
        hybrid = Candidate(params, handoff_adapter=own.candidate.handoff_adapter)
        runs.append(Run(f"HybridSD, {edge_steps} edge steps", hybrid, plan(params, steps)))
    return tuple(runs)


@dataclass(frozen=True)
class Work:
    """What is to be done.

    Args:
        ratios: of Figure 1: standard deviation of the noise after each step over the latents' size.
        runs: of Figure 5; the theorems are checked on the first.
        coefficients: f and g; None where the scheduler has none, and no theorem is checked.
    """

    ratios: tuple[float, ...]
    runs: tuple[Run, ...]
    coefficients: Coefficients | None


@dataclass(frozen=True)
class BatchErrors:
    """What came of a batch of prompts.

    Args:
        rows: the prompts, by index.
        stills: images (of videos the middle frame) of the cloud alone and with every ratio of noise, RGB in
            0 … 1, float16, shape (prompts, 1 + ratios, 3, height, width).
        ssim, psnr: of the disturbed ones to the cloud's own, shape (prompts, ratios).
        latent_errors: root mean square, shape (prompts, runs, T + 1).
        checks: of the theorems.
    """

    rows: tuple[int, ...]
    stills: Tensor
    ssim: NDArray[np.float64]
    psnr: NDArray[np.float64]
    latent_errors: NDArray[np.float64]
    checks: tuple[Check, ...]


@torch.no_grad()
def measure(pipe: ECDiffPipeline, prompts: CalibrationSet, work: Work, rows: Sequence[int]) -> BatchErrors:
    """All of it on a batch of prompts.

    Raises:
        NonFiniteLatentsError: a trajectory leaves the finite numbers.
    """
    batch = prepare(pipe, prompts, rows)
    params = ECDiffParams.cloud_only(pipe.num_steps)
    alone, every_step = Candidate(params), plan(params, pipe.num_steps)
    branch_points = {_fork(run) for run in work.runs}
    cloud = trace(pipe, batch, alone, every_step, keep=branch_points)

    def decoded(one: Trace) -> Tensor:
        return pipe.pair.family.decode(one.end.latents).cpu()

    own = decoded(cloud)
    stills, similar, nearness = [_still(own)], [], []
    for ratio in work.ratios:
        nudge = gaussian_nudge(ratio, [prompts.seeds[i] for i in rows])
        disturbed = decoded(trace(pipe, batch, alone, every_step, nudge=nudge))
        stills.append(_still(disturbed))
        similar.append(ssim(disturbed, own))
        nearness.append(psnr(disturbed, own))
    followed = [_follow(pipe, batch, run, cloud) for run in work.runs]
    return BatchErrors(
        tuple(rows),
        torch.stack(stills, dim=1).half(),
        torch.stack(similar, dim=1).double().numpy(),
        torch.stack(nearness, dim=1).double().numpy(),
        torch.stack([one.error(cloud) for one in followed], dim=1).double().numpy(),
        _checks(work, cloud, followed[0]),
    )


def _fork(run: Run) -> int:
    """A step until which a method's trajectory is the cloud's own: the warm-up, or all of HybridSD's cloud
    side."""
    steps = enumerate(run.plan.steps)
    return next((step for step, action in steps if action is not Action.CLOUD), run.plan.num_steps - 1)


def _follow(pipe: ECDiffPipeline, batch: Prepared, run: Run, cloud: Trace) -> Trace:
    return trace(pipe, batch, run.candidate, run.plan, after=cloud, begin=_fork(run))


def gaussian_nudge(ratio: float, seeds: Sequence[int]) -> Nudge:
    """Gaussian noise whose standard deviation is ``ratio`` times the latents' root mean square, prompt by
    prompt; of all ratios the same noise, so that they differ in nothing else."""
    generators = [torch.Generator().manual_seed(seed + NUDGE_SEED) for seed in seeds]

    def nudge(_step: int, latents: Tensor) -> Tensor:
        drawn = [torch.randn(latents.shape[1:], generator=one) for one in generators]
        size = ratio * rms(latents)
        noise = torch.stack(drawn).to(latents.device) * size.reshape(-1, *[1] * (latents.ndim - 1))
        return latents + noise.to(latents.dtype)

    return nudge


def _still(images: Tensor) -> Tensor:
    """The middle frame of videos; images as they are."""
    return images[:, images.shape[1] // 2] if images.ndim == 5 else images


def _checks(work: Work, cloud: Trace, ours: Trace) -> tuple[Check, ...]:
    if work.coefficients is None:
        return ()
    run = work.runs[0]
    alpha = run.candidate.params.alpha if run.candidate.estimator == "gradient" else None
    return tuple(checks(run.plan, cloud, ours, work.coefficients, alpha))
