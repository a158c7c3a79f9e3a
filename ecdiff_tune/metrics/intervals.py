"""What a mean over prompts is worth: bootstrap intervals and paired comparisons (Efron 1979)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000


@lru_cache(maxsize=8)
def _draws(count: int, seed: int) -> NDArray[np.int64]:
    """Prompts with repetition, shape (RESAMPLES, count)."""
    return np.random.default_rng(seed).integers(count, size=(RESAMPLES, count))


def interval95(values: Sequence[float], seed: int) -> tuple[float, float]:
    """Bootstrap 95% interval of the mean over prompts.

    >>> interval95([0.25] * 20, seed=0)
    (0.25, 0.25)
    """
    means = np.asarray(values)[_draws(len(values), seed)].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def is_tied(best: Sequence[float], other: Sequence[float], seed: int) -> bool:
    """Whether the prompts do not tell which mean is higher: paired bootstrap of ``best`` minus ``other``.

    Both hold a value a prompt, of the same prompts in the same order. Tied means that the 95% interval of the
    mean difference reaches down to 0. It says nothing of how many configs were compared.
    """
    low, _ = interval95(np.subtract(best, other).tolist(), seed)
    return low <= 0
