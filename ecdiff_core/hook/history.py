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
from ecdiff_core.sampling.estimators import Estimator, NoiseState, add_residual
from ecdiff_core.sampling.params import Factors


@dataclass
class _Branch:
    """One of the model calls of a step: its noises, and what the output around it looked like."""

    noise: NoiseState
    residual: Tensor | None
    batch: int
    dtype: torch.dtype
    wrap: Callable[[Tensor], Any]


class History:
    """The noises of a generation, by branch (the number of a call within its step)."""

    def __init__(self, estimator: Estimator, factors: Factors) -> None:
        self._estimator, self._factors = estimator, factors
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
                "nothing to estimate from.",
                key="batch",
                got={"batch": batch, "step": step},
                advice="Keep guidance on or off for a whole generation.",
            )

    def observe(self, branch: int, output: Any, edge: Any = None, scale: float | None = None) -> None:
        """Take in a real output, and for the residual what the edge model answered at the same step.

        Args:
            scale: of guidance at this step, where it varies: then the guided output is remembered, which is
                what an estimate is made of; None for the output as it is.

        Raises:
            PairError: it is not one tensor in a tuple or a diffusers output.
            ParamsError: there is a scale, and the output is not of both branches of guidance.
        """
        tensor, wrap = unwrap(output)
        # A copy: pipelines change outputs in place, and CUDA graphs reuse their memory.
        eps = _remembered(tensor, scale)
        if branch == len(self._branches):
            self._branches.append(_Branch(estimators.init(), None, len(tensor), tensor.dtype, wrap))
        known = self._branches[branch]
        known.noise = self._estimator.observe(known.noise, eps)
        if edge is not None:
            known.residual = eps - _remembered(unwrap(edge)[0], scale)

    def with_residual(self, branch: int, output: Any, scale: float | None = None) -> Any:
        """The edge model's output plus the residual, remembered as what was used."""
        known = self._branches[branch]
        assert known.residual is not None
        eps = add_residual(_remembered(unwrap(output)[0], scale), known.residual, self._factors.residual)
        known.noise = self._estimator.observe(known.noise, eps)
        return self._answer(known, scale)

    def estimate(self, branch: int, scale: float | None = None) -> Any:
        """What a model would answer with, without calling it.

        With a ``scale`` it is both branches the guided output, which guidance of any scale leaves as it is.
        """
        known = self._branches[branch]
        known.noise = self._estimator.estimate(known.noise, self._factors.alpha)
        return self._answer(known, scale)

    def _answer(self, known: _Branch, scale: float | None) -> Any:
        eps = known.noise.eps
        assert eps is not None
        return known.wrap((eps if scale is None else torch.cat([eps, eps])).to(known.dtype, copy=True))


def _remembered(tensor: Tensor, scale: float | None) -> Tensor:
    eps = tensor.detach().to(torch.float32, copy=True)
    return eps if scale is None else _guided(eps, scale)


def _guided(output: Tensor, scale: float) -> Tensor:
    if len(output) % 2:
        raise ParamsError(
            f"Expected the model's batch to hold both branches of guidance, got {len(output)}: the config "
            "has use_dynamic_cfg.",
            key="batch",
            got=len(output),
            expected="both branches of guidance",
            advice="Give the call its guidance_scale.",
        )
    return guide(output, scale)


def unwrap(output: Any) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """The tensor in a model's output, and how to make such an output of another one.

    Raises:
        PairError: it is not one tensor in a tuple or a diffusers output.
    """
    if isinstance(output, tuple | BaseOutput) and len(output) == 1 and isinstance(output[0], Tensor):
        return output[0], (lambda tensor: (tensor,)) if isinstance(output, tuple) else type(output)
    raise PairError(
        f"Expected the model to answer with a tuple or a diffusers output of one tensor, got {type(output)}.",
        key="output",
        got=type(output).__name__,
        expected="one tensor",
    )
