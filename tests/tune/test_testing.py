"""``ecdiff_tune.testing`` finds faults of searches; ``ecdiff_tune.searches`` on a function of one's own."""

from __future__ import annotations

import os
import pickle
import random
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import pytest

from ecdiff_tune import searches, testing
from ecdiff_tune.searches import (
    Ask,
    Context,
    Options,
    OptunaOptions,
    Point,
    Result,
    Search,
    SearchError,
    Space,
)
from ecdiff_tune.testing import NEVER, Case, SearchTests, World

from ..refusals import refused

FEW: Mapping[str, Case] = {
    name: testing.CASES[f"two dimensions, {name}"] for name in ("scrambled", "half infeasible")
}


def search_of(fault: str) -> Callable[[Space, Context[Point]], Search[Point]]:
    """One that measures everything, with a fault."""

    def make(space: Space, context: Context[Point]) -> Search[Point]:
        pruned: dict[Point, str] = {}

        def rounds() -> Any:
            points = list(space.grid)
            if fault == "draws anew":
                random.shuffle(points)
            results: dict[Point, float] = {}
            for one in points:
                asked = Point(k=0, alpha=0.0) if fault == "asks elsewhere" else one
                (found,) = yield Ask((asked,))
                results[one] = found.value
                if fault == "asks twice":
                    yield Ask((asked,))
                if fault == "prunes what it measured":
                    pruned[one] = "done"
            while fault == "does not end":
                yield Ask((points[0],))
            best = min if fault == "takes the worst" else max
            return best(results, key=results.__getitem__)

        return Search(rounds(), pruned)

    return make


class Sound(SearchTests):
    cases: ClassVar[Mapping[str, Case]] = FEW

    def make(self, space: Any, context: Context[Any]) -> Search[Any]:
        return search_of("")(space, context)


TESTS = [name for name in vars(SearchTests) if name.startswith("test_")]


def failed(tests: type[SearchTests]) -> set[str]:
    found = set()
    for name in TESTS:
        try:
            getattr(tests(), name)()
        except AssertionError:
            found.add(name)
    return found


@pytest.mark.parametrize(
    ("fault", "test"),
    [
        ("draws anew", "test_is_deterministic"),
        ("asks elsewhere", "test_asks_for_what_the_space_holds_and_never_twice"),
        ("asks twice", "test_asks_for_what_the_space_holds_and_never_twice"),
        ("takes the worst", "test_the_best_is_the_best_of_those_measured_whole"),
        ("prunes what it measured", "test_prunes_only_what_was_not_measured_whole"),
        ("does not end", "test_is_deterministic"),
    ],
)
def test_a_fault_is_found(fault: str, test: str) -> None:
    class Faulty(Sound):
        def make(self, space: Any, context: Context[Any]) -> Search[Any]:
            return search_of(fault)(space, context)

    assert test in failed(Faulty)


def test_a_sound_search_passes() -> None:
    assert len(TESTS) == 6
    assert failed(Sound) == set()


# A function of one's own.


def function(k: int, alpha: float) -> float:
    return -abs(k - 4) - abs(alpha - 0.3)


SPACE = Space(k=[1, 2, 3, 4, 5, 6, 7, 8], alpha=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])


def run(search: Search[Point], evaluate: Callable[[Point], Any]) -> list[Point]:
    """Every point that was asked for, in their order."""
    asked: list[Point] = []
    while not search.done:
        ask = search.ask()
        asked += ask.candidates
        search.tell([Result.of(evaluate(one)) for one in ask.candidates])
    return asked


def test_greedy_is_algorithm_2_over_two_dimensions() -> None:
    """All k, since they improve up to 4 and three without improvement end it; alpha from the middle."""
    search = searches.create("greedy", SPACE)
    asked = run(search, lambda point: function(**point))
    assert search.best == Point(k=4, alpha=0.3)
    assert list(dict.fromkeys(point["k"] for point in asked)) == [1, 2, 3, 4, 5, 6, 7]
    assert [point["alpha"] for point in asked if point["k"] == 1] == [0.4, 0.5, 0.3, 0.2, 0.6, 0.1]
    assert len(asked) < len(SPACE.grid)


@pytest.mark.parametrize("name", searches.NAMES)
def test_every_search_finds_the_best(name: str) -> None:
    some = Options(optuna=OptunaOptions(trials=60, sampler="grid"))
    search = searches.create(name, SPACE, predict=lambda point: function(**point), options=some)
    run(search, lambda point: function(**point))
    assert search.best == Point(k=4, alpha=0.3)


