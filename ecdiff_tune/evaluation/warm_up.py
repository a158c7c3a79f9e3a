"""How many steps the warm-up takes, read off how much the cloud's noise changes from step to step."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ecdiff_core.sampling.params import LEAST_P

SETTLED_SHARE = 0.75
"""Of the initial fall of the noise's change, what must be over when the warm-up ends."""


def auto_p(noise_change: NDArray[np.float64], at_most: int) -> int:
    """p off the noise profile: where three quarters of the initial fall are over, 2 … ``at_most``.

    The paper reads p off its Figure 3, where the noise stops changing fast. Here: with d_i the mean change at
    step i and d_mid its median over the middle half of the steps, the first i with
    d_i <= d_mid + 0.25 (d_1 - d_mid).
    """
    profile = noise_change.mean(axis=0)
    if not len(profile):
        return LEAST_P
    middle = _middle(profile)
    settled = np.flatnonzero(profile <= middle + (1 - SETTLED_SHARE) * max(0.0, profile[0] - middle))
    return int(np.clip(settled[0] + 1 if len(settled) else LEAST_P, LEAST_P, max(LEAST_P, at_most)))


def falls(noise_change: NDArray[np.float64]) -> bool:
    """Whether the noise changes faster at the first step than in the middle, as ``auto_p`` goes by."""
    profile = noise_change.mean(axis=0)
    return bool(len(profile)) and bool(profile[0] > _middle(profile))


def _middle(profile: NDArray[np.float64]) -> float:
    """d_mid of ``auto_p``."""
    quarter = len(profile) // 4
    return float(np.median(profile[quarter : max(quarter + 1, 3 * quarter)]))
