"""Going on beyond the grid where the winner lies on its boundary. Not in the paper, whose grids are fixed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ecdiff_core.sampling.estimators import get_estimator
from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_core.sampling.plan import Handoff, Plan
from ecdiff_core.sampling.plan_of_params import effective_s
from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.search.base import Ask, Result, Rounds, Search
from ecdiff_tune.search.spaces import GridSpace, N, Stage1Space, Stage2Space

LEAST_ALPHA = 0.05
"""To go on to: below it an estimate is hardly another than the last noise."""


def grown(values: Sequence[N], value: N, lowest: N, highest: N, step: N | None = None) -> tuple[N, ...]:
    """The values and one more beyond the boundary that ``value`` lies on; the same where it lies on none.

    The new one is as far from the boundary as that is from its neighbour, or by ``step``, and within
    ``lowest`` … ``highest``. A single value is a choice, not a grid: it stays alone.

    >>> grown((1, 2, 3), 3, 0, 49), grown((0.5, 0.7, 0.9), 0.9, 0.0, 1.0), grown((1, 2, 3), 2, 0, 49)
    ((1, 2, 3, 4), (0.5, 0.7, 0.9, 1.0), (1, 2, 3))
    """
    ordered, found = sorted(values), list(values)
    if len(ordered) < 2 or value not in (ordered[0], ordered[-1]):
        return tuple(found)
    # In front or behind, so that a walk comes to the old values in their old order.
    if value == ordered[0]:
        new = round(max(lowest, ordered[0] - (step or ordered[1] - ordered[0])), 9)
        found.insert(0, new)
    else:
        new = round(min(highest, ordered[-1] + (step or ordered[-1] - ordered[-2])), 9)
        found.append(new)
    return tuple(values) if new in values else tuple(found)


def extended(space: GridSpace, best: Candidate, num_steps: int, handoff: Handoff) -> GridSpace | None:
    """The space with one more value beyond every boundary that ``best`` lies on; None where there is none.

    Limits: 0 <= k < T, ``LEAST_ALPHA`` <= alpha <= 1, p <= s <= T, 0 <= edge_k < T.
    An aligned handoff moves s to after the next real step.
    """
    larger, handoff = space, best.handoff or handoff
    if not isinstance(larger, Stage2Space):
        k = best.params.k
        ks = larger.ks if k is None else grown(larger.ks, k, 0, num_steps - 1)
        alphas = _more_alphas(larger.alphas, best, best.resolve(num_steps, handoff).plan)
        larger = replace(larger, ks=ks, alphas=alphas)
    if not isinstance(larger, Stage1Space):
        larger = replace(larger, s_values=_more_s(larger.s_values, best.params, num_steps, handoff))
        if best.resolve(num_steps, handoff).plan.edge_steps:
            larger = replace(larger, edge_ks=grown(larger.edge_ks, best.params.edge_k, 0, num_steps - 1))
    return None if larger == space else larger


def _more_alphas(alphas: tuple[float, ...], best: Candidate, plan: Plan) -> tuple[float, ...]:
    estimator = get_estimator(best.estimator)
    if not (plan.uses_alpha(estimator) or (estimator.fills_with_edge and plan.residual_steps)):
        return alphas
    return grown(alphas, best.params.alpha, min(LEAST_ALPHA, *alphas), 1.0)


def _more_s(values: tuple[int, ...], best: ECDiffParams, num_steps: int, handoff: Handoff) -> tuple[int, ...]:
    """The values are those of the winner's stage or, of a joint space, any; the winner's s is effective."""
    usable = [s for s in values if s >= best.warm_up]
    if len(usable) < 2:
        return values
    if handoff == "exact":
        return tuple(sorted(grown(values, best.s, best.warm_up, num_steps)))

    def effective(s: int) -> int:
        return effective_s(replace(best, s=s), num_steps, handoff)

    new = best.s
    if best.s == effective(min(usable)):
        earlier = {effective(s) for s in range(best.warm_up, best.s)} - {best.s}
        new = max(earlier, default=best.s)
    elif best.s == effective(max(usable)) and best.s < num_steps:
        new = effective(best.s + 1)
    return tuple(sorted({*values, new})) if new != best.s else values


def describe_growth(old: GridSpace, new: GridSpace) -> str:
    """What a larger space adds, in words.

    >>> space = Stage1Space(7, (1, 2), (0.3, 0.5), 50)
    >>> describe_growth(space, replace(space, ks=(1, 2, 3), alphas=(0.1, 0.3, 0.5)))
    'k=3, alpha=0.1'
    """
    return ", ".join(
        f"{name.removesuffix('_values').removesuffix('s') or 's'}={value:g}"
        for name in ("ks", "alphas", "s_values", "edge_ks")
        for value in getattr(new, name, ())
        if value not in getattr(old, name)
    )


def extending(
    make: Callable[[GridSpace], Search],
    space: GridSpace,
    grow: Callable[[GridSpace, Candidate], GridSpace | None],
    on_growth: Callable[[GridSpace, GridSpace], None],
) -> Search:
    """``Search`` that runs another one, and again over a larger space while the winner lies on a boundary.

    What is known is not asked again.

    Args:
        make: a search over a space.
        space: to begin with.
        grow: the larger space for a space and its winner; None ends the search.
        on_growth: called with the old space and the larger one.
    """
    pruned: dict[Candidate, str] = {}
    return Search(_rounds(make, space, grow, on_growth, pruned), pruned)


def _rounds(
    make: Callable[[GridSpace], Search],
    space: GridSpace,
    grow: Callable[[GridSpace, Candidate], GridSpace | None],
    on_growth: Callable[[GridSpace, GridSpace], None],
    pruned: dict[Candidate, str],
) -> Rounds[Candidate | None]:
    """The best of the searches' winners: a walk over a larger grid may take another way."""
    known: dict[tuple[Candidate, int | None], Result] = {}
    best: Candidate | None = None
    larger: GridSpace | None = space
    while larger is not None:
        space, search = larger, make(larger)
        while not search.done:
            ask = search.ask()
            fresh = tuple(one for one in ask.candidates if (one, ask.prompts) not in known)
            if fresh:
                results = yield Ask(fresh, ask.prompts)
                known |= {(one, ask.prompts): found for one, found in zip(fresh, results, strict=True)}
            search.tell([known[one, ask.prompts] for one in ask.candidates])
            pruned |= search.pruned
            for one in [one for one in pruned if (one, None) in known]:
                del pruned[one]
        found = search.best
        if found is not None and (best is None or known[found, None].value > known[best, None].value):
            best = found
        larger = None if best is None else grow(space, best)
        if larger is not None:
            on_growth(space, larger)
    return best
