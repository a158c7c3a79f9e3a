"""Figure 5 (b): what becomes of the latent error where a real call corrects it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ecdiff_core.sampling.plan import Action, Plan

Mode = Literal["at once", "in the next window", "neither"]
"""The paper's first and second mode of correction, and what it does not name."""
MODES: tuple[Mode, ...] = ("at once", "in the next window", "neither")


@dataclass(frozen=True)
class Window:
    """Approximated steps ``first`` … ``end`` - 1 after a real one; ``corrected``: step ``end`` is real."""

    first: int
    end: int
    corrected: bool

    @property
    def length(self) -> int:
        """k of this window."""
        return self.end - self.first


def windows(plan: Plan) -> list[Window]:
    """The windows of a plan.

    >>> from ecdiff_core.sampling.params import ECDiffParams
    >>> from ecdiff_core.sampling.plan_of_params import plan
    >>> [(w.first, w.end, w.corrected) for w in windows(plan(ECDiffParams(3, 2, 0.3, 8), 12, "exact"))]
    [(3, 5, True), (6, 8, False)]
    """
    found: list[Window] = []
    first: int | None = None
    for step, action in enumerate((*plan.steps, None)):
        if action is Action.APPROX:
            first = step if first is None else first
        elif first is not None:
            found.append(Window(first, step, action is Action.CLOUD))
            first = None
    return found


@dataclass(frozen=True)
class Correction:
    """A real call after a window, on one prompt.

    Args:
        prompt: index into the errors.
        before, after: the window that it corrects, and the one that follows; None is none.
        fall_at_once: share of the latent error that is gone after the call's step, negative where it grew.
        fall_in_window: share of what was left that is gone after the next window; None where none follows.
    """

    prompt: int
    before: Window
    after: Window | None
    fall_at_once: float
    fall_in_window: float | None

    @property
    def mode(self) -> Mode:
        """``at once``: the error falls in the step of the real call. ``in the next window``: it falls over
        the approximated steps after it, which go by the updated gradient. Of both the larger fall counts."""
        if max(self.fall_at_once, self.fall_in_window or 0.0) <= 0:
            return "neither"
        return "at once" if self.fall_at_once >= (self.fall_in_window or 0.0) else "in the next window"

    @property
    def fall(self) -> float:
        """The share by which its mode names it."""
        if self.mode == "in the next window":
            assert self.fall_in_window is not None
            return self.fall_in_window
        return self.fall_at_once


def corrections(plan: Plan, errors: NDArray[np.float64]) -> Iterator[Correction]:
    """Every correction on every prompt.

    Args:
        errors: latent error before every step and at the end, shape (prompts, T + 1).
    """
    found = windows(plan)
    for before, after in zip(found, [*found[1:], None], strict=True):
        if not before.corrected:
            continue
        follows = after if after is not None and after.first == before.end + 1 else None
        for prompt, error in enumerate(errors):
            at_once = _fall(error[before.end], error[before.end + 1])
            later = None if follows is None else _fall(error[follows.first], error[follows.end])
            yield Correction(prompt, before, follows, at_once, later)


def _fall(old: float, new: float) -> float:
    return 0.0 if old == 0 else float(1 - new / old)
