"""What a trial of the Optuna study records at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple
from pathlib import Path

import optuna
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna.trial import FrozenTrial, TrialState

from ecdiff_tune.evaluation.ledger import Measurement
from ecdiff_tune.search.options import OptunaOptions
from ecdiff_tune.search.optuna_workers import BEAT

MEASUREMENTS = "measurements"
"""The user attribute that says what was measured: (ssim, psnr, seconds) of each prompt."""


def note(trial: optuna.Trial, **attributes: object) -> None:
    """Set user attributes."""
    for name, value in attributes.items():
        trial.set_user_attr(name, value)


def tell(
    study: optuna.Study,
    trial: optuna.Trial,
    options: OptunaOptions,
    values: Mapping[str, float | None],
    means: Mapping[int, float],
) -> None:
    """End a trial: limits, intermediate values, user attributes, then its values.

    Without any score it is pruned, which samplers take for the worst of all.

    Args:
        values: by the names of ``OBJECTIVES``, and what else is worth noting; without a score neither quality
            nor the rest of eq. 12.
        means: objective by number of prompts, at the rungs.
    """
    note(trial, **values)
    if options.max_seconds is not None:
        trial.set_constraint("max_seconds", float(values["seconds"] or 0.0) - options.max_seconds)
    if "quality" not in values:
        study.tell(trial, state=TrialState.PRUNED)
        return
    if options.min_quality is not None:
        trial.set_constraint("min_quality", options.min_quality - float(values["quality"] or 0.0))
    if len(options.objectives) == 1:
        for prompts, mean in means.items():
            trial.report(mean, prompts)
    study.tell(trial, [float(values[name] or 0.0) for name in options.objectives])


def note_measurements(trial: optuna.Trial, measured: Sequence[Measurement]) -> None:
    """Record what was measured, for the other workers."""
    note(trial, **{MEASUREMENTS: [astuple(one) for one in measured]})


def noted_measurements(known: FrozenTrial) -> list[Measurement]:
    """What ``note_measurements`` recorded."""
    return [Measurement(*one) for one in known.user_attrs.get(MEASUREMENTS, ())]


def why_pruned(known: FrozenTrial) -> str:
    """Why a trial was pruned; empty where it was not. Journals that are older say ``discarded``."""
    return str(known.user_attrs.get("pruned", known.user_attrs.get("discarded", "")))


def show(trial: optuna.Trial, image: Path, artifacts: str) -> None:
    """Attach an image, which optuna-dashboard shows (``--artifact-dir``)."""
    Path(artifacts).mkdir(parents=True, exist_ok=True)
    store = FileSystemArtifactStore(artifacts)
    upload_artifact(artifact_store=store, file_path=str(image), study_or_trial=trial)


def repeat(study: optuna.Study, trial: optuna.Trial, known: FrozenTrial) -> None:
    """End a trial as an earlier one of the same config ended."""
    own = ("worker", BEAT, MEASUREMENTS)
    attributes = {name: value for name, value in known.user_attrs.items() if name not in own}
    note(trial, **attributes, same_as=known.number)
    for name, value in known.constraints.items():
        trial.set_constraint(name, value)
    if known.state == TrialState.COMPLETE:
        study.tell(trial, known.values)
    else:
        study.tell(trial, state=known.state)
