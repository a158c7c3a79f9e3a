"""The whole grid at once: the forecast proposes, a race on few prompts decides, the winner is measured."""

from __future__ import annotations

from collections.abc import Sequence

from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.search.base import Context, Search
from ecdiff_tune.search.generator_search import Rounds, Scripted
from ecdiff_tune.search.predict import by_forecast
from ecdiff_tune.search.race import Field, run_looks
from ecdiff_tune.search.spaces import Space


def joint(space: Space, context: Context) -> Search:
    """``Search`` that measures one candidate whole and a few others on some prompts."""
    discarded: dict[Candidate, str] = {}
    ranked = by_forecast(space.grid, context)
    return Scripted(finals(ranked, Field(context, discarded), context, discarded), discarded)


def last_look(context: Context) -> int:
    """On how many prompts the finalists are compared in the end."""
    return (context.options.prompts(context.num_prompts) or (context.num_prompts,))[-1]


def finals(
    ranked: Sequence[Candidate], field: Field, context: Context, discarded: dict[Candidate, str]
) -> Rounds[Candidate | None]:
    """The first ones race, and after the last look their leader goes on alone.

    Where it turns out to be infeasible the next one takes its place; when no finalist is left, the next ones
    race.

    Args:
        ranked: the most promising first.
    """
    everything, options = context.num_prompts, context.options
    seen = last_look(context)
    for start in range(0, len(ranked), options.finalists):
        finalists = ranked[start : start + options.finalists]
        yield from run_looks(finalists, field, context)
        yield from field.measure(finalists, seen)
        while left := field.left(finalists):
            winner = field.leader(left, seen)
            yield from field.measure([winner], everything)
            if winner not in discarded:
                field.bound(ranked)
                ties = dict.fromkeys(finalists, f"tie after {seen} prompts")
                reasons = {**dict.fromkeys(ranked, "forecast"), **ties}
                whole = field.whole()
                discarded |= {one: reasons[one] for one in field.left(ranked) if one not in whole}
                return winner
    return None
