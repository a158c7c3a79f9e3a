"""Typed settings of every command."""

from ecdiff_tune.config.command_groups import MetricsSettings, ParetoSettings, RerankSettings
from ecdiff_tune.config.composed import from_config, register
from ecdiff_tune.config.groups import (
    AUTO,
    CalibrationSettings,
    HeldoutSettings,
    LinkSettings,
    ObjectiveSettings,
    PairSettings,
    ParamsSettings,
    SamplingSettings,
    SearchSettings,
)
from ecdiff_tune.config.names import refuse_unknown
from ecdiff_tune.config.setting import SettingsError
from ecdiff_tune.config.settings import Settings

__all__ = [
    "AUTO",
    "CalibrationSettings",
    "HeldoutSettings",
    "LinkSettings",
    "MetricsSettings",
    "ObjectiveSettings",
    "PairSettings",
    "ParamsSettings",
    "ParetoSettings",
    "RerankSettings",
    "SamplingSettings",
    "SearchSettings",
    "Settings",
    "SettingsError",
    "from_config",
    "refuse_unknown",
    "register",
]
