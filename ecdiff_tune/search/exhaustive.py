"""Every candidate of the space: the check on every other search."""

from __future__ import annotations

from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.search.base import Ask, Context, Rounds, Search
from ecdiff_tune.search.spaces import Space


def exhaustive(space: Space, context: Context) -> Search:
    """``Search`` that asks for the whole grid in its order; the first of equal bests wins."""
    return Search(_rounds(space))


def _rounds(space: Space) -> Rounds[Candidate | None]:
    best, best_value = None, float("-inf")
    for candidate in space.grid:
        (result,) = yield Ask((candidate,))
        if result.value > best_value:
            best, best_value = candidate, result.value
    return best
