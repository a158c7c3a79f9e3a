"""Which step of a generation a call of the denoiser belongs to, told by its timestep alone.

A hook sees neither the pipeline's loop nor where a generation begins, and a generation may end half-way (an
exception in a callback). So nothing is counted across calls that the scheduler's timesteps do not confirm.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ecdiff_core.errors import ParamsError
from ecdiff_core.params import ECDiffParams


class StepTracker:
    """Follows the generations of one pipeline.

    Args:
        pipe: a diffusers pipeline; its scheduler's ``timesteps`` are read.
        params, num_steps: of the plan; every generation must have ``num_steps`` steps.

    ``step`` counts upwards from 0; ``branch`` counts the calls at one timestep (0 with the prompt and without
    it in one batch; 0 and 1 where a pipeline calls the model for each).
    """

    def __init__(self, pipe: Any, params: ECDiffParams, num_steps: int) -> None:
        self._pipe, self._params, self._num_steps = pipe, params, num_steps
        self.forget()

    def forget(self) -> None:
        """Expect a new generation."""
        self.step, self.branch = -1, 0
        self._timesteps: Tensor | None = None
        self._values: list[float] = []

    def enter(self, timestep: Tensor) -> bool:
        """Find step and branch of a call with this timestep; whether it begins a generation.

        Raises:
            ParamsError: the generation has another number of steps, repeats timesteps, leaves out steps or
                does not begin with the first.
        """
        timesteps = self._pipe.scheduler.timesteps
        begins = timesteps is not self._timesteps  # every call of a pipeline makes new ones
        if begins:
            self._begin(timestep, timesteps)
        step = self._find(timestep.max().item())  # a video's given frames have timestep 0
        if step == 0 and self.step > 0:  # a loop of one's own that sets them once for several generations
            self._begin(timestep, timesteps)
            begins = True
        if step == self.step:
            self.branch += 1
        elif step == self.step + 1:
            self.step, self.branch = step, 0
        else:
            expected = self.step + 1
            self.forget()
            raise ParamsError(
                f"Expected step {expected} of the generation, got step {step}. Only whole generations can be "
                "made: from the first timestep on (no image to image), and no step left out."
            )
        return begins

    def _begin(self, timestep: Tensor, timesteps: Tensor) -> None:
        self.forget()
        scheduler, expected = self._pipe.scheduler, self._num_steps
        asked = getattr(scheduler, "num_inference_steps", None) or len(timesteps)
        if asked != expected:
            p, s = (round(value * asked / expected) for value in (self._params.p, self._params.s))
            p = max(p, min(2, self._params.p))
            raise ParamsError(
                f"Expected num_inference_steps={expected}, which the config was tuned for, got {asked}. Pass "
                f"num_inference_steps={expected}, or apply a config scaled to {asked} steps: "
                f"p={p}, k={self._params.k}, s={max(p, s)}, num_inference_steps={asked}."
            )
        if not len(timesteps) == timesteps.unique().numel() == expected:
            raise ParamsError(
                f"Expected one timestep a step, got {timesteps.unique().numel()} different ones in "
                f"{len(timesteps)} calls for {expected} steps from {type(scheduler).__name__}. Choose a "
                "scheduler of one call a step, such as DDIMScheduler."
            )
        told = timesteps.to(timestep.device, timestep.dtype)
        # As the model sees them: some pipelines (Flux, Qwen) hand over timestep / 1000, in half precision.
        ways = (told.tolist(), (told / 1000).tolist())
        self._values = next((way for way in ways if way[0] == timestep.max().item()), ways[0])
        self._timesteps = timesteps

    def _find(self, value: float) -> int:
        found = [step for step, other in enumerate(self._values) if other == value]
        if len(found) > 1:  # rounded to one number in half precision; such pipelines tell the exact one
            exact = getattr(self._pipe, "_current_timestep", None)
            assert self._timesteps is not None
            found = [step for step in found if exact is not None and self._timesteps[step] == exact]
        if len(found) != 1:
            self.forget()
            raise ParamsError(
                f"Expected one of the scheduler's {self._num_steps} timesteps, got {value:g}, which is "
                f"{len(found)} of them. Call the model with pipe.scheduler.timesteps, as float32."
            )
        return found[0]
