"""Placing the calls of both models: budgets are kept, and every change is a gain."""

from __future__ import annotations

import numpy as np
import pytest

from ecdiff_core.sampling.plan import Plan
from ecdiff_core.sampling.plan_of_params import plan
from ecdiff_tune.forecast.error_growth import reaction, scheduler_response
from ecdiff_tune.forecast.placement import Forecast
from ecdiff_tune.forecast.predictor import Directions
from ecdiff_tune.forecast.splits import Split, SplitPlacer

from .test_error_growth import SCHEDULERS, STEPS, ready

ALPHAS = (0.3, 0.7)


def placer(residual: float) -> SplitPlacer:
    """Of made-up noises: a smooth cloud, and an edge that lies beside it."""
    scheduler = ready(SCHEDULERS["DDIM"]())
    draw = np.random.default_rng(3)
    cloud = draw.normal(size=(STEPS, 6)).cumsum(axis=0)
    noises = np.concatenate([cloud, cloud + 0.8 + 0.05 * draw.normal(size=(STEPS, 6))])
    directions = (Directions(1.0, reaction(scheduler, STEPS, 0.5)),)
    forecast = Forecast(scheduler_response(scheduler, STEPS), directions, noises @ noises.T)
    return SplitPlacer(forecast, "secant", ALPHAS, residual)


def planned(split: Split, residual: float) -> Plan:
    return plan(split.params(residual), STEPS)


@pytest.mark.parametrize("residual", [0.0, 1.0])
@pytest.mark.parametrize("one_way", [True, False])
@pytest.mark.parametrize(("cloud_calls", "edge_calls"), [(2, 4), (3, 3), (4, 5)])
def test_budgets_are_kept(residual: float, one_way: bool, cloud_calls: int, edge_calls: int) -> None:
    found = placer(residual).propose(cloud_calls, edge_calls, one_way)
    assert found
    for split in found:
        steps = planned(split, residual)
        assert steps.letters.replace("B", "C") == split.letters
        assert steps.cloud_calls == cloud_calls
        assert 0 < steps.edge_calls <= edge_calls
        assert split.one_way is (steps.crossings == 1)
        assert split.one_way or not one_way


def test_the_best_comes_first_and_no_single_change_is_better() -> None:
    own = placer(1.0)
    found = own.propose(3, 4, one_way=False)
    errors = own.errors(found)
    assert errors.tolist() == sorted(errors)
    most = planned(found[0], 1.0).edge_calls
    near = [one for one in own.near(found[0]) if planned(one, 1.0).edge_calls <= most]
    assert len(near) > 20
    assert own.errors(near).min() >= 0.999 * errors[0]


def test_the_residual_of_a_constant_difference_is_worth_more_than_none() -> None:
    with_it, without = (own.errors(own.propose(3, 5, one_way=True))[0] for own in (placer(1.0), placer(0.0)))
    assert with_it < 0.5 * without
