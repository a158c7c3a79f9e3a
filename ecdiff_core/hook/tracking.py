"""Which step of a generation a call of the denoiser belongs to, by its timestep.

A hook sees neither the pipeline's loop nor where a generation begins, and a generation may end half-way (an
exception in a callback). So nothing is counted across calls that the scheduler's timesteps do not confirm;
calls are counted only where two steps have one timestep (PNDM).
"""

from __future__ import annotations

import threading
from typing import Any

from torch import Tensor

from ecdiff_core.config import TunedConfig
from ecdiff_core.errors import ParamsError
from ecdiff_core.hook.pipeline_call import busy, current_call, is_inside_pipeline
from ecdiff_core.sampling.plan_of_params import count_steps


class StepTracker:
    """Follows the generations of one pipeline.

    Args:
        pipe: a diffusers pipeline; its scheduler's ``timesteps`` are read.
        config: every generation must have its plan's number of steps.

    ``step`` counts upwards from 0; ``branch`` counts the calls of a step (0 with the prompt and without it in
    one batch; 0 and 1 where a pipeline calls the model for each).
    """

    def __init__(self, pipe: Any, config: TunedConfig) -> None:
        self._pipe, self._config = pipe, config
        self._spoilt: Tensor | None = None
        self.forget()

    def forget(self) -> None:
        """Expect a new generation."""
        self.step, self.branch = -1, 0
        self._branches = 0
        self._thread: int | None = None
        self._timesteps: Tensor | None = None
        self._values: list[float] = []

    def enter(self, timestep: Tensor) -> bool:
        """Find step and branch of a call with this timestep; whether it begins a generation.

        Raises:
            ParamsError: the generation has another number of steps or of calls a step, leaves out steps, or
                does not begin with the first; another pipeline's, with its own scheduler; or another thread
                is in the middle of one.
        """
        self._check_caller()
        timesteps, mine = self._pipe.scheduler.timesteps, self._thread in (None, threading.get_ident())
        if timesteps is self._spoilt is not None or (not mine and self._is_under_way()):
            # Neither goes on: calls that begin together may have read each other's settings of the tokenizer.
            self._spoilt = timesteps
            raise busy()
        begins = timesteps is not self._timesteps  # every call of a pipeline makes new ones
        left = self.step if mine else -1
        if begins:
            self._begin(timestep, timesteps)
        step = self._find(timestep.max().item())  # a video's given frames have timestep 0
        if begins and step > 0 and step in (left, left + 1):  # another call made these in the middle of this
            self.forget()
            self._spoilt = timesteps
            raise busy()
        if step == 0 and self.step > 0:  # a loop of one's own that sets them once for several generations
            self._begin(timestep, timesteps)
            begins = True
        if not (begins or mine):
            raise busy()
        if step == self.step:
            self.branch += 1
        elif step == self.step + 1:
            self.step, self.branch = step, 0
        else:
            expected = self.step + 1
            self.forget()
            raise ParamsError(
                f"Expected step {expected} of the generation, got step {step}.",
                key="step",
                got=step,
                expected=str(expected),
                advice="Only whole generations can be made: from the first timestep on (no image to image), "
                "and no step left out.",
            )
        if step == 0:
            self._branches = self.branch + 1
        return begins

    def _check_caller(self) -> None:
        call, own = current_call(), self._pipe.scheduler
        if call is not None and getattr(call.pipe, "scheduler", own) is not own:
            name = type(call.pipe).__name__
            raise ParamsError(
                f"This {name} shares its model with a pipeline that apply_ecdiff was "
                "called on, and has a scheduler of its own, which the plan does not follow.",
                key="pipe",
                got=name,
                advice="Call remove_ecdiff(pipe) before you use it, or give it the other's scheduler.",
            )

    def _is_under_way(self) -> bool:
        return self._thread is not None and is_inside_pipeline(self._thread, self._pipe.scheduler)

    def _begin(self, timestep: Tensor, timesteps: Tensor | None) -> None:
        self.forget()
        self._thread = threading.get_ident()
        if timesteps is None:  # PNDM before its first set_timesteps
            return
        _check_whole(self._pipe)
        _check_number(self._pipe.scheduler, timesteps, self._config)
        given = timesteps.to(timestep.device, timestep.dtype)
        # As the model sees them: some pipelines (Flux, Qwen) hand over timestep / 1000, in half precision.
        ways = (given.tolist(), (given / 1000).tolist())
        self._values = next((way for way in ways if way[0] == timestep.max().item()), ways[0])
        self._timesteps = timesteps

    def _find(self, value: float) -> int:
        found = [step for step, other in enumerate(self._values) if other == value]
        timesteps = self._timesteps
        if len(found) > 1 and timesteps is not None and len({timesteps[step].item() for step in found}) > 1:
            # Rounded to one number in half precision; such pipelines tell the exact one.
            exact = getattr(self._pipe, "_current_timestep", None)
            found = [step for step in found if exact is not None and timesteps[step] == exact]
        if not found:
            self.forget()
            count = self._config.sampling.num_steps
            raise ParamsError(
                f"Expected one of the {count} timesteps of the pipeline's scheduler, got {value:g}.",
                key="timestep",
                got=value,
                expected="one of pipe.scheduler.timesteps",
                advice="Call the model with pipe.scheduler.timesteps, as float32; if another pipeline shares "
                "the model, call remove_ecdiff(pipe) before you use that one.",
            )
        step = self.step
        # PNDM's second and third step have one timestep: the third begins when every branch had its call.
        if step in found and (step + 1 not in found or self.branch + 1 < self._branches):
            return step
        return step + 1 if step + 1 in found else found[0]


