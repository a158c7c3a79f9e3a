"""The predicted error of many placements of the real calls at once, and placements that make it small.

``error_growth`` runs every candidate on unit vectors; here the same algebra goes backwards, from
the final latents to the noises, for thousands of lists of real steps together. Every noise that is used is a
weighted sum of the noises used before, so the factor y_i with which an error of step i's noise comes out in
the final latents follows from those of the later steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from ecdiff_core.sampling.estimators import NoiseState, add_residual, get_estimator
from ecdiff_core.sampling.plan import HandoffAdapter
from ecdiff_tune.forecast.error_growth import Array
from ecdiff_tune.forecast.predictor import Directions, Predictor

Bools = NDArray[np.bool_]
Whole = NDArray[np.int64]
Schedule = tuple[int, ...]

_LAST, _BEFORE, _SECOND, _THIRD, _EDGE_NOW, _EDGE_LAST = range(6)
"""What an estimate is made of: the last real noise (step r), the one used at r - 1, the second and third last
real ones; the edge's noise at the step itself and at r."""


@cache
def window_weights(
    estimator: str, alphas: tuple[float, ...], gap: int, earlier_gap: int, length: int
) -> Array:
    """With which weights the estimates of a window are made, told by the estimator on unit vectors.

    Args:
        gap: steps from the second last real noise to the last.
        earlier_gap: from the third last to the second last; 0 where there are but two.
        length: estimates in the window.

    Returns:
        Shape (length, alphas, 6).
    """
    method, factors = get_estimator(estimator), torch.tensor(alphas, dtype=torch.float64)
    units = torch.eye(6, dtype=torch.float64)[:, None].expand(6, len(alphas), 6)
    older = (units[_SECOND], units[_THIRD])[: 1 + (earlier_gap > 0)]
    state = NoiseState(units[_BEFORE], ahead=gap - 1, real=older, gaps=(earlier_gap,)[: len(older) - 1])
    state, rows = method.observe(state, units[_LAST]), []
    if method.fills_with_edge:
        with_residual = add_residual(units[_EDGE_NOW], units[_LAST] - units[_EDGE_LAST], factors)
        return np.stack([with_residual.double().numpy()] * length)
    for _ in range(length):
        state = method.estimate(state, factors)
        assert state.eps is not None
        rows.append(state.eps)
    weights: Array = torch.stack(rows).double().numpy()
    return weights


@dataclass(frozen=True)
class Placements:
    """Lists of real steps on one cloud side, with one estimator each way.

    Args:
        real: whether a step is a real call, shape (lists, s); the first two steps always are.
        alpha: index into ``alphas``, shape (lists,).
    """

    estimator: str
    alphas: tuple[float, ...]
    real: Bools
    alpha: Whole

    @classmethod
    def of(
        cls,
        estimator: str,
        alphas: tuple[float, ...],
        s: int,
        schedules: Sequence[Schedule],
        alpha: Sequence[int],
    ) -> Placements:
        """From the steps themselves."""
        real = np.zeros((len(schedules), s), dtype=bool)
        for row, schedule in zip(real, schedules, strict=True):
            row[list(schedule)] = True
        return cls(estimator, alphas, real, np.asarray(alpha, dtype=np.int64))


@dataclass(frozen=True)
class Estimates:
    """What the noises of approximated steps are made of; zeros at real steps.

    Args:
        indices: steps of the noises ``_LAST`` … ``_THIRD``, shape (s, 4, lists).
        weights: shape (s, 6, lists).
    """

    indices: Whole
    weights: Array

    @classmethod
    def of(cls, placements: Placements) -> Estimates:
        """Of every list, told by the estimator itself."""
        real, (count, s) = placements.real, placements.real.shape
        last = np.maximum.accumulate(np.where(real, np.arange(s), 0), axis=1)
        # The last real step before each: of a real step's own predecessors the newest is second to it.
        before = np.concatenate([np.zeros((count, 1), dtype=np.int64), last[:, :-1]], axis=1)
        second = np.take_along_axis(before, last, axis=1)
        third = np.take_along_axis(before, second, axis=1)
        earlier_gap = np.where(second > 0, second - third, 0)
        rows, steps = np.nonzero(~real)
        patterns = (last - second)[rows, steps] * (s + 1) + earlier_gap[rows, steps]
        weights = np.zeros((s, 6, count))
        for pattern in np.unique(patterns):
            chosen = patterns == pattern
            row, step = rows[chosen], steps[chosen]
            table = window_weights(placements.estimator, placements.alphas, *divmod(int(pattern), s + 1), s)
            weights[step, :, row] = table[step - last[row, step] - 1, placements.alpha[row]]
        indices = np.stack([last, np.maximum(last - 1, 0), second, third]).transpose(2, 0, 1)
        return cls(np.ascontiguousarray(indices), weights)


