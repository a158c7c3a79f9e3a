"""Predicts the quality of any candidate from the reference run, without a generation.

1. Every noise that a plan uses is a sum over the cloud's and the edge's noises on the cloud's own trajectory,
   so the squared error of its final latents is c^T G c, with G the Gram matrix of those noises
   (``ecdiff_tune.forecast.error_growth``).
2. How models react to errors is read off the one error that the reference shows whole: the distance of the
   edge's own run from the cloud's, step by step, as a sum over directions of different spread.
3. Models are not linear: their answer to wrong latents is off by more than the mean reaction, at every real
   step anew. That is small unless later estimates multiply it, as a parabola through near steps does over a
   long gap; counted, it keeps plans back that are right on the cloud's own trajectory alone.
4. An error in the latents is a quality by 1 / (1 + err^2 / e0^2), where e0 comes from the prompts' own edge
   images, whose error and SSIM are known.

What this cannot know. The reaction is that of linear models, the same for cloud and edge, in the mixture that
the edge's errors have. Qualities far below the edge's own mean little, and where the edge takes part all come
out some hundredths too high: rely on the order. With other schedulers than DDIM the algebra is that of the
scheduler itself, and the reaction the same approximation.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from diffusers import SchedulerMixin
from torch import Tensor

from ecdiff_core.sampling.plan import Handoff, HandoffAdapter
from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.evaluation.reference import Reference
from ecdiff_tune.forecast.error_growth import (
    Array,
    Growth,
    UnpredictableError,
    growth,
    reaction,
    scheduler_response,
    tail,
)
from ecdiff_tune.metrics.images import ssim

SPREADS = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0, float("inf"))
"""Of clean latents, in their own units; infinity is the open loop."""
MOST_DIRECTIONS = 3
CHUNK, MOST_VALUES = 256, 2**22
"""Candidates at a time, and values of their latents at all steps, of each direction: memory is bounded."""
UNFORESEEN = 0.1
"""Variance of a model's reaction to an error, as a share of the squared reaction that linear models have; on
the shapes pair 0.1 … 0.3 rank plans about alike, and better than 0 does (docs/split.md)."""


@dataclass(frozen=True)
class Directions:
    """A share of every error that models react to in the same way.

    Args:
        share: of the squared error.
        reactions: change of a model's output with its latents, shape (T,).
    """

    share: float
    reactions: Array


_Parts = Sequence[tuple[Directions, Growth]]
"""How errors grow in each of the directions."""


def fit_directions(
    scheduler: SchedulerMixin, response: Array, gram: Array, divergence: Array
) -> tuple[Directions, ...]:
    """The mixture of directions with which the edge's own run would diverge from the cloud's as it did.

    Args:
        response: W of the scheduler, shape (T + 1, T).
        gram: mean over prompts, shape (2T, 2T).
        divergence: mean over prompts of the runs' squared distance, shape (T + 1,).

    Raises:
        UnpredictableError: the runs are the same, or the scheduler does not tell how much noise there is.
    """
    steps = response.shape[1]
    differs = divergence > 0
    if not differs.any() or not np.isfinite(divergence).all():
        raise UnpredictableError(
            "The edge's own run is the cloud's, or is not finite, so that nothing can be learnt from it.",
            key="edge",
            advice="Are cloud and edge different models?",
        )
    cross = gram[:steps, steps:]
    difference = gram[:steps, :steps] + gram[steps:, steps:] - cross - cross.T
    found = []
    for spread in SPREADS:
        reactions = reaction(scheduler, steps, spread)
        _, grown = tail(response, reactions, 0)
        found.append((reactions, np.einsum("ij,jk,ik->i", grown, difference, grown)))
    # Errors relative to what was seen, so that early steps, whose distances are small, count as well.
    curves = np.stack([curve[differs] / divergence[differs] for _, curve in found], axis=1)
    shares = _shares(curves)
    return tuple(
        Directions(float(share), reactions)
        for share, (reactions, _) in zip(shares, found, strict=True)
        if share > 0
    )


def _shares(curves: Array) -> Array:
    """Shares >= 0, few of them not 0, whose mixture of curves (columns) is nearest to 1 everywhere."""
    best, least = np.zeros(curves.shape[1]), float("inf")
    for count in range(1, MOST_DIRECTIONS + 1):
        for chosen in map(list, itertools.combinations(range(curves.shape[1]), count)):
            shares = np.linalg.lstsq(curves[:, chosen], np.ones(len(curves)), rcond=None)[0]
            off = float(np.square(curves[:, chosen] @ shares - 1).mean())
            # Beyond a thousandth, and beyond a hundredth of what is left, nothing is learnt from it.
            if (shares > 0).all() and off < 0.99 * least - 1e-6:
                best, least = np.zeros(curves.shape[1]), off
                best[chosen] = shares
    return best


def fit_half_error(divergence: Array, edge_quality: Array) -> float:
    """e0^2, the squared error of the final latents that halves the quality: the median over prompts of
    err^2 q / (1 - q), with the true distance and the SSIM of the edge's own image.

    Args:
        divergence: squared distance of the edge's final latents from the cloud's, shape (prompts,).
        edge_quality: SSIM of the edge's images, shape (prompts,).
    """
    q = np.clip(edge_quality, 0.01, 0.999)
    return float(np.median(divergence * q / (1 - q)))


def quality_of(squared_error: Array, half_error: float) -> Array:
    """1 / (1 + err^2 / e0^2): 1 without an error, 0 where it is infinite."""
    return 1 / (1 + squared_error / half_error)


@dataclass(frozen=True)
class Predictor:
    """Predicts qualities on one calibration set.

    Args:
        handoff: of the study.
        response: W of its scheduler, shape (T + 1, T).
        directions: how models react.
        half_error: e0^2.
        cloud_grams: of the cloud's noises, shape (prompts, T, T).
        along_grams: of both models' noises by handoff adapter, shape (first prompts, 2T, 2T); asked when a
            candidate needs it.
    """

    handoff: Handoff
    response: Array
    directions: tuple[Directions, ...]
    half_error: float
    cloud_grams: Array
    along_grams: Callable[[HandoffAdapter], Array]

    @classmethod
    def of(
        cls,
        scheduler: SchedulerMixin,
        handoff: Handoff,
        reference: Reference,
        passes: Callable[[HandoffAdapter], Sequence[Mapping[str, Tensor]]],
        own_adapter: HandoffAdapter,
    ) -> Predictor:
        """What a reference and the edge passes of its first prompts tell.

        Args:
            scheduler: with its timesteps set.
            passes: the content of the edge passes' files (``EdgePass.make``) by handoff adapter.
            own_adapter: the one that the reference's edge images were made with.

        Raises:
            UnpredictableError: nothing can be predicted with this scheduler or this pair.
        """
        cloud_grams = np.stack([one.gram.numpy() for one in reference.prompts])
        response = scheduler_response(scheduler, cloud_grams.shape[1])

        @cache
        def along_grams(adapter: HandoffAdapter) -> Array:
            return np.stack([one["gram"].numpy() for one in passes(adapter)])

        divergence = np.stack([one["divergence"].numpy() for one in passes(own_adapter)])
        images = [(one.edge, one.cloud) for one in reference.prompts[: len(divergence)]]
        edge_quality = np.array([float(ssim(edge[None], cloud[None])) for edge, cloud in images])
        mean_gram = along_grams(own_adapter).mean(axis=0)
        return cls(
            handoff,
            response,
            fit_directions(scheduler, response, mean_gram, divergence.mean(axis=0)),
            fit_half_error(divergence[:, -1], edge_quality),
            cloud_grams,
            along_grams,
        )

    @classmethod
    def of_cloud_alone(cls, scheduler: SchedulerMixin, handoff: Handoff, reference: Reference) -> Predictor:
        """What the cloud's own runs tell, without an edge call, of plans in which the edge takes no part.

        That models undo errors, as those do that lead out of their data, and that an error as large as the
        noise halves the quality, is assumed: on the shapes pair the order of 44 placements from one prompt
        had a rank correlation of at least 0.95 with that from 25 prompts and the edge's reaction.

        Raises:
            UnpredictableError: nothing can be predicted with this scheduler.
        """
        grams = np.stack([one.gram.numpy() for one in reference.prompts])
        steps = grams.shape[1]
        response = scheduler_response(scheduler, steps)

        def along_grams(_: HandoffAdapter) -> Array:
            line = "Where the edge takes no part nothing is known of it."
            raise UnpredictableError(line, key="edge", expected="none")

        undone = (Directions(1.0, reaction(scheduler, steps, SPREADS[0])),)
        noise = float(np.einsum("pii->pi", grams).mean())
        return cls(handoff, response, undone, noise, grams, along_grams)

    def qualities(self, candidates: Sequence[Candidate]) -> list[float]:
        """The mean SSIM of every candidate, predicted.

        Over all prompts where the edge takes no part, over those with an edge pass where it does.
        """
        return [float(quality_of(one, self.half_error).mean()) for one in self.squared_errors(candidates)]

    def squared_errors(self, candidates: Sequence[Candidate]) -> list[Array]:
        """The squared error of every candidate's final latents, shape (prompts,) each."""
        found: list[Array] = []
        steps = self.response.shape[1]
        chunk = max(1, min(CHUNK, MOST_VALUES // (2 * steps * (steps + 1))))
        for first in range(0, len(candidates), chunk):
            found += self._squared_errors(candidates[first : first + chunk])
        return found

    def _squared_errors(self, candidates: Sequence[Candidate]) -> list[Array]:
        steps = self.response.shape[1]
        parts = [
            (one, growth(candidates, self.handoff, self.response, one.reactions)) for one in self.directions
        ]
        groups: dict[HandoffAdapter | None, list[int]] = {}
        for i, one in enumerate(candidates):
            takes_part = any(grown.final[i, steps:].any() for _, grown in parts)
            groups.setdefault(one.handoff_adapter if takes_part else None, []).append(i)
        found: list[Array] = [np.empty(0)] * len(candidates)
        for adapter, rows in groups.items():
            grams = self.cloud_grams if adapter is None else self.along_grams(adapter)
            errors = self._linear(parts, rows, grams)
            mean = errors.mean(axis=1, keepdims=True)
            more = self._unforeseen(parts, rows, grams.mean(axis=0))[:, None]
            with np.errstate(invalid="ignore"):
                errors *= 1 + np.divide(more, mean, out=np.zeros_like(mean), where=mean > 0)
            for i, row in enumerate(rows):
                found[row] = np.nan_to_num(errors[i], nan=np.inf, posinf=np.inf)
        return found

    def _linear(self, parts: _Parts, rows: Sequence[int], grams: Array) -> Array:
        """The squared errors of linear models, shape (rows, prompts)."""
        size, found = grams.shape[1], np.zeros((len(rows), len(grams)))
        for one, grown in parts:
            found += one.share * _quadratic(grown.final[rows, :size], grams)
        return found

    def _unforeseen(self, parts: _Parts, rows: Sequence[int], gram: Array) -> Array:
        """What comes to the mean of the squared errors because models are not linear, shape (rows,)."""
        found = np.zeros(len(rows))
        for one, grown in parts:
            latents = grown.latents[rows, :-1, : len(gram)]
            with np.errstate(over="ignore", invalid="ignore"):
                apart = np.maximum((latents @ gram * latents).sum(axis=2), 0.0)
                moved = np.square(grown.answers[rows] * one.reactions)
                found += one.share * UNFORESEEN * (moved * apart).sum(axis=1)
        return np.nan_to_num(found, nan=np.inf, posinf=np.inf)


def _quadratic(factors: Array, grams: Array) -> Array:
    """c^T G c for every row c of ``factors`` and every G, shape (rows, prompts); infinite on overflow."""
    with np.errstate(over="ignore", invalid="ignore"):
        value: Array = np.einsum("ci,pij,cj->cp", factors, grams, factors, optimize=True)
    return np.nan_to_num(np.maximum(value, 0.0), nan=np.inf, posinf=np.inf)
