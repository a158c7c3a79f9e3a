"""Which prompts a study leaves out, kept in its folder for what reads it without its references: those with
images that nothing can be compared with, and those that a race did not come to (``calibration.until``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from ecdiff_core.io.atomic_files import write_text
from ecdiff_tune.data.calibration import CalibrationSet
from ecdiff_tune.evaluation.image_faults import FAULTS
from ecdiff_tune.study import files
from ecdiff_tune.study.folder import StudyError


def read(study: Path) -> dict[str, str]:
    """Why a prompt is left out, by key; empty where none is.

    Raises:
        StudyError: the file that says so is damaged.
    """
    path = study / files.LEFT_OUT
    if not path.is_file():
        return {}
    try:
        return {str(key): str(why) for key, why in json.loads(path.read_text(encoding="utf-8")).items()}
    except (ValueError, AttributeError) as error:
        advice = "Delete it; `reference` with the study's settings writes it again."
        raise StudyError(f"{path} is damaged.", key=str(path), advice=advice) from error


def add(study: Path, prompts: CalibrationSet, faulty: Mapping[int, tuple[str, int]]) -> None:
    """Keep which prompts are left out, beside those that were before.

    Args:
        study: the study's folder.
        faulty: whose image has which fault, by the prompt's index.
    """
    found = {prompts.keys[row]: FAULTS[number] for row, (_, number) in faulty.items()}
    known = read(study)
    if found.keys() - known.keys():
        write_text(study / files.LEFT_OUT, json.dumps(known | found, indent=2) + "\n")


def end_race(study: Path, prompts: int | None) -> None:
    """Keep on how many prompts a race has ended that might end before all; None where it did not."""
    if prompts is None:
        (study / files.RACED).unlink(missing_ok=True)
    else:
        write_text(study / files.RACED, json.dumps({"prompts": prompts}) + "\n")


def raced(study: Path) -> int | None:
    """On how many prompts the race has ended; None where it has not, or could not end before all.

    Raises:
        StudyError: the file that says so is damaged.
    """
    path = study / files.RACED
    if not path.is_file():
        return None
    try:
        return int(json.loads(path.read_text(encoding="utf-8"))["prompts"])
    except (ValueError, TypeError, KeyError) as error:
        advice = "Delete it; `tune` with the study's settings writes it again."
        raise StudyError(f"{path} is damaged.", key=str(path), advice=advice) from error


def comparable(prompts: CalibrationSet, why: Mapping[str, str]) -> CalibrationSet:
    """The prompts without those that are left out."""
    return prompts.without([row for row, key in enumerate(prompts.keys) if key in why])
