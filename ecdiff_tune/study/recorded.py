"""What a study measured, read back without a model: every config of its ledger, scored anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any, cast

from ecdiff_core.errors import ParamsError
from ecdiff_core.link import Link
from ecdiff_core.params import ECDiffParams
from ecdiff_core.plan import Action, HandoffAdapter, Plan
from ecdiff_core.text import counted
from ecdiff_core.tuned_config import TunedConfig
from ecdiff_tune import calibration, files
from ecdiff_tune.calibration import CalibrationSet
from ecdiff_tune.candidate import Candidate, ConfigKey
from ecdiff_tune.latency import LatencyError, LatencyProfile
from ecdiff_tune.ledger import Ledger, Measurement
from ecdiff_tune.objective import Weights
from ecdiff_tune.settings import Settings
from ecdiff_tune.study.folder import StudyError, read_state
from ecdiff_tune.study.loop import Scorer, Trial


@dataclass(frozen=True)
class Recorded:
    """A study as its folder tells it.

    Args:
        settings: its own, but for what may be chosen anew.
        state: study.json's settings, flat.
        prompts, heldout: as it was measured on.
        trials: every config that has a finite picture of every calibration prompt, the best first; of equal
            ones the faster, then the one of higher quality.
        heldout_rows: of the configs that were measured on all held-out prompts.
    """

    settings: Settings
    path: Path
    created: str
    state: Mapping[str, Any]
    prompts: CalibrationSet
    heldout: CalibrationSet
    latency: LatencyProfile
    scorer: Scorer
    trials: tuple[Trial, ...]
    heldout_rows: Mapping[Candidate, tuple[Measurement, ...]]


def load(path: Path, settings: Settings, say: Callable[[str], None]) -> Recorded:
    """Read a study's folder.

    Args:
        settings: restored from the study.
        say: hears notes.

    Raises:
        ECDiffError: a file is missing or damaged, the prompts are not the study's, or another link is wanted
            and the payload is not known.
    """
    state = read_state(path / files.STATE)
    study = state["settings"]
    prompts, heldout = calibration.load(settings)
    if prompts.digest != study.get("prompts_digest"):
        raise StudyError(f"The calibration prompts are no longer those that {path} was measured on.")
    latency = latency_profile(path / files.LATENCY, settings, study)
    if settings.latency == "wallclock":
        say("note: the study's trials were timed; here all seconds follow from its latency profile.")
    objective = settings.objective
    weights = Weights(objective.w1, objective.w2, objective.w3)
    scorer = Scorer.of(latency, weights, settings.earliest_s, None)
    known = _read_ledger(path, settings)
    measured = _on_all(known, prompts)
    trials = [one for one in (_trial(*pair, settings, scorer) for pair in measured.items()) if one.score]
    if not trials:
        raise StudyError(f"{path} has no config with pictures of all {len(prompts)} prompts yet.")
    left_out = sum(not rows.keys().isdisjoint(prompts.keys) for rows in known.values()) - len(trials)
    say(
        f"configs measured on all of {counted(len(prompts), 'prompt')}: {len(trials)}"
        + (f" (left out: {left_out} measured on fewer, or without finite pictures)" if left_out else "")
    )
    trials = _within_limits(trials, settings, say)
    trials.sort(key=lambda one: (-one.value, one.seconds, -(one.score.quality if one.score else 0.0)))
    heldout_rows = _on_all(known, heldout) if len(heldout) else {}
    return Recorded(
        settings,
        path,
        state["created"],
        study,
        prompts,
        heldout,
        latency,
        scorer,
        tuple(trials),
        heldout_rows,
    )


def _on_all(
    known: Mapping[Candidate, Mapping[str, Measurement]], prompts: CalibrationSet
) -> dict[Candidate, tuple[Measurement, ...]]:
    """The rows of those that were measured on every prompt, in the order of the prompts."""
    names = prompts.keys
    return {
        candidate: tuple(rows[name] for name in names)
        for candidate, rows in known.items()
        if all(name in rows for name in names)
    }


def _trial(candidate: Candidate, rows: tuple[Measurement, ...], settings: Settings, scorer: Scorer) -> Trial:
    """A trial of measurements that are there; the burden counts whatever stage they come from."""
    steps = candidate.plan(settings.num_steps, settings.core_sampling().handoff)
    score = scorer.score(steps, rows, with_burden=True)
    return Trial("joint", 0, candidate, steps, rows, scorer.seconds(steps, rows), score)


def _within_limits(trials: list[Trial], settings: Settings, say: Callable[[str], None]) -> list[Trial]:
    """Those that keep the limits of the study's search, where ``rerank`` sets no others; all if none does."""
    search, instead = settings.search, settings.rerank
    quality = search.min_quality if instead.min_quality is None else None
    seconds = search.max_seconds if instead.max_seconds is None else None
    kept = [one for one in trials if one.keeps(quality, seconds)]
    limits = [
        f"search.{name}={limit:g}"
        for name, limit in (("min_quality", quality), ("max_seconds", seconds))
        if limit is not None
    ]
    if not kept:
        say(f"note: none keeps {' and '.join(limits)}, as the study's search wanted; all are taken")
        return trials
    if len(kept) < len(trials):
        say(
            f"{len(trials) - len(kept)} of them do not keep {' and '.join(limits)} of the study's search and "
            "are left out; rerank.min_quality= and rerank.max_seconds= set other limits"
        )
    return kept


