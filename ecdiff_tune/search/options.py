"""What a person may set for a search; each reads what it needs."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated

from pydantic import Field

from ecdiff_core.errors import ECDiffError
from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_core.validation import AtLeast1, NotNegative, OneOf, Positive, Similarity, check_fields

Rung = Annotated[float, Field(gt=0, lt=1)]
"""A share of the prompts."""
ErrorRate = Annotated[float, Field(ge=0, lt=1)]
LEAST_PROMPTS = 5
"""A rung with fewer says too little."""


class SearchError(ECDiffError):
    """A search's setting is out of range, or does not fit the search."""


SAMPLERS: dict[str, tuple[str, ...]] = {
    "tpe": (),
    "gp": ("torch", "scipy"),
    "cmaes": ("cmaes",),
    "nsga2": (),
    "random": (),
    "grid": (),
}
"""Optuna's samplers by name, and the packages that each wants besides Optuna."""
OBJECTIVES = {
    "objective": "maximize",
    "quality": "maximize",
    "efficiency": "maximize",
    "burden": "maximize",
    "seconds": "minimize",
}
"""What an Optuna study may optimise, and which way; ``objective`` is eq. 12."""


def check_installed(sampler: str) -> None:
    """Refuse ``search=optuna`` where its packages are missing.

    Raises:
        SearchError: with what to install.
    """
    if importlib.util.find_spec("optuna") is None:
        line = "search=optuna needs Optuna: pip install 'ecdiff[optuna]'."
        raise SearchError(line, key="search", got="optuna", expected=["optuna"])
    for package in SAMPLERS[sampler]:
        if importlib.util.find_spec(package) is None:
            line = f"search.sampler={sampler} needs {package}: pip install {package}."
            raise SearchError(line, key="search.sampler", got=sampler, expected=[package])


@dataclass(frozen=True)
class OptunaOptions:
    """What ``search=optuna`` is given.

    Args:
        trials: of the study, those that repeat a config included.
        sampler: who suggests; ``grid`` is every point in random order.
        study_name: under which the storage knows the study.
        storage: path of a journal file, or a database's URL; None keeps the study in memory.
        worker: whose trials are whose where several processes share a storage; empty where none do.
        artifacts: folder for the images of trials; None keeps none.
        objectives: names of ``OBJECTIVES``; of several the winner is that of the Pareto front which is best
            by eq. 12.
        min_quality: mean SSIM that the winner must have.
        max_seconds: an image, that it may take at most.
        start: params to begin with, moved into the grid.

    Raises:
        SearchError: one of them is out of range.
    """

    trials: AtLeast1 = 50
    sampler: Annotated[str, OneOf(SAMPLERS)] = "tpe"
    study_name: str = "ecdiff"
    storage: str | None = None
    worker: str = ""
    artifacts: str | None = None
    objectives: tuple[Annotated[str, OneOf(OBJECTIVES)], ...] = ("objective",)
    min_quality: Similarity | None = None
    max_seconds: Positive | None = None
    start: ECDiffParams | None = None

    def __post_init__(self) -> None:
        check_fields(self, SearchError, "search.")
        if not self.objectives or len(set(self.objectives)) < len(self.objectives):
            expected = "to hold at least one value, none twice"
            raise SearchError(key="search.objectives", got=self.objectives, expected=expected)


@dataclass(frozen=True)
class Options:
    """How candidates race, and how many.

    Args:
        rungs: shares of the prompts after which losers are pruned, 0 < share < 1, rising.
        error_rate: greatest probability of pruning the best candidate in the whole race; 0 leaves it to
            the bounds alone.
        margin: objective that may be given away at a rung; 0 is nothing.
        finalists: how many of the best predicted race (``joint``, ``schedule``).
        min_quality: mean SSIM that the winner must have (``schedule``).
        until: the race ends at the rung after which no other config can be better by so much of the
            objective, and nothing is measured on more prompts (``joint``, ``schedule``); None measures the
            winner on all.
        optuna: for ``search=optuna``, which prunes at the same rungs.

    Raises:
        SearchError: one of them is out of range.
    """

    rungs: tuple[Rung, ...] = (0.1, 0.25, 0.5)
    error_rate: ErrorRate = 0.05
    margin: NotNegative = 0.0
    finalists: AtLeast1 = 8
    min_quality: Similarity | None = None
    until: Positive | None = None
    optuna: OptunaOptions = field(default_factory=OptunaOptions)

    def __post_init__(self) -> None:
        check_fields(self, SearchError, "search.")
        if any(later <= earlier for earlier, later in pairwise(self.rungs)):
            expected = "to rise from rung to rung, as [0.1,0.25,0.5]"
            raise SearchError(key="search.rungs", got=self.rungs, expected=expected)

    def prompts(self, num_prompts: int) -> tuple[int, ...]:
        """How many prompts were seen at each rung, upwards.

        >>> Options().prompts(100), Options().prompts(12), Options().prompts(5)
        ((10, 25, 50), (5, 6), ())
        """
        counts = {max(LEAST_PROMPTS, math.ceil(share * num_prompts)) for share in self.rungs}
        return tuple(sorted(count for count in counts if count < num_prompts))

    def level(self, num_prompts: int, arms: int) -> float:
        """Of one test, so that ``error_rate`` holds for all (Bonferroni): the best of ``arms`` meets each
        other one at most once a rung."""
        return self.error_rate / max(1, len(self.prompts(num_prompts)) * (arms - 1))
