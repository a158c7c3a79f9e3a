"""The matched handoff against an exact denoiser, whose answer is known in every model's terms."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from diffusers import CogVideoXDDIMScheduler, DDIMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from ecdiff_core.errors import ParamsError
from ecdiff_core.models.handoff import (
    NoiseSchedule,
    adapt,
    check_adapter,
    from_epsilon_and_z,
    matched,
    to_epsilon_and_z,
)
from ecdiff_core.sampling.sampler import Denoiser

from ...refusals import refused


def cogvideox(scaling_factor: float, snr_shift_scale: float) -> NoiseSchedule:
    """The schedule of CogVideoX 5B (0.7, 1.0) or 2B (1.15258, 3.0)."""
    scheduler = CogVideoXDDIMScheduler(
        snr_shift_scale=snr_shift_scale,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )
    schedule = NoiseSchedule.of(scheduler, scaling_factor)
    assert schedule is not None
    return schedule


def stable_diffusion(prediction_type: str = "epsilon", timesteps: int = 1000) -> NoiseSchedule:
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction_type,
        num_train_timesteps=timesteps,
    )
    schedule = NoiseSchedule.of(scheduler, 0.18215)
    assert schedule is not None
    return schedule


FIVE, TWO = cogvideox(0.7, 1.0), cogvideox(1.15258, 3.0)


def normal_denoiser(schedule: NoiseSchedule, spread: float = 2.0) -> Denoiser:
    """The best answer of a model whose autoencoder latents are normal with that standard deviation."""

    def denoise(latents: Tensor, timestep: Tensor) -> Tensor:
        abar = schedule.abar(float(timestep))
        x = latents.double()
        power = abar * (schedule.scaling_factor * spread) ** 2
        clean = x * power / (abar**0.5 * (power + 1 - abar)) if abar else torch.zeros_like(x)
        eps = (x - abar**0.5 * clean) / (1 - abar) ** 0.5
        return from_epsilon_and_z(schedule, eps, clean / schedule.scaling_factor, abar)

    return denoise


@pytest.mark.parametrize(
    ("cloud", "edge"),
    [(FIVE, TWO), (TWO, FIVE), (stable_diffusion(), FIVE), (stable_diffusion(), stable_diffusion("sample"))],
    ids=["5B to 2B", "2B to 5B", "SD to 5B", "epsilon to sample"],
)
def test_matched_answers_as_the_cloud_would_where_identity_does_not(
    cloud: NoiseSchedule, edge: NoiseSchedule
) -> None:
    ours, theirs = normal_denoiser(cloud), normal_denoiser(edge)
    adapted = matched(theirs, cloud, edge)
    generator = torch.Generator().manual_seed(0)
    worst_identity = 0.0
    for step in (19, 119, 239, 519, 799, 979):
        timestep, abar = torch.tensor(step), cloud.abar(step)
        z = 2.0 * torch.randn(1, 4, 8, 8, generator=generator).double()
        eps = torch.randn(1, 4, 8, 8, generator=generator).double()
        latents = abar**0.5 * cloud.scaling_factor * z + (1 - abar) ** 0.5 * eps
        expected = to_epsilon_and_z(cloud, ours(latents, timestep), latents, abar)
        found = to_epsilon_and_z(cloud, adapted(latents, timestep), latents, abar)
        plain = to_epsilon_and_z(cloud, theirs(latents, timestep), latents, abar)
        for one, other in zip(found, expected, strict=True):
            assert float((one - other).abs().max()) < 1e-4 * max(1.0, float(other.abs().max()))
        worst_identity = max(worst_identity, float((plain[0] - expected[0]).abs().max()))
    assert worst_identity > 1e-2


def test_cogvideox_timesteps_are_matched_as_computed_by_hand() -> None:
    # 5B at its timestep 239 has the effective signal-to-noise ratio of 2B near its 229.
    assert round(TWO.timestep_like(FIVE, 239)) == 229
    abar_5, abar_2 = FIVE.abar(239), TWO.abar(TWO.timestep_like(FIVE, 239))
    factor = (abar_2**0.5 * 1.15258) / (abar_5**0.5 * 0.7)
    assert ((1 - abar_2) / (1 - abar_5)) ** 0.5 == pytest.approx(factor, rel=1e-6)


def test_latents_cleaner_than_any_that_the_edge_knows_keep_their_image() -> None:
    cloud, edge = (replace(schedule, prediction_type="sample") for schedule in (FIVE, TWO))
    assert edge.timestep_like(cloud, 0) == 0  # 2B knows none as clean as 5B's at its timestep 0
    z = 2.0 * torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    eps = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)).double()
    abar = cloud.abar(0)
    latents = abar**0.5 * 0.7 * z + (1 - abar) ** 0.5 * eps
    expected = normal_denoiser(cloud)(latents, torch.tensor(0)) / 0.7
    found = matched(normal_denoiser(edge), cloud, edge)(latents, torch.tensor(0)) / 0.7
    assert float((found - expected).abs().max()) < 5e-4  # scaled by the noise: 0.35


def test_what_the_edge_takes_for_the_image_leaves_the_rest_as_noise() -> None:
    """At both ends image and noise of the answer still make up the cloud's latents."""
    noisy_end = replace(FIVE, prediction_type="epsilon")
    for cloud, timestep in ((FIVE, 0), (noisy_end, 980)):
        edge = replace(TWO, prediction_type="sample") if timestep == 0 else stable_diffusion("sample")
        latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).double()
        seen: list[Tensor] = []

        def fixed(given: Tensor, timestep: Tensor, seen: list[Tensor] = seen) -> Tensor:
            seen.append(given)
            return torch.full_like(given, 0.5)

        output = matched(fixed, cloud, edge)(latents, torch.tensor(timestep))
        _, z = to_epsilon_and_z(cloud, output, latents, cloud.abar(timestep))
        torch.testing.assert_close(z, torch.full_like(z, 0.5 / edge.scaling_factor))


