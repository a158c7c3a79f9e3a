"""Searches that go on beyond their grid: what comes in, when it ends, and that nothing is asked twice."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_core.sampling.plan import Handoff
from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.search import SEARCHES, Search, Space
from ecdiff_tune.search.base import Context, Result
from ecdiff_tune.search.extend import describe_growth, extended, extending, grown
from ecdiff_tune.search.spaces import JointSpace, Stage1Space, Stage2Space

STEPS = 50
STAGE_1 = Stage1Space(7, (1, 2, 3), (0.3, 0.5, 0.7), STEPS)
WINNER = Candidate(ECDiffParams(7, 2, 0.3, STEPS))
ALIGNED = Stage2Space.of(WINNER, range(30, 41), STEPS, "aligned")  # 31, 34, 37, 40
EXACT = Stage2Space.of(WINNER, (30, 32, 35), STEPS, "exact")

Objective = Callable[[ECDiffParams], float]


@pytest.mark.parametrize(
    ("values", "value", "expected"),
    [
        ((0.1, 0.2, 0.3), 0.3, (0.1, 0.2, 0.3, 0.4)),
        ((0.3, 0.5), 0.3, (0.1, 0.3, 0.5)),
        ((0.1, 0.2), 0.1, (0.0, 0.1, 0.2)),  # a limit, which the caller may leave out
        ((0.5, 0.9), 0.9, (0.5, 0.9, 1.0)),  # no farther than the limit
        ((0.5, 1.0), 1.0, (0.5, 1.0)),
        ((0.3, 0.5, 0.7), 0.5, (0.3, 0.5, 0.7)),
        ((0.5,), 0.5, (0.5,)),
        ((0.7, 0.3, 0.5), 0.3, (0.1, 0.7, 0.3, 0.5)),
    ],
)
def test_grown(values: tuple[float, ...], value: float, expected: tuple[float, ...]) -> None:
    assert grown(values, value, 0.0, 1.0) == expected


def at(space: Space, k: int, alpha: float, estimator: str = "gradient") -> Candidate:
    assert isinstance(space, Stage1Space)
    return space.at(k, alpha, estimator)


def test_stage_1_grows_where_the_winner_lies() -> None:
    def grows(k: int, alpha: float, space: Stage1Space = STAGE_1) -> Space | None:
        return extended(space, at(space, k, alpha), STEPS, "aligned")

    assert grows(2, 0.5) is None
    assert grows(3, 0.5) == replace(STAGE_1, ks=(1, 2, 3, 4))
    assert grows(1, 0.7) == replace(STAGE_1, ks=(0, 1, 2, 3), alphas=(0.3, 0.5, 0.7, 0.9))
    low = replace(STAGE_1, alphas=(0.1, 0.2, 0.3))
    assert grows(2, 0.1, low) == replace(low, alphas=(0.05, 0.1, 0.2, 0.3))
    assert grows(2, 0.3, replace(STAGE_1, alphas=(0.3, 0.7))) == replace(STAGE_1, alphas=(0.05, 0.3, 0.7))
    lowest = replace(STAGE_1, alphas=(0.05, 0.1))
    assert grows(2, 0.05, lowest) is None  # hardly another than reuse
    high = replace(STAGE_1, ks=(48, 49), alphas=(0.5, 1.0))
    assert grows(49, 1.0, high) is None  # k < T, alpha <= 1
    without = replace(STAGE_1, estimators=("reuse",))
    assert extended(without, at(without, 2, 0.3, "reuse"), STEPS, "aligned") is None  # has no alpha


def test_edge_k_grows_where_the_edge_makes_a_step() -> None:
    winner = Candidate(ECDiffParams(7, 2, 0.3, STEPS))
    space = Stage2Space.of(winner, [30, STEPS], STEPS, "exact", edge_ks=(1, 3))

    def values(s: int, edge_k: int) -> tuple[int, ...]:
        found = extended(space, space.at(s, edge_k=edge_k), STEPS, "exact")
        return space.edge_ks if found is None else found.edge_ks  # type: ignore[union-attr]

    assert values(30, 3) == (1, 3, 5)
    assert values(30, 1) == (0, 1, 3)
    assert values(STEPS, 1) == values(STEPS, 3) == (1, 3)
    larger = extended(space, space.at(30, edge_k=3), STEPS, "exact")
    assert larger is not None
    assert "edge_k=5" in describe_growth(space, larger)


def test_s_grows_by_whole_cycles_where_the_handoff_is_aligned() -> None:
    def values(space: Stage2Space, s: int, handoff: Handoff) -> tuple[int, ...] | None:
        found = extended(space, space.at(s), STEPS, handoff)
        assert found is None or (isinstance(found, Stage2Space) and found.start == space.start)
        return None if found is None else found.s_values  # type: ignore[union-attr]

    assert values(ALIGNED, 34, "aligned") is None
    assert values(ALIGNED, 40, "aligned") == (31, 34, 37, 40, 43)
    assert values(ALIGNED, 31, "aligned") == (28, 31, 34, 37, 40)
    assert values(replace(ALIGNED, s_values=(46, 49)), 49, "aligned") == (46, 49, 50)  # T
    assert values(replace(ALIGNED, s_values=(46, 49, 50)), 50, "aligned") is None
    assert values(replace(ALIGNED, s_values=(7, 10)), 7, "aligned") is None  # p <= s
    assert values(EXACT, 35, "exact") == (30, 32, 35, 38)
    assert values(EXACT, 30, "exact") == (28, 30, 32, 35)
    assert values(replace(EXACT, s_values=(8, 11)), 8, "exact") == (7, 8, 11)
    listed = Candidate(ECDiffParams.scheduled([0, 1, 2, 5, 9, 14, 20, 27], 0.3, STEPS))
    space = Stage2Space.of(listed, (10, 15), STEPS, "aligned")
    assert values(space, 15, "aligned") == (10, 15, 21)  # after the next real step
    assert values(space, 10, "aligned") == (6, 10, 15)


def drive(search: Search, objective: Objective) -> list[ECDiffParams]:
    """Run it to its end; what it asked."""
    asked: list[ECDiffParams] = []
    while not search.done:
        ask = search.ask()
        assert search.ask() == ask
        assert search.best is None
        asked += [one.params for one in ask.candidates]
        search.tell([Result(objective(one.params)) for one in ask.candidates])
        assert len(asked) < 5000
    return asked


def extending_search(name: str, space: Space, handoff: Handoff = "aligned") -> tuple[Search, list[Space]]:
    context = Context(1, lambda _, quality: quality, lambda candidates: [0.5] * len(candidates))
    spaces = [space]
    search = extending(
        lambda one: SEARCHES[name].make(one, context),
        space,
        lambda one, best: extended(one, best, STEPS, handoff),
        lambda _, new: spaces.append(new),
    )
    return search, spaces


def test_it_goes_on_until_the_winner_lies_inside() -> None:
    def peak(params: ECDiffParams) -> float:
        return 9 - abs(params.k - 6) - abs(params.alpha - 1.0)

    for name in ("greedy", "exhaustive"):
        search, spaces = extending_search(name, STAGE_1)
        asked = drive(search, peak)
        assert search.best == at(STAGE_1, 6, 1.0), name
        last = spaces[-1]
        assert isinstance(last, Stage1Space)
        assert last.ks == (1, 2, 3, 4, 5, 6, 7)  # one beyond the winner shows that it is no edge
        assert last.alphas == (0.3, 0.5, 0.7, 0.9, 1.0)
        assert len(set(asked)) == len(asked)
        if name == "exhaustive":
            assert set(asked) == {one.params for one in last.grid}


def test_stage_2_goes_on_to_both_limits() -> None:
    for name, space, handoff in (("greedy", ALIGNED, "aligned"), ("exhaustive", EXACT, "exact")):
        search, _ = extending_search(name, space, handoff)  # type: ignore[arg-type]
        drive(search, lambda params: params.s)
        assert search.best is not None
        assert search.best.params.s == STEPS
        search, _ = extending_search("exhaustive", space, handoff)  # type: ignore[arg-type]
        drive(search, lambda params: -params.s)
        assert search.best is not None
        assert search.best.params.s == 7  # p


def test_the_joint_space() -> None:
    space = JointSpace((3,), (4, 5), (0.3, 0.5), tuple(range(30, 41)), STEPS)
    search, spaces = extending_search("exhaustive", space)
    drive(search, lambda params: -abs(params.k - 5) - abs(params.alpha - 0.3) - abs(params.s - 45) / 100)
    assert search.best is not None
    assert (search.best.params.k, search.best.params.s) == (5, 45)
    last = spaces[-1]
    assert isinstance(last, JointSpace)
    assert last.ks == (4, 5, 6)
    assert {one.params.s for one in last.grid if one.params.k == 5} == {33, 39, 45, 50}


@given(seed=st.integers(0, 10_000), name=st.sampled_from(["greedy", "exhaustive"]), stage=st.integers(0, 2))
def test_it_is_never_worse_and_asks_for_nothing_twice(seed: int, name: str, stage: int) -> None:
    def objective(params: ECDiffParams) -> float:
        return random.Random(f"{seed}{params}").random()

    space, handoff = ((STAGE_1, "aligned"), (ALIGNED, "aligned"), (EXACT, "exact"))[stage]
    search, spaces = extending_search(name, space, handoff)  # type: ignore[arg-type]
    asked = drive(search, objective)
    assert len(set(asked)) == len(asked)
    assert search.best is not None
    assert objective(search.best.params) == max(map(objective, asked))
    assert extended(spaces[-1], search.best, STEPS, handoff) is None  # type: ignore[arg-type]
    alone = SEARCHES[name].make(space, Context(1, lambda _, q: q, lambda c: [0.5] * len(c)))
    while not alone.done:
        alone.tell([Result(objective(one.params)) for one in alone.ask().candidates])
    assert alone.best is not None
    assert objective(search.best.params) >= objective(alone.best.params)


def test_no_winner_no_growth() -> None:
    search, spaces = extending_search("greedy", ALIGNED)
    drive(search, lambda _: float("-inf"))
    assert search.best is None
    assert spaces == [ALIGNED]
    with pytest.raises(RuntimeError, match="done"):
        search.ask()
