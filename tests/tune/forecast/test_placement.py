"""Foretelling many placements at once: the same as running each on unit vectors."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from ecdiff_core.sampling.estimators import ESTIMATORS
from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.forecast.error_growth import growth, reaction, scheduler_response
from ecdiff_tune.forecast.estimates import APPROX, Estimates, Placements, window_weights
from ecdiff_tune.forecast.placement import Forecast, displacements, factors
from ecdiff_tune.forecast.predictor import UNFORESEEN, Directions

from .test_error_growth import SCHEDULERS, STEPS, ready

ALPHAS = (0.2, 0.6, 1.0)


def drawn(s: int, count: int = 12) -> list[tuple[int, ...]]:
    """Different numbers of real steps, the first two among them, and all of them."""
    draw = random.Random(s)
    some = [tuple(sorted({0, 1, *draw.sample(range(s), draw.randint(1, s - 2))})) for _ in range(count)]
    return [*some, tuple(range(s)), (0, 1)]


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("name", ["DDIM", "DPM++ 2M", "flow matching"])
def test_factors_are_the_coefficients_of_a_run(name: str, estimator: str) -> None:
    scheduler = ready(SCHEDULERS[name]())
    response, reactions = scheduler_response(scheduler, STEPS), reaction(scheduler, STEPS, 0.7)
    params = [
        ECDiffParams.scheduled(one, ALPHAS[i % len(ALPHAS)], s)
        for s in (STEPS, 9)
        for i, one in enumerate(drawn(s))
    ]
    if not ESTIMATORS[estimator].fills_with_edge:
        params += [replace(one, s=8, edge_k=2, residual=0.7) for one in params[:4]]
        draw = random.Random(5)
        for residual in (0.0, 0.4, 1.0):
            letters = "CC" + "".join(draw.choice("CEAA") for _ in range(STEPS - 2))
            lists = ([i for i, one in enumerate(letters) if one == which] for which in "CE")
            params.append(ECDiffParams.interleaved(*lists, ALPHAS[0], residual))
    candidates = [Candidate(one, estimator) for one in params]
    scales = [one.factors(ESTIMATORS[estimator]) for one in params]
    placements = Placements.of(
        estimator,
        ALPHAS,
        [one.resolve(STEPS, "exact").plan.letters for one in candidates],
        [ALPHAS.index(one.alpha) for one in params],
        [float(one.residual) for one in scales],
    )
    of_plans = placements, Estimates.of(placements), response, reactions
    (found, answers), grown = factors(*of_plans), growth(candidates, "exact", response, reactions)

    def agree(ours: np.ndarray, theirs: np.ndarray) -> None:
        scale = np.abs(theirs).max(axis=1, keepdims=True) + 1e-3
        np.testing.assert_allclose(ours / scale, theirs / scale, atol=3e-5)  # estimators work in float32

    agree(found.T, grown.final)
    agree(np.where(placements.actions == APPROX, 0.0, answers.T), grown.answers)
    noises = np.random.default_rng(1).normal(size=(2 * STEPS, 3))
    apart = np.square(grown.latents[:, :-1] @ noises).sum(axis=2)
    agree(displacements(*of_plans, noises).T, apart)


def test_window_weights_of_known_estimators() -> None:
    (secant,) = window_weights("secant", (0.5,), gap=2, earlier_gap=3, length=2).transpose(1, 0, 2)
    # eps_r + alpha ahead (eps_r - eps_q) / gap, with units r, r - 1, q, o
    np.testing.assert_allclose(secant, [[1.25, 0, -0.25, 0], [1.5, 0, -0.5, 0]])
    (gradient,) = window_weights("gradient", (0.5,), gap=2, earlier_gap=0, length=1)[:, 0]
    np.testing.assert_allclose(gradient, [1.5, -0.5, 0, 0])
    (warm,) = window_weights("gradient", (0.5,), gap=1, earlier_gap=0, length=1)[:, 0]
    np.testing.assert_allclose(warm, [2, -1, 0, 0])  # eq. 3: alpha leaves the first gradient alone


def test_the_squared_error_mixes_directions() -> None:
    scheduler = ready(SCHEDULERS["DDIM"]())
    response = scheduler_response(scheduler, STEPS)
    noises = np.random.default_rng(0).normal(size=(STEPS, 5))
    parts = tuple(
        Directions(share, reaction(scheduler, STEPS, spread)) for share, spread in ((0.3, 0.1), (0.6, 2.0))
    )
    letters = ["".join("C" if i in one else "A" for i in range(STEPS)) for one in drawn(STEPS)]
    placements = Placements.of("secant", ALPHAS, letters, [0] * 14, [0.0] * 14)
    found = Forecast(response, parts, noises @ noises.T).errors(placements)
    candidates = [Candidate(ECDiffParams.scheduled(one, ALPHAS[0], STEPS), "secant") for one in drawn(STEPS)]
    wanted = np.zeros(len(candidates))
    for part in parts:
        grown = growth(candidates, "exact", response, part.reactions)
        apart = np.square(grown.latents[:, :, :STEPS] @ noises).sum(axis=2)
        unforeseen = np.square(grown.answers * part.reactions) * apart[:, :-1]
        wanted += part.share * (apart[:, -1] + UNFORESEEN * unforeseen.sum(axis=1))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)
    assert found[-2] == pytest.approx(0, abs=1e-9)  # every step real
    assert (found[:-2] > 0).all()