@pytest.mark.parametrize("last", [0.0, 2.0**-24], ids=["DDIM's", "Euler's and UniPC's"])
def test_pure_noise_is_matched_to_pure_noise(last: float) -> None:
    assert FIVE.abar(999) == 0
    five, two = (replace(s, alphas_cumprod=s.alphas_cumprod.clamp(min=last)) for s in (FIVE, TWO))
    for one, other in itertools.product((FIVE, TWO, five, two), repeat=2):
        assert one.timestep_like(other, 999) == 999
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.isfinite(matched(normal_denoiser(TWO), FIVE, TWO)(latents, torch.tensor(999))).all()


def test_half_precision_is_converted_in_float32() -> None:
    edge = stable_diffusion("v_prediction")
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).half()
    seen: list[torch.dtype] = []

    def call(given: Tensor, timestep: Tensor) -> Tensor:
        seen.append(given.dtype)
        return given * 0.3 + 1.0

    found = matched(call, stable_diffusion(), edge)(latents, torch.tensor(700))
    answer = latents * 0.3 + 1.0  # equal betas: the latents go as they are
    expected, _ = to_epsilon_and_z(edge, answer.double(), latents.double(), edge.abar(700))
    assert seen == [torch.float16]
    assert found.dtype is torch.float16
    assert torch.equal(found, expected.half())


def test_equal_schedules_change_nothing() -> None:
    schedule = stable_diffusion()
    for timestep in (0, 1, 500, 999):
        assert schedule.timestep_like(schedule, timestep) == pytest.approx(timestep, abs=1e-6)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_conversions_are_inverse(prediction: str) -> None:
    schedule = stable_diffusion(prediction)
    output, latents = torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(0)).double()
    eps, z = to_epsilon_and_z(schedule, output, latents, 0.3)
    torch.testing.assert_close(from_epsilon_and_z(schedule, eps, z, 0.3), output)
    torch.testing.assert_close(0.3**0.5 * schedule.scaling_factor * z + 0.7**0.5 * eps, latents)


def test_flow_matching_has_no_schedule_to_match() -> None:
    assert NoiseSchedule.of(FlowMatchEulerDiscreteScheduler(), 1.5) is None
    denoiser = normal_denoiser(FIVE)
    assert adapt(denoiser, "identity", None, None) is denoiser
    with refused(ParamsError, key="handoff_adapter", got="matched", expected="identity"):
        adapt(denoiser, "matched", None, FIVE)


@pytest.mark.parametrize(
    ("edge", "got"),
    [
        (stable_diffusion("v_prediction"), {"cloud": "epsilon", "edge": "v_prediction"}),
        (stable_diffusion(timesteps=500), {"cloud": "1000", "edge": "500"}),
    ],
)
def test_identity_is_refused_where_the_answer_would_mean_something_else(
    edge: NoiseSchedule, got: dict[str, str]
) -> None:
    with refused(ParamsError, key="handoff_adapter", got=got, expected="matched"):
        check_adapter("identity", stable_diffusion(), edge)
    check_adapter("matched", stable_diffusion(), edge)
    check_adapter("identity", FIVE, TWO)  # the paper's own pair: scaled and noised otherwise
