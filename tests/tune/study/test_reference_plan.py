"""The plan that makes reference images: kept in the study, and what it changes."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from ecdiff_tune.evaluation.candidate import ConfigKey
from ecdiff_tune.evaluation.ledger import Ledger, Measurement
from ecdiff_tune.evaluation.placed_images import ReferencePlan
from ecdiff_tune.study import reference_plan
from ecdiff_tune.study.folder import StudyError

from ...refusals import refused

PLAN = ReferencePlan((0, 1, 3, 6), 0.5, "secant", 12, 0.0004, full_runs=2)
ONE, OTHER = (ConfigKey("3C2A1C2A1C3E", alpha, "gradient", "identity") for alpha in (0.3, 0.5))


def test_decided_once(tmp_path: Path) -> None:
    assert reference_plan.read(tmp_path) is None
    assert reference_plan.kept(tmp_path, lambda: PLAN) == PLAN
    assert reference_plan.kept(tmp_path, lambda: replace(PLAN, alpha=0.7)) == PLAN
    assert reference_plan.read(tmp_path) == PLAN


def test_that_no_plan_is_near_enough_is_kept_too(tmp_path: Path) -> None:
    assert reference_plan.kept(tmp_path, lambda: None) is None
    assert reference_plan.kept(tmp_path, lambda: PLAN) is None


@pytest.mark.parametrize("content", ["", "{}", '{"plan": {"steps": [0]}}', '{"plan": 3}'])
def test_a_damaged_file(tmp_path: Path, content: str) -> None:
    (tmp_path / "reference.json").write_text(content)
    with refused(StudyError, key=tmp_path / "reference.json"):
        reference_plan.read(tmp_path)


def test_the_bias_is_measured_where_there_are_both(tmp_path: Path) -> None:
    reference_plan.kept(tmp_path, lambda: PLAN)
    with closing(Ledger(tmp_path / "ledger.sqlite")) as ledger:
        section = reference_plan.section(tmp_path, ledger)
        assert section is not None
        assert section["bias"] is None
        for key, own, near in ((ONE, (0.90, 0.80), (0.91, 0.80)), (OTHER, (0.70,), (0.72,))):
            ledger.append(
                key, [(name, Measurement(q, 30.0, 1.0)) for name, q in zip("ab", own, strict=False)]
            )
            placed = [Measurement(q, 30.0, 1.0, reference=PLAN.name) for q in (*near, 0.1)]
            ledger.append(key, zip("abc", placed, strict=False))
        section = reference_plan.section(tmp_path, ledger)
    assert section == {
        "full_runs": 2,
        "placed_cloud_calls": 4,
        "predicted_error": 0.0004,
        "bias": {"quality": 0.0075, "difference": 0.005, "prompts": 2, "configs": 2},
    }
    assert reference_plan.describe(section) == (
        "reference: 4 placed cloud calls on all but 2 prompts; against their images quality is +0.0075, and "
        "configs move against one another by at most 0.0050 (2 configs, 2 prompts with both)"
    )
