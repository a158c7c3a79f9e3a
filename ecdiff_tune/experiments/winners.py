"""The configs that a comparison is about: the study's own, the paper's, another study's."""

from __future__ import annotations

from pathlib import Path

from ecdiff_core.config import TunedConfig
from ecdiff_tune.study import files
from ecdiff_tune.study.folder import StudyError


def config_of_study(folder: Path, heldout: int) -> TunedConfig:
    """The ecdiff.yaml of the study in a folder, which has so many held-out prompts.

    Raises:
        StudyError: it is not there, or there are no held-out prompts to measure it on.
    """
    path = folder / files.CONFIG
    if not path.is_file():
        line = f"{path} is not there: run tune or stage2 with the same pair= and study= first."
        raise StudyError(line, key=str(path))
    config = TunedConfig.load(path)
    if config.basis:
        line = f"{path} is an early answer ({config.basis}): run tune to its end first."
        raise StudyError(line, key=str(path), got=config.basis)
    if heldout < 1:
        raise StudyError(
            f"The study in {folder} has no held-out prompts to measure on (heldout.num_prompts=0): "
            "tune another study=NAME with some.",
            key="heldout.num_prompts",
            got=heldout,
            expected=">= 1",
        )
    return config


def schedule_config(name: str | None, folder: Path, tuned: TunedConfig) -> TunedConfig | None:
    """What ``compare.schedule`` names: a study beside the one in ``folder``, or a YAML file.

    None where it names none.

    Raises:
        StudyError: it is not there, or of another pair, number of steps or scheduler.
    """
    if name is None:
        return None
    path = folder.parent / name / files.CONFIG
    if name.endswith((".yaml", ".yml")):
        path = Path(name).expanduser()
    if not path.is_file():
        line = f"compare.schedule={name}: {path} is not there."
        advice = "Give a study of this pair, or a YAML."
        raise StudyError(line, key="compare.schedule", got=name, advice=advice)
    config = TunedConfig.load(path)
    for what, mine, other in (
        ("cloud weights", tuned.pair.cloud.fingerprint, config.pair.cloud.fingerprint),
        ("edge weights", tuned.pair.edge.fingerprint, config.pair.edge.fingerprint),
        ("scheduler", tuned.sampling.scheduler, config.sampling.scheduler),
        ("num_inference_steps", tuned.sampling.num_inference_steps, config.sampling.num_inference_steps),
    ):
        if mine != other and None not in (mine, other):
            raise StudyError(
                f"compare.schedule={name} does not fit this study: expected {what} {mine}, got {other}.",
                key="compare.schedule",
                got={what: other},
                expected=str(mine),
            )
    return config
