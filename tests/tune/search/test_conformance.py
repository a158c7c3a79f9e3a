"""What every search must obey, on every space that it takes."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import pytest

from ecdiff_core.sampling.plan import plan
from ecdiff_tune.evaluation.candidate import Candidate, ConfigKey
from ecdiff_tune.search import SEARCHES, Search, Space
from ecdiff_tune.search.options import Options, OptunaOptions
from ecdiff_tune.search.spaces import Stage1Space

from ..worlds import ALIASES, HANDOFFS, JOINT, NEVER, OBJECTIVES, SCHEDULES, SPACES, Trace, World, whole

CANNOT = {
    *(("greedy", label) for label in ("joint", "handoffs", "aliases", "schedules")),
    ("optuna", "schedules"),
}
"""Greedy takes one stage at a time, and walks over every alpha: equal plans are one to the ledger alone.
Listed schedules have no dimensions to walk along or to suggest from."""

EVERY_SPACE: dict[str, Space] = {
    **SPACES,
    "aliases": ALIASES,
    "joint": JOINT,
    "handoffs": HANDOFFS,
    "schedules": SCHEDULES,
}
CASES = [
    pytest.param(name, space, id=f"{name}, {label}")
    for name, (label, space) in itertools.product(SEARCHES, EVERY_SPACE.items())
    if (name, label) not in CANNOT
]
WORLDS = {
    label: World(objective, noise=noise, options=Options(finalists=6, optuna=OptunaOptions(trials=14)))
    for (label, objective), noise in zip(OBJECTIVES.items(), itertools.cycle((0.0, 0.05)), strict=False)
}


@dataclass(frozen=True)
class Run:
    """A search that ended, and what it asked and was told."""

    search: Search
    trace: Trace


@pytest.fixture(scope="class")
def runs(name: str, space: Space) -> dict[str, Run]:
    """By the world's label; not to be gone on with."""
    searches = {label: world.search(name, space) for label, world in WORLDS.items()}
    return {label: Run(search, WORLDS[label].drive(search)) for label, search in searches.items()}


@pytest.mark.parametrize(("name", "space"), CASES, scope="class")
class TestConformance:
    def test_is_deterministic(self, name: str, space: Space, runs: dict[str, Run]) -> None:
        for label, world in WORLDS.items():
            first, second = runs[label], world.search(name, space)
            assert first.trace == world.drive(second)
            assert first.search.best == second.best
            assert first.search.pruned == second.pruned

    def test_asks_for_what_the_space_holds_and_never_twice(self, space: Space, runs: dict[str, Run]) -> None:
        for label, world in WORLDS.items():
            known: dict[Candidate, int] = {}
            for ask, _ in runs[label].trace:
                assert ask.candidates
                assert set(ask.candidates) <= set(space.grid)
                assert len(set(ask.candidates)) == len(ask.candidates)
                prompts = world.num_prompts if ask.prompts is None else ask.prompts
                for one in ask.candidates:
                    assert known.get(one, 0) < prompts <= world.num_prompts
                    known[one] = prompts
            assert known

    def test_never_asks_for_a_plan_under_two_names(self, space: Space, runs: dict[str, Run]) -> None:
        steps = 20 if space is SPACES["stage 1, odd grids"] else 50
        for run in runs.values():
            asked = {one for ask, _ in run.trace for one in ask.candidates}
            handoff = "exact" if space is SPACES["stage 2, exact"] else "aligned"
            assert len({ConfigKey.of(one, plan(one.params, steps, handoff)) for one in asked}) == len(asked)

    def test_the_best_is_the_best_of_those_measured_whole(
        self, name: str, space: Space, runs: dict[str, Run]
    ) -> None:
        # Algorithm 2 starts from V_best = 0, so there a config must score above 0.
        floor = 0.0 if name == "greedy" and isinstance(space, Stage1Space) else NEVER
        for label, run in runs.items():
            search, measured = run.search, whole(run.trace)
            value = max(measured.values(), default=NEVER)
            if value > floor:
                assert search.best is not None, label
                assert measured[search.best] == pytest.approx(value, abs=1e-8), label
            else:
                assert search.best is None, label

    def test_discards_only_what_was_not_measured_whole(
        self, name: str, space: Space, runs: dict[str, Run]
    ) -> None:
        for label, run in runs.items():
            search, measured = run.search, whole(run.trace)
            feasible = {one for one, value in measured.items() if value > NEVER}
            assert feasible.isdisjoint(search.pruned), label
            if name not in ("greedy", "optuna") and search.best is not None:
                assert set(space.grid) == set(search.pruned) | set(measured), label

    def test_goes_on_the_same_after_any_answer(self, name: str, space: Space) -> None:
        world = replace(WORLDS["scrambled"], noise=0.05)
        search = world.search(name, space)
        trace = world.drive(search)
        for cut in range(0, len(trace), 1 + len(trace) // 5):
            again = world.search(name, space)
            for ask, told in trace[:cut]:
                assert again.ask() == ask
                again.tell(told)
            assert world.drive(again) == trace[cut:]
            assert again.best == search.best

    def test_nothing_is_asked_once_done(self, runs: dict[str, Run]) -> None:
        with pytest.raises(RuntimeError, match="done"):
            runs["scrambled"].search.ask()
