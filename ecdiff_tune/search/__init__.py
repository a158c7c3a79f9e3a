"""Searches: which candidates to look at next. They know no model, no picture and no file."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

from ecdiff_tune.search import exhaustive, greedy, joint, predict, race, schedule
from ecdiff_tune.search.base import Context, Search, Space
from ecdiff_tune.search.options import SearchError


def _optuna(space: Any, context: Context) -> Search:
    from ecdiff_tune.search import optuna  # an optional dependency

    return optuna.search(space, context)


SEARCHES: dict[str, Callable[[Any, Context], Search]] = {
    "greedy": greedy.Greedy,
    "exhaustive": exhaustive.Exhaustive,
    "race": race.race,
    "predict": predict.predict,
    "joint": joint.joint,
    "schedule": schedule.schedule,
    "optuna": _optuna,
}
"""By the name that ``search=`` takes. Greedy knows stage spaces alone."""

BY_CLOCK = ("greedy", "exhaustive")
"""Those that can do without a cost model: their trials may be timed one by one."""

_NEEDS = {"gp": ("torch", "scipy"), "cmaes": ("cmaes",)}
"""Packages that a sampler wants besides Optuna."""


def check_installed(name: str, sampler: str) -> None:
    """Refuse a search whose packages are missing.

    Raises:
        SearchError: with what to install.
    """
    if name != "optuna":
        return
    if importlib.util.find_spec("optuna") is None:
        raise SearchError("search=optuna needs Optuna: pip install 'ecdiff[optuna]'.")
    for package in _NEEDS.get(sampler, ()):
        if importlib.util.find_spec(package) is None:
            raise SearchError(f"search.sampler={sampler} needs {package}: pip install {package}.")


__all__ = ["BY_CLOCK", "SEARCHES", "Context", "Search", "Space", "check_installed"]
