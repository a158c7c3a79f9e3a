"""The paper's two-stage greedy search, written as the paper writes it (EC-Diff Algorithms 2 and 3)."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from typing import TypeVar

from ecdiff_core.sampling.plan import HandoffAdapter
from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.search.base import Ask, Context, Rounds, Search
from ecdiff_tune.search.spaces import Stage1Space, Stage2Space, nearest_value

N = TypeVar("N", int, float)
PATIENCE = 3
"""Changes without improvement, in a row, that end a walk."""

Walk = Generator[N, float, tuple[N, float]]
"""Yields a value to evaluate, is sent its objective, returns the best value and its objective."""

StageWalk = Generator[Candidate, float, tuple[Candidate | None, float]]
"""Yields a candidate, is sent its objective, returns the winner and its objective."""


def next_unvisited(values: Sequence[N], current: N, direction: int, visited: Sequence[N]) -> N | None:
    """The nearest value beyond ``current`` in a direction that was not visited; None if there is none."""
    beyond = [v for v in values if (v - current) * direction > 0 and v not in visited]
    return min(beyond, key=lambda v: abs(v - current)) if beyond else None


def walk(values: Sequence[N], start: N) -> Walk[N]:
    """The inner loop of Algorithm 2 and the whole of Algorithm 3.

    It goes on from the current value, not from the best one; a direction with nothing left ends it.
    """
    visited, current, direction, worse = [start], start, 1, 0
    best, best_value = start, (yield start)
    while worse < PATIENCE and len(visited) < len(values):
        following = next_unvisited(values, current, direction, visited)
        if following is None:
            break
        current = following
        visited.append(current)
        value = yield current
        if value > best_value:
            best, best_value, worse = current, value, 0
        else:
            worse, direction = worse + 1, -direction
    return best, best_value


def stage1(space: Stage1Space, estimator: str) -> StageWalk:
    """Algorithm 2: for every k a walk over alpha from 0.5; three k in a row without improvement end it.

    The paper's best value starts at 0, so that a candidate must score above 0 to win.
    """
    best, best_value, worse_k = None, 0.0, 0
    alphas = space.alphas_of(estimator)
    for k in space.ks:
        inner = walk(alphas, nearest_value(alphas, 0.5))
        alpha = next(inner)
        while True:
            value = yield space.at(k, alpha, estimator)
            try:
                alpha = inner.send(value)
            except StopIteration as finished:
                best_alpha, value = finished.value
                break
        if value > best_value:
            best, best_value, worse_k = space.at(k, best_alpha, estimator), value, 0
        else:
            worse_k += 1
        if worse_k >= PATIENCE:
            break
    return best, best_value


def stage2(space: Stage2Space, handoff_adapter: HandoffAdapter) -> StageWalk:
    """Algorithm 3: a walk over s."""

    def at(s: int) -> Candidate:
        candidate = space.at(s, handoff_adapter)
        return space.aliases.get(candidate, candidate)

    inner = walk(space.s_values, space.start)
    s = next(inner)
    while True:
        value = yield at(s)
        try:
            s = inner.send(value)
        except StopIteration as finished:
            best, best_value = finished.value
            found = at(best) if best_value > float("-inf") else None
            return found, best_value


def best_of(stages: Iterable[StageWalk]) -> StageWalk:
    """One stage after the other, for dimensions that the paper does not search; the first of equals wins."""
    best, best_value = None, float("-inf")
    for stage in stages:
        found, value = yield from stage
        if found is not None and value > best_value:
            best, best_value = found, value
    return best, best_value


def greedy(space: Stage1Space | Stage2Space, context: Context) -> Search:
    """``Search`` over one stage's walk."""
    if isinstance(space, Stage1Space):
        return Search(_rounds(best_of(stage1(space, estimator) for estimator in space.estimators)))
    return Search(_rounds(best_of(stage2(space, adapter) for adapter in space.handoff_adapters)))


def _rounds(stage: StageWalk) -> Rounds[Candidate | None]:
    candidate = next(stage)
    while True:
        (result,) = yield Ask((candidate,))
        try:
            candidate = stage.send(result.value)
        except StopIteration as finished:
            best, _ = finished.value
            return best
