"""Every search by the name that ``search=`` takes, and what is true of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ecdiff_tune.search import exhaustive, greedy, joint, predict, race, schedule, upper_bound
from ecdiff_tune.search.base import Context, Search

_GRID = ("k", "alpha", "s", "estimator", "handoff_adapter")
_JOINT_GRID = ("joint", "p", *_GRID, "handoff", "edge_k", "residual")
_TESTS = ("rungs", "error_rate", "margin")
_OF_OPTUNA = ("sampler", "trials", "study_name", "storage", "artifacts", "warm_start", "objectives")
LIMITS = ("min_quality", "max_seconds", "cloud_calls", "edge_calls")
"""Settings of ``search.`` that only some searches heed."""


@dataclass(frozen=True)
class SearchSpec:
    """What is true of a search.

    Args:
        about: what it measures, in a few words.
        make: the search over a space that it takes.
        call_bounds: what it asks for at most, known before it begins.
        in_stages: it searches (k, alpha) and then s, if not ``search.joint``.
        at_once: it searches all dimensions at once, if ``search.joint``.
        by_clock: it can do without a cost model: its trials may be timed one by one.
        extends: it goes on beyond its grid with ``search.extend``.
        prunes: it prunes candidates after some prompts.
        predicts: it goes by the forecast from the reference run.
        needs_forecast: it cannot do without. A reference near to the cloud's own images is enough for it: the
            forecast chooses who races, and the race decides between near equals.
        walks: it may end without having measured its whole grid, and gives no reason for what is left.
        ends_early: its race may end before all prompts (``calibration.until``), at once.
        climbs: where its forecast misleads it goes on from neighbour to neighbour.
        places: it lists the real steps itself, in place of p and k.
        is_optuna: its trials are those of an Optuna study, which keeps images of them.
        limits: those of ``LIMITS`` that it heeds.
        own: settings of ``search.`` that it goes by beside its limits.
    """

    about: str
    make: Callable[[Any, Context], Search]
    call_bounds: Callable[[Any, Context], list[upper_bound.CallBound]] = upper_bound.whole_grid
    in_stages: bool = True
    at_once: bool = True
    by_clock: bool = False
    extends: bool = False
    prunes: bool = False
    predicts: bool = False
    needs_forecast: bool = False
    walks: bool = False
    ends_early: bool = False
    climbs: bool = False
    places: bool = False
    is_optuna: bool = False
    limits: tuple[str, ...] = ()
    own: tuple[str, ...] = _JOINT_GRID

    @property
    def reads(self) -> tuple[str, ...]:
        """The settings of ``search.`` that it goes by."""
        front = ("front",) if self.needs_forecast else ()
        return ("name", *self.own, *front, *self.limits)


def _optuna(space: Any, context: Context) -> Search:
    from ecdiff_tune.search import optuna  # an optional dependency

    return optuna.search(space, context)


SEARCHES: dict[str, SearchSpec] = {
    "greedy": SearchSpec(
        "the paper's walk over (k, alpha), then over s",
        greedy.greedy,
        at_once=False,
        by_clock=True,
        extends=True,
        walks=True,
        own=("joint", *_GRID, "edge_k", "residual", "extend", *_TESTS),
    ),
    "exhaustive": SearchSpec(
        "every config of the grid",
        exhaustive.exhaustive,
        by_clock=True,
        extends=True,
        own=(*_JOINT_GRID, "extend"),
    ),
    "race": SearchSpec(
        "every config that can still win",
        race.race,
        prunes=True,
        predicts=True,
        own=(*_JOINT_GRID, *_TESTS),
    ),
    "predict": SearchSpec(
        "the best predicted config alone",
        predict.predict,
        upper_bound.best_predicted,
        predicts=True,
        needs_forecast=True,
    ),
    "joint": SearchSpec(
        "the whole grid predicted, the best few measured on some prompts, the winner on all",
        joint.joint,
        upper_bound.finalists,
        prunes=True,
        predicts=True,
        needs_forecast=True,
        ends_early=True,
        climbs=True,
        own=(*_JOINT_GRID, "finalists", *_TESTS),
    ),
    "schedule": SearchSpec(
        "calls placed step by step, the best few measured on some prompts, the winner on all",
        schedule.schedule,
        upper_bound.finalists_in_turn,
        in_stages=False,
        prunes=True,
        predicts=True,
        needs_forecast=True,
        ends_early=True,
        places=True,
        limits=("min_quality", "cloud_calls", "edge_calls"),
        own=("joint", *_GRID, "crossings", "residual", "finalists", *_TESTS),
    ),
    "optuna": SearchSpec(
        "what an Optuna study suggests",
        _optuna,
        upper_bound.trials,
        prunes=True,
        is_optuna=True,
        limits=("min_quality", "max_seconds"),
        own=(*_JOINT_GRID, *_OF_OPTUNA, *_TESTS),
    ),
}
