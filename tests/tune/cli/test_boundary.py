"""When a winner at an end of its grid is pointed out, on a study without a model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from ecdiff_tune.cli.boundary import boundary_note
from ecdiff_tune.cli.stage import Found
from ecdiff_tune.cli.study_spec import study_spec
from ecdiff_tune.config import ObjectiveSettings
from ecdiff_tune.evaluation.latency import LatencyProfile
from ecdiff_tune.evaluation.ledger import Measurement
from ecdiff_tune.study import recorded
from ecdiff_tune.study.loop import Trial

from ..recorded_study import RecordedStudy, with_payload

QUALITY, PAPER = ObjectiveSettings(5.0, 0.3, 0.4), ObjectiveSettings()


def notes(
    tmp_path: Path,
    latency: LatencyProfile,
    objective: ObjectiveSettings,
    name: str,
    grid: tuple[float, ...],
    noisy: bool = False,
    **search: Any,
) -> list[str]:
    """What is said of the best of the trials that differ in ``name`` alone."""
    study = RecordedStudy(tmp_path, with_payload(latency)).write()
    settings = replace(study.settings, objective=objective)
    settings.search = replace(settings.search, **search)
    spec = study_spec(settings)
    trials = recorded.load(spec).trials
    fixed = {"k": 1, "alpha": 0.3, "s": 9} | {name: None}
    mine = [
        _noisy(one) if noisy and getattr(one.candidate.params, name) == grid[0] else one
        for one in trials
        if getattr(one.candidate.params, name) in grid
        and all(getattr(one.candidate.params, key) == value for key, value in fixed.items() if value)
    ]
    assert len(mine) == len(grid)
    winner = max(mine, key=lambda one: one.value)
    return boundary_note(spec, 3, name, grid, Found(winner, tuple(mine), cast(Any, None)))


def _noisy(trial: Trial) -> Trial:
    """Prompts that contradict each other, around the same mean."""
    ssims = [one.ssim or 0.0 for one in trial.measurements]
    moved = [ssim + by for ssim, by in zip(ssims, (-0.4, 0.4, -0.4, 0.4), strict=True)]
    return replace(trial, measurements=tuple(Measurement(ssim, 30.0, 0.1) for ssim in moved))


def test_a_rising_objective_is_pointed_out(tmp_path: Path, latency: LatencyProfile) -> None:
    (note,) = notes(tmp_path, latency, QUALITY, "s", (7, 9))
    assert note.startswith(
        "note: s = 9 is the largest of search.s, and the objective still rises towards it: "
    )
    assert note.endswith(" here. A wider grid may hold a better one (search.extend=true).")


def test_alpha_too(tmp_path: Path, latency: LatencyProfile) -> None:
    (note,) = notes(tmp_path, latency, PAPER, "alpha", (0.3, 0.5))
    assert note.startswith("note: alpha = 0.3 is the smallest of search.alpha")


@pytest.mark.parametrize(
    ("objective", "name", "grid", "more"),
    [
        pytest.param(PAPER, "s", (7, 9), {}, id="the burden pulls below s'"),
        pytest.param(PAPER, "alpha", (0.3, 0.5), {"noisy": True}, id="the prompts do not tell"),
        pytest.param(PAPER, "alpha", (0.3, 0.5), {"extend": True}, id="the search went on"),
        pytest.param(QUALITY, "s", (9, 12), {}, id="s = T"),
    ],
)
def test_empty_advice_is_not_given(
    tmp_path: Path,
    latency: LatencyProfile,
    objective: ObjectiveSettings,
    name: str,
    grid: tuple[float, ...],
    more: dict[str, Any],
) -> None:
    assert notes(tmp_path, latency, objective, name, grid, **more) == []


def test_beyond_k_of_1_there_is_the_cloud_alone(tmp_path: Path, latency: LatencyProfile) -> None:
    """Its objective is w1, which is higher where quality counts much."""
    assert notes(tmp_path, latency, ObjectiveSettings(1.0, 0.15, 0.4), "k", (1, 2)) == []
    (note,) = notes(tmp_path, latency, QUALITY, "k", (1, 2))
    assert note.startswith("note: k = 1 is the smallest of search.k")


def test_a_grid_that_begins_after_s_prime(tmp_path: Path, latency: LatencyProfile) -> None:
    late = replace(PAPER, earliest_s=5)
    assert "s = 7 is the smallest of search.s" in notes(tmp_path, latency, late, "s", (7, 9))[0]
