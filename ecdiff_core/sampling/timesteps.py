"""A scheduler's timesteps: one a step, and those that it makes itself."""

from __future__ import annotations

import copy

import torch
from diffusers import SchedulerMixin
from torch import Tensor

from ecdiff_core.errors import ParamsError
from ecdiff_core.sampling.plan_of_params import count_steps


def set_steps(
    scheduler: SchedulerMixin, num_inference_steps: int, device: torch.device | None = None
) -> None:
    """Set the scheduler's timesteps.

    Raises:
        ParamsError: the model has fewer timesteps, or the scheduler makes another number of them than
            ``count_steps`` gives.
    """
    if scheduler.config.get("use_dynamic_shifting"):
        raise ParamsError(
            f"{type(scheduler).__name__} with use_dynamic_shifting shifts by the image's size, which "
            "this model's family does not support.",
            key="use_dynamic_shifting",
            got=True,
            expected="false",
            advice="Set it to false, and a shift, in scheduler_config.json.",
        )
    trained = scheduler.config.num_train_timesteps
    if num_inference_steps > trained:
        expected = f"<= {trained}, as many as the model was trained with"
        raise ParamsError(key="num_inference_steps", got=num_inference_steps, expected=expected)
    scheduler.set_timesteps(num_inference_steps, device=device)
    name = type(scheduler).__name__
    if len(scheduler.timesteps) != count_steps(name, num_inference_steps):
        raise ParamsError(
            f"Expected one timestep a step, got {len(scheduler.timesteps)} for {num_inference_steps} steps "
            f"from {name}.",
            key="scheduler",
            got=name,
            expected="one timestep a step",
            advice=f"Choose a scheduler of one call a step{examples_like(scheduler)}.",
        )


def check_own_timesteps(scheduler: SchedulerMixin, like: SchedulerMixin, num_inference_steps: int) -> None:
    """Refuse timesteps that are not those that ``like`` makes of a number of steps.

    Args:
        like: of the same class and settings; of flow matching also with the shift of the image's size.

    Raises:
        ParamsError: a call brought its own (``timesteps=``, ``sigmas=``).
    """
    fresh = copy.deepcopy(like)
    fresh.set_timesteps(num_inference_steps)
    now, own = (torch.as_tensor(x.timesteps).cpu().double() for x in (scheduler, fresh))
    if now.shape != own.shape or not torch.allclose(now, own, rtol=1e-4):
        raise ParamsError(
            f"Expected the timesteps that {type(scheduler).__name__} makes of {num_inference_steps} steps, "
            "which the config was tuned with: leave timesteps= and sigmas= out, or pass "
            "check_scheduler=False to apply_ecdiff.",
            key="timesteps",
            got=now.tolist(),
            expected=str(own.tolist()),
        )


def scale_model_input(scheduler: SchedulerMixin, latents: Tensor, timestep: Tensor) -> Tensor:
    """The latents as the model wants them; flow matching hands them over as they are."""
    scale = getattr(scheduler, "scale_model_input", None)
    return latents if scale is None else scale(latents, timestep)


def examples_like(scheduler: SchedulerMixin) -> str:
    """What to use in its place, as the end of a sentence; nothing where that depends on the model."""
    betas = hasattr(scheduler, "alphas_cumprod")
    return ", such as DDIMScheduler or DPMSolverMultistepScheduler" if betas else ""
