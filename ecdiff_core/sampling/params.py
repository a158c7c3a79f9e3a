"""The numbers that say how cloud and edge share a generation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ecdiff_core.errors import ParamsError

MAX_SEED = 2**62
"""Prompts take the seeds that follow it; torch's end at 2^64."""
LEAST_P = 2
"""Of a warm-up before approximated steps: eq. 3 needs two noises."""


@dataclass(frozen=True)
class ECDiffParams:
    """(p, k, alpha, s) of EC-Diff, in the paper's letters; steps count upwards from 0.

    Which steps of the cloud side are real is said by p and k, or by a schedule in their place.

    Args:
        p: warm-up steps with real cloud calls; 0 … s, and at least 2 when k >= 1 (eq. 3 needs two noises).
        k: approximated steps between two real cloud calls; 0 means none (HybridSD).
        alpha: factor of the noise gradient after a correcting call (eq. 6), 0 < alpha <= 1; what it scales
            in other estimators they say themselves (``ecdiff_core.sampling.estimators``).
        s: steps done on the cloud side, 0 … T. s = 0 is edge only; k = 0 and s = T is cloud only.
        schedule: the steps with real cloud calls, strictly increasing from 0 on; p and k are None then. What
            it lists from the handoff on does not happen.

    Raises:
        ParamsError: a value is out of range.

    >>> ECDiffParams(p=7, k=2, alpha=0.3, s=34)
    ECDiffParams(p=7, k=2, alpha=0.3, s=34, schedule=None)
    """

    p: int | None
    k: int | None
    alpha: float
    s: int
    schedule: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        _check_whole("s", self.s)
        alpha = self.alpha
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
            raise ParamsError(f"Expected alpha to be a number, 0 < alpha <= 1, got {alpha!r}.")
        if not 0 < alpha <= 1:
            raise ParamsError(f"Expected 0 < alpha <= 1, got alpha={alpha}. The paper searches 0.1 … 0.9.")
        if self.schedule is None:
            _check_p_and_k(self.p, self.k, self.s)
            return
        if (self.p, self.k) != (None, None):
            raise ParamsError(
                f"Expected p and k, or a schedule in their place, got p={self.p}, k={self.k} and a schedule."
            )
        object.__setattr__(self, "schedule", _checked_schedule(self.schedule))

    @classmethod
    def scheduled(cls, schedule: Sequence[int], alpha: float, s: int) -> ECDiffParams:
        """Real cloud calls at the listed steps alone.

        >>> ECDiffParams.scheduled([0, 1, 2, 4, 7], alpha=0.5, s=10).real_steps(50)
        (0, 1, 2, 4, 7)
        """
        return cls(None, None, alpha, s, tuple(schedule))

    def real_steps(self, num_steps: int) -> tuple[int, ...]:
        """The steps below ``num_steps`` at which the cloud model is called while s is not reached.

        >>> ECDiffParams(p=3, k=2, alpha=0.3, s=9).real_steps(12)
        (0, 1, 2, 5, 8, 11)
        """
        if self.schedule is not None:
            return tuple(step for step in self.schedule if step < num_steps)
        p, k = self.p or 0, self.k or 0
        return tuple(step for step in range(num_steps) if step < p or (step + 1 - p) % (k + 1) == 0)

    @property
    def warm_up(self) -> int:
        """Real steps before the first that may be approximated: p, or the unbroken start of the schedule."""
        if self.schedule is None:
            return self.p or 0
        return next((i for i, step in enumerate(self.schedule) if step != i), len(self.schedule))

    def scaled(self, num_steps: int, wanted: int) -> ECDiffParams:
        """For another number of steps T: p, s or the schedule in proportion, k and alpha as they are.

        >>> ECDiffParams(p=7, k=2, alpha=0.3, s=34).scaled(50, 25)
        ECDiffParams(p=4, k=2, alpha=0.3, s=17, schedule=None)
        """
        factor = wanted / num_steps
        s = round(self.s * factor)
        if self.schedule is not None:
            begin = range(min(LEAST_P, self.warm_up, wanted))
            steps = {*begin, *(min(round(step * factor), wanted - 1) for step in self.schedule)}
            return ECDiffParams.scheduled(sorted(steps), self.alpha, s)
        p = min(max(round(self.warm_up * factor), min(LEAST_P, self.warm_up)), wanted)
        return ECDiffParams(p, self.k if p < wanted else 0, self.alpha, max(s, p))

    @classmethod
    def cloud_only(cls, num_steps: int) -> ECDiffParams:
        """The baseline in which the cloud model does every step."""
        return cls(p=0, k=0, alpha=1.0, s=num_steps)

    @classmethod
    def edge_only(cls) -> ECDiffParams:
        """The baseline in which the edge model does every step."""
        return cls(p=0, k=0, alpha=1.0, s=0)

    @classmethod
    def hybrid(cls, s: int) -> ECDiffParams:
        """HybridSD (arXiv 2408.06646): s real cloud steps, then the edge model."""
        return cls(p=0, k=0, alpha=1.0, s=s)


def _check_whole(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ParamsError(f"Expected {name} to be a whole number >= 0, got {value!r}.")


def _check_p_and_k(p: int | None, k: int | None, s: int) -> None:
    if p is None or k is None:
        lacking = "p" if p is None else "k"
        raise ParamsError(
            f"Expected {lacking} to be a whole number >= 0, got None. "
            "Give p and k, or a schedule in their place."
        )
    _check_whole("p", p)
    _check_whole("k", k)
    if p > s:
        raise ParamsError(
            f"Expected p <= s, got p={p}, s={s}. Lower p or raise s (steps count from the start)."
        )
    if k >= 1 and p < LEAST_P:
        raise ParamsError(
            f"Expected p >= {LEAST_P} when k >= 1, got p={p}, k={k}. "
            "The first gradient (eq. 3) needs two real noises; use k=0 to run without approximation."
        )


def _checked_schedule(schedule: Sequence[int]) -> tuple[int, ...]:
    told = list(schedule)
    for step in told:
        _check_whole("every step of the schedule", step)
    if not told or told[0] != 0:
        raise ParamsError(f"Expected the schedule to start with step 0, got {told}.")
    for step, following in pairwise(told):
        if following <= step:
            raise ParamsError(
                f"Expected a strictly increasing schedule, got {following} after {step} in {told}."
            )
    return tuple(told)
