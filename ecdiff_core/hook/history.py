"""What the hook remembers of the cloud model's outputs, and what it answers in the model's place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.utils import BaseOutput
from torch import Tensor

from ecdiff_core.errors import PairError, ParamsError
from ecdiff_core.models.families.guidance import guide
from ecdiff_core.sampling import estimators
from ecdiff_core.sampling.estimators import Estimator, NoiseState


@dataclass
class _Branch:
    """One of the model calls of a step: its noise, and what the output around it looked like."""

    noise: NoiseState
    batch: int
    dtype: torch.dtype
    wrap: Callable[[Tensor], Any]


class History:
    """The noises of a generation, by branch (the number of a call within its step)."""

    def __init__(self, estimator: Estimator, alpha: float) -> None:
        self._estimator, self._alpha = estimator, alpha
        self._branches: list[_Branch] = []

    def clear(self) -> None:
        """Forget the generation."""
        self._branches.clear()

    def check(self, step: int, branch: int, calls_before: int, batch: int) -> None:
        """Refuse a call, not of the first step, that nothing is remembered for.

        Args:
            calls_before: how many calls the step before had.
            batch: of the model's input.

        Raises:
            ParamsError: the batch or the number of calls a step changed.
        """
        known = self._branches
        if (
            branch >= len(known)
            or (branch == 0 and calls_before != len(known))
            or batch != known[branch].batch
        ):
            raise ParamsError(
                f"The model's batch ({batch}) or its number of calls changed at step {step}: there is "
                "nothing to estimate from. Keep guidance on or off for a whole generation."
            )

    def observe(
        self, branch: int, output: Any, edge: Tensor | None = None, scale: float | None = None
    ) -> None:
        """Take in a real output of the cloud model, and what the edge model answered at the same step.

        Args:
            scale: of guidance at this step, where it varies: then the guided output is remembered, which is
                what an estimate is made of; None for the output as it is.

        Raises:
            PairError: it is not one tensor in a tuple or a diffusers output.
            ParamsError: there is a scale, and the output is not of both branches of guidance.
        """
        tensor, wrap = unwrap(output)
        # A copy: pipelines change outputs in place, and CUDA graphs reuse their memory.
        eps = tensor.detach().to(torch.float32, copy=True)
        if branch == len(self._branches):
            self._branches.append(_Branch(estimators.init(), len(eps), tensor.dtype, wrap))
        if scale is not None:
            eps, edge = _guided(eps, scale), None if edge is None else _guided(edge, scale)
        known = self._branches[branch]
        known.noise = self._estimator.observe(_with_edge(known.noise, edge), eps)

    def estimate(self, branch: int, edge: Tensor | None = None, scale: float | None = None) -> Any:
        """What the cloud model would answer with, without calling it; ``edge`` is the edge model's answer.

        With a ``scale`` it is both branches the guided output, which guidance of any scale leaves as it is.
        """
        known = self._branches[branch]
        if scale is not None and edge is not None:
            edge = _guided(edge, scale)
        known.noise = self._estimator.estimate(_with_edge(known.noise, edge), self._alpha)
        eps = known.noise.eps
        assert eps is not None
        return known.wrap((eps if scale is None else torch.cat([eps, eps])).to(known.dtype, copy=True))


def _guided(output: Tensor, scale: float) -> Tensor:
    if len(output) % 2:
        raise ParamsError(
            f"Expected the model's batch to hold both branches of guidance, got {len(output)}: the config "
            "has use_dynamic_cfg. Give the call its guidance_scale."
        )
    return guide(output, scale)


def _with_edge(state: NoiseState, edge: Tensor | None) -> NoiseState:
    return state if edge is None else estimators.with_edge(state, edge)


def unwrap(output: Any) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """The tensor in a model's output, and how to make such an output of another one.

    Raises:
        PairError: it is not one tensor in a tuple or a diffusers output.
    """
    if isinstance(output, tuple | BaseOutput) and len(output) == 1 and isinstance(output[0], Tensor):
        return output[0], (lambda tensor: (tensor,)) if isinstance(output, tuple) else type(output)
    raise PairError(
        f"Expected the model to answer with a tuple or a diffusers output of one tensor, got {type(output)}."
    )
