"""The YAML of a config that was chosen from a study's old measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from ecdiff_core.config import TunedConfig
from ecdiff_core.models.pair_spec import Lora, ModelRef, PairSpec
from ecdiff_tune.evaluation.candidate import PlannedCandidate
from ecdiff_tune.objective import Trial
from ecdiff_tune.study import left_out, recorded
from ecdiff_tune.study.folder import StudyError, differences
from ecdiff_tune.study.recorded import Recorded
from ecdiff_tune.study.winner import ConfigSource, Heldout, config_of

_ALWAYS = ("id", "revision", "fingerprint")
"""What study.json says of both models."""


_LINK = ("link.mbps", "link.round_trip_seconds", "link.url")
_SCORING = ("objective.", *_LINK)
"""Settings that scores follow from."""


def config_of_choice(
    record: Recorded,
    chosen: Trial,
    among: Sequence[Trial],
    how: Mapping[str, Any],
    configs: int | None = None,
) -> TunedConfig:
    """The whole YAML, with held-out scores where the study has them.

    Args:
        among: the trials whose objective it is held against.
        how: it was chosen, for ``provenance.chosen``.
        configs: that it was chosen from; None is all that have all prompts.
    """
    choice = {"chosen": {**how, "configs": configs or len(record.trials), "changed": changed(record)}}
    rows = record.heldout_rows.get(chosen.config)
    heldout = None if rows is None else Heldout(record.heldout, rows)
    config = config_of(chosen, among, _source(record), choice, record.scorer, heldout)
    return _with_fewer_steps(config, recorded.own_configs(record.path))


def _with_fewer_steps(config: TunedConfig, own: Sequence[TunedConfig]) -> TunedConfig:
    """With what the study measured beside its winner, if this is it."""
    score = dict(config.score or {})
    for one in own:
        fewer = ((one.score or {}).get("heldout") or {}).get("fewer_steps")
        if (
            fewer
            and "heldout" in score
            and PlannedCandidate.of_config(one) == PlannedCandidate.of_config(config)
        ):
            return replace(config, score={**score, "heldout": {**score["heldout"], "fewer_steps": fewer}})
    return config


def _source(record: Recorded) -> ConfigSource:
    """Of what the study's folder holds; its own config knows the model's own size."""
    spec, old = record.spec, next(iter(recorded.own_configs(record.path)), None)
    name = "profile" if spec.timed else spec.latency
    if spec.rescoring.latency is not None:
        name = str(spec.rescoring.latency)
    known = (old.provenance or {}) if old else {}
    return ConfigSource(
        spec,
        record.created,
        record.prompts,
        record.latency,
        name,
        pair_of(record.state, spec.pair.name),
        old.sampling if old else spec.sampling,
        old.scheduler_config if old else None,
        {key: known[key] for key in ("device", "versions") if key in known},
        record.reference,
        left_out.raced(record.path) is not None,
    )


def changed(record: Recorded) -> list[str]:
    """What was scored with otherwise than by the study itself."""
    scoring = {key: value for key, value in record.spec.settings.items() if key.startswith(_SCORING)}
    known = {**record.spec.defaults, **record.state}  # older studies lack newer settings
    found = differences({key: known.get(key) for key in scoring}, scoring)
    other = record.spec.rescoring.latency
    return found if other is None else [*found, f"latency profile {other}"]


def given_for_seconds(record: Recorded) -> list[str]:
    """The settings that seconds follow from, as they are given, where they are not the study's own."""
    found = [
        f"{key}={'null' if value is None else value}"
        for key, value in record.spec.settings.items()
        if key.startswith(_LINK) and record.state.get(key, record.spec.defaults.get(key)) != value
    ]
    other = record.spec.rescoring.latency
    return found if other is None else [*found, f"rerank.latency={other}"]


def pair_of(state: Mapping[str, Any], name: str) -> PairSpec:
    """The pair that a study was bound to.

    Args:
        state: the settings of its study.json, flat.
        name: of the pair.

    Raises:
        StudyError: it does not say which weights.
    """
    missing = [
        key for side in ("cloud", "edge") for one in _ALWAYS if (key := f"weights.{side}.{one}") not in state
    ]
    if missing:
        line = f"study.json does not say {missing[0]!r}: it is damaged."
        raise StudyError(line, key="study.json", expected=missing)
    cloud, edge = (_ref_of(state, f"weights.{side}.") for side in ("cloud", "edge"))
    return PairSpec(name, cloud, edge, [Lora(**one) for one in state.get("weights.lora", [])])


def _ref_of(state: Mapping[str, Any], prefix: str) -> ModelRef:
    """Of the settings whose names begin so."""
    own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    parts = {key.partition(".")[2]: value for key, value in own.items() if key.startswith("parts.")}
    known = {field.name: own[field.name] for field in fields(ModelRef) if field.name in own}
    return ModelRef(**{**known, "parts": parts or None})
