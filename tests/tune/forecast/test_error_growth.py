"""How errors grow: by hand, and against real trajectories of models that are linear in their latents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import diffusers
import numpy as np
import pytest
import torch
from diffusers import SchedulerMixin
from torch import Tensor

from ecdiff_core.sampling.estimators import get_estimator
from ecdiff_core.sampling.params import ECDiffParams, Factors
from ecdiff_core.sampling.plan import Handoff
from ecdiff_core.sampling.plan_of_params import plan
from ecdiff_core.sampling.sampler import Denoiser, advance, start
from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.forecast.error_growth import (
    UnpredictableError,
    growth,
    reaction,
    scheduler_response,
    tail,
)

from ...refusals import refused

STEPS, ELEMENTS = 16, 40
CURVE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def ddim(**more: object) -> SchedulerMixin:
    return diffusers.DDIMScheduler(
        **CURVE, **{"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1} | more
    )


SCHEDULERS: dict[str, Callable[[], SchedulerMixin]] = {
    "DDIM": ddim,
    "DDIM on v": lambda: ddim(prediction_type="v_prediction"),
    "DDIM on x_0": lambda: ddim(prediction_type="sample"),
    "DPM++ 2M": lambda: diffusers.DPMSolverMultistepScheduler(**CURVE),
    "UniPC": lambda: diffusers.UniPCMultistepScheduler(**CURVE),
    "Euler": lambda: diffusers.EulerDiscreteScheduler(**CURVE),
    "flow matching": lambda: diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
}


def ready(scheduler: SchedulerMixin, steps: int = STEPS) -> SchedulerMixin:
    scheduler.set_timesteps(steps)
    return scheduler


CANDIDATES = [
    Candidate(ECDiffParams(3, 2, 0.3, STEPS)),
    Candidate(ECDiffParams(3, 2, 0.7, STEPS)),
    Candidate(ECDiffParams(3, 2, 0.7, 9)),
    Candidate(ECDiffParams(2, 3, 0.4, 7)),
    Candidate(ECDiffParams(4, 3, 1.0, 12), "reuse"),
    Candidate(ECDiffParams(4, 3, 1.0, STEPS), "reuse"),
    Candidate(ECDiffParams.hybrid(5)),
    Candidate(ECDiffParams.edge_only()),
    Candidate(ECDiffParams.cloud_only(STEPS)),
]


@dataclass(frozen=True)
class Pair:
    """A toy cloud and edge, and what they say on the cloud's own trajectory, shape (2T, elements)."""

    scheduler: SchedulerMixin
    latents: Tensor
    cloud: Denoiser
    edge: Denoiser

    def run(self, candidate: Candidate, handoff: Handoff = "aligned") -> Tensor:
        """The final latents of a real trajectory."""
        begun = start(self.latents, self.scheduler, STEPS)
        estimator = get_estimator(candidate.estimator)
        steps = candidate.resolve(STEPS, handoff).plan
        factors = candidate.params.factors(estimator)
        return advance(begun, steps, self.cloud, self.edge, estimator, factors).latents[0]

    def noises(self) -> Tensor:
        said: list[Tensor] = []

        def both(latents: Tensor, timestep: Tensor) -> Tensor:
            said.append(torch.cat([self.cloud(latents, timestep), self.edge(latents, timestep)]))
            return said[-1][:1]

        whole = plan(ECDiffParams.cloud_only(STEPS), STEPS)
        advance(
            start(self.latents, self.scheduler, STEPS),
            whole,
            both,
            both,
            get_estimator("reuse"),
            Factors(1.0),
        )
        return torch.stack(said, dim=1).flatten(0, 1).double()


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def blind_pair(scheduler: SchedulerMixin) -> Pair:
    """Models that look at the timestep alone: the open loop is exact."""
    said = {float(t): randn(2, ELEMENTS, seed=i) for i, t in enumerate(scheduler.timesteps)}
    return Pair(
        scheduler,
        randn(1, ELEMENTS, seed=100),
        lambda _, timestep: said[float(timestep)][:1],
        lambda _, timestep: said[float(timestep)][1:],
    )