def own_configs(folder: Path) -> list[TunedConfig]:
    """What the study's own search found so far, the end of it first."""
    paths = [folder / name for name in (files.CONFIG, files.STAGE1)]
    return [TunedConfig.load(path) for path in paths if path.is_file()]


def candidate_in(config: TunedConfig) -> Candidate:
    """What a search would ask for to get that config."""
    return Candidate(config.params, config.sampling.estimator, config.sampling.handoff_adapter)


def _read_ledger(folder: Path, settings: Settings) -> dict[Candidate, dict[str, Measurement]]:
    """Every config's rows by prompt key; the study's own winners by the names that their files give them."""
    path = folder / files.LEDGER
    if not path.is_file():
        raise StudyError(f"{path} is not there: the study has measured nothing yet.")
    own = {ConfigKey.of(candidate_in(one), one.plan()): candidate_in(one) for one in own_configs(folder)}
    ledger = Ledger(path, settings.sampling.handoff_adapter)
    try:
        pairs = [(own.get(key) or candidate_of(key, settings), key) for key in ledger.configs()]
        return {candidate: ledger.read(key) for candidate, key in pairs if candidate is not None}
    finally:
        ledger.close()


def candidate_of(key: ConfigKey, settings: Settings) -> Candidate | None:
    """A config with that key, by p and k where they make such steps, else by its real steps; or None.

    None too for what another sampler made.

    What the key leaves out changes no picture: alpha is 1 there, estimator and handoff adapter the study's,
    and a schedule without approximated steps has p = k = 0.
    """
    if key.sampler:
        return None
    plan, sampling = Plan.from_schedule(key.schedule), settings.core_sampling()
    if plan.num_steps != settings.num_steps:
        return None
    for params in _params_of(plan, key.alpha or 1.0):
        candidate = Candidate(
            params,
            key.estimator or sampling.estimator,
            cast(HandoffAdapter, key.handoff_adapter or sampling.handoff_adapter),
        )
        try:
            if ConfigKey.of(candidate, candidate.plan(settings.num_steps, sampling.handoff)) == key:
                return candidate
        except ParamsError:  # the estimator needs another warm-up
            continue
    return None


def _params_of(plan: Plan, alpha: float) -> Iterator[ECDiffParams]:
    """What may make such a plan: p and k, or a list of real steps."""
    s, cloud_side = plan.handoff_step, plan.steps[: plan.handoff_step]
    if not plan.approximated:
        yield ECDiffParams(0, 0, alpha, s)
        return
    p = cloud_side.index(Action.APPROX)
    k = sum(1 for _ in takewhile(lambda action: action is Action.APPROX, cloud_side[p:]))
    if p >= 2:
        yield ECDiffParams(p, k, alpha, s)
    if p >= 1:
        real = [step for step, action in enumerate(cloud_side) if action is Action.CLOUD]
        yield ECDiffParams.scheduled(real, alpha, s)


def latency_profile(path: Path, settings: Settings, study: Mapping[str, Any]) -> LatencyProfile:
    """The study's profile, or another machine's, with the transfer over the link of ``settings``.

    Raises:
        LatencyError: a file cannot be read, the two are of different pairs, or the payload is not known.
    """
    own = LatencyProfile.load(path)
    old_link = Link(study.get("link.mbps"), study.get("link.round_trip_seconds") or 0.0)
    payload = own.payload_values or old_link.values_sent(own.transfer_seconds)
    other = None
    if settings.rerank.latency is not None:
        other = LatencyProfile.load(Path(settings.rerank.latency).expanduser())
        if payload and other.payload_values and payload != other.payload_values:
            raise LatencyError(
                f"{settings.rerank.latency} is of another pair or size: its handoff carries "
                f"{other.payload_values:,} values, this study's {payload:,}."
            )
        payload = payload or other.payload_values
    link = settings.core_link()
    if link == old_link:
        transfer = own.transfer_seconds
    elif link.mbps is None:
        transfer = 0.0
    elif payload is None:
        raise LatencyError(
            f"{path} does not say how many values a handoff carries (it is older than that), so another "
            "link cannot be reckoned with. Delete it and run reference: it is measured again."
        )
    else:
        transfer = link.transfer_seconds(payload)
    return replace(other or own, transfer_seconds=transfer, payload_values=payload)
