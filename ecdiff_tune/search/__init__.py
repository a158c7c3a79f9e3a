"""Searches: which candidates to look at next. They know no model, no picture and no file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ecdiff_tune.search import exhaustive, greedy, joint, predict, race
from ecdiff_tune.search.base import Context, Search, Space

SEARCHES: dict[str, Callable[[Any, Context], Search]] = {
    "greedy": greedy.Greedy,
    "exhaustive": exhaustive.Exhaustive,
    "race": race.race,
    "predict": predict.predict,
    "joint": joint.joint,
}
"""By the name that ``search=`` takes. Greedy knows stage spaces alone."""

BY_CLOCK = ("greedy", "exhaustive")
"""Those that can do without a cost model: their trials may be timed one by one."""

__all__ = ["BY_CLOCK", "SEARCHES", "Context", "Search", "Space"]
