"""What a study measured, read back without a model: every config of its ledger, scored anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

from ecdiff_core.config import TunedConfig
from ecdiff_core.io.text import counted
from ecdiff_tune.data import calibration
from ecdiff_tune.data.calibration import CalibrationSet
from ecdiff_tune.evaluation.candidate import PlannedCandidate
from ecdiff_tune.evaluation.config_of_key import config_of_key
from ecdiff_tune.evaluation.latency import LatencyError, LatencyProfile, check_payload
from ecdiff_tune.evaluation.ledger import Ledger, Measurement
from ecdiff_tune.evaluation.link import Link
from ecdiff_tune.objective import Scorer, Trial
from ecdiff_tune.search.options import LEAST_PROMPTS
from ecdiff_tune.study import files, reference_plan
from ecdiff_tune.study import left_out as unusable
from ecdiff_tune.study.config_sections import ssims_of
from ecdiff_tune.study.folder import StudyError, read_state
from ecdiff_tune.study.spec import StudySpec


@dataclass(frozen=True)
class Recorded:
    """What a study's folder holds.

    Args:
        spec: its own, but for what may be chosen anew.
        state: study.json's settings, flat.
        prompts, heldout: as it was measured on.
        trials: every config that has a finite image of every calibration prompt, the best first; of equal
            ones the faster, then the one of higher quality.
        partly: the configs that were measured on ``LEAST_PROMPTS`` of them or more, not on all; their SSIMs
            are moved by what the best of the trials has on all prompts more than on theirs.
        partly_rows: of these, as they were measured.
        heldout_rows: of the configs that were measured on all held-out prompts.
        notes: lines about how the trials came about.
        reference: ``provenance.reference`` of their YAMLs.
    """

    spec: StudySpec
    created: str
    state: Mapping[str, Any]
    prompts: CalibrationSet
    heldout: CalibrationSet
    latency: LatencyProfile
    scorer: Scorer
    trials: tuple[Trial, ...]
    partly: tuple[Trial, ...]
    partly_rows: Mapping[PlannedCandidate, tuple[Measurement, ...]]
    heldout_rows: Mapping[PlannedCandidate, tuple[Measurement, ...]]
    notes: tuple[str, ...]
    reference: Mapping[str, Any] | None = None

    def as_measured(self, trial: Trial) -> Trial:
        """One of ``partly`` by its own rows alone; any other is as it is."""
        rows = self.partly_rows.get(trial.config)
        return trial if rows is None else self.scorer.trial(trial.stage, trial.number, trial.config, rows)

    @property
    def path(self) -> Path:
        """The study's folder."""
        return self.spec.path


def load(spec: StudySpec) -> Recorded:
    """Read a study's folder.

    Args:
        spec: restored from the study.

    Raises:
        ECDiffError: a file is missing or damaged, the prompts are not the study's, or another link is wanted
            and the payload is not known.
    """
    path = spec.path
    notes: list[str] = []
    state = read_state(path / files.STATE)
    study = state["settings"]
    prompts, heldout = calibration.load(spec.prompts)
    if prompts.digest != study.get("prompts_digest"):
        line = f"The calibration prompts are no longer those that {path} was measured on."
        raise StudyError(
            line, key="calibration", got=prompts.digest, expected=str(study.get("prompts_digest"))
        )
    why = unusable.read(path)
    prompts, heldout = unusable.comparable(prompts, why), unusable.comparable(heldout, why)
    prompts = prompts.first(unusable.raced(path) or len(prompts))
    latency = latency_profile(spec, study)
    if latency.link is not None:
        spec = replace(spec, link=latency.link.link)
    if spec.timed:
        notes.append("note: the study's trials were timed; here all seconds follow from its latency profile.")
    scorer = Scorer.of(latency, spec.weights, spec.earliest_s, None)
    known, reference = _read_ledger(spec)
    trials = _scored(scorer, _on_all(known, prompts))
    if not trials:
        line = f"{path} has no config with images of all {len(prompts)} prompts yet."
        raise StudyError(line, key=str(path), got=0, expected=str(len(prompts)))
    left_out = sum(not rows.keys().isdisjoint(prompts.keys) for rows in known.values()) - len(trials)
    notes.append(
        f"configs measured on all of {counted(len(prompts), 'prompt')}: {len(trials)}"
        + (f" (beside them {left_out} measured on fewer, or without finite images)" if left_out else "")
    )
    trials, left_out_notes = _within_limits(trials, spec)
    notes += left_out_notes
    trials.sort(key=_rank)
    some = _on_some(known, prompts)
    partly = _scored(scorer, _as_of_all(some, trials[0], prompts))
    if trials[0].keeps(*_limits(spec)):
        partly = [one for one in partly if one.keeps(*_limits(spec))]
    partly.sort(key=_rank)
    heldout_rows = _on_all(known, heldout) if len(heldout) else {}
    return Recorded(
        spec,
        state["created"],
        study,
        prompts,
        heldout,
        latency,
        scorer,
        tuple(trials),
        tuple(partly),
        {config: tuple(rows.values()) for config, rows in some.items()},
        heldout_rows,
        tuple(notes),
        reference,
    )


