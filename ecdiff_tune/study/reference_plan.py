"""Which plan makes a study's reference images, and what that changes.

Decided once and kept in the study's folder, so that a resumed study goes by the same images.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

from ecdiff_core.io.atomic_files import write_text
from ecdiff_tune.evaluation.candidate import ConfigKey
from ecdiff_tune.evaluation.ledger import Ledger
from ecdiff_tune.evaluation.placed_images import ReferencePlan
from ecdiff_tune.study import files
from ecdiff_tune.study.folder import StudyError


def kept(study: Path, decide: Callable[[], ReferencePlan | None]) -> ReferencePlan | None:
    """The plan that the study's file holds, or that is decided now and written there.

    Raises:
        StudyError: the file is damaged.
    """
    if is_decided(study):
        return read(study)
    plan = decide()
    tree = None if plan is None else vars(plan)
    write_text(study / files.REFERENCE_PLAN, json.dumps({"plan": tree}, indent=2) + "\n")
    return plan


def is_decided(study: Path) -> bool:
    """Whether the study has decided."""
    return (study / files.REFERENCE_PLAN).is_file()


def read(study: Path) -> ReferencePlan | None:
    """The plan; None where the cloud's own run makes all images.

    Raises:
        StudyError: the file is damaged.
    """
    if not is_decided(study):
        return None
    path = study / files.REFERENCE_PLAN
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))["plan"]
        return None if tree is None else ReferencePlan.of(tree)
    except (OSError, ValueError, TypeError, KeyError) as error:
        advice = "Delete it; the plan is placed again."
        raise StudyError(f"{path} is damaged.", key=str(path), advice=advice) from error


def bias(plan: ReferencePlan, ledger: Ledger) -> dict[str, Any] | None:
    """What placed images change, on the prompts that have both: None where there are none yet.

    Returns:
        ``quality``: mean over prompts of SSIM to placed images minus that to the cloud's own; ``difference``:
        by how much a config moves at most against the others on its prompts; of how many ``prompts`` and
        ``configs``.
    """
    moved: dict[ConfigKey, dict[str, float]] = {}
    for key in ledger.configs():
        own, near = ledger.read(key), ledger.read(key, plan.name)
        pairs = {name: (near[name].ssim, own[name].ssim) for name in own.keys() & near.keys()}
        known = {name: a - b for name, (a, b) in pairs.items() if a is not None and b is not None}
        if known:
            moved[key] = known
    if not moved:
        return None
    prompts = sorted({name for some in moved.values() for name in some})
    alike = {name: fmean(some[name] for some in moved.values() if name in some) for name in prompts}
    apart = [fmean(one - alike[name] for name, one in some.items()) for some in moved.values()]
    return {
        "quality": round(fmean(alike.values()), 6),
        "difference": round(max(map(abs, apart)), 6),
        "prompts": len(prompts),
        "configs": len(moved),
    }


def section(study: Path, ledger: Ledger) -> dict[str, Any] | None:
    """``provenance.reference`` of a YAML; None where the cloud's own run made all images.

    Raises:
        StudyError: the study's file is damaged.
    """
    plan = read(study)
    if plan is None:
        return None
    return {
        "full_runs": plan.full_runs,
        "placed_cloud_calls": len(plan.steps),
        "predicted_error": round(plan.predicted_error, 6),
        "bias": bias(plan, ledger),
    }


def describe(found: dict[str, Any]) -> str:
    """A ``section`` in one line."""
    moved = found["bias"]
    line = (
        f"reference: {found['placed_cloud_calls']} placed cloud calls on all but {found['full_runs']} prompts"
    )
    if moved is None:
        return line
    return (
        f"{line}; against their images quality is {moved['quality']:+.4f}, and configs move against one "
        f"another by at most {moved['difference']:.4f} ({moved['configs']} configs, "
        f"{moved['prompts']} prompts with both)"
    )
