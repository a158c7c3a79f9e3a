"""Searches: which config to look at next. They know no model, no picture and no file."""

from __future__ import annotations

from collections.abc import Callable

from ecdiff_tune.search import exhaustive, greedy
from ecdiff_tune.search.base import Search, Space

SEARCHES: dict[str, Callable[[Space], Search]] = {
    "greedy": greedy.Greedy,
    "exhaustive": exhaustive.Exhaustive,
}
"""By the name that ``search=`` takes."""

__all__ = ["SEARCHES", "Search", "Space"]