def _check_whole(pipe: Any) -> None:
    """Refuse a generation that another model is to end (SDXL's ``denoising_end``)."""
    end = getattr(pipe, "denoising_end", None)
    if isinstance(end, float) and 0 < end < 1:
        raise ParamsError(
            f"Expected a whole generation, got denoising_end={end:g}: the config's plan would be cut short.",
            key="denoising_end",
            got=end,
            advice="Leave it out, or call remove_ecdiff(pipe) first.",
        )


def _check_number(scheduler: Any, timesteps: Tensor, config: TunedConfig) -> None:
    """Refuse another number of steps than the config's, and more than one model call a step (Heun)."""
    name, expected = type(scheduler).__name__, config.sampling.num_steps
    asked = getattr(scheduler, "num_inference_steps", None) or len(timesteps)
    got = count_steps(name, asked)
    if got != expected:
        # PNDM: T = num_inference_steps + 1.
        right = next((n for n in (expected, expected - 1) if count_steps(name, n) == expected), expected)
        raise ParamsError(
            key="num_inference_steps",
            got=asked,
            expected=f"= {right}, which the config was tuned for",
            advice=f"Pass num_inference_steps={right}, or apply config.scaled({asked}): "
            f"{_scaled(config, got)}, num_inference_steps={asked}.",
        )
    if len(timesteps) != expected or (timesteps == timesteps[0]).sum() > 1:
        raise ParamsError(
            f"Expected one model call a step, got {len(timesteps)} calls for {expected} steps from {name}.",
            key="scheduler",
            got=name,
            expected="one model call a step",
            advice="Choose a scheduler of one call a step, such as DDIMScheduler.",
        )


def _scaled(config: TunedConfig, num_steps: int) -> str:
    """The params of ``TunedConfig.scaled`` in words."""
    params = config.params.scaled(config.sampling.num_steps, num_steps)
    names = ("p", "k", "schedule", "edge_schedule", "s")
    given = {name: value for name in names if (value := getattr(params, name)) is not None}
    lists = {name: list(value) for name, value in given.items() if isinstance(value, tuple)}
    return ", ".join(f"{name}={value}" for name, value in (given | lists).items())
