"""A command's settings from the overrides that it is given, on a command line or by a Python program, and
what Hydra finds wrong with them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace

from hydra import compose, initialize_config_dir, version
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobRuntime
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from ecdiff_core.errors import nearest
from ecdiff_tune.cli import COMMANDS, restore, unheeded
from ecdiff_tune.cli.arguments import quoting_hint, written_out
from ecdiff_tune.cli.hydra_configs import primary_config
from ecdiff_tune.config import Settings, SettingsError, composed
from ecdiff_tune.config.groups import LoraSettings
from ecdiff_tune.config.idle import idle
from ecdiff_tune.config.names import unknown_setting
from ecdiff_tune.config.settings import ECDIFF
from ecdiff_tune.data.conf_folder import config_folder

_ALONE = threading.Lock()
"""Held while Hydra, whose state is the process's, is ours."""
_RESOLVERS = ("hydra", "now", "python_version")
"""What Hydra adds to OmegaConf."""


def settings_of(
    command: str, config: DictConfig, overrides: Sequence[str], log: Callable[[str], None] = print
) -> Settings:
    """The checked settings of a command, with those of the study that it goes on with.

    Args:
        config: as Hydra composes it.
        overrides: that it was composed with.
        log: called with a line about whatever is not as it was given.

    Raises:
        ECDiffError: a setting is unknown or out of range, or is not the study's.
    """
    kind = COMMANDS[command]
    composed.present_names(config, overrides, log)
    if kind.of_study:
        config = restore.restore(config, overrides, scores_anew=not kind.loads_models)
    elif kind.of_config:
        config = restore.of_config(config, overrides)
    elif kind.divides:
        config = restore.with_own_search(config, overrides, log)
    chosen = composed.from_config(config, overrides, log)
    given = composed.keys_of(overrides)
    if unread := unheeded(command, given):
        log(f"note: {command} does not go by {', '.join(unread)}.")
    searched = chosen if command == "tune" else replace(chosen, method=ECDIFF)
    for line in idle(searched, [key for key in given if key not in unread]) if kind.searches else ():
        log(line)
    return chosen


def compose_settings(command: str, overrides: Sequence[str], log: Callable[[str], None] = print) -> Settings:
    """``settings_of`` what conf/ and overrides say, without a command line.

    A program may use Hydra itself: its state is left as it was. Several threads may call at once.

    Raises:
        ECDiffError: as ``settings_of``.
    """
    try:
        with _ALONE, _hydra_left_alone():
            given, config_name = written_out(command, overrides), primary_config(command)
            with initialize_config_dir(str(config_folder()), job_name="ecdiff", version_base="1.3"):
                config = compose(config_name, given)
            return settings_of(command, config, given, log)
    except (HydraException, OmegaConfBaseException) as error:
        raise SettingsError(one_line(error), key=", ".join(overrides)) from error


@contextmanager
def _hydra_left_alone() -> Iterator[None]:
    """Afterwards Hydra's state is what it was before; its objects stay the same, which programs hold."""
    application, store, base = GlobalHydra.instance(), ConfigStore.instance(), version.VersionBase.instance()
    hydra, stored, version_base = application.hydra, dict(store.repo), base.version_base
    runtime = JobRuntime.instance()
    job = runtime.get("name")
    added = [name for name in _RESOLVERS if not OmegaConf.has_resolver(name)]
    application.clear()
    try:
        yield
    finally:
        GlobalHydra.set_instance(application)
        application.hydra = hydra
        store.repo.clear()
        store.repo.update(stored)
        base.version_base = version_base
        runtime.set("name", job)
        for name in added:
            OmegaConf.clear_resolver(name)


def one_line(error: Exception) -> str:
    """What Hydra or OmegaConf found wrong, on one line, with the nearest name where one was mistyped."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        return f"Unknown {group} {choice!r}: {nearest(choice, error.options)}."
    if isinstance(error, OverrideParseException):
        line = f"Expected KEY=VALUE or GROUP=CHOICE, got {error.override!r}; --help lists all settings."
        return line + quoting_hint(error.override or "")
    cause = error.__cause__
    for one in (error, cause):
        key = str(getattr(one, "full_key", None) or getattr(one, "key", None) or "")
        if isinstance(one, ConfigAttributeError | ConfigKeyError) and key:
            if getattr(one, "object_type", None) is LoraSettings:
                return (
                    f"Unknown key {key} of pair.lora: {nearest(key, [f.name for f in fields(LoraSettings)])}."
                )
            return unknown_setting(key)
    key = str(getattr(error, "full_key", None) or getattr(cause, "full_key", None) or "")
    if "ListConfig" in f"{error}{cause}" and key:
        return f"Expected {key} to be a list, in brackets such as {key}=[…]."
    first = [
        str(one).strip().splitlines()[0] for one in (error, cause) if one is not None and str(one).strip()
    ]
    return ": ".join(dict.fromkeys(line.rstrip(".") for line in first)) + "."
