"""The YAML of a config that was chosen from a study's old measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

from ecdiff_core.config import Sampling, TunedConfig
from ecdiff_core.models.pair_spec import Lora, ModelRef, PairSpec
from ecdiff_tune.objective import Trial
from ecdiff_tune.study import config_sections, recorded
from ecdiff_tune.study.folder import StudyError, differences, flat
from ecdiff_tune.study.recorded import Recorded

_ALWAYS = ("id", "revision", "fingerprint")
"""What study.json says of both models."""


def config_of_choice(
    record: Recorded, chosen: Trial, among: Sequence[Trial], how: Mapping[str, Any]
) -> TunedConfig:
    """The whole YAML, with held-out scores where the study has them.

    Args:
        among: the trials that it was chosen from.
        how: told in ``provenance.chosen``.
    """
    spec, old = record.spec, next(iter(recorded.own_configs(record.path)), None)
    w1, seed = spec.weights.w1, spec.seed
    score = config_sections.score_section(chosen, w1, seed)
    rows = record.heldout_rows.get(chosen.candidate)
    if rows is not None:
        held = record.scorer.score(chosen.plan, rows, with_burden=True)
        score["heldout"] = config_sections.heldout_section(held, rows, record.heldout, w1, seed)
    source = "profile" if spec.timed else spec.latency
    if spec.rescoring.latency is not None:
        source = str(spec.rescoring.latency)
    measured = (old.provenance or {}) if old else {}
    provenance = {
        "study": spec.name,
        "search": spec.search,
        "chosen": {**how, "configs": len(record.trials), "changed": changed(record)},
        "created": record.created,
        "calibration": config_sections.calibration_section(spec.prompts, record.prompts),
        "objective": config_sections.objective_section(spec),
        "latency": config_sections.latency_section(source, record.latency),
        **{name: measured[name] for name in ("device", "versions") if name in measured},
        "tied": config_sections.tied_section(chosen, among, w1, seed),
    }
    candidate, pair = chosen.candidate, pair_of(record.state, spec.pair.name)
    sampling = replace(
        _sampling(record, old), estimator=candidate.estimator, handoff_adapter=candidate.handoff_adapter
    )
    scheduler = None if old is None else old.scheduler_config
    return TunedConfig(pair, candidate.params, sampling, score, provenance, scheduler)


def changed(record: Recorded) -> list[str]:
    """What was scored with otherwise than by the study itself."""
    scoring = {
        key: value for key, value in record.spec.settings.items() if key.startswith(("objective.", "link."))
    }
    found = differences({key: record.state.get(key) for key in scoring}, scoring)
    other = record.spec.rescoring.latency
    return found if other is None else [*found, f"latency profile {other}"]


def given_for_seconds(record: Recorded) -> list[str]:
    """The settings that seconds follow from, as they are given, where they are not the study's own."""
    asked = flat({"link": asdict(record.spec.link)})
    found = [
        f"{key}={'null' if value is None else value}"
        for key, value in asked.items()
        if record.state.get(key) != value
    ]
    other = record.spec.rescoring.latency
    return found if other is None else [*found, f"rerank.latency={other}"]


def _sampling(record: Recorded, old: TunedConfig | None) -> Sampling:
    """Of the old config, which knows the model's own size; else as set."""
    return record.spec.sampling if old is None else old.sampling


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
        raise StudyError(f"study.json does not say {missing[0]!r}: it is damaged.")
    cloud, edge = (
        ModelRef(
            **{f.name: state[key] for f in fields(ModelRef) if (key := f"weights.{side}.{f.name}") in state}
        )
        for side in ("cloud", "edge")
    )
    return PairSpec(name, cloud, edge, [Lora(**one) for one in state.get("weights.lora", [])])
