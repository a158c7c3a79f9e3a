"""Every candidate of the space: the check on every other search."""

from __future__ import annotations

from ecdiff_tune.candidate import Candidate
from ecdiff_tune.search.base import Space


class Exhaustive:
    """``Search`` that asks for the whole grid in its order; the first of equal bests wins."""

    def __init__(self, space: Space) -> None:
        self._left = list(space.grid)
        self._best: Candidate | None = None
        self._best_value = float("-inf")

    @property
    def done(self) -> bool:
        return not self._left

    def ask(self) -> Candidate:
        if not self._left:
            raise RuntimeError("The search is done; read best.")
        return self._left[0]

    def tell(self, value: float) -> None:
        candidate = self._left.pop(0)
        if value > self._best_value:
            self._best, self._best_value = candidate, value

    @property
    def best(self) -> Candidate | None:
        return self._best
