"""A trajectory written down: latents and noise of every step, to be held against the cloud's own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ecdiff_core.errors import NonFiniteLatentsError
from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_core.sampling.estimators import get_estimator
from ecdiff_core.sampling.plan import Plan
from ecdiff_core.sampling.sampler import SamplerState, advance
from ecdiff_core.sampling.timesteps import scale_model_input
from ecdiff_core.tuned_pair import Prepared
from ecdiff_tune.evaluation.candidate import Candidate

Nudge = Callable[[int, Tensor], Tensor]
"""What becomes of the latents after a step, given its index."""


@dataclass(frozen=True)
class Trace:
    """What happened on a batch of prompts.

    Args:
        latents: before every step as the models want them, and the final ones; T + 1 of (prompts, channels,
            …), float32, on the CPU. So those of schedulers that keep them larger (Euler) are comparable.
        noises: that the steps used, real or estimated; T of the same shape.
        kept: states before the steps that were asked for.
        end: the state after the last step.
    """

    latents: tuple[Tensor, ...]
    noises: tuple[Tensor, ...]
    kept: dict[int, SamplerState]
    end: SamplerState

    def error(self, other: Trace) -> Tensor:
        """The latent error of Figure 5 before every step and at the end, shape (prompts, T + 1): the root
        mean square, over a latent's elements, of this trajectory minus the other."""
        pairs = zip(self.latents, other.latents, strict=True)
        return torch.stack([rms(ours - theirs) for ours, theirs in pairs], dim=1)


def rms(values: Tensor) -> Tensor:
    """Root mean square over all but the first dimension, shape (prompts,)."""
    return values.float().flatten(1).square().mean(dim=1).sqrt()


@torch.no_grad()
def trace(
    pipe: ECDiffPipeline,
    batch: Prepared,
    candidate: Candidate,
    plan: Plan,
    *,
    after: Trace | None = None,
    begin: int = 0,
    keep: Collection[int] = (),
    nudge: Nudge | None = None,
) -> Trace:
    """Run a plan and write it down.

    Args:
        after: a trajectory that this one is equal to until ``begin``, whose state there it kept.
        keep: steps whose states are kept.
        nudge: changes the latents after every step.

    Raises:
        NonFiniteLatentsError: the latents leave the finite numbers.
    """
    cloud, edge = pipe.bind(batch.conditioning, candidate.handoff_adapter)
    estimator = get_estimator(candidate.estimator)
    factors = candidate.params.factors(estimator)
    state = batch.start if after is None else after.kept[begin]
    latents = [] if after is None else list(after.latents[:begin])
    noises = [] if after is None else list(after.noises[:begin])
    kept: dict[int, SamplerState] = {}
    for step in range(begin, plan.num_steps):
        if step in keep:
            kept[step] = state
        latents.append(_as_asked(state))
        state = advance(
            state,
            plan,
            cloud,
            edge,
            estimator,
            factors,
            until=step + 1,
            on_step=lambda _step, _action, eps: noises.append(eps.cpu()),
        )
        if nudge is not None:
            state = replace(state, latents=nudge(step, state.latents))
    if not torch.isfinite(state.latents).all():
        dtype = pipe.config.sampling.dtype
        line = f"The latents are not finite after {plan} in {dtype}."
        raise NonFiniteLatentsError(line, key="dtype", got=dtype, advice="Try dtype=float32.")
    return Trace((*latents, state.latents.float().cpu()), tuple(noises), kept, state)


def _as_asked(state: SamplerState) -> Tensor:
    """The latents as a model would be asked at them."""
    scheduler = copy.deepcopy(state.scheduler)  # Euler's notes that it scaled
    return scale_model_input(scheduler, state.latents, scheduler.timesteps[state.step]).float().cpu()
