"""A model's own run: every step by the cloud, or every step by the edge."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ecdiff_core.models.devices import synchronize
from ecdiff_core.models.pair_spec import Side
from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_core.sampling.params import ECDiffParams, Factors
from ecdiff_core.sampling.plan_of_params import plan
from ecdiff_core.sampling.sampler import Denoiser, advance
from ecdiff_core.tuned_pair import Prepared
from ecdiff_tune.data.calibration import CalibrationSet


@dataclass(frozen=True)
class BaselineTrajectory:
    """What became of it on a batch of prompts.

    Args:
        latents: the final ones, (prompts, channels, …).
        noises: the guided noise of every step of the cloud, float32; of the edge they are not kept.
        asked: latents, scaled as the model wants them, and timestep of every call; empty unless kept.
        seconds: of the denoising, of the whole batch.
    """

    latents: Tensor
    noises: list[Tensor]
    asked: list[tuple[Tensor, Tensor]]
    seconds: float


def prepare(pipe: ECDiffPipeline, prompts: CalibrationSet, rows: Sequence[int]) -> Prepared:
    """Some prompts of a set, ready to run, each one's initial noise from its own seed."""
    generators = [torch.Generator().manual_seed(prompts.seeds[i]) for i in rows]
    return pipe.prepare([prompts.prompts[i] for i in rows], generator=generators)


def baseline_trajectory(
    pipe: ECDiffPipeline, batch: Prepared, side: Side, keep: bool = False
) -> BaselineTrajectory:
    """Run one model alone.

    Args:
        keep: what the model is asked.
    """
    noises: list[Tensor] = []
    asked: list[tuple[Tensor, Tensor]] = []

    def recorded(model: Denoiser) -> Denoiser:
        def ask(latents: Tensor, timestep: Tensor) -> Tensor:
            asked.append((latents, timestep))
            return model(latents, timestep)

        return ask if keep else model

    cloud, edge = map(recorded, pipe.bind(batch.conditioning))
    params = ECDiffParams.cloud_only(pipe.num_steps) if side == "cloud" else ECDiffParams.edge_only()
    device = pipe.device
    synchronize(device)
    started = time.perf_counter()
    state = advance(
        batch.start,
        plan(params, pipe.num_steps),
        cloud,
        edge,
        pipe.estimator,
        Factors(1.0),
        on_step=(lambda _step, _action, eps: noises.append(eps)) if side == "cloud" else None,
    )
    synchronize(device)
    return BaselineTrajectory(state.latents, noises, asked, time.perf_counter() - started)