def _on_all(
    known: Mapping[PlannedCandidate, Mapping[str, Measurement]], prompts: CalibrationSet
) -> dict[PlannedCandidate, tuple[Measurement, ...]]:
    """The rows of those that were measured on every prompt, in the order of the prompts."""
    names = prompts.keys
    return {
        config: tuple(rows[name] for name in names)
        for config, rows in known.items()
        if all(name in rows for name in names)
    }


def _on_some(
    known: Mapping[PlannedCandidate, Mapping[str, Measurement]], prompts: CalibrationSet
) -> dict[PlannedCandidate, dict[str, Measurement]]:
    """The rows by prompt, in the order of the prompts, of those that have enough of them, not all."""
    names = prompts.keys
    found = {one: {name: rows[name] for name in names if name in rows} for one, rows in known.items()}
    return {config: rows for config, rows in found.items() if LEAST_PROMPTS <= len(rows) < len(prompts)}


def _as_of_all(
    some: Mapping[PlannedCandidate, Mapping[str, Measurement]], best: Trial, prompts: CalibrationSet
) -> dict[PlannedCandidate, tuple[Measurement, ...]]:
    """The rows, moved by how much harder all prompts are than theirs for the best config, which has all."""
    of_best = dict(zip(prompts.keys, ssims_of(best.measurements), strict=True))
    on_all = fmean(of_best.values())

    def moved(rows: Mapping[str, Measurement]) -> tuple[Measurement, ...]:
        shift = on_all - fmean(of_best[name] for name in rows)
        return tuple(
            row if row.ssim is None else replace(row, ssim=min(1.0, row.ssim + shift))
            for row in rows.values()
        )

    return {config: moved(rows) for config, rows in some.items()}


def _rank(trial: Trial) -> tuple[float, float, float]:
    return -trial.value, trial.seconds, -trial.quality


def _scored(scorer: Scorer, rows: Mapping[PlannedCandidate, tuple[Measurement, ...]]) -> list[Trial]:
    """Those that have finite images."""
    trials = (scorer.trial("joint", 0, config, some) for config, some in rows.items())
    return [one for one in trials if one.score]


def _limits(spec: StudySpec) -> tuple[float | None, float | None]:
    """The quality and the seconds that the study's search asks for, where ``rerank`` sets no others."""
    search, instead = spec.options.optuna, spec.rescoring
    return (
        search.min_quality if instead.min_quality is None else None,
        search.max_seconds if instead.max_seconds is None else None,
    )


