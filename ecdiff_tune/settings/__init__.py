"""Typed settings of every command."""

from ecdiff_tune.settings.check_evidence import METRICS
from ecdiff_tune.settings.composed import from_config, register
from ecdiff_tune.settings.error import SettingsError
from ecdiff_tune.settings.groups import (
    AUTO,
    AblateSettings,
    CalibrationSettings,
    CompareSettings,
    ErrorsSettings,
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
from ecdiff_tune.settings.schema import Settings

__all__ = [
    "AUTO",
    "METRICS",
    "AblateSettings",
    "CalibrationSettings",
    "CompareSettings",
    "ErrorsSettings",
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
    "register",
]
