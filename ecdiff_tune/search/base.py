"""What a search is: ask for a config, tell its value, until done. And what it may ask for: a space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from ecdiff_core.params import ECDiffParams
from ecdiff_core.plan import Handoff, effective_s


@dataclass(frozen=True)
class Stage1Space:
    """Configs of stage 1: (k, alpha) with the cloud model alone, s = T."""

    p: int
    ks: tuple[int, ...]
    alphas: tuple[float, ...]
    num_steps: int

    def at(self, k: int, alpha: float) -> ECDiffParams:
        """The config at a point."""
        return ECDiffParams(self.p, k, alpha, self.num_steps)

    @property
    def grid(self) -> tuple[ECDiffParams, ...]:
        """Every config, k by k."""
        return tuple(self.at(k, alpha) for k in self.ks for alpha in self.alphas)


@dataclass(frozen=True)
class Stage2Space:
    """Configs of stage 2: s, with (p, k, alpha) fixed; ``start`` is where a walk begins."""

    p: int
    k: int
    alpha: float
    s_values: tuple[int, ...]
    start: int

    @classmethod
    def of(
        cls, winner: ECDiffParams, s_values: Sequence[int], num_steps: int, handoff: Handoff
    ) -> Stage2Space:
        """Stage 2 after a stage-1 winner.

        Under an aligned handoff several s are the same plan, so the values are the distinct effective ones.
        A walk starts at the value nearest 0.7 T (the paper's 35), the upper one of two.

        >>> Stage2Space.of(ECDiffParams(7, 2, 0.3, 50), range(30, 41), 50, "aligned").s_values
        (31, 34, 37, 40)
        """
        candidates = [ECDiffParams(winner.p, winner.k, winner.alpha, s) for s in s_values]
        values = sorted({effective_s(params, num_steps, handoff) for params in candidates})
        return cls(winner.p, winner.k, winner.alpha, tuple(values), nearest_value(values, 0.7 * num_steps))

    def at(self, s: int) -> ECDiffParams:
        """The config at a point."""
        return ECDiffParams(self.p, self.k, self.alpha, s)

    @property
    def grid(self) -> tuple[ECDiffParams, ...]:
        """Every config, s upwards."""
        return tuple(self.at(s) for s in self.s_values)


N = TypeVar("N", int, float)

Space = Stage1Space | Stage2Space


def nearest_value(values: Sequence[N], target: float) -> N:
    """The value nearest to ``target``, the upper one of two."""
    return min(values, key=lambda value: (round(abs(value - target), 9), -value))


class Search(Protocol):
    """Asks for configs one by one; deterministic, and never asks twice for one."""

    @property
    def done(self) -> bool:
        """Whether there is nothing more to ask."""

    def ask(self) -> ECDiffParams:
        """The next config to evaluate; the same one until it is told."""

    def tell(self, value: float) -> None:
        """The objective of the config that was asked last; minus infinity where it is infeasible."""

    @property
    def best(self) -> ECDiffParams | None:
        """The winner once ``done``; None where there is none."""
