"""Settings as Hydra composes them from conf/; its DictConfig ends here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from ecdiff_tune.config.checks import check
from ecdiff_tune.config.fitting import fit_grids, keys_of, unread_column
from ecdiff_tune.config.names import refuse_unknown
from ecdiff_tune.config.setting import SettingsError
from ecdiff_tune.config.settings import Settings
from ecdiff_tune.study.renamed import RENAMED


def register() -> None:
    """Make ``Settings`` the schema that conf/base.yaml starts from."""
    ConfigStore.instance().store(name="settings", node=_schema())


@cache
def _schema() -> DictConfig:
    """Its groups take unknown keys, which ``present_names`` and ``refuse_unknown`` see to: folders of a
    person's own may hold older names."""
    node = OmegaConf.structured(Settings)
    for old in RENAMED:
        OmegaConf.set_struct(node[old.partition(".")[0]], False)
    return node


def present_names(config: DictConfig, overrides: Sequence[str], log: Callable[[str], None]) -> None:
    """Rename settings that a config file has by an older name; the command line goes before the file.

    Args:
        log: called with a line an old name.
    """
    given = keys_of(overrides)
    for old, new in RENAMED.items():
        group, _, name = old.partition(".")
        if name in config[group]:
            value = config[group].pop(name)
            log(f"note: {old} is called {new} now.")
            if new not in given:
                OmegaConf.update(config, new, value)


def _as_given(missing: Sequence[str]) -> list[str]:
    """How settings are given; a group whose own name is missing is chosen as a whole.

    >>> _as_given(["pair.cloud", "pair.edge"]), _as_given(["pair.cloud", "pair.name"])
    (['pair.cloud=VALUE', 'pair.edge=VALUE'], ['pair=NAME'])
    """
    groups = [key.removesuffix(".name") for key in missing if key.endswith(".name")]
    others = [f"{key}=VALUE" for key in missing if key.partition(".")[0] not in groups]
    return [*(f"{group}=NAME" for group in groups), *others]


def from_config(
    config: DictConfig, overrides: Sequence[str] | None = None, log: Callable[[str], None] = print
) -> Settings:
    """The checked settings of a composed config.

    Args:
        overrides: of the command line: what they leave as conf/ has it is cut to what the number of steps
            allows. None cuts nothing.
        log: called with a line for what is cut.

    Raises:
        SettingsError, ParamsError, ConfigError: a key is unknown, or a value is out of range.
    """
    refuse_unknown(config)
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        line = f"Missing {', '.join(missing)}: give {' '.join(_as_given(missing))}."
        raise SettingsError(line, key=missing[0])
    lines = [] if overrides is None else [*fit_grids(config, overrides), *unread_column(config, overrides)]
    for line in lines:
        log(f"note: {line}")
    settings = OmegaConf.to_object(config)
    assert isinstance(settings, Settings)
    check(settings)
    return settings
