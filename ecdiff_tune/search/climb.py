"""Where the forecast misleads: the best of every kind of config, then from neighbour to neighbour."""

from __future__ import annotations

from collections.abc import Sequence

from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.search.base import Context, Rounds
from ecdiff_tune.search.race import RaceState

FAR = 0.05
"""SSIM between predicted and measured, from which on a forecast misleads: configs differ by less."""
Point = dict[str, int | float | str]


def climb(
    ranked: Sequence[Candidate],
    winner: Candidate,
    seen: int,
    *,
    state: RaceState,
    context: Context,
    pruned: dict[Candidate, str],
) -> Rounds[Candidate]:
    """A winner that was measured whole; where its quality is ``FAR`` below the forecast, the best around.

    How far the forecast errs depends on what a config is like, and finalists that it overrates alike crowd
    out the rest. So the best predicted of each kind are measured, and then the neighbours of whoever leads,
    until none of them is better: of a whole grid a few in a hundred.

    Args:
        ranked: the most promising first.
        seen: prompts on which candidates are compared.
        pruned: why candidates were pruned, to be filled.
    """
    if not _is_far(winner, state, context):
        return winner
    state.bound(ranked)
    leader, fresh, tried = winner, best_of_kinds(state.left(ranked)), list[Candidate]()
    while fresh := [one for one in fresh if state.seen(one) < seen]:
        yield from state.measure(fresh, seen)
        tried += fresh
        if not (left := state.left([leader, *fresh])):
            return winner
        best = state.leader(left, seen)
        if best is leader and leader is not winner:
            break
        leader = best
        state.bound(ranked)
        fresh = neighbours(leader, state.left(ranked))
    yield from state.measure([leader], context.num_prompts)
    whole = state.whole(tried)
    pruned |= {one: f"race after {seen} prompts" for one in state.left(tried) if one not in whole}
    return state.leader(state.left(dict.fromkeys([winner, leader])), context.num_prompts)


def _is_far(winner: Candidate, state: RaceState, context: Context) -> bool:
    result = state.result(winner)
    if not isinstance(winner, Candidate) or result is None or result.score is None:
        return False  # a point of a space of a person's own has no kinds and no SSIM
    (predicted,) = context.predict([winner])
    return misleads(predicted, result.score.quality)


def misleads(predicted: float, measured: float) -> bool:
    """Whether a winner is so much worse than its forecast that better ones may not have been looked at."""
    return predicted - measured > FAR


def best_of_kinds(ranked: Sequence[Candidate]) -> list[Candidate]:
    """The first of every p, k, estimator, handoff and adapter: what decides the cloud's steps, but for s."""
    kinds: dict[tuple[object, ...], Candidate] = {}
    for one in ranked:
        ways = (one.estimator, one.handoff_adapter, one.handoff)
        kinds.setdefault((one.params.p, one.params.k, *ways), one)
    return list(kinds.values())


def neighbours(one: Candidate, pool: Sequence[Candidate]) -> list[Candidate]:
    """Those of a pool that differ in one dimension, by the next value there is; an aligned s moves along."""
    here, points = _point(one), [(other, _point(other)) for other in pool]
    found: dict[Candidate, None] = {}
    for name in here:
        line = [
            pair for pair in points if _apart(here, pair[1]) <= {name, "s"} and pair[1][name] != here[name]
        ]
        for value in _next(here[name], {point[name] for _, point in line}):
            some = [pair for pair in line if pair[1][name] == value]
            nearest = min(some, key=lambda pair: abs(float(pair[1]["s"]) - float(here["s"])))
            found[nearest[0]] = None
    return list(found)


def _point(one: Candidate) -> Point:
    params = one.params
    return {
        "p": params.p or 0,
        "k": params.k or 0,
        "alpha": params.alpha,
        "s": params.s,
        "edge_k": params.edge_k,
        "residual": float(params.residual),
        "estimator": one.estimator,
        "handoff_adapter": one.handoff_adapter,
        "handoff": one.handoff or "",
    }


def _apart(here: Point, there: Point) -> set[str]:
    return {name for name, value in here.items() if there[name] != value}


def _next(value: int | float | str, others: set[int | float | str]) -> list[int | float | str]:
    """The next smaller and the next larger of numbers; of names all."""
    numbers = [one for one in others if not isinstance(one, str)]
    if isinstance(value, str):
        return sorted(others, key=str)
    below, above = [one for one in numbers if one < value], [one for one in numbers if one > value]
    return [*([max(below)] if below else []), *([min(above)] if above else [])]
