"""Real steps placed one by one: of what was proposed the best foretold race, the winner is measured."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.search.base import Context, Search
from ecdiff_tune.search.generator_search import Rounds, Scripted
from ecdiff_tune.search.joint import finals, last_look
from ecdiff_tune.search.predict import by_forecast
from ecdiff_tune.search.race import Field
from ecdiff_tune.search.spaces import Space


def schedule(space: Space, context: Context) -> Search:
    """``Search`` for the best candidate by eq. 12; where a quality is wanted, for the best that has it."""
    discarded: dict[Candidate, str] = {}
    ranked, field = in_turn(by_forecast(space.grid, context)), Field(context, discarded)
    least = context.options.min_quality
    if least is None:
        return Scripted(finals(ranked, field, context, discarded), discarded)
    return Scripted(_fewest_calls(ranked, least, field, context, discarded), discarded)


def in_turn(ranked: Sequence[Candidate]) -> list[Candidate]:
    """One of each kind, then the second of each, and so on: placements by estimator, and the (p, k).

    The forecast ranks placements of one estimator well, estimators among one another less well.
    """
    kinds: dict[str, list[Candidate]] = {}
    for one in ranked:
        kinds.setdefault("(p, k)" if one.params.schedule is None else one.estimator, []).append(one)
    rounds = zip_longest(*kinds.values())
    return [one for some in rounds for one in some if one is not None]


def _fewest_calls(
    ranked: Sequence[Candidate],
    least_quality: float,
    field: Field,
    context: Context,
    discarded: dict[Candidate, str],
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
        reached = yield from _reaches(budgets[numbers[middle]], least_quality, field, context, discarded)
        low, high = (low, middle) if reached else (middle + 1, high)
    whole = field.whole()
    for one in field.left(ranked):
        if one not in whole:
            discarded[one] = f"race after {field.seen(one)} prompts" if field.seen(one) else "forecast"
    enough = [one for one in whole if _quality(one, field) >= least_quality]
    return field.leader(enough, context.num_prompts) if enough else None


def _reaches(
    ranked: Sequence[Candidate],
    least_quality: float,
    field: Field,
    context: Context,
    discarded: dict[Candidate, str],
) -> Rounds[bool]:
    """Whether a finalist has the wanted quality on all prompts: tried from the best by eq. 12 downwards among
    those that have it on the first prompts."""
    everything, options = context.num_prompts, context.options
    seen = last_look(context)
    finalists = ranked[: options.finalists]
    yield from field.measure(finalists, seen)
    while left := [one for one in field.left(finalists) if _quality(one, field) >= least_quality]:
        best = field.leader(left, seen)
        yield from field.measure([best], everything)
        if best not in discarded and _quality(best, field) >= least_quality:
            return True
        discarded.setdefault(best, "quality")
    for one in field.left(finalists):
        discarded[one] = "quality"
    return False


def _quality(one: Candidate, field: Field) -> float:
    """Mean SSIM on the prompts that it was measured on last."""
    result = field.result(one)
    return float("-inf") if result is None or result.score is None else result.score.quality
