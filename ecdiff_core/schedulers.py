"""diffusers schedulers by class name, on a model's own noise schedule."""

from __future__ import annotations

import diffusers
import torch
from diffusers import SchedulerMixin
from torch import Tensor

from ecdiff_core.errors import ParamsError, nearest
from ecdiff_core.plan import count_steps

_STOCHASTIC = {
    "CogVideoXDPMScheduler",
    "DDPMScheduler",
    "DPMSolverSDEScheduler",
    "EulerAncestralDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "LCMScheduler",
    "TCDScheduler",
}


_SEVERAL_CALLS = {"HeunDiscreteScheduler", "KDPM2DiscreteScheduler"}
"""Call the model twice a step, so that steps cannot be counted."""


def build_scheduler(name: str, like: SchedulerMixin) -> SchedulerMixin:
    """A scheduler of class ``name`` with the noise schedule (betas, prediction type) of ``like``.

    Raises:
        ParamsError: diffusers has no such class, or it draws fresh noise while sampling, which makes two
            trajectories incomparable.
    """
    known = {c.__name__ for c in like.compatibles} - _STOCHASTIC
    own, usual = type(like).__name__, "DDIMScheduler or DPMSolverMultistepScheduler"
    if own.startswith("CogVideoX"):  # its two schedulers do not name each other as compatible
        own = usual = "CogVideoXDDIMScheduler"
        known.add(own)
    if name in _STOCHASTIC:
        raise ParamsError(
            f"{name} draws fresh noise at every step, so that pictures cannot be compared with the cloud's. "
            f"Use a deterministic one, such as {usual}."
        )
    if name not in known:
        raise ParamsError(
            f"diffusers has no scheduler {name!r} for this model: {nearest(name, known - _SEVERAL_CALLS)}."
        )
    # PNDM's Runge-Kutta start calls the model four times a step; Stable Diffusion leaves it out as well.
    extra = {"skip_prk_steps": True} if name == "PNDMScheduler" else {}
    scheduler = getattr(diffusers, name).from_config(like.config, **extra)
    config = scheduler.config
    sde = str(config.get("algorithm_type", "")).startswith("sde")
    if sde or config.get("stochastic_sampling"):
        setting = f"algorithm_type={config.algorithm_type}" if sde else "stochastic_sampling"
        raise ParamsError(
            f"{name} with {setting} draws fresh noise at every step. "
            "Choose a model whose scheduler is deterministic, or another scheduler."
        )
    if not _same_noise(scheduler, like):
        raise ParamsError(
            f"{name} cannot make the noise schedule that this model was trained with. Use {own}."
        )
    return scheduler


def _same_noise(one: SchedulerMixin, other: SchedulerMixin) -> bool:
    """Whether alphas_cumprod agree, where both have any: only CogVideoX's own know its SNR shift."""
    ours, theirs = (getattr(x, "alphas_cumprod", None) for x in (one, other))
    if ours is None or theirs is None:
        return True
    return torch.allclose(torch.as_tensor(ours).double(), torch.as_tensor(theirs).double(), atol=1e-4)


def set_steps(
    scheduler: SchedulerMixin, num_inference_steps: int, device: torch.device | None = None
) -> None:
    """Set the scheduler's timesteps.

    Raises:
        ParamsError: the model has fewer timesteps, or the scheduler makes another number of them than
            ``count_steps`` tells.
    """
    if scheduler.config.get("use_dynamic_shifting"):
        raise ParamsError(
            f"{type(scheduler).__name__} with use_dynamic_shifting shifts by the picture's size, which "
            "this model's family does not support. Set it to false, and a shift, in scheduler_config.json."
        )
    trained = scheduler.config.num_train_timesteps
    if num_inference_steps > trained:
        raise ParamsError(
            f"Expected num_inference_steps <= {trained}, as many as the model was trained with, "
            f"got {num_inference_steps}."
        )
    scheduler.set_timesteps(num_inference_steps, device=device)
    name = type(scheduler).__name__
    if len(scheduler.timesteps) != count_steps(name, num_inference_steps):
        raise ParamsError(
            f"Expected one timestep a step, got {len(scheduler.timesteps)} for {num_inference_steps} steps "
            f"from {name}. Choose a scheduler of one call a step, such as DDIMScheduler."
        )


def scale_model_input(scheduler: SchedulerMixin, latents: Tensor, timestep: Tensor) -> Tensor:
    """The latents as the model wants them; flow matching hands them over as they are."""
    scale = getattr(scheduler, "scale_model_input", None)
    return latents if scale is None else scale(latents, timestep)
