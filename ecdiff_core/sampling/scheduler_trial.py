"""Schedulers tried out without a model: whether they get through all steps, the same way every time."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import Parameter, signature
from typing import Any

import torch
from diffusers import SchedulerMixin
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ecdiff_core.errors import ParamsError, reason_of
from ecdiff_core.sampling.timesteps import examples_like, scale_model_input, set_steps

FEW_STEPS = 8
"""Enough to see whether a scheduler can be used at all."""
_STEP_ARGUMENTS = ("model_output", "timestep", "sample")
"""That every scheduler's ``step`` has."""
_PROBE = (1, 4, 8, 8)
"""Shape of the latents that a scheduler is tried on: schedulers do not depend on it."""
_DRAWS = frozenset(
    (
        *("bernoulli", "bernoulli_", "exponential_", "multinomial", "normal", "normal_", "rand", "rand_like"),
        *("randint", "randint_like", "randn", "randn_like", "random_", "randperm", "uniform_"),
    )
)
"""Functions of torch that take a generator, and draw from the process-wide one without it."""


@dataclass(frozen=True)
class SchedulerTrial:
    """What two runs through all steps from one noise showed.

    Args:
        failure: the error that a step raised; then the other two say nothing.
        finite: whether the latents stayed so.
        repeatable: whether both runs ended alike, though another noise was there to be drawn.
    """

    failure: Exception | None = None
    finite: bool = True
    repeatable: bool = True


def rehearse(scheduler: SchedulerMixin, num_inference_steps: int) -> None:
    """Go through all steps without a model, so that what would fail on the way fails before.

    Raises:
        ParamsError: as ``set_steps`` and ``refuse_stochastic``, or a step fails or leaves the finite numbers.
    """
    _refuse_other_steps(scheduler)
    trial = _try(scheduler, num_inference_steps, set_steps)
    if isinstance(trial.failure, ParamsError):
        raise trial.failure
    name, advice = type(scheduler).__name__, "Choose another scheduler or another num_inference_steps."
    if trial.failure is not None:
        line = (
            f"{name} fails with {num_inference_steps} steps of this model's noise schedule "
            f"({reason_of(trial.failure)})."
        )
        raise ParamsError(line, key="scheduler", got=name, advice=advice) from trial.failure
    if not trial.finite:
        line = f"{name} leaves the finite numbers within {num_inference_steps} steps of this model's noise."
        raise ParamsError(line, key="scheduler", got=name, advice=advice)
    _refuse_unrepeatable(scheduler, trial)


def refuse_stochastic(scheduler: SchedulerMixin, num_inference_steps: int = FEW_STEPS) -> None:
    """Refuse a scheduler that draws fresh noise: equal steps from equal states show it.

    One that fails with so few steps is left to ``rehearse``.

    Raises:
        ParamsError: it is one, or its step takes more than others'.
    """
    _refuse_other_steps(scheduler)
    free = without_dynamic_shifting(scheduler)
    _refuse_unrepeatable(scheduler, _try(free, num_inference_steps, type(free).set_timesteps))


def without_dynamic_shifting(scheduler: SchedulerMixin) -> SchedulerMixin:
    """With it a scheduler has no timesteps before it knows the image's size."""
    if not scheduler.config.get("use_dynamic_shifting"):
        return scheduler
    return type(scheduler).from_config(scheduler.config, use_dynamic_shifting=False)


def _refuse_unrepeatable(scheduler: SchedulerMixin, trial: SchedulerTrial) -> None:
    if trial.repeatable:
        return
    takes, config = signature(type(scheduler).__init__).parameters, scheduler.config
    asked = [
        f"{key}={config[key]}"
        for key in ("algorithm_type", "stochastic_sampling")
        if key in takes and (config.get(key) is True or str(config.get(key)).startswith("sde"))
    ]
    name = type(scheduler).__name__
    raise ParamsError(
        f"{' with '.join([name, *asked])} draws fresh noise at every step, so that "
        "images cannot be compared with the cloud's.",
        key="scheduler",
        got=name,
        expected="deterministic",
        advice=f"Use a deterministic one{examples_like(scheduler)}.",
    )


def _refuse_other_steps(scheduler: SchedulerMixin) -> None:
    name, step = type(scheduler).__name__, getattr(scheduler, "step", None)
    advice = "Use another one of the model's."
    if step is None:
        raise ParamsError(f"{name} has no step.", key="scheduler", got=name, advice=advice)
    more = [
        name
        for name, parameter in signature(step).parameters.items()
        if name not in _STEP_ARGUMENTS
        and parameter.default is Parameter.empty
        and parameter.kind is not Parameter.VAR_KEYWORD
    ]
    if more:
        raise ParamsError(
            f"{name} asks for {', '.join(more)} at every step, which only diffusers' own "
            "pipelines of its models keep.",
            key="scheduler",
            got=name,
            advice=advice,
        )


def _try(
    scheduler: SchedulerMixin, num_inference_steps: int, set_timesteps: Callable[[SchedulerMixin, int], None]
) -> SchedulerTrial:
    try:
        one, other = (_end(scheduler, num_inference_steps, set_timesteps, seed) for seed in (0, 1))
    except Exception as error:  # whatever a scheduler raises of its settings
        return SchedulerTrial(error)
    same = torch.equal(one.nan_to_num(), other.nan_to_num())
    return SchedulerTrial(finite=bool(one.isfinite().all()), repeatable=same)


def _end(
    scheduler: SchedulerMixin,
    num_inference_steps: int,
    set_timesteps: Callable[[SchedulerMixin, int], None],
    seed: int,
) -> Tensor:
    """The latents after all steps from one noise, ``seed`` being that of whatever is drawn on the way."""
    scheduler = copy.deepcopy(scheduler)
    latents = torch.randn(_PROBE, generator=torch.Generator().manual_seed(0), device="cpu")
    with torch.device("cpu"), _OwnNoise(seed):
        set_timesteps(scheduler, num_inference_steps)
        for timestep in scheduler.timesteps:
            answer = scale_model_input(scheduler, latents, timestep).tanh()
            latents = scheduler.step(answer, timestep, latents, return_dict=False)[0]
    return latents


class _OwnNoise(TorchFunctionMode):
    """In this thread, what would be drawn from the process-wide generators is drawn from one of its own.

    Seeding those instead would take the user's noise on every device, and other threads' on this one.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._generator = torch.Generator().manual_seed(seed)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if getattr(func, "__name__", "") in _DRAWS and given.get("generator") is None:
            given["generator"] = self._generator
        return func(*args, **given)
