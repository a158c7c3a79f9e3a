"""The paper's walks by hand, and Algorithms 2 and 3 word for word."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_core.sampling.plan import Handoff
from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.search import Search, Space
from ecdiff_tune.search.base import Result
from ecdiff_tune.search.options import Options
from ecdiff_tune.search.spaces import Stage1Space, Stage2Space
from ecdiff_tune.testing import NEVER

from ..worlds import (
    ALPHAS,
    OBJECTIVES,
    PAPER_WINNER,
    SPACES,
    Objective,
    World,
    evaluations,
    exact_space,
    scrambled,
)

PROMPTS = 40
PAPER_STAGE_1 = SPACES["stage 1"]
Trace = list[tuple[Candidate, float]]


FULL_WALK = Options(error_rate=0)


def make(name: str, space: Space, objective: Objective) -> Search:
    return World(objective, PROMPTS, options=FULL_WALK).search(name, space)


def drive(search: Search, objective: Objective) -> Trace:
    """Run a search that asks one by one to its end; what it asked and was told."""
    trace = World(objective, PROMPTS).drive(search)
    return [(ask.candidates[0], told[0].value) for ask, told in trace]


each_space = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)


@each_space
def test_exhaustive_sees_the_whole_grid_in_order(space: Space) -> None:
    assert [one for one, _ in drive(make("exhaustive", space, scrambled), scrambled)] == list(space.grid)


@each_space
@given(seed=st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_exhaustive_is_never_worse_than_greedy(space: Space, seed: int) -> None:
    def objective(params: ECDiffParams) -> float:
        return random.Random(f"{seed}{params}").random()

    search, whole = make("greedy", space, objective), make("exhaustive", space, objective)
    drive(search, objective)
    drive(whole, objective)
    assert search.best is not None
    assert whole.best is not None
    assert objective(whole.best.params) >= objective(search.best.params)


# Spaces.


@pytest.mark.parametrize(
    ("p", "k", "handoff", "values", "start"),
    [
        (7, 2, "aligned", (31, 34, 37, 40), 34),  # |34 - 35| = 1, |37 - 35| = 2
        (7, 2, "exact", tuple(range(30, 41)), 35),
        (10, 3, "aligned", (30, 34, 38, 42), 34),  # s = 39 and 40 wait for the correction at 42
        (6, 1, "aligned", (30, 32, 34, 36, 38, 40), 36),  # 34 and 36 are equally near: the upper one
        (7, 0, "aligned", tuple(range(30, 41)), 35),
        (30, 30, "aligned", (30, 50), 30),  # the correction after 30 steps would come too late: T
    ],
)
def test_stage_2_values(p: int, k: int, handoff: Handoff, values: tuple[int, ...], start: int) -> None:
    space = Stage2Space.of(Candidate(ECDiffParams(p, k, 0.3, 50)), range(30, 41), 50, handoff)
    assert space.s_values == values
    assert space.start == start
    found = [candidate.params for candidate in space.grid]
    assert [params.s for params in found] == list(values)
    assert {(params.p, params.k, params.alpha) for params in found} == {(p, k, 0.3)}


def test_stage_2_starts_at_0_7_of_the_steps() -> None:
    assert Stage2Space.of(Candidate(ECDiffParams(3, 2, 0.3, 20)), range(12, 17), 20, "exact").start == 14


# The walks by hand: the points in the order of Algorithms 2 and 3.


def greedy(space: Space, objective: Objective) -> tuple[list[ECDiffParams], ECDiffParams | None]:
    search = make("greedy", space, objective)
    seen = [candidate.params for candidate, _ in drive(search, objective)]
    return seen, search.best.params if search.best else None


def table(*values: float) -> dict[float, float]:
    """The objective of alpha = 0.1, 0.2, … 0.9."""
    return dict(zip(ALPHAS, values, strict=True))


@pytest.mark.parametrize(
    ("values", "visited", "best"),
    [
        pytest.param(
            # 0.6 is worse: down, past 0.5, to the peak; 0.2 is worse: up to 0.7, the first unvisited one;
            # worse again: down to 0.1, the third.
            table(0.7, 0.8, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3),
            [0.5, 0.6, 0.4, 0.3, 0.2, 0.7, 0.1],
            0.3,
            id="peak at 0.3",
        ),
        pytest.param(
            table(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
            [0.5, 0.6, 0.7, 0.8, 0.9],  # nothing above 0.9: the walk ends, 0.1 … 0.4 unvisited
            0.9,
            id="peak at 0.9",
        ),
        pytest.param(
            table(0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1),
            [0.5, 0.6, 0.4, 0.3, 0.2, 0.1],
            0.1,
            id="peak at 0.1",
        ),
        pytest.param(
            table(0.1, 0.2, 0.3, 0.4, 0.5, 0.4, 0.3, 0.2, 0.1),
            [0.5, 0.6, 0.4, 0.7],  # three worse in a row
            0.5,
            id="all worse than the start",
        ),
        pytest.param(
            table(*[0.5] * 9),
            [0.5, 0.6, 0.4, 0.7],  # equal is not better
            0.5,
            id="plateau",
        ),
        pytest.param(
            # Two worse, then 0.7 is better than all and the count of worse ones begins anew.
            table(0.1, 0.1, 0.1, 0.2, 0.5, 0.2, 0.9, 0.3, 0.1),
            [0.5, 0.6, 0.4, 0.7, 0.8, 0.3, 0.9],
            0.7,
            id="better after two worse",
        ),
        pytest.param(
            # 0.4 is better than 0.6, on which the walk stands, but not than the best: worse.
            table(0.1, 0.1, 0.1, 0.4, 0.5, 0.3, 0.2, 0.1, 0.1),
            [0.5, 0.6, 0.4, 0.7],
            0.5,
            id="worse is measured against the best",
        ),
        pytest.param(
            # Goes on from 0.7, where it stands, not from the best at 0.4: down to 0.3 and not up to 0.6.
            table(0.3, 0.3, 0.4, 0.6, 0.5, 0.2, 0.2, 0.2, 0.2),
            [0.5, 0.6, 0.4, 0.3, 0.7, 0.2],
            0.4,
            id="goes on from the current value",
        ),
        pytest.param(
            table(NEVER, NEVER, 0.1, NEVER, NEVER, NEVER, NEVER, NEVER, NEVER),
            [0.5, 0.6, 0.4, 0.7],
            None,
            id="infeasible at the start",
        ),
    ],
)
def test_stage_1_walks_over_alpha(
    values: dict[float, float], visited: list[float], best: float | None
) -> None:
    space = Stage1Space(7, (2,), ALPHAS, 50)
    seen, found = greedy(space, lambda params: values[params.alpha])
    assert [params.alpha for params in seen] == visited
    assert found == (None if best is None else ECDiffParams(7, 2, best, 50))


@pytest.mark.parametrize(
    ("alphas", "visited"),
    [
        ((0.5, 0.6, 0.7, 0.8), [0.5, 0.6]),  # 0.6 is worse and nothing lies below: 0.7 is never seen
        ((0.3, 0.5), [0.5]),  # nothing lies above
        ((0.4, 0.5, 0.6), [0.5, 0.6, 0.4]),  # all visited
        ((0.45, 0.7), [0.45, 0.7]),  # from the value nearest 0.5
        ((0.25, 0.75), [0.75]),  # the upper one of two
    ],
)
def test_a_direction_with_nothing_left_ends_the_walk(alphas: tuple[float, ...], visited: list[float]) -> None:
    seen, best = greedy(Stage1Space(7, (2,), alphas, 50), lambda params: 1 - abs(params.alpha - 0.5) / 100)
    assert [params.alpha for params in seen] == visited
    assert best == ECDiffParams(7, 2, visited[0], 50)


@pytest.mark.parametrize(
    ("by_k", "visited", "best"),
    [
        ((0.9, 0.8, 0.7, 0.6, 0.5, 0.4), [1, 2, 3, 4], 1),  # three k worse than k = 1: 5 and 6 are not tried
        ((0.5, 0.6, 0.7, 0.6, 0.5, 0.4), [1, 2, 3, 4, 5, 6], 3),
        ((0.5, 0.4, 0.3, 0.9, 0.1, 0.1), [1, 2, 3, 4, 5, 6], 4),  # two worse, then better
        ((0.5, 0.5, 0.5, 0.5, 0.9, 0.9), [1, 2, 3, 4], 1),  # equal is not better
        ((0.0, -0.1, 0.0, 0.9, 0.9, 0.9), [1, 2, 3], None),  # V_best starts at 0
        ((NEVER, NEVER, 0.1, 0.2, 0.1, 0.1), [1, 2, 3, 4, 5, 6], 4),
    ],
)
def test_stage_1_stops_after_three_worse_k(
    by_k: tuple[float, ...], visited: list[int], best: int | None
) -> None:
    space = Stage1Space(7, (1, 2, 3, 4, 5, 6), (0.5,), 50)
    seen, found = greedy(space, lambda params: by_k[params.k - 1])
    assert [params.k for params in seen] == visited
    assert found == (None if best is None else space.at(best, 0.5).params)


def test_stage_1_as_a_whole() -> None:
    # k = 1 peaks at 0.5, k = 2 higher at 0.3, the others nowhere higher; each has its whole walk.
    peaks = {1: (0.5, 0.6), 2: (0.3, 0.9), 3: (0.2, 0.7), 4: (0.1, 0.5), 5: (0.1, 0.3)}

    def objective(params: ECDiffParams) -> float:
        alpha, height = peaks[params.k]
        return height - abs(params.alpha - alpha) / 10

    seen, best = greedy(PAPER_STAGE_1, objective)
    walks = {k: [params.alpha for params in seen if params.k == k] for k in range(1, 6)}
    assert walks == {
        1: [0.5, 0.6, 0.4, 0.7],
        2: [0.5, 0.6, 0.4, 0.3, 0.2, 0.7, 0.1],
        3: [0.5, 0.6, 0.4, 0.3, 0.2, 0.1, 0.7],
        4: [0.5, 0.6, 0.4, 0.3, 0.2, 0.1],
        5: [0.5, 0.6, 0.4, 0.3, 0.2, 0.1],
    }
    assert [params.k for params in seen] == sorted(params.k for params in seen)
    assert best == ECDiffParams(7, 2, 0.3, 50)


@pytest.mark.parametrize(
    ("objective", "visited", "best"),
    [
        pytest.param(lambda s: -abs(s - 33), [35, 36, 34, 33, 32, 37, 31], 33, id="peak at 33"),
        pytest.param(lambda s: -abs(s - 35), [35, 36, 34, 37], 35, id="peak at the start"),
        pytest.param(lambda s: s, [35, 36, 37, 38, 39, 40], 40, id="rising"),
        pytest.param(lambda s: -s, [35, 36, 34, 33, 32, 31, 30], 30, id="falling"),
        pytest.param(lambda s: 0, [35, 36, 34, 37], 35, id="plateau"),
        pytest.param(lambda s: 1 if s == 37 else 0, [35, 36, 34, 37, 38, 33, 39], 37, id="lone peak at 37"),
        pytest.param(lambda s: NEVER if s > 34 else -s, [35, 36, 34, 33, 32, 31, 30], 30, id="infeasible"),
    ],
)
def test_stage_2_walks_over_s(objective: Callable[[int], float], visited: list[int], best: int) -> None:
    seen, found = greedy(exact_space(), lambda params: objective(params.s))
    assert [params.s for params in seen] == visited
    assert found == ECDiffParams(7, 2, 0.3, best)


@pytest.mark.parametrize(
    ("objective", "visited", "best"),
    [
        (lambda s: s, [34, 37, 40], 40),
        (lambda s: -s, [34, 37, 31], 31),
        (lambda s: 0, [34, 37, 31, 40], 34),
        (lambda s: -abs(s - 37), [34, 37, 40, 31], 37),
    ],
)
def test_stage_2_walks_over_aligned_s(
    objective: Callable[[int], float], visited: list[int], best: int
) -> None:
    space = Stage2Space.of(PAPER_WINNER, range(30, 41), 50, "aligned")
    seen, found = greedy(space, lambda params: objective(params.s))
    assert [params.s for params in seen] == visited
    assert found == ECDiffParams(7, 2, 0.3, best)


def test_estimators_and_adapters_have_a_walk_each() -> None:
    def drive_one(space: Space, good: str) -> tuple[Trace, Search]:
        search, trace = make("greedy", space, scrambled), Trace()
        while not search.done:
            (asked,) = search.ask().candidates
            trace.append((asked, 2.0 if good in (asked.estimator, asked.handoff_adapter) else 1.0))
            search.tell([Result(trace[-1][1], (trace[-1][1],) * PROMPTS)])
        return trace, search

    trace, search = drive_one(Stage1Space(7, (1, 2), (0.5, 0.6), 50, ("gradient", "reuse")), "reuse")
    assert [(one.estimator, one.params.k, one.params.alpha) for one, _ in trace] == [
        ("gradient", 1, 0.5),
        ("gradient", 1, 0.6),
        ("gradient", 2, 0.5),
        ("gradient", 2, 0.6),
        ("reuse", 1, 0.5),  # alpha makes no difference to it
        ("reuse", 2, 0.5),
    ]
    assert search.best == Candidate(ECDiffParams(7, 1, 0.5, 50), "reuse")
    space = Stage2Space.of(PAPER_WINNER, (34, 37), 50, "aligned", ("identity", "matched"))
    trace, search = drive_one(space, "matched")
    assert [(one.handoff_adapter, one.params.s) for one, _ in trace] == [
        ("identity", 34),
        ("identity", 37),
        ("matched", 34),
        ("matched", 37),
    ]
    assert search.best == Candidate(ECDiffParams(7, 2, 0.3, 34), handoff_adapter="matched")


# Algorithms 2 and 3 word for word, as plain functions of an objective E.


def following(values: Sequence[float], current: float, d: int, visited: Sequence[float]) -> float | None:
    if d == +1:
        return min((v for v in values if v > current and v not in visited), default=None)
    return max((v for v in values if v < current and v not in visited), default=None)


def algorithm_2(
    E: Callable[[int, float], float], ks: Sequence[int], alphas: Sequence[float]
) -> Iterator[tuple[int, float]]:
    """Yields what is evaluated; at last (k_best, alpha_best), (0, 0) where nothing scored above 0."""
    v_best, k_best, alpha_best, worse_k = 0.0, 0, 0.0, 0
    for k in ks:
        d, worse, alpha, visited = +1, 0, 0.5, [0.5]
        yield k, alpha
        v_best_inner, alpha_best_inner = E(k, 0.5), 0.5
        while worse < 3 and len(visited) < len(alphas):
            next_alpha = following(alphas, alpha, d, visited)
            if next_alpha is None:
                break
            alpha = next_alpha
            visited.append(alpha)
            yield k, alpha
            v = E(k, alpha)
            if v > v_best_inner:
                v_best_inner, alpha_best_inner, worse = v, alpha, 0
            else:
                worse += 1
                d = -d
        if v_best_inner > v_best:
            v_best, k_best, alpha_best, worse_k = v_best_inner, k, alpha_best_inner, 0
        else:
            worse_k += 1
        if worse_k >= 3:
            break
    yield k_best, alpha_best


def algorithm_3(E: Callable[[int], float], s_values: Sequence[int]) -> Iterator[int]:
    """Yields what is evaluated; at last s_best."""
    s, visited, d, worse = 35, [35], +1, 0
    yield s
    v_best, s_best = E(35), 35
    while worse < 3 and len(visited) < len(s_values):
        next_s = following(s_values, s, d, visited)
        if next_s is None:
            break
        s = int(next_s)
        visited.append(s)
        yield s
        v = E(s)
        if v > v_best:
            v_best, s_best, worse = v, s, 0
        else:
            worse += 1
            d = -d
    yield s_best


LEVELS = st.sampled_from([NEVER, -1.0, 0.0, 0.2, 0.5, 0.8, 1.0])
"""Few, so that ties and infeasible configs are frequent."""
SOME_ALPHAS = st.sets(st.sampled_from([a for a in ALPHAS if a != 0.5])).map(
    lambda s: tuple(sorted({*s, 0.5}))
)


@given(
    values=st.lists(LEVELS | st.floats(-1, 1), min_size=7 * 9, max_size=7 * 9),
    ks=st.lists(st.integers(1, 7), min_size=1, max_size=7, unique=True).map(sorted),
    alphas=SOME_ALPHAS,
)
@settings(max_examples=100, deadline=None)
def test_greedy_is_algorithm_2(values: list[float], ks: list[int], alphas: tuple[float, ...]) -> None:
    grid = dict(zip([(k, alpha) for k in range(1, 8) for alpha in ALPHAS], values, strict=True))
    *expected, winner = algorithm_2(lambda k, alpha: grid[k, alpha], ks, alphas)
    seen, best = greedy(Stage1Space(7, tuple(ks), alphas, 50), lambda c: grid[c.k, c.alpha])
    assert [(params.k, params.alpha) for params in seen] == expected
    assert ((best.k, best.alpha) if best else (0, 0)) == winner


@given(
    values=st.lists(LEVELS | st.floats(-1, 1), min_size=21, max_size=21),
    others=st.sets(st.integers(25, 45).filter(lambda s: s != 35)),
)
@settings(max_examples=100, deadline=None)
def test_greedy_is_algorithm_3(values: list[float], others: set[int]) -> None:
    by_s = dict(zip(range(25, 46), values, strict=True))
    s_values = sorted({*others, 35})
    *expected, winner = algorithm_3(by_s.__getitem__, s_values)
    seen, best = greedy(exact_space(s_values), lambda params: by_s[params.s])
    assert [params.s for params in seen] == expected
    feasible = max(by_s[s] for s in expected) > NEVER
    assert (best.s if best else None) == (winner if feasible else None)
    assert best is None or math.isfinite(by_s[best.s])


# Decided on as few prompts as it takes.

EARLY = Options(rungs=(0.05, 0.1, 0.25, 0.5), error_rate=0.05, margin=0.0005)


@pytest.mark.parametrize("stage", ["stage 1", "stage 2, exact"])
@pytest.mark.parametrize("label", ["peak", "scrambled"])
def test_tests_take_the_same_way_for_less(stage: str, label: str) -> None:
    early = World(OBJECTIVES[label], 100, noise=0.02, options=EARLY)
    full = World(OBJECTIVES[label], 100, noise=0.02, options=FULL_WALK)
    search, walk = early.search("greedy", SPACES[stage]), full.search("greedy", SPACES[stage])
    trace, paper = early.drive(search), full.drive(walk)
    assert search.best == walk.best
    assert len(paper) > 3
    assert {one for ask, _ in trace for one in ask.candidates} == {ask.candidates[0] for ask, _ in paper}
    assert evaluations(trace, 100) < 0.4 * evaluations(paper, 100)
    assert trace[-1][0].prompts is None or any(ask.prompts is None for ask, _ in trace)
    assert set(search.pruned.values()) <= {f"walk after {n} prompts" for n in (5, 10, 25, 50)}
    assert walk.pruned == {}


def test_a_wrong_decision_is_rare_and_costs_little() -> None:
    lost = 0
    for seed in range(40):
        world = World(OBJECTIVES["peak"], 100, noise=0.3, options=EARLY, seed=seed)
        full = replace(world, options=FULL_WALK)
        search, walk = world.search("greedy", SPACES["stage 2, exact"]), None
        world.drive(search)
        walk = full.search("greedy", SPACES["stage 2, exact"])
        full.drive(walk)
        assert search.best is not None
        assert walk.best is not None
        lost += full.mean(walk.best) - full.mean(search.best) > EARLY.margin
    assert lost <= 0.05 * 40 + 2


def test_what_cannot_be_told_apart_needs_all_prompts() -> None:
    world = World(OBJECTIVES["flat"], 100, noise=1.0, options=EARLY)
    trace = world.drive(world.search("greedy", exact_space([35, 40])))
    assert [ask.prompts for ask, _ in trace] == [5, 5, 10, 10, 25, 25, 50, 50, None, None]


def test_an_infeasible_one_is_found_early() -> None:
    world = World(lambda params: NEVER if params.s == 31 else 1.0, 100, options=EARLY)
    search = world.search("greedy", exact_space([30, 31, 32]))
    world.drive(search)
    assert search.best is not None
    assert search.best.params.s == 32
