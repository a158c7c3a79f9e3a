"""Settings as Hydra composes them from conf/; its DictConfig ends here."""

from __future__ import annotations

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from ecdiff_tune.config.checks import check
from ecdiff_tune.config.error import SettingsError
from ecdiff_tune.config.schema import Settings


def register() -> None:
    """Make ``Settings`` the schema that conf/base.yaml starts from."""
    ConfigStore.instance().store(name="settings", node=Settings)


def from_config(config: DictConfig) -> Settings:
    """The checked settings of a composed config.

    Raises:
        SettingsError, ParamsError, ConfigError: a value is out of range.
    """
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise SettingsError(f"Missing {', '.join(missing)}: give {missing[0]}=VALUE.")
    settings = OmegaConf.to_object(config)
    assert isinstance(settings, Settings)
    check(settings)
    return settings
