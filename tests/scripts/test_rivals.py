"""Others' searches and splits of the benchmark, against enumeration and by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from ecdiff_core.sampling.plan_of_params import plan
from rivals import budcache, dpcache, splits

STEPS = 9


def gram() -> np.ndarray:
    noises = np.random.default_rng(0).normal(size=(STEPS, 20)).cumsum(axis=0)
    return noises @ noises.T


def error_of(schedule: tuple[int, ...], linear: bool) -> float:
    """Of the noises at skipped steps, made one by one."""
    noises = np.linalg.cholesky(gram() + 1e-9 * np.eye(STEPS))
    total = 0.0
    for step in range(STEPS):
        if step not in schedule:
            before, last = [one for one in schedule if one < step][-2:]
            slope = (noises[last] - noises[before]) / (last - before) if linear else 0.0
            total += float(np.square(noises[last] + (step - last) * slope - noises[step]).sum())
    return total


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("calls", [2, 3, 5, 9])
def test_dpcache_finds_the_least_cost(calls: int, linear: bool) -> None:
    every = [(0, 1, *rest) for rest in itertools.combinations(range(2, STEPS), calls - 2)]
    best = min(every, key=lambda one: error_of(one, linear))
    assert dpcache.search(gram(), calls, linear) == best


def test_budcache_counts_what_it_generates() -> None:
    asked: list[tuple[int, ...]] = []

    def error(schedule: tuple[int, ...]) -> float:
        asked.append(schedule)
        return 1.0 + error_of(schedule, linear=False)

    found = budcache.search(error, 5, STEPS, 2, evaluations=12)
    assert len(asked) == len(set(asked)) == found.evaluations
    assert all(len(set(one)) == 5 and one[:2] == (0, 1) and one[-1] < STEPS for one in asked)
    assert found.error == min(map(error, set(asked)))
    steps = set(found.schedule)
    neighbours = [
        tuple(sorted(steps - {one} | {one + by}))
        for one, by in itertools.product(found.schedule[2:], (-1, 1))
        if one + by in set(range(2, STEPS)) - steps
    ]
    assert all(one in asked and 1.0 + error_of(one, False) >= found.error for one in neighbours)


def test_splits_of_others() -> None:
    assert plan(splits.t_stitch(3, 10), 10).schedule == "7E3C"
    eps = np.array([[0.0, 1], [1, 1], [1.5, 1], [1.8, 1], [1.81, 1], [1.82, 1]])  # d = 0.71, 0.28, 0.15, …
    switch = {
        (earliest, latest): splits.srdiffusion_switch(eps @ eps.T, earliest, latest, threshold=0.15)
        for earliest, latest in ((2, 5), (2, 3), (5, 6))
    }
    assert switch == {(2, 5): 4, (2, 3): 3, (5, 6): 5}
