"""What a person may set for a search; each reads what it needs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ecdiff_core.errors import ECDiffError

LEAST_PROMPTS = 5
"""A look at fewer says too little."""


class SearchError(ECDiffError):
    """A search's setting is out of range, or does not fit the search."""


@dataclass(frozen=True)
class Options:
    """How candidates race, and how many.

    Args:
        looks: shares of the prompts after which losers are given up, 0 < share < 1.
        error_rate: greatest probability of giving up the best candidate in the whole race.
        margin: objective that may be given away at a look; 0 is nothing.
        finalists: how many of the best foretold race (``joint``).

    Raises:
        SearchError: one of them is out of range.
    """

    looks: tuple[float, ...] = (0.1, 0.25, 0.5)
    error_rate: float = 0.05
    margin: float = 0.0
    finalists: int = 12

    def __post_init__(self) -> None:
        if not all(0 < share < 1 for share in self.looks):
            raise SearchError(f"Expected search.looks within 0 < share < 1, got {list(self.looks)}.")
        if not 0 < self.error_rate < 1:
            raise SearchError(f"Expected search.error_rate within 0 < rate < 1, got {self.error_rate}.")
        if not 0 <= self.margin < math.inf:
            raise SearchError(f"Expected search.margin >= 0, got {self.margin}.")
        if self.finalists < 1:
            raise SearchError(f"Expected search.finalists >= 1, got {self.finalists}.")

    def prompts(self, num_prompts: int) -> tuple[int, ...]:
        """How many prompts were seen at each look, upwards.

        >>> Options().prompts(100), Options().prompts(12), Options().prompts(5)
        ((10, 25, 50), (5, 6), ())
        """
        counts = {max(LEAST_PROMPTS, math.ceil(share * num_prompts)) for share in self.looks}
        return tuple(sorted(count for count in counts if count < num_prompts))

    def level(self, num_prompts: int, arms: int) -> float:
        """Of one test, so that ``error_rate`` holds for all (Bonferroni): the best of ``arms`` meets each
        other one at most once a look."""
        return self.error_rate / max(1, len(self.prompts(num_prompts)) * (arms - 1))
