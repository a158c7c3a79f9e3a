"""What a search is: ask for a candidate, tell its value, until done. And what it may ask for: a space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from ecdiff_core.noise import get_estimator
from ecdiff_core.params import ECDiffParams
from ecdiff_core.plan import Handoff, HandoffAdapter, effective_s
from ecdiff_tune.candidate import Candidate


@dataclass(frozen=True)
class Stage1Space:
    """Candidates of stage 1: (k, alpha) with the cloud model alone, s = T, for every estimator."""

    p: int
    ks: tuple[int, ...]
    alphas: tuple[float, ...]
    num_steps: int
    estimators: tuple[str, ...] = ("gradient",)

    def at(self, k: int, alpha: float, estimator: str = "gradient") -> Candidate:
        """The candidate at a point."""
        return Candidate(ECDiffParams(self.p, k, alpha, self.num_steps), estimator)

    def alphas_of(self, estimator: str) -> tuple[float, ...]:
        """The alphas that make a difference: one for an estimator without alpha."""
        return self.alphas if get_estimator(estimator).uses_alpha else self.alphas[:1]

    @property
    def grid(self) -> tuple[Candidate, ...]:
        """Every candidate, estimator by estimator and k by k."""
        return tuple(
            self.at(k, alpha, estimator)
            for estimator in self.estimators
            for k in self.ks
            for alpha in self.alphas_of(estimator)
        )


@dataclass(frozen=True)
class Stage2Space:
    """Candidates of stage 2: s for every handoff adapter, the rest fixed; a walk begins at ``start``."""

    stage1_winner: Candidate
    s_values: tuple[int, ...]
    start: int
    handoff_adapters: tuple[HandoffAdapter, ...] = ("identity",)

    @classmethod
    def of(
        cls,
        winner: Candidate,
        s_values: Sequence[int],
        num_steps: int,
        handoff: Handoff,
        handoff_adapters: Sequence[HandoffAdapter] = ("identity",),
    ) -> Stage2Space:
        """Stage 2 after a stage-1 winner.

        Under an aligned handoff several s are the same plan, so the values are the distinct effective ones.
        A walk starts at the value nearest 0.7 T (the paper's 35), the upper one of two.

        >>> winner = Candidate(ECDiffParams(7, 2, 0.3, 50))
        >>> Stage2Space.of(winner, range(30, 41), 50, "aligned").s_values
        (31, 34, 37, 40)
        """
        candidates = [replace(winner.params, s=s) for s in s_values]
        values = sorted({effective_s(params, num_steps, handoff) for params in candidates})
        return cls(winner, tuple(values), nearest_value(values, 0.7 * num_steps), tuple(handoff_adapters))

    @property
    def p(self) -> int:
        """Warm-up steps."""
        return self.stage1_winner.params.p

    def at(self, s: int, handoff_adapter: HandoffAdapter = "identity") -> Candidate:
        """The candidate at a point."""
        winner = self.stage1_winner
        return replace(winner, params=replace(winner.params, s=s), handoff_adapter=handoff_adapter)

    @property
    def grid(self) -> tuple[Candidate, ...]:
        """Every candidate, adapter by adapter and s upwards."""
        return tuple(self.at(s, adapter) for adapter in self.handoff_adapters for s in self.s_values)


N = TypeVar("N", int, float)

Space = Stage1Space | Stage2Space


def nearest_value(values: Sequence[N], target: float) -> N:
    """The value nearest to ``target``, the upper one of two."""
    return min(values, key=lambda value: (round(abs(value - target), 9), -value))


class Search(Protocol):
    """Asks for candidates one by one; deterministic, and never asks twice for one."""

    @property
    def done(self) -> bool:
        """Whether there is nothing more to ask."""

    def ask(self) -> Candidate:
        """The next candidate to evaluate; the same one until it is told."""

    def tell(self, value: float) -> None:
        """The objective of the candidate that was asked last; minus infinity where it is infeasible."""

    @property
    def best(self) -> Candidate | None:
        """The winner once ``done``; None where there is none."""
