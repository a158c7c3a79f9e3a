"""Made-up pairs for searches: every candidate's objective on every prompt, and a cost model that agrees."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_tune import testing
from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.search import SEARCHES, Search, Space
from ecdiff_tune.search.base import Cost
from ecdiff_tune.search.spaces import JointSpace, ScheduleSpace, Stage1Space, Stage2Space
from ecdiff_tune.testing import NEVER, Trace, scrambled

ALPHAS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
PAPER_WINNER = Candidate(ECDiffParams(7, 2, 0.3, 50))

Objective = Callable[[ECDiffParams], float]


def exact_space(values: Sequence[int] = range(30, 41)) -> Stage2Space:
    return Stage2Space.of(PAPER_WINNER, values, 50, "exact")


SPACES: dict[str, Space] = {
    "stage 1": Stage1Space(7, (1, 2, 3, 4, 5), ALPHAS, 50),
    "stage 1, odd grids": Stage1Space(3, (6, 2), (0.8, 0.05, 0.45, 1.0), 20),
    "stage 1, one point": Stage1Space(7, (4,), (0.9,), 50),
    "stage 1, one k": Stage1Space(7, (2,), ALPHAS, 50),
    "stage 1, two estimators": Stage1Space(7, (1, 2), (0.3, 0.5), 50, ("gradient", "reuse")),
    "stage 1, one alpha": Stage1Space(7, (1, 2, 3, 4, 5, 6, 7), (0.2,), 50),
    "stage 2, exact": exact_space(),
    "stage 2, aligned": Stage2Space.of(PAPER_WINNER, range(30, 41), 50, "aligned"),
    "stage 2, two adapters": Stage2Space.of(
        PAPER_WINNER, range(30, 41), 50, "aligned", ("identity", "matched")
    ),
    "stage 2, one point": exact_space([33]),
    "stage 2, unsorted": exact_space([50, 7, 20, 33]),
}


def width(params: ECDiffParams) -> int:
    """k, or of listed steps the gap after the warm-up."""
    return params.schedule[-1] - params.warm_up if params.schedule is not None else params.k or 0


OBJECTIVES: dict[str, Objective] = {
    "peak": lambda c: 2 - abs(width(c) - 2) / 5 - abs(c.alpha - 0.3) - abs(c.s - 34) / 50,
    "rising": lambda c: 1 + width(c) + c.alpha + c.s,
    "falling": lambda c: 100 - width(c) - c.alpha - c.s,
    "flat": lambda c: 0.5,
    "scrambled": scrambled,
    "below zero": lambda c: scrambled(c) - 2,
    "infeasible": lambda c: NEVER,
    "half infeasible": lambda c: scrambled(c) if scrambled(c) > 0.5 else NEVER,
}
ALIASES = Stage1Space(7, (0, 1, 42), (0.3, 0.5), 50)
"""k = 0 and k = 42 are one plan each, whatever alpha."""
JOINT = JointSpace((5, 7), (1, 2, 3), (0.1, 0.3, 0.5), tuple(range(30, 41)), 50)
"""Both stages at once."""
HANDOFFS = JointSpace((5,), (1, 3), (0.3,), tuple(range(30, 37)), 50, handoffs=("aligned", "exact"))
"""Both handoffs: after the next real call, and at s itself."""
SCHEDULES = ScheduleSpace(
    tuple(
        Candidate(params, estimator)
        for estimator in ("gradient", "secant")
        for s in (30, 38, 50)
        for params in (
            *(
                ECDiffParams.scheduled((*range(warm_up), 9, last), alpha, s)
                for warm_up, last, alpha in itertools.product((2, 4), (20, 29), (0.3, 1.0))
            ),
            ECDiffParams(4, 2, 0.3, s),
            ECDiffParams.scheduled(range(s), 0.3, s),
        )
    ),
    50,
)
"""Listed: one plan under several names is among them."""


@dataclass(frozen=True)
class World(testing.World):
    """Of candidates, whose objective is that of their params."""

    def level(self, candidate: Candidate) -> float:
        return self.objective(candidate.params)

    def predicted(self, candidate: Candidate) -> float:
        return scrambled(candidate.params)

    def cost(self, candidate: Candidate) -> Cost:
        return Cost(cloud_calls=len(candidate.params.schedule or ()), seconds=float(candidate.params.s))

    def search(self, name: str, space: Space) -> Search:
        return SEARCHES[name].make(space, self.context())


def evaluations(trace: Trace, num_prompts: int) -> int:
    """Generations that a trace cost: candidates times prompts, none twice."""
    most: dict[Candidate, int] = {}
    for ask, _ in trace:
        for one in ask.candidates:
            most[one] = max(most.get(one, 0), ask.prompts or num_prompts)
    return sum(most.values())
