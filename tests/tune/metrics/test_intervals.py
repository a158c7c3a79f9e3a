"""Bootstrap intervals against the normal approximation, ties by hand, and what the YAML and the lines say."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest

from ecdiff_core.config import PairSpec, Sampling, TunedConfig
from ecdiff_core.models.pair_spec import ModelRef
from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_tune.data.calibration import CalibrationSet
from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.evaluation.latency import LatencyProfile
from ecdiff_tune.evaluation.ledger import Measurement
from ecdiff_tune.metrics.intervals import interval95, is_tied
from ecdiff_tune.objective import Scorer, Trial, Weights
from ecdiff_tune.report.result import result_lines, tied_line
from ecdiff_tune.study import config_sections

from ..studies import ROUNDED

WEIGHTS = Weights(0.5, 0.3, 0.4)


def test_an_interval_is_that_of_a_mean() -> None:
    values = np.random.default_rng(3).normal(0.9, 0.05, 400).tolist()
    low, high = interval95(values, seed=0)
    half = 1.96 * statistics.stdev(values) / math.sqrt(len(values))
    middle = statistics.fmean(values)
    assert low == pytest.approx(middle - half, abs=half / 8)
    assert high == pytest.approx(middle + half, abs=half / 8)
    assert interval95(values, seed=0) == (low, high)
    assert interval95(values, seed=1) != (low, high)
    assert interval95([0.5], seed=0) == (0.5, 0.5)


def test_an_interval_moves_with_its_values() -> None:
    values = [0.1, 0.5, 0.6, 0.9]
    low, high = interval95(values, seed=0)
    moved = interval95([0.3 * one + 2 for one in values], seed=0)
    assert moved == pytest.approx((0.3 * low + 2, 0.3 * high + 2))


def test_ties() -> None:
    best = [0.9, 0.8, 0.95, 0.7, 0.85, 0.9, 0.75, 0.8]
    assert is_tied(best, best, seed=0)
    assert not is_tied(best, [one - 0.01 for one in best], seed=0)  # worse on every prompt: pairs tell
    assert is_tied(best, [*best[1:], best[0]], seed=0)  # the same values of other prompts
    assert is_tied(best, [one - (0.08, -0.07)[i % 2] for i, one in enumerate(best)], seed=0)
    assert not is_tied(best, [one - (0.08, 0.01)[i % 2] for i, one in enumerate(best)], seed=0)


def trial(latency: LatencyProfile, s: int, ssims: list[float], number: int = 1) -> Trial:
    candidate = Candidate(ECDiffParams(3, 2, 0.3, s))
    rows = tuple(Measurement(one, 30.0 + i, 0.1) for i, one in enumerate(ssims))
    scorer = Scorer(latency, WEIGHTS, earliest_s=7)
    return scorer.trial(2, number, candidate.resolve(12, "aligned"), rows)


def test_the_interval_of_the_objective_is_that_of_its_prompts(latency: LatencyProfile) -> None:
    one = trial(latency, 9, [0.9, 0.7, 0.8, 0.95])
    scorer = Scorer(latency, WEIGHTS, earliest_s=7)
    assert one.score is not None
    alone = config_sections.objectives(one.score, [0.9, 0.7, 0.8, 0.95], WEIGHTS.w1)
    assert alone == pytest.approx(scorer.values(one))
    section = config_sections.score_section(one, WEIGHTS.w1, seed=0)
    assert section["objective_ci95"] == pytest.approx(interval95(alone, 0), abs=ROUNDED)
    assert section["quality_ci95"] == pytest.approx(interval95([0.9, 0.7, 0.8, 0.95], 0), abs=ROUNDED)
    assert section["psnr"] == 31.5
    prompts = CalibrationSet(("a", "b", "c", "d"), (0, 1, 2, 3))
    held = config_sections.heldout_section(one.score, one.measurements, prompts, WEIGHTS.w1, 0)
    assert {name: held[name] for name in ("quality_ci95", "objective_ci95", "objective", "psnr")} == {
        name: section[name] for name in ("quality_ci95", "objective_ci95", "objective", "psnr")
    }
    nothing = config_sections.heldout_section(None, one.measurements, prompts, WEIGHTS.w1, 0)
    assert nothing["objective_ci95"] is nothing["quality"] is None
    assert nothing["num_prompts"] == 4


def test_tied_configs_the_cheapest_first(latency: LatencyProfile) -> None:
    winner = trial(latency, 9, [0.90, 0.80])
    assert winner.score is not None
    # s = 12 takes 0.128 s, s = 9 0.142 s, s = 6 0.146 s. Where the mean objective is the winner's and single
    # prompts differ, it is tied.
    others = []
    for number, s in enumerate((6, 12), start=2):
        same = trial(latency, s, [0.0, 0.0])
        assert same.score is not None
        even = (winner.value - same.value) / WEIGHTS.w1
        others.append(trial(latency, s, [even + 0.3, even - 0.3], number))
    worse = trial(latency, 8, [0.1, 0.0])
    found = config_sections.tied_section(winner, [winner, *others, worse], WEIGHTS.w1, 0, lambda one: one)
    assert [(one["s"], one["seconds"]) for one in found] == [(12, 0.128), (6, 0.146)]
    assert found[0]["objective"] == pytest.approx(winner.value, abs=ROUNDED)
    (line,) = tied_line(found, winner.seconds)
    assert line == (
        "tied with the winner: p=3 k=2 alpha=0.3 s=12 (the cheapest, 0.13 s an image), p=3 k=2 alpha=0.3 s=6"
    )
    (line,) = tied_line(found, 0.1)
    assert line.startswith("tied with the winner, which is the cheapest: p=3 k=2 alpha=0.3 s=12, p=3")
    assert tied_line(found * 4, 0.1)[0].endswith("s=12 and 3 more")
    assert tied_line([], 0.1) == []


SCORE = {
    "quality": 0.9,
    "objective": 0.87,
    "quality_ci95": [0.89, 0.91],
    "objective_ci95": [0.85, 0.89],
    "seconds": 0.5,
}


@pytest.mark.parametrize(("held", "told"), [(0.80, True), (0.86, False), (None, False)])
def test_held_out_prompts_below_the_interval(held: float | None, told: bool) -> None:
    score = {**SCORE, "heldout": {"quality": 0.9, "objective": held, "num_prompts": 7}}
    pair = PairSpec("mine", ModelRef("a"), ModelRef("b"))
    lines = result_lines(TunedConfig(pair, ECDiffParams(7, 2, 0.3, 34), Sampling(), score), 100, 2.5)
    assert "quality 0.9000 (95% 0.8900 … 0.9100) on 100 prompts, 0.9000 on 7 held-out ones" in lines
    assert lines[-1].endswith("0.50 s an image (cloud only 2.50 s)")
    notes = [line for line in lines if line.startswith("note: ")]
    assert bool(notes) is told
    if told:
        assert (
            "0.8000, lies below the 95% interval of the prompts that were tuned on, 0.8500 … 0.8900"
            in notes[0]
        )


@pytest.mark.parametrize(("least", "told"), [(None, False), (0.9, False), (0.95, True)])
def test_a_quality_that_was_asked_for_is_held_against_the_held_out_one(
    least: float | None, told: bool
) -> None:
    score = {**SCORE, "quality": 0.96, "heldout": {"quality": 0.9, "objective": 0.87, "num_prompts": 7}}
    pair = PairSpec("mine", ModelRef("a"), ModelRef("b"))
    lines = result_lines(TunedConfig(pair, ECDiffParams(7, 2, 0.3, 34), Sampling(), score), 100, 2.5, least)
    assert any("is not kept (0.9000, wanted 0.95)" in line for line in lines) == told


def test_of_videos_it_is_told_that_they_are() -> None:
    score = {**SCORE, "seconds": 90.0}
    other = {"p": 7, "k": 2, "alpha": 0.3, "s": 31, "seconds": 80.0}
    pair, sampling = PairSpec("mine", ModelRef("a"), ModelRef("b")), Sampling(num_frames=49)
    config = TunedConfig(pair, ECDiffParams(7, 2, 0.3, 34), sampling, score, {"tied": [other]})
    lines = result_lines(config, 100, 250.0)
    assert lines[-1].endswith("90.00 s a video (cloud only 250.00 s)")
    assert lines[-2].endswith("(the cheapest, 80.00 s a video)")
