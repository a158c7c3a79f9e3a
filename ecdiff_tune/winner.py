"""What a winning trial becomes: the score and provenance sections of its YAML."""

from __future__ import annotations

from dataclasses import asdict, replace
from importlib.metadata import version
from typing import Any

import numpy as np

from ecdiff_core.devices import device_name
from ecdiff_core.tuned_config import TunedConfig
from ecdiff_tune.settings import Settings
from ecdiff_tune.study import Trial
from ecdiff_tune.workbench import Workbench

BOOTSTRAP_RESAMPLES = 2000


def _quality_interval(ssims: list[float], seed: int) -> list[float]:
    """Bootstrap 95% interval of the mean over prompts."""
    values = np.asarray(ssims)
    draws = np.random.default_rng(seed).integers(len(values), size=(BOOTSTRAP_RESAMPLES, len(values)))
    return [round(float(q), 6) for q in np.quantile(values[draws].mean(axis=1), [0.025, 0.975])]


def _scores(bench: Workbench, trial: Trial) -> dict[str, Any]:
    """The score section of the YAML."""
    assert trial.score is not None
    ssims = [one.ssim for one in trial.measurements if one.ssim is not None]
    psnrs = [one.psnr for one in trial.measurements if one.psnr is not None]
    scores: dict[str, Any] = {
        key: None if value is None else round(value, 6) for key, value in asdict(trial.score).items()
    }
    plan = trial.plan
    return {
        **scores,
        "quality_ci95": _quality_interval(ssims, bench.settings.seed),
        "psnr": round(float(np.median(psnrs)), 3),
        "seconds": round(trial.seconds, 6),
        "calls": {"cloud": plan.cloud_calls, "approximated": plan.approximated, "edge": plan.edge_calls},
    }


def tuned_config(bench: Workbench, trial: Trial) -> TunedConfig:
    """The YAML of a winner, without held-out scores."""
    settings, pipe = bench.settings, bench.pipe
    latency = bench.latency
    provenance = {
        "study": settings.study,
        "search": settings.search.name,
        "k_and_alpha": _source_of_k_and_alpha(settings, trial),
        "created": bench.created,
        "calibration": {
            "file": settings.calibration.file,
            "num_prompts": len(bench.prompts),
            "digest": bench.prompts.digest,
            "first_seed": bench.prompts.seeds[0],
        },
        "objective": {**asdict(settings.objective), "earliest_s": settings.earliest_s},
        "latency": {
            "source": settings.latency,
            "cloud_call_seconds": round(latency.cloud_call.median, 6),
            "edge_call_seconds": round(latency.edge_call.median, 6),
            "encode_seconds": round(latency.encode.median, 6),
            "decode_seconds": round(latency.decode.median, 6),
            "transfer_seconds": round(latency.transfer_seconds, 6),
        },
        "device": device_name(bench.pipe.device),
        "versions": {name: version(name) for name in ("ecdiff", "torch", "diffusers", "transformers")},
    }
    candidate = trial.candidate
    adapter = pipe.sampling.handoff_adapter if trial.stage == 1 else candidate.handoff_adapter
    sampling = replace(pipe.sampling, estimator=candidate.estimator, handoff_adapter=adapter)
    return TunedConfig(pipe.pair.spec, candidate.params, sampling, _scores(bench, trial), provenance)


def _source_of_k_and_alpha(settings: Settings, trial: Trial) -> str:
    if settings.params.alpha is not None:
        return "by hand"
    return "joint search" if trial.stage == "joint" else "stage 1"


def heldout_scores(bench: Workbench, winner: Trial) -> dict[str, Any]:
    """The winner's scores on the held-out set, None where a picture could not be made."""
    evaluator = bench.heldout_evaluator()
    bench.progress.start_task("winner on held-out prompts", len(bench.heldout))
    (measured,) = evaluator.measure([winner.candidate], bench.progress.prompts_done)
    found = tuple(measured)
    ssims = [one.ssim for one in found if one.ssim is not None]
    psnrs = [one.psnr for one in found if one.psnr is not None]
    score = bench.scorer().score(winner.plan, found, with_burden=True)
    bench.progress.end_stage()
    return {
        "quality": round(score.quality, 6) if score else None,
        "objective": round(score.objective, 6) if score else None,
        "quality_ci95": _quality_interval(ssims, bench.settings.seed) if score else None,
        "psnr": round(float(np.median(psnrs)), 3) if score else None,
        "num_prompts": len(bench.heldout),
        "digest": bench.heldout.digest,
    }
