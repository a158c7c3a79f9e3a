"""What a winning trial becomes: a YAML with scores and provenance."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from importlib.metadata import version
from typing import Any

from ecdiff_core.config import TunedConfig
from ecdiff_core.models.devices import device_name
from ecdiff_tune.objective import Trial
from ecdiff_tune.study import config_sections
from ecdiff_tune.study.spec import StudySpec
from ecdiff_tune.study.workbench import Workbench


def config_of_winner(bench: Workbench, trial: Trial, trials: Iterable[Trial] = ()) -> TunedConfig:
    """The YAML of a winner, without held-out scores; ``trials`` are those that it won against."""
    spec, pipe = bench.spec, bench.pipe
    w1, seed = spec.weights.w1, spec.seed
    provenance = {
        "study": spec.name,
        "search": spec.search,
        "extend": spec.extend,
        "k_and_alpha": _source_of_k_and_alpha(spec, trial),
        "created": bench.created,
        "calibration": config_sections.calibration_section(spec.prompts, bench.prompts),
        "objective": config_sections.objective_section(spec),
        "latency": config_sections.latency_section(spec.latency, bench.latency),
        "device": device_name(bench.pipe.device),
        "versions": {name: version(name) for name in ("ecdiff", "torch", "diffusers", "transformers")},
        "tied": config_sections.tied_section(trial, trials, w1, seed),
    }
    candidate = trial.candidate
    adapter = pipe.sampling.handoff_adapter if trial.stage == 1 else candidate.handoff_adapter
    sampling = replace(pipe.sampling, estimator=candidate.estimator, handoff_adapter=adapter)
    score = config_sections.score_section(trial, w1, seed)
    return TunedConfig(pipe.pair.spec, candidate.params, sampling, score, provenance, pipe.scheduler_config)


def _source_of_k_and_alpha(spec: StudySpec, trial: Trial) -> str:
    if spec.by_hand:
        return "by hand"
    return "joint search" if trial.stage == "joint" else "stage 1"


def heldout_scores(bench: Workbench, winner: Trial) -> dict[str, Any]:
    """The winner's scores on the held-out set, None where a picture could not be made."""
    evaluator = bench.heldout_evaluator()
    known = len(bench.heldout) - evaluator.missing([winner.candidate])
    bench.progress.start_task("winner on held-out prompts", len(bench.heldout), known)
    (measured,) = evaluator.measure([winner.candidate], bench.progress.prompts_done)
    score = bench.scorer().score(winner.plan, tuple(measured), with_burden=True)
    bench.progress.end_stage()
    return config_sections.heldout_section(
        score, measured, bench.heldout, bench.spec.weights.w1, bench.spec.seed
    )
