"""A joint search whose forecast misleads goes on from neighbour to neighbour; one whose holds does not."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean

import pytest

from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.objective import Score
from ecdiff_tune.search import SEARCHES, Context
from ecdiff_tune.search.base import Cost, Result
from ecdiff_tune.search.climb import best_of_kinds, neighbours
from ecdiff_tune.search.options import Options
from ecdiff_tune.search.spaces import JointSpace

from ..worlds import ALPHAS

SPACE = JointSpace(
    (2,), (1, 2, 3, 4, 5), ALPHAS, (12, 13, 14), 20, edge_ks=(0, 2), handoffs=("aligned", "exact")
)
Quality = Callable[[Candidate], float]


def quality(one: Candidate) -> float:
    """Best at alpha = 0.9 / k, and the lower the longer nothing is asked, from three steps on much lower."""
    k = one.params.k or 0
    return 0.96 - 0.02 * k - 0.12 * max(0, k - 3) - 0.2 * (one.params.alpha - 0.9 / max(k, 1)) ** 2


def overrated(one: Candidate) -> float:
    """Knows nothing of the fall, and thinks that alpha is best at 0.6."""
    return 0.97 - 0.01 * (one.params.k or 0) - 0.2 * (one.params.alpha - 0.6) ** 2


def objective(one: Candidate, ssim: float) -> float:
    """The fewer cloud calls and edge steps the better."""
    plan = one.resolve(20, "aligned").plan
    return 0.3 * ssim - 0.03 * plan.cloud_calls - 0.01 * plan.edge_calls


def search(forecast: Quality, prompts: int) -> tuple[Candidate, int, dict[Candidate, str]]:
    """The winner, how many configs were measured, and why the others were pruned."""
    context = Context(
        prompts,
        objective,
        lambda some: [forecast(one) for one in some],
        cost=lambda one: Cost.of(one.resolve(20, "aligned").plan),
        options=Options((0.25,), margin=0.001),
    )
    found, seen = SEARCHES["joint"].make(SPACE, context), set[Candidate]()
    while not found.done:
        ask, results = found.ask(), list[Result]()
        for one in ask.candidates:
            ssims = [quality(one) + 0.01 * (row % 3 - 1) for row in range(ask.prompts or prompts)]
            values = tuple(objective(one, ssim) for ssim in ssims)
            score = Score(fmean(ssims), 0.0, None, fmean(values))
            results.append(Result(score.objective, values, score))
        seen |= {*ask.candidates}
        found.tell(results)
    assert found.best is not None
    return found.best, len(seen), dict(found.pruned)


@pytest.mark.parametrize("prompts", [4, 30])
def test_an_overrated_kind_does_not_keep_the_best_out(prompts: int) -> None:
    best = max(SPACE.grid, key=lambda one: objective(one, quality(one)))
    found, measured, pruned = search(overrated, prompts)
    assert objective(found, quality(found)) == pytest.approx(objective(best, quality(best)), abs=0.002)
    assert 8 < measured < len(SPACE.grid) / 6
    assert found not in pruned


@pytest.mark.parametrize("prompts", [4, 30])
def test_where_the_forecast_holds_nothing_more_is_measured(prompts: int) -> None:
    found, measured, _ = search(lambda one: quality(one) + 0.04, prompts)
    assert found == max(SPACE.grid, key=lambda one: objective(one, quality(one)))
    assert measured == 8


def test_neighbours_differ_in_one_dimension() -> None:
    one = SPACE.at(2, 2, 0.3, 14, "gradient", "identity", 0, 0.0, "aligned")
    points = [
        (two.params.k, two.params.alpha, two.params.s, two.params.edge_k, two.handoff)
        for two in neighbours(one, SPACE.grid)
    ]
    assert points[:2] == [(1, 0.3, 14, 0, None), (3, 0.3, 14, 0, None)]
    assert {two[1] for two in points} == {0.2, 0.3, 0.4}
    assert {two[3] for two in points} == {0, 2}
    assert {two[4] for two in points} == {None, "exact"}


def test_kinds_are_what_decides_the_clouds_steps() -> None:
    found = best_of_kinds(SPACE.grid)
    assert {(one.params.k, one.handoff) for one in found} == {
        (k, way)
        for k in range(1, 6)
        for way in (None, "exact")
        if any(o.params.k == k and o.handoff == way for o in SPACE.grid)
    }
