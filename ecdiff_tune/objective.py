"""Eq. 9-12 of EC-Diff as pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from ecdiff_core.errors import ECDiffError


class ObjectiveError(ECDiffError):
    """The objective has no meaning for this pair or these settings."""


@dataclass(frozen=True)
class Weights:
    """w1, w2, w3 of eq. 12."""

    w1: float = 0.3
    w2: float = 0.3
    w3: float = 0.4


@dataclass(frozen=True)
class Score:
    """One config's values; ``burden`` is None where there is no s (stage 1)."""

    quality: float
    efficiency: float
    burden: float | None
    objective: float


def quality(ssims: Sequence[float]) -> float:
    """Mean SSIM over prompts (eq. 9)."""
    return fmean(ssims)


def efficiency(seconds: float, cloud_seconds: float, edge_seconds: float) -> float:
    """(t_cloud - t) / (t_cloud - t_edge) (eq. 10): 0 as slow as the cloud, 1 as fast as the edge; unbounded.

    Raises:
        ObjectiveError: the cloud alone is not slower than the edge alone.

    The paper's SD-v1.4 + BK-SDM-Small:

    >>> round(efficiency(seconds=1.16, cloud_seconds=1.70, edge_seconds=1.18), 3)
    1.038
    """
    if cloud_seconds <= edge_seconds:
        raise ObjectiveError(
            f"Efficiency has no meaning: the cloud model alone takes {cloud_seconds:.3g} s, the edge "
            f"model alone {edge_seconds:.3g} s. "
            "Expected a slower cloud; are they swapped, or is the machine busy?"
        )
    return (cloud_seconds - seconds) / (cloud_seconds - edge_seconds)


def burden(s: int, num_steps: int, earliest_s: int) -> float:
    """(T - s) / (T - s') (eq. 11): 1 where s = s', 0 where the cloud does every step; above 1 for s < s'.

    >>> burden(s=34, num_steps=50, earliest_s=30)
    0.8
    """
    return (num_steps - s) / (num_steps - earliest_s)


def score(quality: float, efficiency: float, burden: float | None, weights: Weights) -> Score:
    """Objective = w1 * quality + w2 * efficiency + w3 * burden (eq. 12).

    Without a burden (stage 1, where it is a constant) its term is left out.
    """
    total = weights.w1 * quality + weights.w2 * efficiency
    if burden is not None:
        total += weights.w3 * burden
    return Score(quality, efficiency, burden, total)
