"""What a search asks for at most, known before it begins (were no config of its choice infeasible)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.evaluation.model_calls import Calls
from ecdiff_tune.search.base import Context
from ecdiff_tune.search.joint import last_rung
from ecdiff_tune.search.predict import by_forecast
from ecdiff_tune.search.schedule import in_turn
from ecdiff_tune.search.spaces import Space


@dataclass(frozen=True)
class CallBound:
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


def whole_grid(space: Space, context: Context) -> list[CallBound]:
    """Everything on every prompt. As of all functions here, the first bound holds every candidate that may be
    asked for."""
    return [CallBound(space.grid, len(space.grid), context.num_prompts)]


def best_predicted(space: Space, context: Context) -> list[CallBound]:
    """One candidate on every prompt.

    Raises:
        UnpredictableError: nothing can be predicted.
    """
    return [CallBound(tuple(by_forecast(space.grid, context)[:1]), 1, context.num_prompts)]


def finalists(space: Space, context: Context) -> list[CallBound]:
    """Some up to the last rung, one on the rest; a search that ``climbs`` asks for more where the forecast
    misleads.

    Raises:
        UnpredictableError: nothing can be predicted.
    """
    return _finals(by_forecast(space.grid, context), space, context)


def finalists_in_turn(space: Space, context: Context) -> list[CallBound]:
    """Those of ``search=schedule``; with a wanted quality any of the grid may come to it.

    Raises:
        UnpredictableError: nothing can be predicted.
    """
    return _finals(in_turn(by_forecast(space.grid, context), space.num_steps), space, context)


def trials(space: Space, context: Context) -> list[CallBound]:
    """As many as an Optuna study has, each on every prompt."""
    count = min(context.options.optuna.trials, len(space.grid))
    return [CallBound(space.grid, count, context.num_prompts)]


def _finals(ranked: Sequence[Candidate], space: Space, context: Context) -> list[CallBound]:
    if context.options.min_quality is not None:
        return whole_grid(space, context)
    first, seen = tuple(ranked[: context.options.finalists]), last_rung(context)
    return [CallBound(first, len(first), seen), CallBound(first, 1, context.num_prompts - seen)]
