"""Theorems 1 and 2 against trajectories of a made model, and f and g against DDIM's own formula."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import diffusers
import numpy as np
import pytest
import torch
from diffusers import SchedulerMixin
from torch import Tensor

from ecdiff_core.sampling.estimators import get_estimator
from ecdiff_core.sampling.params import ECDiffParams, Factors
from ecdiff_core.sampling.plan import Plan
from ecdiff_core.sampling.plan_of_params import plan
from ecdiff_core.sampling.sampler import advance, start
from ecdiff_core.sampling.timesteps import scale_model_input
from ecdiff_tune.experiments.bounds import Check, Coefficients, checks
from ecdiff_tune.experiments.trace import Trace

STEPS = 16
CURVE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def scheduler_of(name: str) -> SchedulerMixin:
    extra = {"clip_sample": False} if name == "DDIMScheduler" else {}
    scheduler = getattr(diffusers, name)(**CURVE, **extra)
    scheduler.set_timesteps(STEPS)
    return scheduler


def model(latents: Tensor, timestep: Tensor) -> Tensor:
    """Far from linear, and different at every timestep."""
    return torch.tanh(1.5 * latents + torch.roll(latents, 1, dims=1)) * (0.5 + float(timestep) / 1000)


def traced(scheduler: SchedulerMixin, steps: Plan, alpha: float, estimator: str = "gradient") -> Trace:
    """As ``trace`` does it, without a pipeline."""
    begun = torch.randn(2, 40, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    state = start(begun * scheduler.init_noise_sigma, scheduler, STEPS)
    latents, noises = [], []
    for step in range(STEPS):
        latents.append(scale_model_input(state.scheduler, state.latents, state.scheduler.timesteps[step]))
        state = advance(
            state,
            steps,
            model,
            model,
            get_estimator(estimator),
            Factors(alpha),
            until=step + 1,
            on_step=lambda _step, _action, eps: noises.append(eps),
        )
    return Trace((*latents, state.latents), tuple(noises), {}, state)


def both(name: str, params: ECDiffParams, estimator: str = "gradient") -> tuple[Plan, Trace, Trace]:
    scheduler, steps = scheduler_of(name), plan(params, STEPS, "exact")
    whole = plan(ECDiffParams.cloud_only(STEPS), STEPS)
    return steps, traced(scheduler, whole, 1.0), traced(scheduler, steps, params.alpha, estimator)


def coefficients(name: str) -> Coefficients:
    found = Coefficients.of(scheduler_of(name), STEPS)
    assert found is not None
    return found


PARAMS = [ECDiffParams(3, 2, 0.3, 15), ECDiffParams(4, 3, 0.7, 16), ECDiffParams(2, 1, 0.1, 12)]


def test_f_and_g_are_ddims() -> None:
    scheduler, found = scheduler_of("DDIMScheduler"), coefficients("DDIMScheduler")
    abar = scheduler.alphas_cumprod.double().numpy()[scheduler.timesteps.numpy()]
    after = np.append(abar[1:], float(scheduler.final_alpha_cumprod))
    f = np.sqrt(after / abar)
    np.testing.assert_allclose(found.f[1:], f[1:], rtol=1e-5)
    np.testing.assert_allclose(found.g, f * np.sqrt(1 - abar) - np.sqrt(1 - after), rtol=1e-4, atol=1e-6)
    assert found.f[1:].min() > 1  # the proofs say <= 1


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler"])
def test_schedulers_that_look_back_have_none(name: str) -> None:
    assert Coefficients.of(scheduler_of(name), STEPS) is None


def test_pndm_which_does_a_step_twice_has_none() -> None:
    scheduler = diffusers.PNDMScheduler(**CURVE, skip_prk_steps=True)
    scheduler.set_timesteps(STEPS)
    assert Coefficients.of(scheduler, STEPS + 1) is None


def test_a_scheduler_that_clips_has_none() -> None:
    scheduler = diffusers.DDIMScheduler(**CURVE, clip_sample=True)
    scheduler.set_timesteps(STEPS)
    assert Coefficients.of(scheduler, STEPS) is None


def test_weights_by_hand() -> None:
    f, g = np.array([np.nan, 1.1, 1.2, 1.3]), np.array([0.1, 0.2, 0.3, 0.4])
    np.testing.assert_allclose(Coefficients(f, g).weights(1, 3), [0.2 * 1.2 * 1.3, 0.3 * 1.3, 0.4])
    np.testing.assert_allclose(Coefficients(f, g).weights(2, 2), [0.3])


@pytest.mark.parametrize("params", PARAMS)
@pytest.mark.parametrize("name", ["DDIMScheduler", "EulerDiscreteScheduler"])
def test_the_equations_behind_the_theorems_are_exact(name: str, params: ECDiffParams) -> None:
    steps, cloud, ours = both(name, params)
    found = list(checks(steps, cloud, ours, coefficients(name), params.alpha))
    assert {one.theorem for one in found} == {1, 2}
    assert {one.window for one in found} == set(range(1, steps.schedule.count("A") + 1))
    assert max(one.residual for one in found) < 1e-3
    assert all(one.error > 1e-6 for one in found)
    assert all(one.held for one in found)


def test_a_wrong_alpha_or_wrong_coefficients_are_noticed() -> None:
    params = PARAMS[0]
    steps, cloud, ours = both("DDIMScheduler", params)
    right = coefficients("DDIMScheduler")
    wrong_alpha = checks(steps, cloud, ours, right, params.alpha + 0.2)
    assert max(one.residual for one in wrong_alpha if one.theorem == 2) > 0.01
    wrong_g = list(checks(steps, cloud, ours, replace(right, g=0.2 * right.g), params.alpha))
    assert min(one.residual for one in wrong_g) > 0.1
    assert not any(one.held for one in wrong_g if one.theorem == 1)


def only(found: Sequence[Check], theorem: int, window: int) -> list[Check]:
    return [one for one in found if (one.theorem, one.window) == (theorem, window)]


def size(values: Tensor) -> list[float]:
    return values.square().mean(dim=1).sqrt().tolist()


def test_the_sums_as_printed() -> None:
    """Eq. 7 and 8, term by term, for p=3, k=2: real steps 0 1 2 5 8 11 …"""
    params = PARAMS[0]
    steps, cloud, ours = both("DDIMScheduler", params)
    found = list(checks(steps, cloud, ours, coefficients("DDIMScheduler"), params.alpha))
    eps, used, a = cloud.noises, ours.noises, params.alpha

    eq7 = (eps[3] - used[3]) + (eps[4] - used[4]) - (used[5] - eps[5])
    first = only(found, 1, 1)
    assert [one.printed for one in first] == pytest.approx(size(eq7), rel=1e-5)
    assert [one.error for one in first] == pytest.approx(size(ours.latents[6] - cloud.latents[6]), rel=1e-5)
    assert [one.step for one in first] == [6, 6]

    change, correction, estimated = eps[5] - eps[4], used[5] - eps[5], eps[4] - used[4]
    triangles = [eps[6] - eps[5] - change, eps[7] - eps[5] - 2 * change]
    eq8 = sum(
        triangle - (1 + m * a) * correction - m * a * estimated
        for m, triangle in enumerate(triangles, start=1)
    )
    second = only(found, 2, 2)
    assert isinstance(eq8, Tensor)
    assert [one.printed for one in second] == pytest.approx(size(eq8), rel=1e-5)
    assert [one.step for one in second] == [8, 8]
    assert all(one.held_as_printed == (one.error <= one.printed) for one in found)


def test_what_a_window_adds_leaves_out_what_was_wrong_before() -> None:
    params = PARAMS[0]
    steps, cloud, ours = both("DDIMScheduler", params)
    f = coefficients("DDIMScheduler").f
    (check, _) = only(list(checks(steps, cloud, ours, coefficients("DDIMScheduler"), params.alpha)), 2, 2)
    added = (ours.latents[8] - cloud.latents[8]) - f[6] * f[7] * (ours.latents[6] - cloud.latents[6])
    assert check.error == pytest.approx(size(added)[0], rel=1e-4)


def test_theorem_2_is_about_the_papers_gradient_alone() -> None:
    steps, cloud, ours = both("DDIMScheduler", PARAMS[0], "secant")
    found = list(checks(steps, cloud, ours, coefficients("DDIMScheduler"), None))
    assert {one.theorem for one in found} == {1}
    assert max(one.residual for one in found) < 1e-3


def test_a_window_after_two_real_calls_is_none_of_theorem_2s() -> None:
    params = ECDiffParams.scheduled([0, 1, 2, 5, 6, 9], 0.4, 12)
    steps, cloud, ours = both("DDIMScheduler", params)
    found = list(checks(steps, cloud, ours, coefficients("DDIMScheduler"), params.alpha))
    assert {(one.theorem, one.window) for one in found} == {(1, 1), (2, 3)}
    assert max(one.residual for one in found) < 1e-3


def test_without_a_correcting_call_theorem_1_has_nothing_to_say() -> None:
    params = ECDiffParams(3, 5, 0.3, 7)
    steps, cloud, ours = both("DDIMScheduler", params)
    assert not list(checks(steps, cloud, ours, coefficients("DDIMScheduler"), params.alpha))
