"""The best by what the reference run predicts, without generating anything else."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.search.base import Ask, Context, Rounds, Search
from ecdiff_tune.search.spaces import Space


def by_forecast(candidates: Sequence[Candidate], context: Context) -> list[Candidate]:
    """By their predicted objective, the best first; of equal ones the faster, then the first."""
    qualities = context.predict(candidates)
    predicted = {
        one: context.objective(one, quality) if math.isfinite(quality) else float("-inf")
        for one, quality in zip(candidates, qualities, strict=True)
    }
    return sorted(candidates, key=lambda one: (-predicted[one], context.cost(one).seconds))


def predict(space: Space, context: Context) -> Search:
    """``Search`` that measures nothing but its winner."""
    pruned: dict[Candidate, str] = {}
    return Search(_rounds(space, context, pruned), pruned)


def _rounds(space: Space, context: Context, pruned: dict[Candidate, str]) -> Rounds[Candidate | None]:
    """The best predicted one that has finite images."""
    ranked = by_forecast(space.grid, context)
    for rank, one in enumerate(ranked):
        (result,) = yield Ask((one,))
        if result.value > float("-inf"):
            pruned |= dict.fromkeys(ranked[rank + 1 :], "forecast")
            return one
    return None
