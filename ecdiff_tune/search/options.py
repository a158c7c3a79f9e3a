"""What a person may set for a search; each reads what it needs."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass, field

from ecdiff_core.errors import ECDiffError, nearest
from ecdiff_core.sampling.params import ECDiffParams

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
        raise SearchError("search=optuna needs Optuna: pip install 'ecdiff[optuna]'.")
    for package in SAMPLERS[sampler]:
        if importlib.util.find_spec(package) is None:
            raise SearchError(f"search.sampler={sampler} needs {package}: pip install {package}.")


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

    trials: int = 50
    sampler: str = "tpe"
    study_name: str = "ecdiff"
    storage: str | None = None
    worker: str = ""
    artifacts: str | None = None
    objectives: tuple[str, ...] = ("objective",)
    min_quality: float | None = None
    max_seconds: float | None = None
    start: ECDiffParams | None = None

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise SearchError(f"Expected search.trials >= 1, got {self.trials}.")
        if self.sampler not in SAMPLERS:
            raise SearchError(f"Unknown search.sampler {self.sampler!r}: {nearest(self.sampler, SAMPLERS)}.")
        if not self.objectives or len(set(self.objectives)) < len(self.objectives):
            raise SearchError(
                f"Expected at least one of search.objectives, none twice, got {list(self.objectives)}."
            )
        for name in self.objectives:
            if name not in OBJECTIVES:
                raise SearchError(f"Unknown name {name!r} in search.objectives: {nearest(name, OBJECTIVES)}.")
        if self.min_quality is not None and not -1 <= self.min_quality <= 1:
            raise SearchError(f"Expected search.min_quality within -1 … 1 (SSIM), got {self.min_quality}.")
        if self.max_seconds is not None and not self.max_seconds > 0:
            raise SearchError(f"Expected search.max_seconds > 0, got {self.max_seconds}.")


@dataclass(frozen=True)
class Options:
    """How candidates race, and how many.

    Args:
        rungs: shares of the prompts after which losers are pruned, 0 < share < 1.
        error_rate: greatest probability of pruning the best candidate in the whole race; 0 leaves it to
            the bounds alone.
        margin: objective that may be given away at a rung; 0 is nothing.
        finalists: how many of the best predicted race (``joint``, ``schedule``).
        min_quality: mean SSIM that the winner must have (``schedule``).
        optuna: for ``search=optuna``, which prunes at the same rungs.

    Raises:
        SearchError: one of them is out of range.
    """

    rungs: tuple[float, ...] = (0.1, 0.25, 0.5)
    error_rate: float = 0.05
    margin: float = 0.0
    finalists: int = 8
    min_quality: float | None = None
    optuna: OptunaOptions = field(default_factory=OptunaOptions)

    def __post_init__(self) -> None:
        if not all(0 < share < 1 for share in self.rungs):
            raise SearchError(f"Expected search.rungs within 0 < share < 1, got {list(self.rungs)}.")
        if not 0 <= self.error_rate < 1:
            raise SearchError(f"Expected search.error_rate within 0 <= rate < 1, got {self.error_rate}.")
        if not 0 <= self.margin < math.inf:
            raise SearchError(f"Expected search.margin >= 0, got {self.margin}.")
        if self.finalists < 1:
            raise SearchError(f"Expected search.finalists >= 1, got {self.finalists}.")

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
