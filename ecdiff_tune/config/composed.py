"""Settings as Hydra composes them from conf/, grids that nobody set cut to what the number of steps allows.

Its DictConfig ends here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from ecdiff_core.sampling.plan_of_params import count_steps
from ecdiff_tune.config.check_settings import check
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


def keys_of(overrides: Sequence[str]) -> list[str]:
    """The settings and groups that overrides of a command line set."""
    return [_key_of(one) for one in overrides]


@cache
def _key_of(override: str) -> str:
    (parsed,) = OverridesParser.create().parse_overrides([override])
    return parsed.key_or_group


def fit_grids(config: DictConfig, overrides: Sequence[str]) -> list[str]:
    """Cut ``search.k`` and ``search.edge_k`` to values below T where the command line leaves them as
    conf/search/ has them.

    Returns:
        Lines that say so.
    """
    if OmegaConf.is_missing(config.sampling, "num_inference_steps"):
        return []
    steps = count_steps(config.sampling.scheduler, config.sampling.num_inference_steps)
    given, lines = keys_of(overrides), []
    for name in ("k", "edge_k"):
        grid = list(config.search[name])
        fitting = [value for value in grid if value < steps]
        if f"search.{name}" in given or fitting == grid or not fitting or steps <= 1:
            continue
        config.search[name] = fitting
        shown = ",".join(map(str, fitting)).join("[]")
        lines.append(f"search.{name}={shown}: of its usual values those below {steps}, the number of steps")
    return lines


def unread_column(config: DictConfig, overrides: Sequence[str]) -> list[str]:
    """A line where the command line names a column of a text file, which has none."""
    file = config.calibration.file
    if "calibration.column" not in keys_of(overrides) or not file:
        return []
    from ecdiff_tune.data.prompt_tables import is_text

    return [f"calibration.column: {file} has a prompt a line, and no columns"] if is_text(Path(file)) else []
