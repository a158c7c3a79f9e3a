"""Every search obeys ``ecdiff_tune.testing``, on candidates and on points, on every space that it takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ecdiff_core.sampling.plan_of_params import plan
from ecdiff_tune import testing
from ecdiff_tune.evaluation.candidate import ConfigKey
from ecdiff_tune.search import SEARCHES, Context, Search
from ecdiff_tune.search.spaces import Stage1Space
from ecdiff_tune.testing import NEVER, Case

from ..worlds import ALIASES, HANDOFFS, JOINT, OBJECTIVES, SCHEDULES, SPACES, World

STAGES = testing.cases(SPACES, OBJECTIVES, World)
AT_ONCE = testing.cases({"joint": JOINT, "handoffs": HANDOFFS, "aliases": ALIASES}, OBJECTIVES, World)
LISTED = testing.cases({"schedules": SCHEDULES}, OBJECTIVES, World)


class OfTheTuner(testing.SearchTests):
    name: ClassVar[str]
    cases: ClassVar[Mapping[str, Case]] = {**testing.CASES, **STAGES, **AT_ONCE, **LISTED}

    def make(self, space: Any, context: Context[Any]) -> Search[Any]:
        return SEARCHES[self.name].make(space, context)

    def test_never_asks_for_a_plan_under_two_names(self) -> None:
        for label, case, _, trace in self._runs():
            if label in testing.CASES:
                continue
            asked = {one for ask, _ in trace for one in ask.candidates}
            steps, handoff = case.space.num_steps, getattr(case.space, "handoff", "aligned")
            keys = {ConfigKey.of(one, plan(one.params, steps, one.handoff or handoff)) for one in asked}
            assert len(keys) == len(asked), label


class TestGreedy(OfTheTuner):
    """It takes one stage at a time, and walks over every alpha: equal plans are one to the ledger alone."""

    name = "greedy"
    cases: ClassVar[Mapping[str, Case]] = {**testing.CASES, **STAGES}
    explains_all = False

    def floor(self, space: Any) -> float:
        return 0.0 if isinstance(space, Stage1Space) else NEVER  # Algorithm 2 starts from V_best = 0


class TestExhaustive(OfTheTuner):
    name = "exhaustive"


class TestRace(OfTheTuner):
    name = "race"


class TestPredict(OfTheTuner):
    name = "predict"


class TestJoint(OfTheTuner):
    name = "joint"


class TestSchedule(OfTheTuner):
    name = "schedule"
    cases: ClassVar[Mapping[str, Case]] = {**STAGES, **AT_ONCE, **LISTED}


class TestOptuna(OfTheTuner):
    """Listed schedules have no dimensions to suggest from."""

    name = "optuna"
    cases: ClassVar[Mapping[str, Case]] = {**testing.CASES, **STAGES, **AT_ONCE}
    explains_all = False


def test_no_search_is_left_out() -> None:
    assert {one.name for one in OfTheTuner.__subclasses__()} == set(SEARCHES)
