"""Searches: which candidates to look at next. They know no model, no picture and no file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ecdiff_tune.search import exhaustive, greedy
from ecdiff_tune.search.base import Context, Search, Space

SEARCHES: dict[str, Callable[[Any, Context], Search]] = {
    "greedy": greedy.Greedy,
    "exhaustive": exhaustive.Exhaustive,
}
"""By the name that ``search=`` takes. Greedy knows stage spaces alone."""

__all__ = ["SEARCHES", "Context", "Search", "Space"]
