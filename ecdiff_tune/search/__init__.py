"""Searches: which config to look at next. They know no model, no picture and no file."""

from __future__ import annotations

from collections.abc import Callable

from ecdiff_core.errors import ConfigError, nearest
from ecdiff_tune.search import exhaustive, greedy
from ecdiff_tune.search.base import Search, Space

SEARCHES: dict[str, Callable[[Space], Search]] = {
    "greedy": greedy.Greedy,
    "exhaustive": exhaustive.Exhaustive,
}


def get_search(name: str, space: Space) -> Search:
    """The search of that name over ``space``.

    Raises:
        ConfigError: there is none.
    """
    if name not in SEARCHES:
        raise ConfigError(f"Unknown search {name!r}: {nearest(name, SEARCHES)}.")
    return SEARCHES[name](space)


__all__ = ["SEARCHES", "Search", "Space", "get_search"]
