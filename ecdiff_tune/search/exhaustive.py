"""Every candidate of the space: the check on every other search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.search.base import Ask, Context, Result
from ecdiff_tune.search.spaces import Space


class Exhaustive:
    """``Search`` that asks for the whole grid in its order; the first of equal bests wins."""

    def __init__(self, space: Space, context: Context) -> None:
        self._left = list(space.grid)
        self._best: Candidate | None = None
        self._best_value = float("-inf")
        self.discarded: Mapping[Candidate, str] = {}

    @property
    def done(self) -> bool:
        return not self._left

    def ask(self) -> Ask:
        if not self._left:
            raise RuntimeError("The search is done; read best.")
        return Ask((self._left[0],))

    def tell(self, results: Sequence[Result]) -> None:
        candidate, value = self._left.pop(0), results[0].value
        if value > self._best_value:
            self._best, self._best_value = candidate, value

    @property
    def best(self) -> Candidate | None:
        return self._best
