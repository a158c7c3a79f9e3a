"""What a search asks for at most, known before it begins (were no config of its choice infeasible)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ecdiff_tune.candidate import Candidate
from ecdiff_tune.search.base import Context, Space
from ecdiff_tune.search.joint import last_look
from ecdiff_tune.search.predict import by_forecast
from ecdiff_tune.search.schedule import in_turn

Calls = tuple[int, int]
"""Of the cloud and of the edge."""


@dataclass(frozen=True)
class Share:
    """So many of some candidates, each on so many prompts."""

    candidates: tuple[Candidate, ...]
    count: int
    prompts: int

    def calls(self, calls_a_prompt: Callable[[Sequence[Candidate]], Calls]) -> Calls:
        """At most, whichever of them it will be."""
        together = calls_a_prompt(self.candidates)
        if self.count < len(self.candidates):
            alone = [calls_a_prompt((one,)) for one in self.candidates]
            cloud, edge = (sum(sorted(side)[-self.count :]) for side in zip(*alone, strict=True))
            together = min(cloud, together[0]), min(edge, together[1])
        return together[0] * self.prompts, together[1] * self.prompts


def most_asked(name: str, space: Space, context: Context) -> list[Share]:
    """What the search of that name asks for at most; the first share holds every candidate that it asks for.

    Raises:
        UnpredictableError: it goes by a forecast, and nothing can be foretold.
    """
    grid, everything, options = space.grid, context.num_prompts, context.options
    if name == "predict":
        return [Share(tuple(by_forecast(grid, context)[:1]), 1, everything)]
    if name in ("joint", "schedule") and options.min_quality is None:
        ranked = by_forecast(grid, context)
        first = (in_turn(ranked) if name == "schedule" else ranked)[: options.finalists]
        finalists, seen = tuple(first), last_look(context)
        return [Share(finalists, len(finalists), seen), Share(finalists, 1, everything - seen)]
    if name == "optuna":
        return [Share(grid, min(options.optuna.trials, len(grid)), everything)]
    return [Share(grid, len(grid), everything)]
