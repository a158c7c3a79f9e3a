"""What every search must obey, as tests for a search of your own.

In a file that pytest collects::

    from ecdiff_tune.searches import Context, Search, Space
    from ecdiff_tune.testing import SearchTests


    class TestMine(SearchTests):
        def make(self, space: Space, context: Context) -> Search:
            return my_search(space, context)
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from statistics import fmean
from typing import Any, ClassVar

from ecdiff_tune.objective import Score
from ecdiff_tune.searches import Ask, Context, Cost, Options, OptunaOptions, Point, Result, Search, Space

NEVER = float("-inf")
WEIGHT, MIDDLE = 0.3, 0.6
"""Of quality in the objective, and the quality about which that of prompts varies."""
Trace = list[tuple[Ask[Any], list[Result]]]
"""What a search asked, and the results."""


@dataclass(frozen=True)
class World:
    """A made-up function: every candidate's objective on every prompt, with bounds and costs that agree.

    Args:
        objective: of a candidate; minus infinity where it cannot be used, which one of its prompts tells.
        num_prompts: in all.
        noise: by how much the objective of a prompt is off at most.
        options: of the search.
        seed: of the noise and of the search.
    """

    objective: Callable[[Any], float]
    num_prompts: int = 40
    noise: float = 0.0
    options: Options = field(default_factory=Options)
    seed: int = 0

    def level(self, candidate: Any) -> float:
        """The objective."""
        return self.objective(candidate)

    def predicted(self, candidate: Any) -> float:
        """The quality as a forecast has it, 0 … 1, which says nothing of the objective."""
        return random.Random(repr(candidate)).random()

    def cost(self, candidate: Any) -> Cost:
        """Of an evaluation."""
        return Cost(seconds=random.Random(f"seconds {candidate!r}").random())

    def values(self, candidate: Any, prompts: int | None = None) -> tuple[float, ...]:
        """The objective of every prompt, or of the first so many."""
        level = self.level(candidate)
        numbers, fails = _draws(self.seed, candidate, self.num_prompts)
        noises = [self.noise * one for one in numbers[:prompts]]
        if level == NEVER:
            return tuple(NEVER if i == fails else one for i, one in enumerate(noises))
        return tuple(level + one for one in noises)

    def mean(self, candidate: Any) -> float:
        """The objective over all prompts."""
        return fmean(self.values(candidate))

    def context(self) -> Context[Any]:
        """What a search may know."""
        return Context(
            self.num_prompts,
            lambda one, quality: self._base(one) + WEIGHT * quality,
            lambda some: [self.predicted(one) for one in some],
            self.seed,
            self.cost,
            self.options,
        )

    def answer(self, ask: Ask[Any]) -> list[Result]:
        """The results of what was asked."""
        found = []
        for one in ask.candidates:
            values = self.values(one, ask.prompts)
            quality = (fmean(values) - self._base(one)) / WEIGHT
            score = None if NEVER in values else Score(quality, self._base(one), 0.5, fmean(values))
            found.append(Result(fmean(values), values, score))
        return found

    def drive(self, search: Search[Any], most: int = 2000) -> Trace:
        """Run a search to its end, which it must come to after so many questions."""
        trace: Trace = []
        while not search.done:
            ask = search.ask()
            assert search.ask() == ask, "ask() must give the same until tell() has the results"
            trace.append((ask, self.answer(ask)))
            search.tell(trace[-1][1])
            assert len(trace) <= most, "the search does not end"
        return trace

    def _base(self, candidate: Any) -> float:
        level = self.level(candidate)
        return (0.0 if level == NEVER else level) - WEIGHT * MIDDLE


@cache
def _draws(seed: int, candidate: Any, num_prompts: int) -> tuple[tuple[float, ...], int]:
    """A number within -1 … 1 a prompt, and one of the prompts."""
    drawn = random.Random(f"{seed} {candidate}")
    return tuple(drawn.uniform(-1, 1) for _ in range(num_prompts)), drawn.randrange(num_prompts)


def whole(trace: Trace) -> dict[Any, float]:
    """The objective of those that were measured on all prompts, in the order of asking."""
    asked = [
        pair
        for ask, results in trace
        if ask.prompts is None
        for pair in zip(ask.candidates, results, strict=True)
    ]
    return {candidate: result.value for candidate, result in asked}


@dataclass(frozen=True)
class Case:
    """A space, and a world that its candidates live in."""

    space: Any
    world: World


@cache
def scrambled(candidate: Any) -> float:
    """A number within 0 … 1 that has nothing to do with the candidate's neighbours."""
    return random.Random(repr(candidate)).random()


def cases(
    spaces: Mapping[str, Any],
    objectives: Mapping[str, Callable[[Any], float]],
    world: Callable[..., World] = World,
) -> dict[str, Case]:
    """Every space with every objective, by what they are called; every other one with noise.

    Args:
        world: makes the world of an objective.
    """
    options = Options(finalists=6, optuna=OptunaOptions(trials=14))
    noises = dict(zip(objectives, itertools.cycle((0.0, 0.05)), strict=False))
    worlds = {name: world(one, noise=noises[name], options=options) for name, one in objectives.items()}
    return {
        f"{label}, {name}": Case(space, worlds[name])
        for label, space in spaces.items()
        for name in objectives
    }


SPACES: dict[str, Space] = {
    "one dimension": Space(x=[3, 1, 4, 15, 9]),
    "one point": Space(x=[2], name=["only"]),
    "two dimensions": Space(k=[1, 2, 3, 4, 5], alpha=[0.1, 0.2, 0.3, 0.5, 0.8]),
    "texts and numbers": Space(sampler=["euler", "ddim"], steps=[10, 20, 30], eta=[0.0, 0.5]),
    "texts alone": Space(a=["x", "y"], b=["u", "v", "w"]),
}


