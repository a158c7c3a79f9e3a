"""The whole grid at once: the forecast proposes, a race on few prompts decides, the winner is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.search.base import Context, Rounds, Search
from ecdiff_tune.search.climb import climb
from ecdiff_tune.search.predict import by_forecast
from ecdiff_tune.search.race import RaceState, run_rungs
from ecdiff_tune.search.spaces import Space


def joint(space: Space, context: Context) -> Search:
    """``Search`` that measures one candidate whole and a few others on some prompts."""
    pruned: dict[Candidate, str] = {}
    ranked, state = by_forecast(space.grid, context), RaceState(context, pruned)
    beyond = partial(climb, ranked, state=state, context=context, pruned=pruned)
    return Search(finals(ranked, state, context, pruned, beyond), pruned)


def last_rung(context: Context) -> int:
    """On how many prompts the finalists are compared in the end."""
    return (context.options.prompts(context.num_prompts) or (context.num_prompts,))[-1]


def finals(
    ranked: Sequence[Candidate],
    state: RaceState,
    context: Context,
    pruned: dict[Candidate, str],
    beyond: Callable[[Candidate, int], Rounds[Candidate]] | None = None,
) -> Rounds[Candidate | None]:
    """The first ones race, and after the last rung their leader goes on alone.

    Where it turns out to be infeasible the next one takes its place; when no finalist is left, the next ones
    race. A race that is settled before (``until``) ends there: who is left has been measured on its prompts.

    Args:
        ranked: the most promising first.
        beyond: whoever is better than the winner, who was compared on so many prompts; None looks no further.
    """
    everything, options = context.num_prompts, context.options
    seen = last_rung(context)
    for start in range(0, len(ranked), options.finalists):
        finalists = ranked[start : start + options.finalists]
        settled = yield from run_rungs(finalists, state, context)
        if settled is not None:
            unseen = [one for one in state.left(ranked) if not state.seen(one)]
            pruned |= dict.fromkeys(unseen, "forecast")
            return state.leader(state.left(finalists), settled)
        yield from state.measure(finalists, seen)
        while left := state.left(finalists):
            winner = state.leader(left, seen)
            yield from state.measure([winner], everything)
            if winner not in pruned:
                if beyond is not None:
                    winner = yield from beyond(winner, seen)
                state.bound(ranked)
                ties = dict.fromkeys(finalists, f"tie after {seen} prompts")
                reasons = {**dict.fromkeys(ranked, "forecast"), **ties}
                whole = state.whole()
                others = [one for one in state.left(ranked) if one not in whole and one is not winner]
                pruned |= {one: reasons[one] for one in others}
                return winner
    return None