def test_losers_are_pruned_after_some_prompts() -> None:
    """Twenty folds, of which a loser is asked for a few alone."""
    evaluations = []

    def folds(point: Point, first: int | None) -> list[float]:
        drawn = random.Random(3)
        values = [function(**point) + drawn.gauss(0, 0.02) for _ in range(20)][:first]
        evaluations.append(len(values))
        return values

    search = searches.create("race", SPACE, num_prompts=20, predict=lambda point: function(**point))
    while not search.done:
        ask = search.ask()
        search.tell([Result.of(folds(one, ask.prompts)) for one in ask.candidates])
    assert search.best == Point(k=4, alpha=0.3)
    assert sum(evaluations) < 20 * len(SPACE.grid) / 2
    assert set(search.pruned.values()) == {"race after 5 prompts"}


def test_of_equal_ones_the_cheaper_wins_and_what_is_bounded_is_not_evaluated() -> None:
    space = Space(steps=[30, 10, 20])
    search = searches.create("race", space, cost=lambda point: point["steps"])
    run(search, lambda point: 1.0)
    assert search.best == Point(steps=10)

    bounded = searches.create(
        "race", space, bound=lambda point: point["steps"] / 30, predict=lambda point: point["steps"]
    )
    assert run(bounded, lambda point: 0.9) == [Point(steps=30)]
    assert set(bounded.pruned.values()) == {"bound"}


def test_what_cannot_be_used_never_wins() -> None:
    space = Space(x=[1, 2, 3])
    search = searches.create("greedy", space)
    run(search, lambda point: NEVER if point["x"] > 1 else -5.0)
    assert search.best == Point(x=1)
    nothing = searches.create("greedy", space)
    run(nothing, lambda point: NEVER)
    assert nothing.best is None


@pytest.mark.parametrize(
    ("name", "more", "told"),
    [
        ("greddy", {}, {"key": "search", "nearest": "greedy"}),
        ("schedule", {}, {"key": "search", "got": "schedule"}),
        ("joint", {}, {"key": "predict"}),
        ("greedy", {"num_prompts": 0}, {"key": "num_prompts", "got": 0, "expected": ">= 1"}),
        ("greedy", {"space": {"k": [1]}}, {"key": "space"}),
        ("race", {"options": Options(until=0.1)}, {"key": "options.until", "got": 0.1}),
    ],
)
def test_a_search_that_cannot_be_made(name: str, more: dict[str, Any], told: dict[str, Any]) -> None:
    space = more.pop("space", SPACE)
    with refused(SearchError, **told):
        searches.create(name, space, **more)


@pytest.mark.parametrize(
    ("dimensions", "key"),
    [({}, "a space"), ({"k": []}, "k"), ({"k": [1, 1]}, "k"), ({"k": [1, "a"]}, "k"), ({"k": [None]}, "k")],
)
def test_a_space_that_cannot_be(dimensions: dict[str, Any], key: str) -> None:
    with refused(SearchError, key=key):
        Space(**dimensions)


def test_a_point_is_itself_in_another_process() -> None:
    """Whose texts have other hashes."""
    point = Point(name="a", k=2)
    code = (
        "import pickle, sys; from ecdiff_tune.searches import Point;"
        f"found = pickle.loads({pickle.dumps(point)!r}); sys.exit(found not in {{Point(name='a', k=2)}})"
    )
    assert pickle.loads(pickle.dumps(point)) == point
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONHASHSEED": "7"})


def test_numbers_of_numpy_are_results() -> None:
    assert Result.of(np.float32(0.5)) == Result.of(0.5) == Result.of(np.array([0.5]))


def test_results_that_do_not_fit() -> None:
    search = searches.create("exhaustive", SPACE)
    with refused(SearchError, key="the number of results", got=2):
        search.tell([Result.of(1.0), Result.of(2.0)])
    with refused(SearchError, key="a value"):
        Result.of(float("nan"))
    race = searches.create("race", SPACE, num_prompts=20)
    race.tell([Result.of([0.5] * 20)])
    ask = race.ask()
    assert ask.prompts is not None
    with refused(SearchError, key="the number of values", got=20):
        race.tell([Result.of([0.5] * 20) for _ in ask.candidates])


def test_a_world_of_points_is_what_searches_are_told() -> None:
    world = World(lambda point: function(**point), noise=0.01)
    search = searches.create("race", SPACE, num_prompts=world.num_prompts, predict=world.predicted)
    while not search.done:
        search.tell(world.answer(search.ask()))
    assert search.best == Point(k=4, alpha=0.3)