def _numbers(point: Point) -> list[float]:
    return [one for one in point.values() if not isinstance(one, str)]


OBJECTIVES: dict[str, Callable[[Point], float]] = {
    "peak": lambda point: 1 - sum(abs(one - 2) for one in _numbers(point)) / 10,
    "rising": lambda point: 1.0 + sum(_numbers(point)),
    "falling": lambda point: -sum(_numbers(point)),
    "flat": lambda point: 0.5,
    "scrambled": scrambled,
    "infeasible": lambda point: NEVER,
    "half infeasible": lambda point: scrambled(point) if scrambled(point) > 0.5 else NEVER,
}
CASES = cases(SPACES, OBJECTIVES)


class SearchTests:
    """Subclass it with ``make``; pytest finds the tests by the name of the subclass, ``Test…``.

    A search is deterministic, asks for what its space holds and for nothing twice, goes on the same from
    recorded results, and ends with the best of what was measured on all prompts.
    """

    cases: ClassVar[Mapping[str, Case]] = CASES
    """What it is tried on."""
    explains_all: ClassVar[bool] = True
    """Whether ``pruned`` says of every candidate that was not measured whole why it was not."""

    def make(self, space: Any, context: Context[Any]) -> Search[Any]:
        """The search over a space."""
        raise NotImplementedError("Give the subclass of SearchTests a method make(space, context).")

    def floor(self, space: Any) -> float:
        """What a winner must be above in a space."""
        return NEVER

    def test_is_deterministic(self) -> None:
        for label, case, first, trace in self._runs():
            second = self._search(case)
            assert case.world.drive(second) == trace, f"{label}: it asks otherwise the second time"
            assert second.best == first.best, f"{label}: {second.best} wins, the first time {first.best}"
            assert second.pruned == first.pruned, f"{label}: other candidates are pruned the second time"

    def test_asks_for_what_the_space_holds_and_never_twice(self) -> None:
        for label, case, _, trace in self._runs():
            known: dict[Any, int] = {}
            for ask, _ in trace:
                assert ask.candidates, f"{label}: it asks for nothing"
                unknown = set(ask.candidates) - set(case.space.grid)
                assert not unknown, f"{label}: {unknown} is not in the space"
                assert len(set(ask.candidates)) == len(ask.candidates), f"{label}: asked twice at once"
                prompts = case.world.num_prompts if ask.prompts is None else ask.prompts
                for one in ask.candidates:
                    seen = known.get(one, 0)
                    assert seen < prompts <= case.world.num_prompts, (
                        f"{label}: {one} on {seen}, then {prompts}"
                    )
                    known[one] = prompts
            assert known, f"{label}: nothing was asked for"

    def test_the_best_is_the_best_of_those_measured_whole(self) -> None:
        for label, case, search, trace in self._runs():
            measured = whole(trace)
            highest = max(measured.values(), default=NEVER)
            if highest > self.floor(case.space):
                assert search.best in measured, f"{label}: {search.best} was not measured on all prompts"
                value = measured[search.best]
                assert abs(value - highest) <= 1e-8, f"{label}: {search.best} has {value}, another {highest}"
            else:
                assert search.best is None, f"{label}: {search.best} cannot win"

    def test_prunes_only_what_was_not_measured_whole(self) -> None:
        for label, case, search, trace in self._runs():
            measured = whole(trace)
            wrong = {one for one in search.pruned if measured.get(one, NEVER) > NEVER}
            assert not wrong, f"{label}: {wrong} was pruned and measured on all prompts"
            if self.explains_all and search.best is not None:
                silent = set(case.space.grid) - set(search.pruned) - set(measured)
                assert not silent, f"{label}: nothing says why {silent} was not measured"

    def test_goes_on_the_same_after_any_answer(self) -> None:
        for label, case, _, _ in self._runs():
            if "scrambled" not in label:
                continue
            case = replace(case, world=replace(case.world, noise=0.05))
            search = self._search(case)
            trace = case.world.drive(search)
            for cut in range(0, len(trace), 1 + len(trace) // 5):
                again = self._search(case)
                for ask, results in trace[:cut]:
                    assert again.ask() == ask, f"{label}: it asks otherwise after the same results"
                    again.tell(results)
                assert case.world.drive(again) == trace[cut:], f"{label}: it goes on otherwise after {cut}"
                assert again.best == search.best, (
                    f"{label}: {again.best} wins after {cut}, {search.best} before"
                )

    def test_nothing_is_asked_once_done(self) -> None:
        for label, _, search, _ in self._runs():
            try:
                asked = search.ask()
            except RuntimeError:
                continue
            raise AssertionError(f"{label}: it is done and asks for {asked}")

    def _search(self, case: Case) -> Search[Any]:
        return self.make(case.space, case.world.context())

    def _runs(self) -> Iterator[tuple[str, Case, Search[Any], Trace]]:
        for label, (search, trace) in _ended(type(self)).items():
            yield label, self.cases[label], search, trace


_ENDED: dict[type[SearchTests], dict[str, tuple[Search[Any], Trace]]] = {}


def _ended(tests: type[SearchTests]) -> dict[str, tuple[Search[Any], Trace]]:
    """Every case's search at its end, which takes the time of the tests once."""
    if tests not in _ENDED:
        searches = {label: (tests()._search(case), case.world) for label, case in tests.cases.items()}
        _ENDED[tests] = {label: (search, world.drive(search)) for label, (search, world) in searches.items()}
    return _ENDED[tests]
