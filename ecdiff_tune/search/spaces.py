"""What a search may ask for."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Literal, TypeVar, get_args

from ecdiff_core.sampling.estimators import get_estimator
from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_core.sampling.plan import Handoff, HandoffAdapter
from ecdiff_core.sampling.plan_of_params import effective_s
from ecdiff_tune.evaluation.candidate import Candidate, same_images
from ecdiff_tune.objective import Stage, stage_name

LEAST_CALLS = 3
"""Of the cloud calls of a schedule: the two that a first estimate needs, and one to place."""
SEARCHING = tuple(map(stage_name, get_args(Stage)))
"""The names of all stages."""


@dataclass(frozen=True)
class Stage1Space:
    """Candidates of stage 1: (k, alpha) with the cloud model alone, s = T, for every estimator."""

    stage: ClassVar[Stage] = 1
    p: int
    ks: tuple[int, ...]
    alphas: tuple[float, ...]
    num_steps: int
    estimators: tuple[str, ...] = ("gradient",)
    handoff_adapter: HandoffAdapter = "identity"

    def at(self, k: int, alpha: float, estimator: str = "gradient") -> Candidate:
        """The candidate at a point; the adapter matters to an estimator that calls the edge model."""
        return Candidate(ECDiffParams(self.p, k, alpha, self.num_steps), estimator, self.handoff_adapter)

    @property
    def dimensions(self) -> Mapping[str, Sequence[Value]]:
        """The values of every dimension."""
        return {"k": self.ks, "alpha": self.alphas, "estimator": self.estimators}

    def alphas_of(self, estimator: str) -> tuple[float, ...]:
        """The alphas that make a difference: one for an estimator without alpha."""
        return self.alphas if get_estimator(estimator).uses_alpha else self.alphas[:1]

    @cached_property
    def aliases(self) -> Mapping[Candidate, Candidate]:
        """Every candidate, and the one of the grid that makes the same images."""
        points = itertools.product(self.estimators, self.ks, self.alphas)
        return same_images(
            (self.at(k, a, estimator) for estimator, k, a in points), self.num_steps, "aligned"
        )

    @property
    def grid(self) -> tuple[Candidate, ...]:
        """One candidate an image, estimator by estimator and k by k."""
        return tuple(dict.fromkeys(self.aliases.values()))


@dataclass(frozen=True)
class Stage2Space:
    """Candidates of stage 2: s, handoff adapter, edge_k and residual; a walk begins at ``start``."""

    stage: ClassVar[Stage] = 2
    stage1_winner: Candidate
    s_values: tuple[int, ...]
    start: int
    num_steps: int
    handoff: Handoff = "aligned"
    handoff_adapters: tuple[HandoffAdapter, ...] = ("identity",)
    edge_ks: tuple[int, ...] = (0,)
    residuals: tuple[float, ...] = (0.0,)

    @classmethod
    def of(
        cls,
        winner: Candidate,
        s_values: Sequence[int],
        num_steps: int,
        handoff: Handoff,
        handoff_adapters: Sequence[HandoffAdapter] = ("identity",),
        edge_ks: Sequence[int] = (0,),
        residuals: Sequence[float] = (0.0,),
    ) -> Stage2Space:
        """Stage 2 after a stage-1 winner.

        Under an aligned handoff several s are the same plan, so the values are the distinct effective ones.
        A walk starts at the value nearest 0.7 T (the paper's 35), the upper one of two.

        >>> winner = Candidate(ECDiffParams(7, 2, 0.3, 50))
        >>> Stage2Space.of(winner, range(30, 41), 50, "aligned").s_values
        (31, 34, 37, 40)
        """
        if winner.params.edge_schedule is None:
            candidates = [replace(winner.params, s=s) for s in s_values]
            values = sorted({effective_s(params, num_steps, handoff) for params in candidates})
        else:
            values = [winner.params.s]  # its lists say who does which step
        start = nearest_value(values, 0.7 * num_steps)
        ways = (tuple(handoff_adapters), tuple(edge_ks), tuple(residuals))
        return cls(winner, tuple(values), start, num_steps, handoff, *ways)

    @property
    def p(self) -> int:
        """Warm-up steps."""
        return self.stage1_winner.params.warm_up

    @property
    def dimensions(self) -> Mapping[str, Sequence[Value]]:
        """The values of every dimension."""
        edge_side = {"edge_k": self.edge_ks, "residual": self.residuals}
        return {"s": self.s_values, "handoff_adapter": self.handoff_adapters, **edge_side}

    def at(
        self,
        s: int,
        handoff_adapter: HandoffAdapter = "identity",
        edge_k: int | None = None,
        residual: float | None = None,
    ) -> Candidate:
        """The candidate at a point; None is the first value of the space."""
        edge_k = self.edge_ks[0] if edge_k is None else edge_k
        residual = self.residuals[0] if residual is None else residual
        params = replace(self.stage1_winner.params, s=s, edge_k=edge_k, residual=residual)
        return replace(self.stage1_winner, params=params, handoff_adapter=handoff_adapter)

    @cached_property
    def aliases(self) -> Mapping[Candidate, Candidate]:
        """Every candidate, and the one of the grid that makes the same images."""
        edge_sides = itertools.product(self.handoff_adapters, self.edge_ks, self.residuals)
        points = ((s, *edge_side) for edge_side in edge_sides for s in self.s_values)
        candidates = (self.at(*point) for point in points)
        return same_images(filter(_is_possible, candidates), self.num_steps, self.handoff)

    @property
    def grid(self) -> tuple[Candidate, ...]:
        """One candidate an image, adapter by adapter and s upwards; without an edge step there is but one.

        >>> winner = Candidate(ECDiffParams(2, 0, 1.0, 4))
        >>> space = Stage2Space.of(winner, (3, 4), 4, "exact", residuals=(0.0, 1.0))
        >>> [(one.params.s, one.params.residual) for one in space.grid]
        [(3, 0.0), (4, 0.0), (3, 1.0)]
        """
        return tuple(dict.fromkeys(self.aliases.values()))


@dataclass(frozen=True)
class JointSpace:
    """Both stages at once: (p, k, alpha, s) for every estimator, handoff adapter and handoff.

    Args:
        handoff: of the sampling settings.
        handoffs: that are searched; none is that one.
    """

    stage: ClassVar[Stage] = "joint"
    ps: tuple[int, ...]
    ks: tuple[int, ...]
    alphas: tuple[float, ...]
    s_values: tuple[int, ...]
    num_steps: int
    handoff: Handoff = "aligned"
    estimators: tuple[str, ...] = ("gradient",)
    handoff_adapters: tuple[HandoffAdapter, ...] = ("identity",)
    edge_ks: tuple[int, ...] = (0,)
    residuals: tuple[float, ...] = (0.0,)
    edge_first: int = 2
    edge_last: int = 2
    handoffs: tuple[Handoff, ...] = ()

    @property
    def p(self) -> int:
        """The longest warm-up."""
        return max(self.ps)

    @property
    def dimensions(self) -> Mapping[str, Sequence[Value]]:
        """The values of every dimension."""
        return {
            "p": self.ps,
            "k": self.ks,
            "alpha": self.alphas,
            "s": self.s_values,
            "estimator": self.estimators,
            "handoff_adapter": self.handoff_adapters,
            "edge_k": self.edge_ks,
            "residual": self.residuals,
            "handoff": self.handoffs or (self.handoff,),
        }

    def at(
        self,
        p: int,
        k: int,
        alpha: float,
        s: int,
        estimator: str,
        handoff_adapter: HandoffAdapter,
        edge_k: int = 0,
        residual: float = 0.0,
        handoff: Handoff | None = None,
    ) -> Candidate:
        """The candidate at a point, with the s at which it really hands over; None is the first handoff."""
        edge_side = (edge_k, self.edge_first, self.edge_last, residual)
        params = ECDiffParams(p, k, alpha, s, None, *edge_side)
        way = handoff or (self.handoffs or (self.handoff,))[0]
        effective = effective_s(params, self.num_steps, way)
        own = None if way == self.handoff else way
        return Candidate(replace(params, s=effective), estimator, handoff_adapter, own)

    @cached_property
    def aliases(self) -> Mapping[Candidate, Candidate]:
        """Every candidate, and the one of the grid that makes the same images."""
        candidates = (
            self.at(p, k, alpha, s, estimator, adapter, edge_k, residual, handoff)
            for handoff in self.handoffs or (self.handoff,)
            for estimator, adapter in itertools.product(self.estimators, self.handoff_adapters)
            for edge_k, residual in itertools.product(self.edge_ks, self.residuals)
            for p, k, alpha, s in itertools.product(self.ps, self.ks, self.alphas, self.s_values)
            if p <= s and (k == 0 or p >= 2)
        )
        return same_images(filter(_is_possible, candidates), self.num_steps, self.handoff)

    @property
    def grid(self) -> tuple[Candidate, ...]:
        """One candidate an image.

        >>> space = JointSpace((7,), (2,), (0.2, 0.3), tuple(range(30, 41)), 50)
        >>> [(one.params.alpha, one.params.s) for one in space.grid][:5]
        [(0.2, 31), (0.2, 34), (0.2, 37), (0.2, 40), (0.3, 31)]
        >>> both = replace(space, alphas=(0.2,), handoffs=("aligned", "exact"))
        >>> [one.params.s for one in both.grid if one.handoff == "exact"]
        [30, 32, 33, 35, 36, 38, 39]
        """
        return tuple(dict.fromkeys(self.aliases.values()))


@dataclass(frozen=True)
class ScheduleSpace:
    """Candidates of ``search=schedule``: real steps, alpha, s and estimator all at once.

    Args:
        proposed: at least one.
    """

    stage: ClassVar[Literal["joint"]] = "joint"
    proposed: tuple[Candidate, ...]
    num_steps: int
    handoff: Handoff = "aligned"

    @property
    def p(self) -> int:
        """The longest warm-up."""
        return max(one.params.warm_up for one in self.proposed)

    @cached_property
    def aliases(self) -> Mapping[Candidate, Candidate]:
        """Every candidate, and the one of the grid that makes the same images."""
        return same_images(self.proposed, self.num_steps, self.handoff)

    @property
    def grid(self) -> tuple[Candidate, ...]:
        """One candidate an image."""
        return tuple(dict.fromkeys(self.aliases.values()))


def _is_possible(candidate: Candidate) -> bool:
    """Whether there is a cloud step for the residual, and an estimator for thinned edge steps."""
    params = candidate.params
    if get_estimator(candidate.estimator).fills_with_edge:
        return not params.edge_k and not params.residual
    return params.s > 0 or not params.residual


N = TypeVar("N", int, float)
Value = int | float | str
"""Of a dimension."""

GridSpace = Stage1Space | Stage2Space | JointSpace
"""Those that a search may go through dimension by dimension."""
Space = GridSpace | ScheduleSpace


def nearest_value(values: Sequence[N], target: float) -> N:
    """The value nearest to ``target``, the upper one of two."""
    return min(values, key=lambda value: (round(abs(value - target), 9), -value))
