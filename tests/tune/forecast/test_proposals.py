"""Which real steps are proposed: valid ones, and by the predicted error among the best that there are."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_core.sampling.plan_of_params import plan
from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.forecast.error_growth import reaction, scheduler_response
from ecdiff_tune.forecast.placement import Forecast
from ecdiff_tune.forecast.predictor import Directions, Predictor
from ecdiff_tune.forecast.proposals import (
    SHAPES,
    Placed,
    Placer,
    paper_params,
    propose,
    propose_splits,
    spread_schedules,
)

from .test_error_growth import SCHEDULERS, STEPS, ready

ALPHAS = (0.3, 1.0)


def forecast(seed: int = 0) -> Forecast:
    """Noises that drift smoothly, fast at the beginning."""
    scheduler = ready(SCHEDULERS["DDIM"]())
    courses = np.exp(-np.arange(STEPS)[:, None] / np.array([1.5, 3, 6, 12, 50]))
    noises = courses @ np.random.default_rng(seed).normal(size=(5, 6))
    parts = (Directions(1.0, reaction(scheduler, STEPS, 0.5)),)
    return Forecast(scheduler_response(scheduler, STEPS), parts, noises @ noises.T)


def placer(estimator: str = "secant", seed: int = 0, s: int = STEPS) -> Placer:
    return Placer(forecast(seed), estimator, ALPHAS, 8, s)


def every(calls: int, s: int) -> list[Placed]:
    """All there are."""
    rest = itertools.combinations(range(2, s), calls - 2)
    return list(itertools.product([(0, 1, *some) for some in rest], ALPHAS))


@pytest.mark.parametrize("estimator", ["gradient", "reuse", "secant", "newton2"])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_best_proposal_is_nearly_the_best_of_all(estimator: str, seed: int) -> None:
    one = placer(estimator, seed)
    for calls in (4, 6):
        errors = one.errors(every(calls, STEPS), STEPS)
        found = one.errors(one.propose(calls, STEPS), STEPS).min()
        assert (errors < found * (1 - 1e-9)).mean() < 0.01
        assert (
            found < 3 * errors.min()
        )  # 2.8 once: one placement of 1,001, which no move of one call leads to


def test_proposals_are_different_placements_of_so_many_calls() -> None:
    for calls, s in ((3, STEPS), (5, 9), (8, 9), (8, 8)):
        found = placer(s=s).propose(calls, s)
        assert found
        assert len(set(found)) == len(found) <= SHAPES + 4
        for schedule, alpha in found:
            params = ECDiffParams.scheduled(schedule, alpha, s)
            assert plan(params, STEPS).cloud_calls == len(schedule) == calls
            assert plan(params, STEPS).handoff_step == s


def test_more_calls_have_a_smaller_error() -> None:
    one = placer()
    least = [one.errors(one.propose(calls, STEPS), STEPS).min() for calls in range(3, 9)]
    assert least == sorted(least, reverse=True)


def test_proposing_is_deterministic() -> None:
    assert placer().propose(5, STEPS) == placer().propose(5, STEPS)


def test_spread_schedules() -> None:
    for (warm_up, _power), schedule in spread_schedules(6, 12):
        assert len(schedule) == 6
        assert schedule[:warm_up] == tuple(range(warm_up))
        assert list(schedule) == sorted(set(schedule))
        assert schedule[-1] < 12
    even = [schedule for (_, power), schedule in spread_schedules(6, 12) if power == 1]
    assert (0, 1, 3, 6, 8, 10) in even
    assert spread_schedules(2, 12) == []


def test_the_papers_own() -> None:
    found = paper_params(6, 12, 12, "aligned", range(1, 4), (0.5,))
    assert [(one.p, one.k) for one in found] == [(3, 2), (4, 2), (4, 3), (5, 3)]
    for one in found:
        assert plan(one, 12).cloud_calls == 6
        assert plan(one, 12).handoff_step == 12
    cut = paper_params(4, 7, 12, "exact", (1, 2), (0.5, 1.0))
    assert {(one.p, one.k, one.alpha) for one in cut} >= {(3, 2, 0.5), (3, 2, 1.0)}
    assert not [one for one in paper_params(4, 7, 12, "aligned", (2,), (0.5,)) if one.p == 3]  # s would be 9


class Known(Predictor):
    """Predicts from one made-up Gram matrix."""


def known(with_edge: Sequence[str] = ("identity", "matched")) -> Predictor:
    made = forecast()
    gram = np.kron(np.array([[1.0, 0.9], [0.9, 1.0]]), made.gram)
    asked: list[str] = []

    def edge_pass(adapter: str) -> np.ndarray:
        assert adapter in with_edge
        asked.append(adapter)
        return gram[None]

    return Known("aligned", made.response, made.directions, 1.0, made.gram[None], edge_pass)


def test_candidates_for_every_budget_s_and_estimator() -> None:
    found = propose(
        known(), (4, 7, 12), (9, 12), ("secant", "reuse"), ("identity", "matched"), (2, 3), ALPHAS
    )
    kinds = {(one.estimator, one.params.s, one.handoff_adapter) for one in found}
    assert kinds == set(itertools.product(("secant", "reuse"), (9, 12), ("identity", "matched")))
    calls = {(one.params.s, one.resolve(STEPS, "aligned").plan.cloud_calls) for one in found}
    assert calls == {(9, 4), (9, 7), (12, 4), (12, 7), (12, 12)}
    assert {one.params.alpha for one in found if one.estimator == "reuse"} == {ALPHAS[0]}
    assert any(one.params.schedule is None for one in found)


def test_the_cloud_alone_is_proposed_beside_splits() -> None:
    found = propose_splits(
        known(("identity",)), (2, 4), (3,), (1.0,), True, ("secant", "newton2"), ("identity",), ALPHAS
    )
    plans = {one: one.resolve(STEPS, "aligned").plan for one in found}
    alone = {(one.estimator, plan.cloud_calls) for one, plan in plans.items() if not plan.edge_calls}
    assert alone == {("secant", 4), ("newton2", 4)}  # 2 calls are none to place
    split = {(one.estimator, plan.cloud_calls) for one, plan in plans.items() if plan.edge_calls}
    assert split == set(itertools.product(("secant", "newton2"), (2, 4)))


def test_the_edge_is_asked_only_where_it_takes_part() -> None:
    alone = propose(known(with_edge=()), (5,), (STEPS,), ("secant",), ("identity", "matched"), (2,), ALPHAS)
    assert {one.handoff_adapter for one in alone} == {"identity"}
    with pytest.raises(AssertionError):
        propose(known(with_edge=()), (5,), (STEPS,), ("edge",), ("identity",), (2,), ALPHAS)
    found = propose(known(), (5,), (STEPS,), ("edge",), ("identity",), (2,), ALPHAS)
    assert all(isinstance(one, Candidate) and one.estimator == "edge" for one in found)
