"""Keywords of a Python call as the overrides of a command line."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any

from ecdiff_core.spelling import meant
from ecdiff_tune.cli.arguments import in_quotes
from ecdiff_tune.config import SettingsError
from ecdiff_tune.config.names import setting_names

GROUPS = ("objective", "link")
"""Groups that are chosen by name, as ``objective="quality_first"``."""
ELSEWHERE = {"search_name": "search", "calibration_file": "prompts", "output_dir": "folder"}
"""Settings that the call has an argument of its own for."""


def keywords() -> dict[str, str]:
    """Settings by keyword: a dot is an underscore there.

    >>> keywords()["search_k"], keywords()["sampling_guidance_scale"], keywords()["seed"]
    ('search.k', 'sampling.guidance_scale', 'seed')
    """
    settings = {name.replace(".", "_"): name for name in setting_names()}
    return {**settings, **{group: group for group in GROUPS}}


def settings_by_name(given: Mapping[str, Any]) -> dict[str, Any]:
    """The call's keywords by the settings' whole names.

    Raises:
        SettingsError: there is no such keyword.
    """
    known = keywords()
    for name in given:
        if name in ELSEWHERE:
            raise SettingsError(f"{name} is the argument {ELSEWHERE[name]} of this call.", key=name)
        if name not in known:
            raise _unknown(name, known)
    return {known[name]: value for name, value in given.items()}


def overrides_of(settings: Mapping[str, Any]) -> list[str]:
    """Overrides that give settings and groups, by their whole names, Python values.

    >>> overrides_of({"search.k": range(1, 3), "calibration.column": "a b", "link": "none", "search.s": None})
    ['search.k=[1,2]', "calibration.column='a b'", 'link=none', 'search.s=null']

    Raises:
        SettingsError: a value is of no kind that a setting has.
    """
    return [f"{name}={_choice(name, value) or _literal(name, value)}" for name, value in settings.items()]


def _choice(name: str, value: Any) -> str:
    """The choice of a group, as it is; empty for other settings."""
    if name not in ("pair", "search", *GROUPS):
        return ""
    if not isinstance(value, str) or not re.fullmatch(r"[\w./:-]+", value):
        raise SettingsError(key=name, got=value, expected="to be a name")
    return value


def _literal(key: str, value: Any) -> str:
    """A value in Hydra's grammar."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str | os.PathLike):
        return in_quotes(os.fspath(value).replace("${", "\\${"))  # else what OmegaConf looks up
    if isinstance(value, Integral):
        return str(int(value))
    if isinstance(value, Real):
        return repr(float(value))
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{name}:{_literal(key, one)}" for name, one in value.items()) + "}"
    if isinstance(value, Iterable):
        return "[" + ",".join(_literal(key, one) for one in value) + "]"
    expected = "to be text, a number, True, False, None, or a list or mapping of them"
    raise SettingsError(key=key, got=value, expected=expected)


def _unknown(name: str, known: Mapping[str, str]) -> SettingsError:
    ends = [one for one in known if one.endswith(f"_{name}")]
    close = ends or [one for one in [meant(name, list(known))] if one]
    hint = f" (did you mean {' or '.join(close)}?)" if close else ""
    line = f"Unknown setting {name}{hint}; docs/settings.md lists all, with _ for the dot."
    return SettingsError(line, key=name, expected=close)
