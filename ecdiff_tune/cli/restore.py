"""A study's own settings, for commands that read what it measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ecdiff_core.config import TunedConfig
from ecdiff_core.errors import nearest
from ecdiff_core.models.devices import device_of_tensors
from ecdiff_tune.config import SearchSettings, Settings, SettingsError
from ecdiff_tune.config.composed import fit_grids, keys_of
from ecdiff_tune.study import files
from ecdiff_tune.study.folder import differences, flat, read_state

GROUPS = ("pair", "search", "calibration", "objective", "link")
_FREE = (
    *("rerank.", "pareto.", "compare.", "ablate.", "metrics.", "errors.", "export.", "heldout.fewer_steps"),
    *("method", "acceleration."),
    *("output_dir", "study", "batch_size", "sharing", "offload", "vae_slicing", "tracking"),
    "link.token_file",
)
"""Beginnings of settings that may be others than the study's: no measurement depends on them."""
_SCORING = ("objective.", "link.")
"""Of those that may be others where old measurements are scored anew."""


def restore(config: DictConfig, overrides: Sequence[str], scores_anew: bool = True) -> DictConfig:
    """The config with the settings of the study that it names, where ``overrides`` give no others.

    Args:
        config: composed by Hydra.
        overrides: of the command line, of which those that the measurements depend on must be the study's.
        scores_anew: the command takes other weights and another link than the study's.

    Raises:
        SettingsError: there is no such study, or an override would make it another one.
        ParamsError: this machine has no such device.
    """
    if OmegaConf.is_missing(config.pair, "name"):
        return config
    study = study_state(Path(config.output_dir) / config.pair.name, config.study)["settings"]
    defaults = flat(asdict(Settings()))
    given, missing = list(_given(overrides, defaults)), OmegaConf.missing_keys(config)
    own = {key: value for key, value in study.items() if key in defaults}
    config = config.copy()
    for key, value in own.items():
        if key not in given or key in missing:
            OmegaConf.update(config, key, value)
    fit_grids(config, overrides)
    free = (*_FREE, *_SCORING) if scores_anew else _FREE
    wanted = {key: OmegaConf.select(config, key) for key in given if not key.startswith(free)}
    wanted = flat({key: _plain(value) for key, value in wanted.items()})
    if "device" in wanted:
        wanted["device"] = device_of_tensors(wanted["device"])
    _refuse(differences({key: own.get(key, defaults[key]) for key in wanted}, wanted))
    return config


def with_own_search(config: DictConfig, overrides: Sequence[str], log: Callable[[str], None]) -> DictConfig:
    """The config with the search of the study that it goes on with, where ``overrides`` choose none.

    Args:
        log: called with a line where that is another search than the command's own.
    """
    given = keys_of(overrides)
    if OmegaConf.is_missing(config.pair, "name") or not config.resume or {"search", "search.name"} & {*given}:
        return config
    path = Path(config.output_dir) / config.pair.name / str(config.study) / files.STATE
    study = read_state(path)["settings"] if path.is_file() else {}
    own = study.get("search.name")
    if own is None:
        return config
    if config.search.get("name") != own:
        log(
            f"note: the study in {path.parent} was begun with search={own} and goes on with it; "
            f"for search={config.search.get('name')}, this command's own, give another study=NAME."
        )
    config = config.copy()
    for key, default in flat({"search": asdict(SearchSettings())}).items():
        if key not in given:
            OmegaConf.update(config, key, study.get(key, default))
    return config


def of_config(config: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The config with pair and sampling of the YAML ``transfer.config``, where ``overrides`` give no others.

    Args:
        config: composed by Hydra.
        overrides: of the command line.

    Raises:
        SettingsError: no YAML is named.
        ConfigError, ParamsError: it cannot be read.
    """
    if config.transfer.config is None:
        raise SettingsError(
            "Expected transfer.config=FILE.yaml, a config that was tuned, got none.", key="transfer.config"
        )
    source = TunedConfig.load(str(config.transfer.config))
    defaults = flat(asdict(Settings()))
    given = set(_given(overrides, defaults))
    config = config.copy()
    for key, value in settings_of_config(source).items():
        if key not in given:
            OmegaConf.update(config, key, value)
    fit_grids(config, overrides)
    return config


def settings_of_config(source: TunedConfig) -> dict[str, Any]:
    """A YAML's pair and sampling as settings, flat."""
    pair, sampling = source.pair, asdict(source.sampling)
    sides = {
        f"pair.{side}{suffix}": getattr(ref, name)
        for side, ref in (("cloud", pair.cloud), ("edge", pair.edge))
        for suffix, name in (
            *(("", "id"), ("_revision", "revision"), ("_variant", "variant")),
            *(("_subfolder", "subfolder"), ("_config", "config")),
        )
    }
    lora = [{"path": one.path, "weight": one.weight, "on": one.on} for one in pair.lora]
    own = {"pair.name": pair.name, **sides, "pair.lora": lora, "dtype": sampling.pop("dtype")}
    return {**own, **{f"sampling.{name}": value for name, value in sampling.items()}}


def study_state(pair: Path, study: str) -> dict[str, Any]:
    """What study.json of a pair's study says.

    Raises:
        SettingsError: there is no such study.
    """
    if not (pair / study / files.STATE).is_file():
        line = f"No study in {pair / study}: {others(pair, study) or 'run tune first'}."
        raise SettingsError(line, key="study", got=study)
    return read_state(pair / study / files.STATE)


def others(pair: Path, study: str) -> str:
    """The studies of a pair and the one that was meant, or those of other pairs; empty for none."""
    found = sorted(path.parent for path in pair.parent.glob(f"*/*/{files.STATE}"))
    found = [path for path in found if path.name != files.REFERENCE_FOLDER]
    own = [path.name for path in found if path.parent == pair]
    if own:
        return nearest(study, own)
    return (
        f"other pairs have {', '.join(f'{path.parent.name}/{path.name}' for path in found)}" if found else ""
    )


def _given(overrides: Sequence[str], known: Iterable[str]) -> Iterable[str]:
    """The settings that overrides set, one by one or as a group."""
    keys = keys_of(overrides)
    for name in known:
        if name in keys or (name.partition(".")[0] in GROUPS and name.partition(".")[0] in keys):
            yield name


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def _refuse(found: Sequence[str]) -> None:
    if not found:
        return
    if all(one.startswith(_SCORING) for one in found):
        raise SettingsError(
            f"This command takes the study as it was scored ({'; '.join(found)}).",
            key="settings",
            got=list(found),
            advice="Leave them out; rerank and pareto score what was measured by others.",
        )
    raise SettingsError(
        f"These settings need new measurements ({'; '.join(found)}), and this command takes the study "
        "as it is.",
        key="settings",
        got=list(found),
        advice="Leave them out, or tune another study=NAME with them.",
    )
