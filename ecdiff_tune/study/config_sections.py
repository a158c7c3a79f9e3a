"""The score and provenance sections of a YAML, from values alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ecdiff_tune.data.calibration import CalibrationSet, PromptSource
from ecdiff_tune.evaluation.latency import LatencyProfile
from ecdiff_tune.evaluation.ledger import Measurement
from ecdiff_tune.metrics.intervals import interval95, is_tied
from ecdiff_tune.metrics.score_format import KEPT_DIGITS
from ecdiff_tune.objective import Score, Trial
from ecdiff_tune.study.spec import StudySpec

DIGITS = KEPT_DIGITS


def ssims_of(measurements: Iterable[Measurement]) -> list[float]:
    """SSIM a prompt, where there is an image."""
    return [one.ssim for one in measurements if one.ssim is not None]


def objectives(score: Score, ssims: Sequence[float], w1: float) -> list[float]:
    """The objective of every prompt alone, whose mean is the score's: only quality varies with the prompt."""
    return [score.objective + w1 * (ssim - score.quality) for ssim in ssims]


def _measured(score: Score, measurements: Sequence[Measurement], w1: float, seed: int) -> dict[str, Any]:
    """Intervals and PSNR, over prompts."""
    ssims = ssims_of(measurements)
    psnrs = [one.psnr for one in measurements if one.psnr is not None]
    return {
        "quality_ci95": _rounded(interval95(ssims, seed)),
        "objective_ci95": _rounded(interval95(objectives(score, ssims, w1), seed)),
        "psnr": round(float(np.median(psnrs)), 2),
    }


def _rounded(values: Iterable[float]) -> list[float]:
    return [round(value, DIGITS) for value in values]


def score_section(trial: Trial, w1: float, seed: int, basis: str = "") -> dict[str, Any]:
    """``score`` of the YAML, without held-out prompts.

    Args:
        basis: of an early answer, which has no intervals.
    """
    assert trial.score is not None
    plan = trial.plan
    return {
        **({"basis": basis} if basis else {}),
        **{
            key: None if value is None else round(value, DIGITS) for key, value in asdict(trial.score).items()
        },
        **({} if basis else _measured(trial.score, trial.measurements, w1, seed)),
        "seconds": round(trial.seconds, 6),
        "calls": {"cloud": plan.cloud_calls, "approximated": plan.approximated, "edge": plan.edge_calls},
        "cloud_share": round(plan.cloud_share, DIGITS),
    }


def heldout_section(
    score: Score | None, measurements: Sequence[Measurement], prompts: CalibrationSet, w1: float, seed: int
) -> dict[str, Any]:
    """``score.heldout``, None where an image could not be made."""
    values = dict.fromkeys(("quality", "objective", "quality_ci95", "objective_ci95", "psnr"))
    if score is not None:
        values |= {"quality": round(score.quality, DIGITS), "objective": round(score.objective, DIGITS)}
        values |= _measured(score, measurements, w1, seed)
    return {**values, "num_prompts": len(prompts), "digest": prompts.digest}


def calibration_section(
    source: PromptSource, prompts: CalibrationSet, ended: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """``provenance.calibration``.

    Args:
        prompts: that were tuned on.
        ended: why and before how many, where a race has ended before all.
    """
    return {
        "file": source.file,
        "num_prompts": len(prompts),
        "digest": prompts.digest,
        "first_seed": prompts.seeds[0],
        **(ended or {}),
    }


def objective_section(spec: StudySpec) -> dict[str, Any]:
    """``provenance.objective``."""
    weights = asdict(spec.weights)
    if spec.weights.burden == "steps":  # the paper's goes without saying
        del weights["burden"]
    return {**weights, "earliest_s": spec.earliest_s}


def latency_section(source: str, profile: LatencyProfile) -> dict[str, Any]:
    """``provenance.latency``."""
    return {
        "source": source,
        "cloud_call_seconds": round(profile.cloud_call.median, 6),
        "edge_call_seconds": round(profile.edge_call.median, 6),
        "encode_seconds": round(profile.encode.median, 6),
        "decode_seconds": round(profile.decode.median, 6),
        "transfer_seconds": round(profile.transfer_seconds, 6),
        **({} if profile.link is None else {"link": str(profile.link)}),
        **({} if profile.sources is None else {"sources": dict(profile.sources)}),
        "cloud_call_spread": round(profile.cloud_call.spread, 3),
        "edge_call_spread": round(profile.edge_call.spread, 3),
        **({} if profile.conditions is None else asdict(profile.conditions)),
    }


def tied_section(
    winner: Trial, trials: Iterable[Trial], w1: float, seed: int, reported: Callable[[Trial], Trial]
) -> list[dict[str, Any]]:
    """``provenance.tied``: the configs whose objective these prompts cannot tell from the winner's.

    The cheapest comes first, by seconds an image and then by calls of the cloud model.

    Args:
        reported: a trial with the scores that are reported.
    """
    assert winner.score is not None
    best = objectives(winner.score, ssims_of(winner.measurements), w1)
    tied = [
        one
        for one in trials
        if one.score is not None
        and one.state == "complete"
        and one.candidate != winner.candidate
        and is_tied(best, objectives(one.score, ssims_of(one.measurements), w1), seed)
    ]
    tied.sort(key=lambda one: (one.seconds, one.plan.cloud_calls, -one.value))
    return [_named(reported(one)) for one in tied]


def _named(trial: Trial) -> dict[str, Any]:
    candidate = trial.candidate
    return {
        **candidate.params.tree(),
        "estimator": candidate.estimator,
        "handoff_adapter": candidate.handoff_adapter,
        **({} if candidate.handoff is None else {"handoff": candidate.handoff}),
        "objective": round(trial.value, DIGITS),
        "seconds": round(trial.seconds, 6),
    }
