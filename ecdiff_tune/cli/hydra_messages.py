"""What Hydra or OmegaConf found wrong, on one line."""

from __future__ import annotations

from dataclasses import fields

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError

from ecdiff_core.errors import nearest
from ecdiff_tune.cli.arguments import quoting_hint
from ecdiff_tune.config.groups import LoraSettings
from ecdiff_tune.config.names import unknown_setting


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
