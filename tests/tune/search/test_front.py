"""Configs for a front: the best predicted within evenly spread limits."""

from __future__ import annotations

import math

from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.search.base import Cost
from ecdiff_tune.search.front import spread_front

GRID = [Candidate(ECDiffParams.hybrid(s)) for s in range(2, 11)]


def cost(one: Candidate) -> Cost:
    """The cloud takes a second, the edge a fifth."""
    return Cost(one.params.s, 0, 10 - one.params.s, seconds=0.8 * one.params.s + 2)


def steps(count: int, quality: dict[int, float]) -> list[int]:
    found = spread_front(GRID, [quality[one.params.s] for one in GRID], list(map(cost, GRID)), count)
    return [one.params.s for one in found]


def test_limits_are_spread_and_the_best_of_each_is_taken() -> None:
    rising = {s: s / 10 for s in range(2, 11)}
    assert steps(10, rising) == [2, 4, 6, 8, 10]
    assert steps(1, rising) == [2]
    assert steps(0, rising) == []
    assert steps(10, rising | {7: 0.95, 10: 0.1}) == [2, 3, 4, 5, 7]


def test_what_cannot_be_predicted_is_left_out() -> None:
    unknown = dict.fromkeys(range(2, 11), math.nan)
    assert steps(4, unknown) == []
    assert steps(4, unknown | {5: 0.5, 9: 0.9}) == [5, 9]


def test_cloud_calls_have_limits_of_their_own() -> None:
    costs = [Cost(calls, seconds=seconds) for calls, seconds in ((1, 5.0), (5, 1.0), (9, 6.0))]
    assert spread_front(GRID[:3], [0.5, 0.8, 0.9], costs, 4) == [GRID[1], GRID[0], GRID[2]]
