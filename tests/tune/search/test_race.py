"""Races: the test that they rest on, how often they lose the best, and what they cost."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import fmean
from typing import Any

import mpmath
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ecdiff_core.errors import ECDiffError
from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.search import SEARCHES, Context
from ecdiff_tune.search.base import Result
from ecdiff_tune.search.options import Options, SearchError
from ecdiff_tune.search.paired import significantly_worse, student_tail
from ecdiff_tune.search.spaces import Stage1Space
from ecdiff_tune.testing import NEVER, whole

from ...refusals import refused
from ..worlds import ALPHAS, JOINT, OBJECTIVES, World, evaluations

PROMPTS = 100
Draw = Callable[[random.Random], float]


# The paired test.


@given(t=st.floats(-50, 50), freedom=st.integers(1, 150))
def test_student_tail_is_exact(t: float, freedom: int) -> None:
    """As an incomplete beta function in forty digits has it; scipy is off by 5e-10 where t is near 0."""
    with mpmath.workdps(40):
        below = freedom / (freedom + mpmath.mpf(t) ** 2)
        outside = mpmath.betainc(freedom / 2, 0.5, 0, below, regularized=True) / 2
        expected = float(outside if t > 0 else 1 - outside)
    assert student_tail(t, freedom) == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize("seed", range(20))
def test_without_an_end_of_prompts_it_is_scipys_paired_t_test(seed: int) -> None:
    rng = random.Random(seed)
    values = [rng.random() for _ in range(rng.randrange(2, 30))]
    leader = [one + rng.gauss(0.03, 0.05) for one in values]
    if fmean(leader) < fmean(values):
        values, leader = leader, values
    p = stats.ttest_rel(leader, values, alternative="greater").pvalue
    assert significantly_worse(values, leader, 10**12, p * 1.001)
    assert not significantly_worse(values, leader, 10**12, p * 0.999)


def test_the_nearer_to_all_prompts_the_surer() -> None:
    values, leader = [0.5, 0.6, 0.4, 0.55], [0.52, 0.6, 0.43, 0.56]
    sure = [significantly_worse(values, leader, everything, 0.02) for everything in (1000, 8, 5, 4)]
    assert sure == sorted(sure)
    assert sure[0] != sure[-1]
    assert significantly_worse(values, leader, 4, 1e-12), "all were seen: no doubt is left"


def test_equal_configs_and_single_prompts_say_nothing() -> None:
    assert not significantly_worse([0.5] * 9, [0.5] * 9, 100, 0.5)
    assert not significantly_worse([0.1], [0.9], 100, 0.5)
    assert significantly_worse([0.5] * 9, [0.5] * 9, 100, 0.5, margin=0.01), "not better by the margin"


# Made-up configs with known means, on prompts that are hard for all or easy for all.


@dataclass
class Outcomes:
    """Of races over the same means with other prompts."""

    lost: int = 0
    regrets: list[float] = field(default_factory=list)
    evaluations: int = 0


def normal(rng: random.Random) -> float:
    return rng.gauss(0, 0.02)


def skewed(rng: random.Random) -> float:
    return 0.02 * (1 - rng.expovariate(1))


def outcomes(name: str, means: list[float], options: Options, draw: Draw, runs: int) -> Outcomes:
    """How often the best on all prompts was pruned, what the winner lacks to it, and what it cost."""
    space = Stage1Space(7, tuple(range(1, 1 + len(means) // len(ALPHAS))), ALPHAS, 50)
    found = Outcomes()
    for run in range(runs):
        rng = random.Random(run)
        prompts = [rng.gauss(0, 0.1) for _ in range(PROMPTS)]
        values = {
            one: tuple(mean + hard + draw(rng) for hard in prompts)
            for one, mean in zip(space.grid, means, strict=True)
        }
        predicted = {one: mean + rng.gauss(0, 0.01) for one, mean in zip(space.grid, means, strict=True)}
        context = Context(
            PROMPTS, lambda _, quality: quality, partial(map, predicted.__getitem__), options=options
        )
        truth = {one: fmean(values[one]) for one in space.grid}
        best = max(truth, key=truth.__getitem__)
        search, seen = SEARCHES[name].make(space, context), dict[Candidate, int]()
        while not search.done:
            ask = search.ask()
            seen |= dict.fromkeys(ask.candidates, ask.prompts or PROMPTS)
            told = [values[one][: ask.prompts] for one in ask.candidates]
            search.tell([Result(fmean(some), some) for some in told])
        assert search.best is not None
        found.lost += best in search.pruned
        found.regrets.append(truth[best] - truth[search.best])
        found.evaluations += sum(seen.values())
    return found


@pytest.mark.parametrize("draw", [normal, skewed])
def test_a_race_keeps_the_best_and_costs_less(draw: Draw) -> None:
    means = [0.5 - 0.004 * i for i in range(18)]
    found = outcomes("race", means, Options(error_rate=0.05), draw, runs=40)
    assert found.lost <= 0.05 * 40
    assert found.evaluations < 0.45 * 40 * len(means) * PROMPTS


@pytest.mark.parametrize("draw", [normal, skewed])
def test_equal_configs_are_given_up_no_more_often_than_stated(draw: Draw) -> None:
    # At 0.2, which a wrong correction would show in fewer runs; 40 runs are over 0.2 + 0.13 once in 100.
    found = outcomes("race", [0.5] * 9, Options(error_rate=0.2), draw, runs=40)
    assert found.lost <= 0.33 * 40


def test_without_correction_the_best_is_lost_more_often() -> None:
    # Eight rivals at three rungs: a level 24 times as high, to see that the simulation would notice.
    found = outcomes("race", [0.5] * 9, Options(error_rate=0.99), normal, runs=40)
    assert found.lost > outcomes("race", [0.5] * 9, Options(error_rate=0.05), normal, runs=40).lost


def test_joint_costs_little_more_than_its_winner() -> None:
    options = Options((0.05, 0.1, 0.25), margin=0.001)
    for means in ([0.5 - 0.004 * i for i in range(18)], [0.5] * 18):
        found = outcomes("joint", means, options, lambda rng: rng.gauss(0, 0.004), runs=20)
        assert found.evaluations <= 20 * PROMPTS * 4
        assert max(found.regrets) < 0.002


@pytest.mark.parametrize("name", ["joint", "schedule"])
def test_a_race_that_is_settled_ends_on_fewer_prompts(name: str) -> None:
    means = [0.5 - 0.004 * i for i in range(18)]
    whole = Options((0.05, 0.1, 0.25), margin=0.001)
    early = replace(whole, until=0.001)
    found, before = (
        outcomes(name, means, one, lambda rng: rng.gauss(0, 0.004), 20) for one in (early, whole)
    )
    assert sum(one > 0.001 for one in found.regrets) <= 0.05 * 20
    assert found.evaluations < before.evaluations - 20 * PROMPTS // 2


def test_a_race_that_is_not_settled_goes_on_as_without() -> None:
    world = World(lambda c: 0.5 + c.alpha / 1000, PROMPTS, noise=0.3, options=Options((0.05, 0.1, 0.25)))
    open_ended = replace(world, options=replace(world.options, until=0.001))
    space = Stage1Space(7, (1,), ALPHAS, 50)
    searches = [one.search("joint", space) for one in (world, open_ended)]
    first, second = (one.drive(search) for one, search in zip((world, open_ended), searches, strict=True))
    assert first == second
    assert second[-1][0].prompts is None
    assert searches[0].pruned == searches[1].pruned


def test_who_is_left_of_a_settled_race_has_seen_its_prompts() -> None:
    options = Options((0.05, 0.1, 0.25), finalists=4, until=0.012)
    world = World(lambda c: 0.5 + c.alpha / 100, PROMPTS, noise=0.02, options=options, seed=3)
    search = world.search("joint", Stage1Space(7, (1,), ALPHAS, 50))
    trace = world.drive(search)
    assert [ask.prompts for ask, _ in trace] == [5, 10, 25]
    asked = {one for one in trace[-1][0].candidates if one not in search.pruned}
    assert search.best in asked
    assert len(asked) > 1
    assert {why for one, why in search.pruned.items()} <= {"forecast", "race after 5 prompts"}
    assert len(asked) + len(search.pruned) == len(ALPHAS)


def test_one_config_alone_is_settled_on_the_first_rung() -> None:
    world = World(OBJECTIVES["peak"], PROMPTS, options=Options((0.05, 0.1), until=0.001))
    trace = world.drive(world.search("joint", Stage1Space(7, (2,), (0.3,), 50)))
    assert [ask.prompts for ask, _ in trace] == [5]


# What is asked when.


def test_race_measures_the_best_foretold_first_and_bounds_the_others() -> None:
    world = World(lambda c: c.k / 10 + (0.05 if c.alpha == 0.3 else 0.0), PROMPTS)
    space = Stage1Space(7, (1, 3, 5), (0.1, 0.3), 50)
    context = world.context()
    predicted = {one: 0.9 if one.params.k == 5 else 0.1 for one in space.grid}
    search = SEARCHES["race"].make(
        space,
        Context(PROMPTS, context.objective, lambda some: [predicted[one] for one in some]),
    )
    trace = world.drive(search)
    assert [(len(ask.candidates), ask.prompts) for ask, _ in trace] == [(1, None), (1, 10)]
    assert search.best == space.at(5, 0.3)
    # World's w1 is 0.3 and its quality 0.6: at most 0.12 more can come of any other config.
    reasons = {one: "bound" if one.params.k < 5 else "race after 10 prompts" for one in space.grid}
    assert search.pruned == {one: why for one, why in reasons.items() if one != search.best}


@pytest.mark.parametrize("objective", ["peak", "flat", "scrambled"])
def test_without_an_error_rate_bounds_alone_decide(objective: str) -> None:
    world = World(OBJECTIVES[objective], PROMPTS, noise=0.1, options=Options((0.1, 0.5, 0.9), error_rate=0))
    search = world.search("race", JOINT)
    trace = world.drive(search)
    assert search.best is not None
    assert world.mean(search.best) == max(world.mean(one) for one in JOINT.grid)
    assert set(search.pruned.values()) <= {"bound"}
    if objective != "flat":
        assert evaluations(trace, PROMPTS) < len(JOINT.grid) * PROMPTS


def test_race_can_do_without_a_forecast() -> None:
    def predict(_: object) -> list[float]:
        raise ECDiffError("nothing can be predicted", key="scheduler")

    world = World(lambda c: c.k / 10, PROMPTS)
    space = Stage1Space(7, (1, 3, 5), (0.1, 0.3), 50)
    search = SEARCHES["race"].make(space, Context(PROMPTS, world.context().objective, predict))
    assert search.ask().candidates[0].params.k == 5
    world.drive(search)
    assert search.best is not None
    assert search.best.params.k == 5


def test_losers_are_given_up_at_the_looks() -> None:
    world = World(lambda c: -abs(c.alpha - 0.3) / 20, PROMPTS, noise=0.02, seed=2)
    search = world.search("race", Stage1Space(7, (2,), ALPHAS, 50))
    trace = world.drive(search)
    assert search.best is not None
    assert world.mean(search.best) == max(world.mean(one) for one in Stage1Space(7, (2,), ALPHAS, 50).grid)
    reasons = set(search.pruned.values())
    assert reasons <= {f"race after {n} prompts" for n in (10, 25, 50)}
    assert len(reasons) > 1
    assert evaluations(trace, PROMPTS) < len(ALPHAS) * PROMPTS


def test_infeasible_configs_go_at_once() -> None:
    world = World(lambda c: NEVER if c.alpha > 0.3 else 0.0, 10)
    search = world.search("race", Stage1Space(7, (2,), ALPHAS, 50))
    world.drive(search)
    assert {one.params.alpha for one, why in search.pruned.items() if why == "infeasible"} == set(ALPHAS[3:])
    assert search.best is not None
    assert search.best.params.alpha in ALPHAS[:3]


def test_of_equals_the_faster_wins() -> None:
    world = World(lambda c: 0.5)  # seconds rise with s
    for name in ("race", "joint"):
        search = world.search(name, JOINT)
        world.drive(search)
        assert search.best is not None
        rivals = whole(world.drive(world.search(name, JOINT)))
        assert search.best.params.s == min(one.params.s for one in rivals)


@pytest.mark.parametrize("count", [1, 2, 5, 6, 9])
@pytest.mark.parametrize("name", ["race", "joint", "predict"])
def test_few_prompts(name: str, count: int) -> None:
    world = World(OBJECTIVES["peak"], count, noise=0.01)
    search = world.search(name, JOINT)
    world.drive(search)
    assert search.best is not None


def test_predict_measures_its_winner_alone() -> None:
    world = World(OBJECTIVES["peak"], PROMPTS)
    search = world.search("predict", JOINT)
    ((ask, _),) = world.drive(search)
    context = world.context()
    best = max(JOINT.grid, key=lambda one: context.objective(one, context.predict([one])[0]))
    assert (ask.candidates, ask.prompts, search.best) == ((best,), None, best)
    assert set(search.pruned.values()) == {"forecast"}


def test_predict_passes_over_what_cannot_be_foretold_or_used() -> None:
    space = Stage1Space(7, (2,), (0.1, 0.2, 0.3), 50)
    world = World(lambda c: NEVER if c.alpha == 0.1 else 0.0)
    context = world.context()
    predicted = {0.1: 0.9, 0.2: math.nan, 0.3: 0.1}
    search = SEARCHES["predict"].make(
        space, Context(40, context.objective, lambda some: [predicted[one.params.alpha] for one in some])
    )
    asked = [ask.candidates[0].params.alpha for ask, _ in world.drive(search)]
    assert asked == [0.1, 0.3]
    assert search.best == space.at(2, 0.3)


@pytest.mark.parametrize(
    ("name", "value", "place", "expected"),
    [
        ("rungs", (0.0,), "[0]", "> 0"),
        ("rungs", (0.5, 1.0), "[1]", "< 1"),
        ("error_rate", -0.1, "", ">= 0"),
        ("error_rate", 1.0, "", "< 1"),
        ("margin", -0.1, "", ">= 0"),
        ("margin", math.nan, "", "to be a finite number"),
        ("finalists", 0, "", ">= 1"),
    ],
)
def test_options_out_of_range(name: str, value: Any, place: str, expected: str) -> None:
    with refused(SearchError, key=f"search.{name}{place}", expected=expected):
        Options(**{name: value})
