"""Typed settings of every command."""

from ecdiff_tune.settings.composed import from_config, register
from ecdiff_tune.settings.error import SettingsError
from ecdiff_tune.settings.groups import (
    AUTO,
    CalibrationSettings,
    HeldoutSettings,
    LinkSettings,
    MetricsSettings,
    ObjectiveSettings,
    PairSettings,
    ParamsSettings,
    ParetoSettings,
    RerankSettings,
    SamplingSettings,
    SearchSettings,
)
from ecdiff_tune.settings.names import refuse_unknown
from ecdiff_tune.settings.schema import Settings

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
