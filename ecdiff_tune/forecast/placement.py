"""The predicted error of many plans at once, and so of many placements of the real calls.

``error_growth`` runs every candidate on unit vectors; here the same algebra goes backwards, from the final
latents to the noises, for thousands of plans together. Every noise that is used is a weighted sum of the
noises used before, so the factor y_i with which an error of step i's noise comes out in the final latents
follows from those of the later steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ecdiff_core.sampling.plan import HandoffAdapter
from ecdiff_tune.forecast.error_growth import Array
from ecdiff_tune.forecast.estimates import (
    APPROX,
    BEFORE,
    CLOUD,
    EDGE,
    LAST,
    RESIDUAL,
    SECOND,
    THIRD,
    Estimates,
    Placements,
)
from ecdiff_tune.forecast.predictor import UNFORESEEN, Directions, Predictor

Schedule = tuple[int, ...]

CHUNK = 1500
"""Plans predicted at once, which bounds memory."""
DIMENSIONS = 32
"""In which distances from the cloud's own latents are reckoned."""


def factors(
    placements: Placements, made_of: Estimates, response: Array, reactions: Array
) -> tuple[Array, Array]:
    """The error of the final latents in terms of e_0 … e_{2T-1}, and what an error of each step's noise moves
    them by, as ``error_growth.Growth`` has both.

    Args:
        response: W of the scheduler, shape (T + 1, T).
        reactions: of both models, shape (T,).

    Returns:
        Shapes (2T, plans) and (T, plans); the latter is not 0 at approximated steps either.
    """
    count, steps = placements.actions.shape
    reacting = reactions[:, None] * response[:-1]  # what an error of step j moves the answer of step i by
    y = np.repeat(response[-1][:, None], count, axis=1)
    found = np.zeros((2 * steps, count))
    flat_y, flat_found = y.reshape(-1), found.reshape(-1)
    used = [part for part in (LAST, BEFORE, SECOND, THIRD) if made_of.weights[:, part].any()]
    clouds = np.where(placements.actions == CLOUD, np.arange(steps), 0)
    last_cloud = np.maximum.accumulate(clouds, axis=1).T
    for i in range(steps - 1, -1, -1):
        action = placements.actions[:, i]
        y[:i] += reacting[i, :i, None] * np.where(action != APPROX, y[i], 0.0)
        own = np.where(action != CLOUD, y[i], 0.0)  # the cloud's own noise is not wrong by itself
        found[i] -= own
        found[steps + i] += np.where(action >= EDGE, own, 0.0)
        plans = np.flatnonzero(action == RESIDUAL)
        if len(plans):
            at, moved = last_cloud[i, plans], y[i, plans] * placements.residual[plans]
            found[at, plans] += moved
            found[steps + at, plans] -= moved
        plans = np.flatnonzero(action == APPROX)
        for part in used if len(plans) else ():
            at = made_of.indices[i, part, plans] * count + plans
            by = y[i, plans] * made_of.weights[i, part, plans]
            flat_y[at] += by
            flat_found[at] += by
    return found, y


def displacements(
    placements: Placements, made_of: Estimates, response: Array, reactions: Array, noises: Array
) -> Array:
    """How far the latents are from the cloud's own before every step, squared, shape (T, plans).

    Args:
        response: W of the scheduler, shape (T + 1, T).
        reactions: of both models, shape (T,).
        noises: e_0 … e_{2T-1} in a few dimensions, in which nearly all of them lies, shape (2T, dimensions).
    """
    count, steps = placements.actions.shape
    used = np.zeros((steps, noises.shape[1], count))
    wrong, apart = np.zeros_like(used), np.zeros((steps, count))
    clouds = np.where(placements.actions == CLOUD, np.arange(steps), 0)
    last_cloud = np.maximum.accumulate(clouds, axis=1).T
    parts = [part for part in (LAST, BEFORE, SECOND, THIRD) if made_of.weights[:, part].any()]
    for i in range(steps):
        action, cloud, edge = placements.actions[:, i], noises[i, :, None], noises[steps + i, :, None]
        moved = np.tensordot(response[i, :i], wrong[:i], 1)
        apart[i] = np.square(moved).sum(axis=0)
        used[i] = reactions[i] * moved + np.where(action == CLOUD, cloud, edge)
        if len(plans := np.flatnonzero(action == RESIDUAL)):
            at = last_cloud[i, plans]
            used[i][:, plans] += placements.residual[plans] * (noises[at] - noises[steps + at]).T
        if len(plans := np.flatnonzero(action == APPROX)):
            at, by = made_of.indices[i][:, plans], made_of.weights[i][:, plans]
            used[i][:, plans] = sum(used[at[part], :, plans].T * by[part] for part in parts)
        wrong[i] = used[i] - cloud
    return apart


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

    @cached_property
    def _noises(self) -> Array:
        """All 2T noises in the dimensions in which they are longest, shape (2T, at most ``DIMENSIONS``)."""
        values, vectors = np.linalg.eigh(self.gram)
        longest = slice(-DIMENSIONS, None)
        found = vectors[:, longest] * np.sqrt(np.maximum(values[longest], 0.0))
        missing = 2 * (len(self.response) - 1) - len(found)
        return np.pad(found, ((0, missing), (0, 0)))  # no plan asks an edge that takes no part

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
        total, real = np.zeros(len(placements.actions)), placements.actions.T != APPROX
        with np.errstate(over="ignore", invalid="ignore"):
            for one in self.directions:
                of_plans = placements, made_of, self.response, one.reactions
                some, moved = factors(*of_plans)
                some, apart = some[:size], displacements(*of_plans, self._noises)
                total += one.share * (some * (self.gram @ some)).sum(axis=0)
                unforeseen = np.where(real, np.square(moved * one.reactions[:, None]) * apart, 0.0)
                total += one.share * UNFORESEEN * unforeseen.sum(axis=0)
        return np.nan_to_num(np.maximum(total, 0.0), nan=np.inf, posinf=np.inf)
