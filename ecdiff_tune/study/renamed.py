"""Settings that had another name in older versions: what is on disk and in scripts keeps working."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

RENAMED = {"search.looks": "search.rungs"}
"""The name of now, by the old one."""
WITHOUT = {"reference": "full"}
"""What studies did whose settings say nothing of it, where that is not the default."""
T = TypeVar("T")


def present_settings(settings: Mapping[str, T]) -> dict[str, T]:
    """Flat settings by the names of now.

    >>> present_settings({"search.looks": [0.5], "seed": 0})
    {'search.rungs': [0.5], 'seed': 0}
    """
    return {RENAMED.get(name, name): value for name, value in settings.items()}


def present_arguments(arguments: Sequence[str], log: Callable[[str], None]) -> list[str]:
    """Arguments of a command line by the names of now.

    Args:
        log: called with a line an old name.

    >>> present_arguments(["tune", "search.looks=[0.5]"], print)
    note: search.looks is called search.rungs now.
    ['tune', 'search.rungs=[0.5]']
    """
    found = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if equals and name.lstrip("+") in RENAMED:
            old = name.lstrip("+")
            log(f"note: {old} is called {RENAMED[old]} now.")
            argument = name.replace(old, RENAMED[old]) + equals + value
        found.append(argument)
    return found
