"""diffusers schedulers by class name, on a model's own noise schedule."""

from __future__ import annotations

from inspect import signature
from typing import Any

import diffusers
import torch
from diffusers import DDIMScheduler, SchedulerMixin

from ecdiff_core.errors import ParamsError, nearest, reason_of
from ecdiff_core.sampling.scheduler_trial import (
    FEW_STEPS,
    refuse_stochastic,
    rehearse,
    without_dynamic_shifting,
)

_TRAINED_WITH = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
)
"""What a model was trained with also where its scheduler has it by default: another class has other ones."""


def build_scheduler(name: str, like: SchedulerMixin) -> SchedulerMixin:
    """A scheduler of class ``name`` with the noise schedule (betas, prediction type) of ``like``.

    Where ``like`` asks for a stochastic solver (``sde-dpmsolver++``), the class's deterministic one is taken.

    Raises:
        ParamsError: diffusers has no such class for the model, or it draws fresh noise while sampling, which
            makes two trajectories incomparable, or it is the model's own with a Runge-Kutta start (PNDM).
    """
    if name not in _classes(like):
        found = offered(like)
        choices = nearest(name, found) if found else f"none of its own goes with {type(like).__name__}"
        line = f"diffusers has no scheduler {name!r} for this model: {choices}."
        raise ParamsError(line, key="scheduler", got=name, expected=found)
    if name == type(like).__name__ == "PNDMScheduler" and not like.config.skip_prk_steps:
        raise ParamsError(
            "PNDMScheduler as this model has it begins with Runge-Kutta steps of four model calls each "
            "(skip_prk_steps: false), which plans do not count.",
            key="scheduler",
            got=name,
            expected="skip_prk_steps: true",
            advice="Choose another scheduler, or set skip_prk_steps to true in scheduler_config.json.",
        )
    scheduler = _from_config(name, like)
    if not _same_noise(scheduler, like):
        raise ParamsError(
            f"{name} cannot make the noise schedule that this model was trained with.",
            key="scheduler",
            got=name,
            advice=f"Use {type(like).__name__}.",
        )
    refuse_stochastic(scheduler)
    return scheduler


def try_scheduler(name: str, like: SchedulerMixin, num_inference_steps: int) -> None:
    """``build_scheduler`` and ``rehearse`` of a model that is not loaded, at no size in particular.

    Raises:
        ParamsError: as the two.
    """
    rehearse(without_dynamic_shifting(build_scheduler(name, like)), num_inference_steps)


def offered(like: SchedulerMixin) -> list[str]:
    """The names of the schedulers that a model with the scheduler ``like`` can be sampled with."""
    found = []
    for name in sorted(_classes(like)):
        try:
            scheduler = _from_config(name, like)
            rehearse(scheduler, FEW_STEPS)
        except ParamsError:
            continue
        if _same_noise(scheduler, like):
            found.append(name)
    return found


def _classes(like: SchedulerMixin) -> set[str]:
    """Names of classes that take the config of ``like`` and mean the same by the model's output."""
    own, compatible = type(like).__name__, list(like.compatibles)
    # CogVideoX's two schedulers do not name each other as compatible, and some (LCM's) name themselves alone.
    more = {"CogVideoXDDIMScheduler", "CogVideoXDPMScheduler"} if own.startswith("CogVideoX") else set()
    if set(compatible) <= {type(like)} and not more and hasattr(like, "alphas_cumprod"):
        compatible = [DDIMScheduler, *DDIMScheduler().compatibles]
    return {own} | more | {c.__name__ for c in compatible if _preconditions(c) == _preconditions(type(like))}


def _preconditions(scheduler_class: type) -> bool:
    """Whether a class scales the model's input and output as EDM (arXiv 2206.00364, eq. 7) trains them."""
    return any("precondition_outputs" in vars(base) for base in scheduler_class.__mro__)


def _from_config(name: str, like: SchedulerMixin) -> SchedulerMixin:
    """Raises ParamsError where the class cannot do with the config of ``like``."""
    scheduler_class = getattr(diffusers, name)
    takes, config = signature(scheduler_class.__init__).parameters, like.config
    changes: dict[str, Any] = {key: config[key] for key in _TRAINED_WITH if key in takes and key in config}
    if name == "PNDMScheduler":  # its Runge-Kutta start calls the model four times a step
        changes["skip_prk_steps"] = True
    solver = "algorithm_type"
    if solver in takes and str(config.get(solver, "")).startswith("sde"):
        changes[solver] = takes[solver].default
    if "clip_sample" in takes:  # on by default, which latents do not survive: only where the model says so
        changes["clip_sample"] = bool(config.get("clip_sample"))
    try:
        scheduler: SchedulerMixin = scheduler_class.from_config(config, **changes)
    except (ImportError, NotImplementedError, TypeError, ValueError) as error:
        raise ParamsError(
            f"{name} cannot be made for this model ({reason_of(error)}).",
            key="scheduler",
            got=name,
            advice="Choose another scheduler.",
        ) from error
    return scheduler


def _same_noise(one: SchedulerMixin, other: SchedulerMixin) -> bool:
    """Whether alphas_cumprod agree, where both have any: only CogVideoX's own know its SNR shift."""
    ours, theirs = (getattr(x, "alphas_cumprod", None) for x in (one, other))
    if ours is None or theirs is None:
        return True
    return torch.allclose(torch.as_tensor(ours).double(), torch.as_tensor(theirs).double(), atol=1e-4)
