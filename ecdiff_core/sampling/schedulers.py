"""diffusers schedulers by class name, on a model's own noise schedule."""

from __future__ import annotations

import copy
from inspect import Parameter, signature
from typing import Any

import diffusers
import torch
from diffusers import DDIMScheduler, SchedulerMixin
from torch import Tensor

from ecdiff_core.errors import ParamsError, nearest, reason_of
from ecdiff_core.sampling.plan import count_steps

_FEW_STEPS = 8
"""Enough to see whether a scheduler can be used at all."""
_TRAINED_WITH = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
)
"""What a model was trained with also where its scheduler has it by default: another class has other ones."""
_STEP_ARGUMENTS = ("model_output", "timestep", "sample")
"""That every scheduler's ``step`` has."""
_PROBE = (1, 4, 8, 8)
"""Shape of the latents that a scheduler is tried on: schedulers do not depend on it."""


def build_scheduler(name: str, like: SchedulerMixin) -> SchedulerMixin:
    """A scheduler of class ``name`` with the noise schedule (betas, prediction type) of ``like``.

    Where ``like`` asks for a stochastic solver (``sde-dpmsolver++``), the class's deterministic one is taken.

    Raises:
        ParamsError: diffusers has no such class for the model, or it draws fresh noise while sampling, which
            makes two trajectories incomparable.
    """
    if name not in _classes(like):
        found = offered(like)
        choices = nearest(name, found) if found else f"none of its own goes with {type(like).__name__}"
        raise ParamsError(f"diffusers has no scheduler {name!r} for this model: {choices}.")
    scheduler = _from_config(name, like)
    if not _same_noise(scheduler, like):
        raise ParamsError(
            f"{name} cannot make the noise schedule that this model was trained with. "
            f"Use {type(like).__name__}."
        )
    refuse_stochastic(scheduler)
    return scheduler


def offered(like: SchedulerMixin) -> list[str]:
    """The names of the schedulers that a model with the scheduler ``like`` can be sampled with."""
    found = []
    for name in sorted(_classes(like)):
        try:
            scheduler = _from_config(name, like)
            rehearse(scheduler, _FEW_STEPS)
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
            f"{name} cannot be made for this model ({reason_of(error)}). Choose another scheduler."
        ) from error
    return scheduler


def _same_noise(one: SchedulerMixin, other: SchedulerMixin) -> bool:
    """Whether alphas_cumprod agree, where both have any: only CogVideoX's own know its SNR shift."""
    ours, theirs = (getattr(x, "alphas_cumprod", None) for x in (one, other))
    if ours is None or theirs is None:
        return True
    return torch.allclose(torch.as_tensor(ours).double(), torch.as_tensor(theirs).double(), atol=1e-4)


def refuse_stochastic(scheduler: SchedulerMixin, num_inference_steps: int = _FEW_STEPS) -> None:
    """Refuse a scheduler that draws fresh noise: equal steps from equal states tell.

    One that fails with so few steps is left to ``rehearse``.

    Raises:
        ParamsError: it is one, or its step takes more than others'.
    """
    _refuse_other_steps(scheduler)
    scheduler = _without_dynamic_shifting(scheduler)
    try:
        one, other = (_run(scheduler, num_inference_steps, seed) for seed in (0, 1))
    except Exception:  # whatever a scheduler raises of its settings
        return
    if torch.equal(one.nan_to_num(), other.nan_to_num()):
        return
    takes, config = signature(type(scheduler).__init__).parameters, scheduler.config
    asked = [
        f"{key}={config[key]}"
        for key in ("algorithm_type", "stochastic_sampling")
        if key in takes and (config.get(key) is True or str(config.get(key)).startswith("sde"))
    ]
    raise ParamsError(
        f"{' with '.join([type(scheduler).__name__, *asked])} draws fresh noise at every step, so that "
        f"images cannot be compared with the cloud's. Use a deterministic one{_examples(scheduler)}."
    )


def _refuse_other_steps(scheduler: SchedulerMixin) -> None:
    step = getattr(scheduler, "step", None)
    if step is None:
        raise ParamsError(f"{type(scheduler).__name__} has no step. Use another one of the model's.")
    more = [
        name
        for name, parameter in signature(step).parameters.items()
        if name not in _STEP_ARGUMENTS
        and parameter.default is Parameter.empty
        and parameter.kind is not Parameter.VAR_KEYWORD
    ]
    if more:
        raise ParamsError(
            f"{type(scheduler).__name__} asks for {', '.join(more)} at every step, which only diffusers' own "
            "pipelines of its models keep. Use another one of the model's."
        )


def _without_dynamic_shifting(scheduler: SchedulerMixin) -> SchedulerMixin:
    """With it a scheduler has no timesteps before it knows the image's size."""
    if not scheduler.config.get("use_dynamic_shifting"):
        return scheduler
    return type(scheduler).from_config(scheduler.config, use_dynamic_shifting=False)


def try_scheduler(name: str, like: SchedulerMixin, num_inference_steps: int) -> None:
    """``build_scheduler`` and ``rehearse`` of a model that is not loaded, at no size in particular.

    Raises:
        ParamsError: as the two.
    """
    rehearse(_without_dynamic_shifting(build_scheduler(name, like)), num_inference_steps)


def _examples(scheduler: SchedulerMixin) -> str:
    """What to use in its place, as the end of a sentence; nothing where that depends on the model."""
    betas = hasattr(scheduler, "alphas_cumprod")
    return ", such as DDIMScheduler or DPMSolverMultistepScheduler" if betas else ""


def rehearse(scheduler: SchedulerMixin, num_inference_steps: int) -> None:
    """Go through all steps without a model, so that what would fail on the way fails before.

    Raises:
        ParamsError: as ``set_steps`` and ``refuse_stochastic``, or a step fails or leaves the finite numbers.
    """
    name, change = type(scheduler).__name__, "Choose another scheduler or another num_inference_steps."
    _refuse_other_steps(scheduler)
    try:
        set_steps(copy.deepcopy(scheduler), num_inference_steps)
        end = _run(scheduler, num_inference_steps, seed=0)
    except ParamsError:
        raise
    except Exception as error:  # whatever a scheduler raises of its settings
        raise ParamsError(
            f"{name} fails with {num_inference_steps} steps of this model's noise schedule "
            f"({reason_of(error)}). {change}"
        ) from error
    if not end.isfinite().all():
        raise ParamsError(
            f"{name} leaves the finite numbers within {num_inference_steps} steps of this model's noise "
            f"schedule. {change}"
        )
    refuse_stochastic(scheduler, num_inference_steps)


def _run(scheduler: SchedulerMixin, num_inference_steps: int, seed: int) -> Tensor:
    """The latents after all steps from one noise, ``seed`` being that of whatever is drawn on the way."""
    scheduler = copy.deepcopy(scheduler)
    scheduler.set_timesteps(num_inference_steps)
    latents = torch.randn(_PROBE, generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for timestep in scheduler.timesteps:
            answer = scale_model_input(scheduler, latents, timestep).tanh()
            latents = scheduler.step(answer, timestep, latents, return_dict=False)[0]
    return latents


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
            f"from {name}. Choose a scheduler of one call a step{_examples(scheduler)}."
        )


def scale_model_input(scheduler: SchedulerMixin, latents: Tensor, timestep: Tensor) -> Tensor:
    """The latents as the model wants them; flow matching hands them over as they are."""
    scale = getattr(scheduler, "scale_model_input", None)
    return latents if scale is None else scale(latents, timestep)
