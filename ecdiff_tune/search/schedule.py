"""Real steps placed one by one: of what was proposed the best predicted race, the winner is measured."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.search.base import Context, Rounds, Search
from ecdiff_tune.search.joint import finals, last_rung
from ecdiff_tune.search.predict import by_forecast
from ecdiff_tune.search.race import RaceState
from ecdiff_tune.search.spaces import Space


def schedule(space: Space, context: Context) -> Search:
    """``Search`` for the best candidate by eq. 12; where a quality is wanted, for the best that has it."""
    pruned: dict[Candidate, str] = {}
    ranked, state = in_turn(by_forecast(space.grid, context), space.num_steps), RaceState(context, pruned)
    least = context.options.min_quality
    if least is None:
        return Search(finals(ranked, state, context, pruned), pruned)
    return Search(_fewest_calls(ranked, least, state, context, pruned), pruned)


def in_turn(ranked: Sequence[Candidate], num_steps: int) -> list[Candidate]:
    """One of each kind, then the second of each, and so on: placements by estimator with and without edge,
    and the (p, k).

    The forecast ranks placements of one estimator well, estimators among one another less well.
    """
    kinds: dict[tuple[str, bool], list[Candidate]] = {}
    for one in ranked:
        alone = one.params.s == num_steps and one.params.edge_schedule is None
        kind = ("(p, k)", False) if one.params.schedule is None else (one.estimator, alone)
        kinds.setdefault(kind, []).append(one)
    rounds = zip_longest(*kinds.values())
    return [one for some in rounds for one in some if one is not None]


def _fewest_calls(
    ranked: Sequence[Candidate],
    least_quality: float,
    state: RaceState,
    context: Context,
    pruned: dict[Candidate, str],
) -> Rounds[Candidate | None]:
    """Bisection over the numbers of cloud calls, since quality rises with them.

    Of the candidates that were measured on all prompts and have the wanted quality the best by eq. 12.
    """
    budgets: dict[int, list[Candidate]] = {}
    for one in ranked:
        budgets.setdefault(context.cost(one).cloud_calls, []).append(one)
    numbers = sorted(budgets)
    low, high = 0, len(numbers)
    while low < high:
        middle = (low + high) // 2
        reached = yield from _reaches(budgets[numbers[middle]], least_quality, state, context, pruned)
        low, high = (low, middle) if reached else (middle + 1, high)
    whole = state.whole()
    for one in state.left(ranked):
        if one not in whole:
            pruned[one] = f"race after {state.seen(one)} prompts" if state.seen(one) else "forecast"
    enough = [one for one in whole if _quality(one, state) >= least_quality]
    return state.leader(enough, context.num_prompts) if enough else None


def _reaches(
    ranked: Sequence[Candidate],
    least_quality: float,
    state: RaceState,
    context: Context,
    pruned: dict[Candidate, str],
) -> Rounds[bool]:
    """Whether a finalist has the wanted quality on all prompts: tried from the best by eq. 12 downwards among
    those that have it on the first prompts."""
    everything, options = context.num_prompts, context.options
    seen = last_rung(context)
    finalists = ranked[: options.finalists]
    yield from state.measure(finalists, seen)
    while left := [one for one in state.left(finalists) if _quality(one, state) >= least_quality]:
        best = state.leader(left, seen)
        yield from state.measure([best], everything)
        if best not in pruned and _quality(best, state) >= least_quality:
            return True
        pruned.setdefault(best, "quality")
    for one in state.left(finalists):
        pruned[one] = "quality"
    return False


def _quality(one: Candidate, state: RaceState) -> float:
    """Mean SSIM on the prompts that it was measured on last."""
    result = state.result(one)
    return float("-inf") if result is None or result.score is None else result.score.quality
