"""What the estimates of many plans at once are made of, read off the estimators by unit vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from ecdiff_core.sampling.estimators import NoiseState, get_estimator
from ecdiff_tune.forecast.error_growth import Array

Whole = NDArray[np.int64]

LAST, BEFORE, SECOND, THIRD = range(4)
"""What an estimate is made of: the last real noise (step r), the one used at r - 1, the second and third last
real ones."""
APPROX, CLOUD, EDGE, RESIDUAL = range(4)
"""Actions; the last is an edge step with the residual."""
_ACTIONS = {"A": APPROX, "C": CLOUD, "B": CLOUD, "E": EDGE, "M": RESIDUAL}


@cache
def window_weights(
    estimator: str, alphas: tuple[float, ...], gap: int, earlier_gap: int, length: int
) -> Array:
    """With which weights the estimates of a window are made, read off the estimator by unit vectors.

    Args:
        gap: steps from the second last real noise to the last.
        earlier_gap: from the third last to the second last; 0 where there are but two.
        length: estimates in the window.

    Returns:
        Shape (length, alphas, 4).
    """
    method, factors = get_estimator(estimator), torch.tensor(alphas, dtype=torch.float64)
    units = torch.eye(4, dtype=torch.float64)[:, None].expand(4, len(alphas), 4)
    older = (units[SECOND], units[THIRD])[: 1 + (earlier_gap > 0)]
    state = NoiseState(units[BEFORE], ahead=gap - 1, real=older, gaps=(earlier_gap,)[: len(older) - 1])
    state, rows = method.observe(state, units[LAST]), []
    for _ in range(length):
        state = method.estimate(state, factors)
        assert state.eps is not None
        rows.append(state.eps)
    weights: Array = torch.stack(rows).double().numpy()
    return weights


@dataclass(frozen=True)
class Placements:
    """Plans whose approximated steps one estimator fills.

    Args:
        actions: what every step is, shape (plans, T); the first two are real.
        alpha: index into ``alphas``, shape (plans,).
        residual: factor of the residual, shape (plans,).
    """

    estimator: str
    alphas: tuple[float, ...]
    actions: Whole
    alpha: Whole
    residual: Array

    @classmethod
    def of(
        cls,
        estimator: str,
        alphas: tuple[float, ...],
        letters: Sequence[str],
        alpha: Sequence[int],
        residual: Sequence[float],
    ) -> Placements:
        """From the plans' letters (``Plan.letters``)."""
        actions = np.array([[_ACTIONS[letter] for letter in one] for one in letters], dtype=np.int64)
        return cls(estimator, alphas, actions, np.asarray(alpha, dtype=np.int64), np.asarray(residual))


@dataclass(frozen=True)
class Estimates:
    """What the noises of approximated steps are made of; zeros at real steps.

    Args:
        indices: steps of the noises ``LAST`` … ``THIRD``, shape (T, 4, plans).
        weights: shape (T, 4, plans).
    """

    indices: Whole
    weights: Array

    @classmethod
    def of(cls, placements: Placements) -> Estimates:
        """Of every plan, read off the estimator itself."""
        real, (count, s) = placements.actions != APPROX, placements.actions.shape
        last = np.maximum.accumulate(np.where(real, np.arange(s), 0), axis=1)
        # The last real step before each: of a real step's own predecessors the newest is second to it.
        before = np.concatenate([np.zeros((count, 1), dtype=np.int64), last[:, :-1]], axis=1)
        second = np.take_along_axis(before, last, axis=1)
        third = np.take_along_axis(before, second, axis=1)
        earlier_gap = np.where(second > 0, second - third, 0)
        rows, steps = np.nonzero(~real)
        patterns = (last - second)[rows, steps] * (s + 1) + earlier_gap[rows, steps]
        weights = np.zeros((s, 4, count))
        for pattern in np.unique(patterns):
            chosen = patterns == pattern
            row, step = rows[chosen], steps[chosen]
            table = window_weights(placements.estimator, placements.alphas, *divmod(int(pattern), s + 1), s)
            weights[step, :, row] = table[step - last[row, step] - 1, placements.alpha[row]]
        indices = np.stack([last, np.maximum(last - 1, 0), second, third]).transpose(2, 0, 1)
        return cls(np.ascontiguousarray(indices), weights)
