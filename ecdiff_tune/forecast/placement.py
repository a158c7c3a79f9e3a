"""The predicted error of many plans at once, and so of many placements of the real calls.

``error_growth`` runs every candidate on unit vectors; here the same algebra goes backwards, from the final
latents to the noises, for thousands of plans together. Every noise that is used is a weighted sum of the
noises used before, so the factor y_i with which an error of step i's noise comes out in the final latents
follows from those of the later steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from ecdiff_core.sampling.estimators import NoiseState, get_estimator
from ecdiff_core.sampling.plan import HandoffAdapter
from ecdiff_tune.forecast.error_growth import Array
from ecdiff_tune.forecast.predictor import Directions, Predictor

Whole = NDArray[np.int64]
Schedule = tuple[int, ...]

CHUNK = 1500
"""Plans predicted at once, which bounds memory."""
_LAST, _BEFORE, _SECOND, _THIRD = range(4)
"""What an estimate is made of: the last real noise (step r), the one used at r - 1, the second and third last
real ones."""
_APPROX, _CLOUD, _EDGE, _RESIDUAL = range(4)
"""Actions; the last is an edge step with the residual."""
_ACTIONS = {"A": _APPROX, "C": _CLOUD, "B": _CLOUD, "E": _EDGE, "M": _RESIDUAL}


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
    older = (units[_SECOND], units[_THIRD])[: 1 + (earlier_gap > 0)]
    state = NoiseState(units[_BEFORE], ahead=gap - 1, real=older, gaps=(earlier_gap,)[: len(older) - 1])
    state, rows = method.observe(state, units[_LAST]), []
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
        indices: steps of the noises ``_LAST`` … ``_THIRD``, shape (T, 4, plans).
        weights: shape (T, 4, plans).
    """

    indices: Whole
    weights: Array

    @classmethod
    def of(cls, placements: Placements) -> Estimates:
        """Of every plan, read off the estimator itself."""
        real, (count, s) = placements.actions != _APPROX, placements.actions.shape
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


def factors(placements: Placements, made_of: Estimates, response: Array, reactions: Array) -> Array:
    """The error of the final latents in terms of e_0 … e_{2T-1}, as ``error_growth.coefficients``.

    Args:
        response: W of the scheduler, shape (T + 1, T).
        reactions: of both models, shape (T,).

    Returns:
        Shape (2T, plans).
    """
    count, steps = placements.actions.shape
    reacting = reactions[:, None] * response[:-1]  # what an error of step j moves the answer of step i by
    y = np.repeat(response[-1][:, None], count, axis=1)
    found = np.zeros((2 * steps, count))
    flat_y, flat_found = y.reshape(-1), found.reshape(-1)
    used = [part for part in (_LAST, _BEFORE, _SECOND, _THIRD) if made_of.weights[:, part].any()]
    clouds = np.where(placements.actions == _CLOUD, np.arange(steps), 0)
    last_cloud = np.maximum.accumulate(clouds, axis=1).T
    for i in range(steps - 1, -1, -1):
        action = placements.actions[:, i]
        y[:i] += reacting[i, :i, None] * np.where(action != _APPROX, y[i], 0.0)
        own = np.where(action != _CLOUD, y[i], 0.0)  # the cloud's own noise is not wrong by itself
        found[i] -= own
        found[steps + i] += np.where(action >= _EDGE, own, 0.0)
        plans = np.flatnonzero(action == _RESIDUAL)
        if len(plans):
            at, moved = last_cloud[i, plans], y[i, plans] * placements.residual[plans]
            found[at, plans] += moved
            found[steps + at, plans] -= moved
        plans = np.flatnonzero(action == _APPROX)
        for part in used if len(plans) else ():
            at = made_of.indices[i, part, plans] * count + plans
            by = y[i, plans] * made_of.weights[i, part, plans]
            flat_y[at] += by
            flat_found[at] += by
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

    def errors_of(
        self,
        estimator: str,
        alphas: tuple[float, ...],
        plans: Sequence[tuple[str, float, float]],
    ) -> Array:
        """The same of plans by their letters, alpha (one of ``alphas``) and residual, some at a time."""
        found = [np.zeros(0)]
        for start in range(0, len(plans), CHUNK):
            letters, alpha, residual = zip(*plans[start : start + CHUNK], strict=True)
            indices = [alphas.index(one) for one in alpha]
            found.append(self.errors(Placements.of(estimator, alphas, letters, indices, residual)))
        return np.concatenate(found)

    def errors(self, placements: Placements) -> Array:
        """The mean squared error of the final latents, shape (plans,)."""
        size, made_of = len(self.gram), Estimates.of(placements)
        total = np.zeros(len(placements.actions))
        with np.errstate(over="ignore", invalid="ignore"):
            for one in self.directions:
                some = factors(placements, made_of, self.response, one.reactions)[:size]
                total += one.share * (some * (self.gram @ some)).sum(axis=0)
        return np.nan_to_num(np.maximum(total, 0.0), nan=np.inf, posinf=np.inf)