def factors(placements: Placements, made_of: Estimates, response: Array, reactions: Array) -> Array:
    """The error of the final latents in terms of e_0 … e_{2T-1}, as ``error_growth.coefficients``.

    Args:
        response: W of the scheduler, shape (T + 1, T).
        reactions: of both models, shape (T,).

    Returns:
        Shape (2T, lists).
    """
    (count, s), steps = placements.real.shape, len(reactions)
    reacting = reactions[:, None] * response[:-1]  # what an error of step j moves the answer of step i by
    y = np.repeat(response[-1][:, None], count, axis=1)
    found = np.zeros((2 * steps, count))
    flat_y, flat_found = y.reshape(-1), found.reshape(-1)
    used = [part for part in (_LAST, _BEFORE, _SECOND, _THIRD) if made_of.weights[:, part].any()]
    asks_edge = made_of.weights[:, _EDGE_NOW].any()
    for i in range(steps - 1, s - 1, -1):
        found[i] -= y[i]
        found[steps + i] += y[i]
        y[:i] += reacting[i, :i, None] * y[i]
    for i in range(s - 1, -1, -1):
        real = placements.real[:, i]
        if real.any():
            y[:i] += reacting[i, :i, None] * np.where(real, y[i], 0.0)
        if real.all():
            continue
        lists = np.flatnonzero(~real)
        moved = y[i, lists]
        found[i, lists] -= moved
        for part in used:
            at, by = made_of.indices[i, part, lists] * count + lists, moved * made_of.weights[i, part, lists]
            flat_y[at] += by
            flat_found[at] += by
        for part in (_EDGE_NOW, _EDGE_LAST) if asks_edge else ():
            at = np.full(len(lists), i) if part == _EDGE_NOW else made_of.indices[i, _LAST, lists]
            by = moved * made_of.weights[i, part, lists]
            y[:, lists] += by * reacting[at].T
            found[steps + at, lists] += by
    return found


@dataclass(frozen=True)
class Forecast:
    """What a reference tells, made ready for many placements at once.

    Args:
        response: W of the scheduler, shape (T + 1, T).
        directions: the shares of every error, and how models react to them.
        gram: mean over prompts of both models' noises, shape (2T, 2T), or (T, T) where the edge takes no
            part.
    """

    response: Array
    directions: tuple[Directions, ...]
    gram: Array

    @classmethod
    def of(cls, predictor: Predictor, adapter: HandoffAdapter | None = None) -> Forecast:
        """Of the cloud alone, or of both models with that handoff adapter."""
        grams = predictor.cloud_grams if adapter is None else predictor.along_grams(adapter)
        return cls(predictor.response, predictor.directions, grams.mean(axis=0))

    def errors(self, placements: Placements) -> Array:
        """The mean squared error of the final latents, shape (lists,)."""
        size, made_of = len(self.gram), Estimates.of(placements)
        total = np.zeros(len(placements.real))
        with np.errstate(over="ignore", invalid="ignore"):
            for one in self.directions:
                some = factors(placements, made_of, self.response, one.reactions)[:size]
                total += one.share * (some * (self.gram @ some)).sum(axis=0)
        return np.nan_to_num(np.maximum(total, 0.0), nan=np.inf, posinf=np.inf)
