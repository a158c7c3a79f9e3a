"""The settings by name, and what is said of a name that none has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass

from omegaconf import DictConfig, OmegaConf

from ecdiff_core.errors import nearest
from ecdiff_core.spelling import meant
from ecdiff_tune.config.setting import SettingsError
from ecdiff_tune.config.settings import Settings

HOLD_NAMES = ("acceleration.values",)
"""Settings whose values have names of their own."""


def setting_names() -> list[str]:
    """All of them, ``group.name`` where they are in a group."""
    names: list[str] = []
    for field in fields(Settings):
        group = getattr(Settings(), field.name)
        inside = [one.name for one in fields(group)] if is_dataclass(group) else []
        names += [f"{field.name}.{one}" for one in inside] or [field.name]
    return names


def unknown_setting(key: str) -> str:
    """One line about a setting that there is not, with the one that was probably meant.

    >>> unknown_setting("guidance_scale")
    'Unknown setting guidance_scale (did you mean sampling.guidance_scale?); --help lists all.'
    """
    group, _, name = key.rpartition(".")
    known = setting_names()
    if group in HOLD_NAMES:
        return f"Unknown setting {key}: give {group} as a whole, {group}={{{name}: VALUE}}."
    elsewhere = [one for one in known if one.rpartition(".")[2] == name]
    if elsewhere:
        return f"Unknown setting {key} (did you mean {' or '.join(elsewhere)}?); --help lists all."
    siblings = [one for one in known if one.startswith(f"{group}.")] if group else []
    if not siblings:
        siblings = list(dict.fromkeys(one.partition(".")[0] for one in known))
        if meant(key, siblings) is None and (close := meant(name, [one.rpartition(".")[2] for one in known])):
            return unknown_setting(close).replace(f"Unknown setting {close} ", f"Unknown setting {key} ")
    return f"Unknown setting {key}: {nearest(key, siblings)}; --help lists all."


def refuse_unknown(config: DictConfig, prefix: str = "") -> None:
    """Refuse keys that a typed config does not have: Hydra's ``+key=value`` adds whatever it is told to.

    Args:
        prefix: of the keys, ``hydra.`` for Hydra's own.

    Raises:
        SettingsError: with the first of them.
    """
    for key in _unknown(config, prefix):
        if key == "hydra.env":  # which Hydra composes from its own group without having it in its schema
            continue
        if prefix:
            raise SettingsError(f"Unknown setting {key}: Hydra has none of that name.", key=key)
        raise SettingsError(unknown_setting(key), key=key)


def _unknown(config: DictConfig, prefix: str) -> Iterator[str]:
    kind = OmegaConf.get_type(config)
    known = {field.name for field in fields(kind)} if is_dataclass(kind) else None
    for name in config:  # a number, where values are given by one
        if known is not None and str(name) not in known:
            yield f"{prefix}{name!s}"
        inside = config._get_node(name)
        if isinstance(inside, DictConfig) and not inside._is_none() and not inside._is_missing():
            yield from _unknown(inside, f"{prefix}{name!s}.")
