"""Eq. 9-12 by hand and against the paper's own times."""

from __future__ import annotations

import pytest

from ecdiff_tune.objective import ObjectiveError, Score, Weights, burden, efficiency, quality, score

from ..refusals import refused

PAPER_TIMES = [
    # Table 6: seconds of the cloud alone, the edge alone and EC-Diff; then eq. 10 by hand.
    pytest.param(1.70, 1.18, 1.16, 0.54 / 0.52, id="SD-v1.4 + BK-SDM-Small"),
    pytest.param(1.70, 1.10, 1.05, 0.65 / 0.60, id="SD-v1.4 + BK-SDM-Tiny"),
    pytest.param(6.25, 4.29, 2.77, 3.48 / 1.96, id="SDXL-base + SSD-1B"),
    pytest.param(6.25, 3.27, 2.61, 3.64 / 2.98, id="SDXL-base + Segmind-Vega"),
    pytest.param(245.0, 91.0, 105.61, 139.39 / 154.0, id="CogVideoX-5B + CogVideoX-2B"),
]


def test_quality_is_the_mean_over_prompts() -> None:
    assert quality([0.9, 0.8, 0.4]) == pytest.approx(0.7)


@pytest.mark.parametrize(("cloud", "edge", "ours", "expected"), PAPER_TIMES)
def test_efficiency_of_the_paper(cloud: float, edge: float, ours: float, expected: float) -> None:
    assert efficiency(ours, cloud, edge) == pytest.approx(expected)


def test_efficiency_is_not_clamped() -> None:
    assert efficiency(2.77, 6.25, 4.29) == pytest.approx(1.7755, abs=1e-4)  # the paper's highest
    assert efficiency(3.0, cloud_seconds=2.0, edge_seconds=1.0) == -1.0
    assert efficiency(2.0, cloud_seconds=2.0, edge_seconds=1.0) == 0.0
    assert efficiency(1.0, cloud_seconds=2.0, edge_seconds=1.0) == 1.0


@pytest.mark.parametrize("cloud", [0.9, 1.0])
def test_efficiency_needs_a_slower_cloud(cloud: float) -> None:
    with refused(ObjectiveError, key="efficiency", got={"cloud": cloud, "edge": 1.0}):
        efficiency(0.5, cloud, 1.0)


@pytest.mark.parametrize(
    ("s", "expected"), [(30, 1.0), (34, 0.8), (35, 0.75), (40, 0.5), (50, 0.0), (25, 1.25)]
)
def test_burden(s: int, expected: float) -> None:
    assert burden(s, num_steps=50, earliest_s=30) == pytest.approx(expected)


def test_score_weighs_the_three() -> None:
    # 0.3 * 0.9 + 0.3 * 1.1 + 0.4 * 0.8 = 0.27 + 0.33 + 0.32
    assert score(0.9, 1.1, 0.8, Weights()) == Score(0.9, 1.1, 0.8, pytest.approx(0.92))
    assert score(0.9, 1.1, 0.8, Weights(w1=2, w2=0, w3=-1)).objective == pytest.approx(1.0)


def test_stage_1_has_no_burden() -> None:
    found = score(0.9, 1.1, None, Weights())
    assert found.burden is None
    assert found.objective == pytest.approx(0.60)
