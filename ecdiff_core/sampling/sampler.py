"""What: the denoising loop. It obeys a plan and knows neither a model family nor a search.

A denoiser maps latents (batch, channels, …) and a timestep to the guided noise of the same shape. The
scheduler is a diffusers scheduler with its timesteps set; its history (multistep schedulers) is part of the
state, so that a state can be kept, forked and resumed, and every continuation equals the uncut run.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator
from dataclasses import dataclass

import torch
from diffusers import SchedulerMixin
from torch import Tensor

from ecdiff_core.errors import ParamsError
from ecdiff_core.sampling import estimators
from ecdiff_core.sampling.estimators import Estimator, NoiseState, add_residual
from ecdiff_core.sampling.params import Factors
from ecdiff_core.sampling.plan import Action, Plan
from ecdiff_core.sampling.timesteps import scale_model_input, set_steps

Denoiser = Callable[[Tensor, Tensor], Tensor]
OnStep = Callable[[int, Action, Tensor], None]
"""Called after every step with its index, its action and the noise that it used (float32)."""


@dataclass(frozen=True)
class CloudCall:
    """The last call of the cloud model and its answer, which a residual is made of.

    Args:
        step, latents, timestep: as of ``Call``.
        noise: guided, float32.
    """

    step: int
    latents: Tensor
    timestep: Tensor
    noise: Tensor


@dataclass(frozen=True)
class SamplerState:
    """A point of a trajectory. A value: no function here changes the one that it is given.

    Args:
        step: steps done, 0 … T.
        latents: (batch, channels, …).
        noise: what the estimator remembers.
        scheduler: a diffusers scheduler with its history; not to be stepped by anybody else.
        noise_dtype: in which it is handed the noise; None for the latents' own.
        cloud_call: the last one; None before the first.
        residual: cloud's noise minus edge's at that step, once it was needed; float32.
    """

    step: int
    latents: Tensor
    noise: NoiseState
    scheduler: SchedulerMixin
    noise_dtype: torch.dtype | None = None
    cloud_call: CloudCall | None = None
    residual: Tensor | None = None


@dataclass(frozen=True)
class Call:
    """A model call that a trajectory waits for.

    Args:
        step: of the trajectory, whose latents and timestep these are; for a residual an earlier one than is
            done.
        action: whose call, ``CLOUD`` or ``EDGE``.
        latents: scaled as the model wants them, (batch, channels, …).
        timestep: the scheduler's.
    """

    step: int
    action: Action
    latents: Tensor
    timestep: Tensor


Trajectory = Generator[Call, Tensor, SamplerState]
"""Yields the model calls that it needs, is sent the guided noise of each, returns the state at its end."""


def start(
    latents: Tensor,
    scheduler: SchedulerMixin,
    num_inference_steps: int,
    noise_dtype: torch.dtype | None = None,
) -> SamplerState:
    """The state before step 0; latents are the initial noise, scaled by the scheduler's init_noise_sigma.

    Raises:
        ParamsError: the scheduler cannot make that many steps, or not one timestep a step.
    """
    scheduler = copy.deepcopy(scheduler)
    set_steps(scheduler, num_inference_steps, latents.device)
    return SamplerState(0, latents, estimators.init(), scheduler, noise_dtype)


def trajectory(
    state: SamplerState,
    plan: Plan,
    estimator: Estimator,
    factors: Factors,
    until: int | None = None,
    on_step: OnStep | None = None,
) -> Trajectory:
    """The plan's steps from ``state.step`` up to, not including, ``until`` (default: T).

    The edge model is asked at an earlier cloud step only when an edge step needs the residual: until then
    trajectories with and without one are the same.
    """
    scheduler = copy.deepcopy(state.scheduler)
    latents, history = state.latents, state.noise
    last, residual = state.cloud_call, state.residual
    end = plan.num_steps if until is None else until
    for step in range(state.step, end):
        action, timestep = plan.steps[step], scheduler.timesteps[step]
        if action is Action.APPROX:
            history = estimator.estimate(history, factors.alpha)
        else:
            with_residual = step in plan.residual_steps
            if with_residual and residual is None:
                if last is None:
                    raise ParamsError(
                        f"Step {step} adds a residual, and this state holds no cloud call to make it of: it "
                        "was kept by an older version, or by a plan without one.",
                        key="state",
                        got=step,
                        advice="Begin at step 0.",
                    )
                beside = yield Call(last.step, Action.EDGE, last.latents, last.timestep)
                residual = last.noise - beside.to(torch.float32)
            model_input = scale_model_input(scheduler, latents, timestep)
            noise = yield Call(step, action, model_input, timestep)
            if action is Action.CLOUD:
                last = CloudCall(step, model_input, timestep, noise.to(torch.float32))
                residual = None
            elif with_residual:
                assert residual is not None
                noise = add_residual(noise, residual, factors.residual)
            history = estimator.observe(history, noise)
        assert history.eps is not None
        used = history.eps.to(state.noise_dtype or latents.dtype)
        latents = scheduler.step(used, timestep, latents, return_dict=False)[0].to(latents.dtype)
        if on_step is not None:
            on_step(step, action, history.eps)
    return SamplerState(max(end, state.step), latents, history, scheduler, state.noise_dtype, last, residual)


@torch.no_grad()
def advance(
    state: SamplerState,
    plan: Plan,
    cloud: Denoiser,
    edge: Denoiser,
    estimator: Estimator,
    factors: Factors,
    until: int | None = None,
    on_step: OnStep | None = None,
) -> SamplerState:
    """Run a trajectory with the two models."""
    steps = trajectory(state, plan, estimator, factors, until, on_step)
    try:
        call = next(steps)
        while True:
            model = cloud if call.action is Action.CLOUD else edge
            call = steps.send(model(call.latents, call.timestep))
    except StopIteration as finished:
        end: SamplerState = finished.value
        return end
