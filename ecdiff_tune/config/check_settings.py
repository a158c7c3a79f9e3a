"""Settings out of range, whatever the command; limits of single ones lie in the schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache

from pydantic import TypeAdapter, ValidationError

from ecdiff_core.methods import METHODS
from ecdiff_core.validation import user_error
from ecdiff_tune.config.check_params import check_grids, check_params
from ecdiff_tune.config.check_search import check_search
from ecdiff_tune.config.command_groups import MetricsSettings, ParetoSettings
from ecdiff_tune.config.described import meanings
from ecdiff_tune.config.groups import AUTO
from ecdiff_tune.config.setting import SettingsError, check_distinct
from ecdiff_tune.config.settings import ECDIFF, Settings
from ecdiff_tune.study import files, trackers
from ecdiff_tune.study.spec import LATENCIES, PROFILE

PICKS = {"fastest_above": "quality", "best_below": "seconds"}
"""What ``pareto.pick`` takes beside a row's number, and the limit that goes with it."""


def check(settings: Settings) -> None:
    """Refuse what is out of range or contradicts itself.

    Raises:
        SettingsError, ParamsError, ConfigError: with what was got, and what is expected.
    """
    _check_limits(settings)
    settings.core_sampling()
    settings.pair_spec()
    if settings.core_link().url is not None and settings.latency != PROFILE:
        raise SettingsError(
            key="latency",
            got=settings.latency,
            expected=f"to be {PROFILE} with link.url, which measures the server's seconds and this machine's",
        )
    trackers.check(settings.tracking)
    if settings.latency not in LATENCIES and not settings.latency.endswith(".json"):
        other = "Or give the path of another study's or machine's latency.json."
        raise SettingsError.unknown("latency", settings.latency, LATENCIES, other)
    _check_auto("batch_size", settings.batch_size, 1)
    _check_auto("params.p", settings.params.p, 0)
    _check_folders(settings)
    weights = settings.objective.w1, settings.objective.w2, settings.objective.w3
    if not any(weights):
        raise SettingsError(
            key="objective.w1, w2 or w3",
            got=dict(zip(("w1", "w2", "w3"), weights, strict=True)),
            expected="> 0",
            advice="With 0 for all every config is alike.",
        )
    _check_methods(settings)
    check_search(settings)
    check_params(settings)
    check_grids(settings)
    _check_pick(settings.pareto)
    if settings.compare.methods is not None:
        check_distinct("compare.methods", settings.compare.methods)
    _check_metrics(settings.metrics)
    check_distinct("errors.noise", settings.errors.noise)


def _check_limits(settings: Settings) -> None:
    try:
        _adapter().validate_python(asdict(settings))
    except ValidationError as error:
        raise user_error(error, Settings, SettingsError, meanings=meanings()) from None


@cache
def _adapter() -> TypeAdapter[Settings]:
    return TypeAdapter(Settings)


def _check_methods(settings: Settings) -> None:
    """Refuse methods that are unknown, or named beside EC-Diff, and values without names."""
    named = [settings.method] if isinstance(settings.method, str) else settings.method
    if not isinstance(named, Sequence) or not named:
        raise SettingsError(key="method", got=named, expected="to be a name or a list of names")
    for name in settings.methods:
        if name == ECDIFF:
            line = "method: ecdiff is tuned alone; compare holds it against the others."
            raise SettingsError(line, key="method", got=settings.methods, expected="alone")
        if name not in METHODS:
            raise SettingsError.unknown("method", name, [ECDIFF, *METHODS])
    check_distinct("method", named)
    values = settings.acceleration.values
    by_name = isinstance(values, Mapping) and all(isinstance(one, str) for one in values)
    if values is not None and not by_name:
        expected = "to be values by name, {threshold: 0.1}"
        raise SettingsError(key="acceleration.values", got=values, expected=expected)


def _check_auto(key: str, value: object, least: int) -> None:
    """Refuse what is neither ``auto`` nor a whole number that is large enough.

    Raises:
        SettingsError: with what was got.
    """
    if value != AUTO and (type(value) is not int or value < least):
        raise SettingsError(key=key, got=value, expected=f"to be a whole number >= {least} or auto")


def _check_folders(settings: Settings) -> None:
    for key, name in (("study", settings.study), ("pair.name", settings.pair.name)):
        if not name.isprintable() or not name or name != name.strip("./ ") or "/" in name:
            raise SettingsError(key=key, got=name, expected="to be a plain folder name")
    if settings.study == files.REFERENCE_FOLDER:
        raise SettingsError(
            key="study",
            got=settings.study,
            expected="to be another name",
            advice="That folder holds all references.",
        )


def _check_pick(pareto: ParetoSettings) -> None:
    """Refuse an unknown pick, and one without its limit."""
    if pareto.pick is None or pareto.pick.isdecimal():
        return
    if pareto.pick not in PICKS:
        raise SettingsError.unknown("pareto.pick", pareto.pick, PICKS, "Or give a row's number.")
    limit = f"pareto.{PICKS[pareto.pick]}"
    if getattr(pareto, PICKS[pareto.pick]) is None:
        raise SettingsError(f"pareto.pick={pareto.pick} needs {limit}=VALUE.", key=limit)


def _check_metrics(metrics: MetricsSettings) -> None:
    check_distinct("metrics.names", metrics.names)
    if "clip" in metrics.names and metrics.clip is None:
        line = "The metric clip needs the folder of a CLIP model: give metrics.clip=FOLDER."
        raise SettingsError(line, key="metrics.clip")
