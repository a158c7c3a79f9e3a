"""Windows of a plan, and the modes of correction on curves made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_core.sampling.plan_of_params import plan
from ecdiff_tune.experiments.corrections import Window, corrections, windows

STEPS = 12
PLAN = plan(ECDiffParams(3, 2, 0.3, 9), STEPS)  # 3C2A1C2A1C3E


def test_windows() -> None:
    assert windows(PLAN) == [Window(3, 5, True), Window(6, 8, True)]
    assert [one.length for one in windows(PLAN)] == [2, 2]
    assert windows(plan(ECDiffParams.cloud_only(STEPS), STEPS)) == []
    cut = plan(ECDiffParams(3, 2, 0.3, 11), 11, "exact")
    assert windows(cut)[-1] == Window(9, 11, False)


def curve(**values: float) -> np.ndarray:
    """Errors before steps 0 … 12; those named differ from a line that rises from 0."""
    found = np.linspace(0, 1.2, STEPS + 1)
    for name, value in values.items():
        found[int(name[1:])] = value
    return found


def test_the_modes() -> None:
    """The corrections are steps 5 and 8; the window after the first is steps 6 and 7."""
    falls_at_once = curve(e5=0.8, e6=0.4, e8=0.85)
    falls_later = curve(e5=0.5, e6=0.6, e8=0.3)
    falls_more_later = curve(e5=0.5, e6=0.49, e8=0.3)
    never = curve()
    found = list(corrections(PLAN, np.stack([falls_at_once, falls_later, never, falls_more_later])))
    assert [(one.prompt, one.before.end, one.mode) for one in found] == [
        (0, 5, "at once"),
        (1, 5, "in the next window"),
        (2, 5, "neither"),
        (3, 5, "in the next window"),
        (0, 8, "neither"),
        (1, 8, "neither"),
        (2, 8, "neither"),
        (3, 8, "neither"),
    ]
    assert found[0].fall == pytest.approx(0.5)
    assert found[0].fall_in_window == pytest.approx(1 - 0.85 / 0.4)
    assert found[1].fall_at_once == pytest.approx(-0.2)
    assert found[1].fall == pytest.approx(0.5)
    assert found[4].fall_in_window is None
    assert found[3].fall == pytest.approx(1 - 0.3 / 0.49)


def test_no_error_falls_by_nothing() -> None:
    found = list(corrections(PLAN, np.zeros((1, STEPS + 1))))
    assert [(one.fall_at_once, one.mode) for one in found] == [(0.0, "neither")] * 2
