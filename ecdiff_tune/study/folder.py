"""A study's folder: which settings it belongs to, and who is working in it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Set
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ecdiff_core.config import PairSpec
from ecdiff_core.errors import ECDiffError
from ecdiff_core.io.atomic_files import write_text
from ecdiff_tune.study import files
from ecdiff_tune.study.renamed import WITHOUT, present_settings
from ecdiff_tune.study.spec import StudySpec

_FREE_TO_CHANGE = {
    "resume",
    "output_dir",
    "study",
    "batch_size",
    "offload",
    "vae_slicing",
    "sharing",
    "sharing_gib",
    "tracking",
    "params.k",
    "params.alpha",
    "link.token_file",
    "search.trials",
    "search.artifacts",
    "search.extend",
    "search.front",
    "search.cloud_calls",
    "params.schedule",
    "params.edge_k",
    "params.residual",
    "params.edge_schedule",
    "heldout.fewer_steps",
    "rerank.latency",
    "rerank.min_quality",
    "rerank.max_seconds",
    "pareto.pick",
    "pareto.quality",
    "pareto.seconds",
    "compare.methods",
    "compare.schedule",
    "compare.timed_prompts",
    "compare.seconds",
    "compare.time_again",
    "ablate.num_prompts",
    "errors.num_prompts",
    "errors.noise",
    "errors.config",
    "transfer.config",
    "transfer.tolerance",
    "metrics.names",
    "metrics.lpips_net",
    "metrics.lpips_weights",
    "metrics.clip",
    "method",
    "acceleration.values",
    "export.to",
    "export.config",
    "acceleration.min_quality",
    "acceleration.min_worst",
    "acceleration.timed_prompts",
}
"""Settings that do not change what is measured, but for rounding (these of params are stage2's alone)."""
PLACES = {
    "weights.lora",
    *(f"weights.cloud.parts.{part}" for part in ("vae", "text_encoder", "text_encoder_2", "text_encoder_3")),
    *(
        f"weights.{side}.{key}"
        for side in ("cloud", "edge")
        for key in ("id", "variant", "subfolder", "config", "tensors")
    ),
}
"""Kept, not compared: the fingerprints tell the weights, and older studies hold relative folders."""
_DECISIONS = {"search.rungs", "search.error_rate", "search.margin"}
"""Kept, and compared for searches that always went by them: a walk's older studies have others."""


class StudyError(ECDiffError):
    """The study's folder cannot be used with these settings."""


class BusyStudyError(StudyError):
    """Another process works in the folder."""


class StudyFolder:
    """``outputs/<pair>/<study>/``, locked for one process; a context manager.

    Raises:
        StudyError: another process works in it, it cannot be written, or it belongs to other settings.
    """

    def __init__(self, spec: StudySpec) -> None:
        self.path, self.spec = spec.path, spec
        self.set_aside: Path | None = None  # where an earlier study was moved
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self.path / ".lock")
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise BusyStudyError(
                f"Another process works on {self.path}.",
                key=str(self.path),
                advice="Wait for it, or choose another study=NAME.",
            ) from error
        except OSError as error:
            line = f"Cannot write to {self.path}: {error.strerror}."
            advice = "Set output_dir to a writable folder."
            raise StudyError(line, key=str(self.path), advice=advice) from error

    @classmethod
    def of_worker(cls, spec: StudySpec) -> StudyFolder:
        """The first free one of STUDY, STUDY-2, …: workers of an Optuna study have one each."""
        mine, number = spec, 1
        while True:
            try:
                return cls(mine)
            except BusyStudyError:
                number += 1
                mine = spec.of_worker(number)

    def __enter__(self) -> StudyFolder:
        return self

    def __exit__(self, *_: object) -> None:
        if [path.name for path in self.path.iterdir()] == [".lock"]:  # the command failed before it began
            # Before the release: afterwards the file may be another's lock. Who gets this one sees that it is
            # no longer there.
            with suppress(OSError):
                (self.path / ".lock").unlink()
                self.path.rmdir()
        self._lock.release()

    def claim(self, pair: PairSpec, prompts_digest: str, device: str) -> str:
        """Bind the folder to these settings, weights, prompts and device; the date when it was first bound.

        A setting that the study does not know yet had its default when the study was made.

        The first command that searches binds it to its search. With ``resume=false`` files of an earlier
        study are moved to a subfolder ``old-<date>`` first.
        """
        found: dict[str, Any] = {"weights": pair.tree(), "prompts_digest": prompts_digest, "device": device}
        sides = {"cloud": pair.cloud, "edge": pair.edge}
        found["in_memory"] = {side: ref.identity for side, ref in sides.items() if ref.fingerprint is None}
        state_path = self.path / files.STATE
        if not self.spec.resume:
            self._set_aside()
        state = read_state(state_path) if state_path.is_file() else None
        bound_to = {} if state is None or "search.name" not in state["settings"] else state["settings"]
        self.spec = self.spec.with_reference(bound_to.get("reference"))
        fingerprint = {**self.spec.settings, **flat(found)}
        fingerprint = {key: value for key, value in fingerprint.items() if not _is_free(key)}
        if not self.spec.searches:
            fingerprint = _without_search(fingerprint)
        created = datetime.now(UTC).isoformat(timespec="seconds")
        if state is not None:
            created, own = state["created"], state["settings"]
            known = {**self.spec.defaults, **own}
            if bound := "search.name" in own and self.spec.searches:
                free = frozenset() if self.spec.kind.prunes else _DECISIONS
                _refuse_differences(self.path, known, fingerprint, free)
            else:
                _refuse_differences(self.path, _without_search(known), _without_search(fingerprint))
            if bound or not self.spec.searches:
                return created
        write_text(state_path, json.dumps({"created": created, "settings": fingerprint}, indent=2) + "\n")
        return created

    def _set_aside(self) -> None:
        found = [p for p in self.path.iterdir() if p.name != ".lock" and not p.name.startswith("old-")]
        if not found:
            return
        target = self.path / f"old-{datetime.now(UTC):%Y-%m-%d_%H-%M-%S_%f}"
        target.mkdir()
        for path in found:
            path.rename(target / path.name)
        self.set_aside = target


