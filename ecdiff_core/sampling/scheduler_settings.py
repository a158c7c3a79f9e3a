"""What of a scheduler's config changes timesteps or noise: kept in the tuned config, compared, named."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from diffusers import SchedulerMixin

from ecdiff_core.errors import ParamsError, nearest
from ecdiff_core.spelling import distance

_READ_ONLY_WITH = {
    "clip_sample_range": "clip_sample",
    "dynamic_thresholding_ratio": "thresholding",
    "sample_max_value": "thresholding",
}
"""Settings that nothing reads unless another one is on."""
_LONGEST = 8
"""Items of a list that is kept as it is; of longer ones (``trained_betas``) their digest."""

_MISTAKES = 2
"""Letters in which a mistyped name differs at most."""


def settings_of(scheduler: SchedulerMixin) -> dict[str, Any]:
    """The settings that a scheduler's class reads, by name: numbers, text, truth values, short lists or null.

    What ``set_shift`` changed counts, though the scheduler's own config does not tell it.
    """
    config = scheduler.config
    names = [name for name in inspect.signature(type(scheduler).__init__).parameters if name in config]
    found = {
        name: _plain(config[name])
        for name in names
        if name not in _READ_ONLY_WITH or config.get(_READ_ONLY_WITH[name])
    }
    if "shift" in found and hasattr(scheduler, "shift"):
        found["shift"] = _plain(scheduler.shift)
    return found


def _plain(value: Any) -> Any:
    """A value as YAML reads it back."""
    if hasattr(value, "tolist"):  # of numpy or torch
        value = value.tolist()
    if not isinstance(value, list | tuple):
        return value
    items = [_plain(item) for item in value]
    if len(items) <= _LONGEST:
        return items
    return f"sha256:{hashlib.sha256(repr(items).encode()).hexdigest()[:16]}"


def differences(scheduler: SchedulerMixin, tuned: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The settings in which a scheduler is not as tuned, each with the value that it has and the tuned one.

    Args:
        tuned: as ``settings_of`` gives them; of settings written by hand, those that are given count.
    """
    now = settings_of(scheduler)
    return {
        name: (now.get(name), value)
        for name, value in tuned.items()
        if (name in now or not _is_off(value) or _is_mistyped(name, now)) and not _same(now, name, value)
    }


def _same(now: Mapping[str, Any], name: str, value: Any) -> bool:
    """Whether a setting is as it was; null is off."""
    if name not in now:
        return False
    return now[name] == _plain(value) or (_is_off(now[name]) and _is_off(value))


def _is_off(value: Any) -> bool:
    return value is None or value is False


def _is_mistyped(name: str, known: Iterable[str]) -> bool:
    """Other versions of diffusers may give a class more settings, which are off: with other names."""
    return any(0 < distance(name, other) <= _MISTAKES for other in known)


def check_settings(scheduler: SchedulerMixin, tuned: Mapping[str, Any] | None, advice: str = "") -> None:
    """Refuse a scheduler with other timesteps or noise than a config was tuned with.

    Args:
        tuned: the config's ``scheduler_config``; None compares nothing.
        advice: a sentence on what to do, in place of that for the model's own folder.

    Raises:
        ParamsError: with every setting that differs.
    """
    found = differences(scheduler, tuned or {})
    if not found:
        return
    name = type(scheduler).__name__
    known = [one for one in inspect.signature(type(scheduler).__init__).parameters if one in scheduler.config]
    if unknown := next((key for key in found if key not in known), None):
        line = f"scheduler_config has {unknown}, which {name} does not have: {nearest(unknown, known)}."
        advice = "Correct it, or take it out."
        raise ParamsError(line, key="scheduler_config", got=unknown, expected=known, advice=advice)
    named = ", ".join(f"{key} is {now!r}, tuned with {then!r}" for key, (now, then) in found.items())
    advice = advice or (
        "Use the scheduler_config.json that the model had, tune again, or take scheduler_config out of the "
        "config."
    )
    line = f"The {name} is not as the config was tuned with: {named}."
    now = {key: value for key, (value, _) in found.items()}
    raise ParamsError(line, key="scheduler_config", got=now, expected=sorted(now), advice=advice)