def _within_limits(trials: list[Trial], spec: StudySpec) -> tuple[list[Trial], list[str]]:
    """Those that keep the limits of the study's search, where ``rerank`` sets no others; all if none does.

    Returns:
        With notes about the others.
    """
    quality, seconds = _limits(spec)
    kept = [one for one in trials if one.keeps(quality, seconds)]
    limits = " and ".join(
        f"search.{name}={limit:g}"
        for name, limit in (("min_quality", quality), ("max_seconds", seconds))
        if limit is not None
    )
    if not kept:
        return trials, [f"note: none keeps {limits}, as the study's search wanted; all are taken"]
    if len(kept) == len(trials):
        return trials, []
    return kept, [
        f"{len(trials) - len(kept)} of them do not keep {limits} of the study's search and "
        "are left out; rerank.min_quality= and rerank.max_seconds= set other limits"
    ]


def own_configs(folder: Path) -> list[TunedConfig]:
    """What the study's own search found so far, the end of it first."""
    paths = [folder / name for name in (files.CONFIG, files.STAGE1)]
    return [TunedConfig.load(path) for path in paths if path.is_file()]


def _read_ledger(
    spec: StudySpec,
) -> tuple[dict[PlannedCandidate, dict[str, Measurement]], Mapping[str, Any] | None]:
    """Every config's rows by prompt key, the study's own winners by the names that their files give them; and
    ``provenance.reference``.

    A row against the cloud's own run goes before one against a placed plan's image.
    """
    path = spec.path / files.LEDGER
    if not path.is_file():
        raise StudyError(f"{path} is not there: the study has measured nothing yet.", key=str(path))
    own = {one.key: one for one in map(PlannedCandidate.of_config, own_configs(spec.path))}
    ledger = Ledger(path, spec.sampling.handoff_adapter)
    try:
        configs = [own.get(key) or config_of_key(key, spec.sampling) for key in ledger.configs()]
        plan = reference_plan.read(spec.path)
        plans = [""] if plan is None else [plan.name, ""]
        known: dict[PlannedCandidate, dict[str, Measurement]] = {
            one: {} for one in configs if one is not None
        }
        for config, plan_name in product(known, plans):
            known[config] |= ledger.read(config.key, plan_name)
        return known, reference_plan.section(spec.path, ledger)
    finally:
        ledger.close()


def latency_profile(spec: StudySpec, study: Mapping[str, Any]) -> LatencyProfile:
    """The study's profile, or another machine's, with the transfer over the link of ``spec``.

    Args:
        study: the settings that the study was measured with, flat.

    Raises:
        LatencyError: a file cannot be read, the two are of different pairs, or the payload is not known.
    """
    path = spec.path / files.LATENCY
    own = LatencyProfile.load(path)
    old_link = Link(
        study.get("link.mbps"), study.get("link.round_trip_seconds") or 0.0, study.get("link.url")
    )
    payload = own.payload_values or old_link.values_sent(own.transfer_seconds)
    other = None
    if spec.rescoring.latency is not None:
        other = LatencyProfile.load(spec.rescoring.latency)
        check_payload(other, payload, str(spec.rescoring.latency))
        payload = payload or other.payload_values
    link = spec.link
    profile = replace(other or own, payload_values=payload, tensor_values=own.tensor_values)
    own_links = (old_link, None if own.link is None else own.link.link)
    if link not in own_links and link.url is not None:
        raise LatencyError(
            f"This command measures nothing, and {path} is of another link than {link.url}.",
            key="link.url",
            got=link.url,
            advice="Leave link.url as it was, or tune another study=NAME with it.",
        )
    if link in own_links:  # what the study itself was scored with
        return replace(
            profile,
            transfer_seconds=own.transfer_seconds,
            tensor_seconds=own.tensor_seconds,
            crossing_seconds=own.crossing_seconds,
            link=own.link,
        )
    if link.mbps is not None and payload is None:
        raise LatencyError(
            f"{path} does not say how many values a handoff carries (it is older than that), so another "
            "link cannot be reckoned with.",
            key=str(path),
            advice="Delete it and run reference: it is measured again.",
        )
    return profile.over(link)