def read_state(path: Path) -> dict[str, Any]:
    """study.json: when the study was ``created``, and its ``settings``, flat.

    Raises:
        StudyError: it is damaged.
    """
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        settings = {**WITHOUT, **present_settings(state["settings"])}
        return {"created": str(state["created"]), "settings": settings}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        advice = "Set resume=false to start the study anew."
        raise StudyError(f"{path} is damaged.", key=str(path), advice=advice) from error


def _is_free(key: str) -> bool:
    """Whether a flat setting may change: by its own name, or as a part of one that is a mapping."""
    return key in _FREE_TO_CHANGE or key.startswith("acceleration.values.")


def _without_search(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Flat settings but for those of how is searched, and against what."""
    return {key: value for key, value in settings.items() if not key.startswith(("search.", "reference"))}


def _refuse_differences(
    path: Path, old: Mapping[str, Any], new: Mapping[str, Any], free: Set[str] = frozenset()
) -> None:
    if old.get("search.name") != new.get("search.name"):  # whose other settings differ by themselves
        names = ({"search.name": one.get("search.name")} for one in (old, new))
        old, new = ({**_without_search(one), **name} for one, name in zip((old, new), names, strict=True))
    ours, theirs = (
        {key: value for key, value in one.items() if not _is_free(key) and key not in PLACES | free}
        for one in (old, new)
    )
    found = differences(ours, theirs)
    if found:
        raise StudyError(
            f"The study in {path} has other settings ({'; '.join(found)}).",
            key=str(path),
            got=found,
            advice="Leave them as they were, or tune with another study=NAME, or resume=false to set this "
            "one aside.",
        )


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """In words, what two flat sets of settings differ in; what one lacks counts as null.

    >>> differences({"seed": 0, "objective.w1": 0.3}, {"seed": 0, "objective.w1": 0.5})
    ['objective.w1 0.3 -> 0.5']
    """
    return [
        f"{key} {json.dumps(old.get(key))} -> {json.dumps(new.get(key))}"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key)
    ]


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots; tuples as lists, as JSON has them."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = json.loads(json.dumps(value))
    return found
