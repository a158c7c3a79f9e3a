"""What is predicted of a search's calls: it never asks for more, and few searches for the whole grid."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.search import SEARCHES, Space
from ecdiff_tune.search.options import Options, OptunaOptions
from ecdiff_tune.search.upper_bound import CallBound, Calls
from ecdiff_tune.testing import MIDDLE

from ..worlds import JOINT, OBJECTIVES, SCHEDULES, SPACES, World

FEASIBLE = [name for name in OBJECTIVES if "infeasible" not in name]
SPACE_OF: dict[str, Space] = {"greedy": SPACES["stage 2, aligned"], "schedule": SCHEDULES}
"""For searches that do not take JOINT."""
WANTED = 0.61
"""A quality that few candidates have, and more of them on the first prompts."""
CASES = [
    (name, least)
    for name, kind in SEARCHES.items()
    for least in ((None, WANTED) if "min_quality" in kind.limits else (None,))
]


class Foreseen(World):
    """A world whose forecast is right: a search that goes on where it is not asks for no more."""

    def predicted(self, candidate: Candidate) -> float:
        return MIDDLE


def calls(candidates: Sequence[Candidate]) -> Calls:
    """A cloud call for every k, an edge call for every s: the first are shared, the others not."""
    return len({one.params.k for one in candidates}), sum(one.params.s for one in candidates)


@pytest.mark.parametrize("objective", FEASIBLE)
@pytest.mark.parametrize(("name", "least"), CASES)
def test_a_search_asks_for_no_more(name: str, least: float | None, objective: str) -> None:
    options = Options(finalists=5, min_quality=least, optuna=OptunaOptions(7, min_quality=least))
    kind = Foreseen if SEARCHES[name].climbs else World
    world, space = kind(OBJECTIVES[objective], noise=0.05, options=options), SPACE_OF.get(name, JOINT)
    shares = SEARCHES[name].call_bounds(space, world.context())
    spent: dict[Candidate, int] = {}
    for ask, _ in world.drive(world.search(name, space)):
        for one in ask.candidates:
            spent[one] = max(spent.get(one, 0), ask.prompts or world.num_prompts)
    assert set(spent) <= set(shares[0].candidates)
    assert len(spent) <= shares[0].count
    edge = sum(one.params.s * prompts for one, prompts in spent.items())
    assert edge <= sum(share.calls(calls)[1] for share in shares)


def test_how_much_that_is() -> None:
    world = World(OBJECTIVES["peak"], 100, options=Options((0.1, 0.25), finalists=5))
    context, grid = world.context(), JOINT.grid
    assert SEARCHES["exhaustive"].call_bounds(JOINT, context) == [CallBound(grid, len(grid), 100)]
    race, last = SEARCHES["joint"].call_bounds(JOINT, context)
    assert (race.count, len(race.candidates), race.prompts) == (5, 5, 25)
    assert (last.count, last.prompts) == (1, 75)
    (only,) = SEARCHES["predict"].call_bounds(JOINT, context)
    assert (only.count, only.prompts) == (1, 100)
    assert only.candidates == race.candidates[:1]


def test_of_some_the_dearest_count() -> None:
    few = tuple(one for one in JOINT.grid if one.params.k == 2)
    by_s = sorted(one.params.s for one in few)
    assert CallBound(few, 1, 10).calls(calls) == (10, 10 * by_s[-1])
    assert CallBound(few, 3, 1).calls(calls) == (1, sum(by_s[-3:]))  # no more cloud calls than all together
    assert CallBound(few, len(few), 2).calls(calls) == (2, 2 * sum(by_s))