def gaussian_pair(scheduler: SchedulerMixin, spread: float) -> Pair:
    """The right answers where clean latents are Gaussian, the edge's around another mean."""
    reactions = reaction(scheduler, STEPS, spread)
    reactions[0] = reactions[1]  # any: it meets no error
    factors = {float(t): float(r) for t, r in zip(scheduler.timesteps, reactions, strict=True)}
    blind = blind_pair(scheduler)

    def reacting(model: Denoiser) -> Denoiser:
        return lambda latents, timestep: model(latents, timestep) + factors[float(timestep)] * latents

    return Pair(scheduler, blind.latents, reacting(blind.cloud), reacting(blind.edge))


@pytest.mark.parametrize("handoff", ["aligned", "exact"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_open_loop_is_exact_for_models_that_do_not_look(name: str, handoff: Handoff) -> None:
    pair = blind_pair(ready(SCHEDULERS[name]()))
    response = scheduler_response(pair.scheduler, STEPS)
    factors = growth(CANDIDATES, handoff, response, np.zeros(STEPS)).final
    noises, right = pair.noises(), pair.run(CANDIDATES[-1])
    for row, candidate in zip(torch.from_numpy(factors), CANDIDATES, strict=True):
        torch.testing.assert_close(row @ noises, pair.run(candidate, handoff) - right, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("spread", [0.3, 3.0])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_reaction_is_exact_for_linear_models(name: str, spread: float) -> None:
    pair = gaussian_pair(ready(SCHEDULERS[name]()), spread)
    response = scheduler_response(pair.scheduler, STEPS)
    factors = growth(CANDIDATES, "aligned", response, reaction(pair.scheduler, STEPS, spread)).final
    open_loop = growth(CANDIDATES, "aligned", response, np.zeros(STEPS)).final
    noises, right = pair.noises(), pair.run(CANDIDATES[-1])
    for i, candidate in enumerate(CANDIDATES):
        error = pair.run(candidate) - right
        scale = float(max(error.norm(), 1.0))
        torch.testing.assert_close(torch.from_numpy(factors[i]) @ noises, error, atol=1e-5 * scale, rtol=1e-4)
    assert np.abs(factors[:-1] - open_loop[:-1]).max() > 0.01


@pytest.mark.parametrize("name", SCHEDULERS)
def test_an_error_of_one_answer_moves_the_final_latents(name: str) -> None:
    """Both models err alike at one step; what estimates and later answers make of it is in the factor."""
    pair = gaussian_pair(ready(SCHEDULERS[name]()), 0.3)
    bump, response = randn(1, ELEMENTS, seed=7), scheduler_response(pair.scheduler, STEPS)
    grown = growth(CANDIDATES, "aligned", response, reaction(pair.scheduler, STEPS, 0.3))

    def erring(model: Denoiser, step: int) -> Denoiser:
        at = float(pair.scheduler.timesteps[step])
        return lambda latents, timestep: model(latents, timestep) + bump * (float(timestep) == at)

    for candidate, answers in zip(CANDIDATES, grown.answers, strict=True):
        right = pair.run(candidate)
        for step in range(1, STEPS, 2):
            wrong = replace(pair, cloud=erring(pair.cloud, step), edge=erring(pair.edge, step)).run(candidate)
            moved = float(answers[step]) * bump[0]
            scale = float(max(moved.norm(), 1.0))
            torch.testing.assert_close(wrong - right, moved, atol=3e-5 * scale, rtol=1e-3)


def test_the_latents_on_the_way() -> None:
    """A plan that is cut after some steps ends where the whole one is then."""
    response, r = lower(), np.array([0.0, 0.3, -0.2, 0.5, 0.1, 0.4, -0.3])
    (whole,) = growth([BY_HAND], "exact", response, r).latents
    for steps in (4, 5, 6):
        cut = Candidate(replace(BY_HAND.params, s=steps))
        (part,) = growth([cut], "exact", response[: steps + 1, :steps], r[:steps]).latents
        np.testing.assert_allclose(whole[: steps + 1, :steps], part[:, :steps], atol=1e-9)


def test_weights_of_ddim() -> None:
    scheduler = ready(ddim())
    abar = scheduler.alphas_cumprod.double()
    sigma_hat = torch.cat([((1 - abar) / abar).sqrt()[scheduler.timesteps], ((1 - abar) / abar).sqrt()[:1]])
    expected = abar[0].sqrt() * sigma_hat.diff()
    response = scheduler_response(scheduler, STEPS)
    np.testing.assert_allclose(response[-1], expected, atol=2e-6)
    assert response.shape == (STEPS + 1, STEPS)
    assert np.abs(np.triu(response[:-1])).max() == 0
    assert scheduler.timesteps.shape == (STEPS,)


@pytest.mark.parametrize("setting", ["clip_sample", "thresholding"])
def test_a_scheduler_that_clips_is_refused(setting: str) -> None:
    with refused(UnpredictableError, key=setting, got="DDIMScheduler"):
        scheduler_response(ready(ddim(**{setting: True})), STEPS)


# By hand: steps C C A C A C E, with alpha after the first correction.

BY_HAND = Candidate(ECDiffParams(2, 1, 0.25, 6))


def lower(seed: int = 3) -> np.ndarray:
    return np.tril(np.random.default_rng(seed).normal(size=(8, 7)), -1)


def test_coefficients_by_hand() -> None:
    response = lower()
    w, unit = response[-1], np.eye(14)
    first = 2 * unit[1] - unit[0]  # eq. 3: the first gradient is not scaled
    second = unit[3] + 0.25 * (unit[3] - first)  # eq. 6
    expected = w[2] * (first - unit[2]) + w[4] * (second - unit[4]) + w[6] * (unit[13] - unit[6])
    (found,) = growth([BY_HAND], "exact", response, np.zeros(7)).final
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_coefficients_of_a_reacting_model_by_hand() -> None:
    response, r = lower(), np.array([0.0, 0.3, -0.2, 0.5, 0.1, 0.4, -0.3])
    unit = np.eye(14)
    d2 = 2 * unit[1] - unit[0] - unit[2]
    d3 = r[3] * response[3, 2] * d2
    used2, used3 = unit[2] + d2, unit[3] + d3
    d4 = used3 + 0.25 * (used3 - used2) - unit[4]
    d5 = r[5] * (response[5, 2] * d2 + response[5, 3] * d3 + response[5, 4] * d4)
    before6 = sum(response[6, i] * d for i, d in ((2, d2), (3, d3), (4, d4), (5, d5)))
    d6 = unit[13] - unit[6] + r[6] * before6
    expected = sum(response[7, i] * d for i, d in ((2, d2), (3, d3), (4, d4), (5, d5), (6, d6)))
    (found,) = growth([BY_HAND], "exact", response, r).final
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_candidates_coefficients_do_not_depend_on_the_others() -> None:
    response, r = scheduler_response(ready(ddim()), STEPS), np.linspace(0, 1, STEPS)
    together = growth(CANDIDATES, "aligned", response, r).final
    alone = np.concatenate([growth([one], "aligned", response, r).final for one in CANDIDATES])
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_after_the_last_step_nothing_follows() -> None:
    before, after = tail(lower(), np.ones(7), 7)
    np.testing.assert_array_equal(before, lower()[-1:])
    assert after.shape == (1, 0)


def test_infinite_spread_is_the_open_loop_of_noise_predictions() -> None:
    assert not reaction(ready(ddim()), STEPS, float("inf")).any()
    zero = reaction(ready(ddim()), STEPS, 0.0)[1:]
    abar = ddim().alphas_cumprod[ready(ddim()).timesteps[1:]].double()
    np.testing.assert_allclose(zero, 1 / (1 - abar).sqrt(), rtol=1e-6)
