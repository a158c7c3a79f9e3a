"""Schedulers by name: the model's own noise schedule, and none that draws noise while sampling."""

from __future__ import annotations

import re

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, SchedulerMixin
from torch import Tensor

from ecdiff_core import noise, sampler
from ecdiff_core.errors import ParamsError
from ecdiff_core.params import ECDiffParams
from ecdiff_core.plan import plan
from ecdiff_core.schedulers import build_scheduler
from shapes_pair import models

EVERY_NAME = sorted(name for name in dir(diffusers) if name.endswith("Scheduler"))
USUAL = [
    "DDIMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerDiscreteScheduler",
    "LMSDiscreteScheduler",
    "UniPCMultistepScheduler",
]
STEPS = 10


def model(x: Tensor, t: Tensor) -> Tensor:
    return torch.tanh(x) + 0.1 * torch.sin(3 * x + t / 300)


def sample(scheduler: SchedulerMixin, seed: int) -> Tensor:
    """Ten steps from the same noise, with another seed for whatever is drawn on the way."""
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    steps = plan(ECDiffParams.cloud_only(STEPS), STEPS)
    state = sampler.start(latents, scheduler, STEPS)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return sampler.advance(state, steps, model, model, noise.get_estimator("gradient"), 1.0).latents


@pytest.mark.parametrize("name", EVERY_NAME)
def test_every_scheduler_of_diffusers_is_deterministic_or_refused(name: str) -> None:
    try:
        first = sample(build_scheduler(name, models.scheduler()), seed=1)
    except ParamsError as error:
        refusal = str(error)
    else:
        again = sample(build_scheduler(name, models.scheduler()), seed=2)
        assert (first - again).abs().max() == 0
        return
    assert name not in USUAL
    assert name in refusal
    assert "\n" not in refusal


@pytest.mark.parametrize("name", USUAL)
def test_keeps_the_models_own_noise_schedule(name: str) -> None:
    like = DDIMScheduler(
        beta_start=0.001, beta_end=0.02, beta_schedule="linear", prediction_type="v_prediction"
    )
    scheduler = build_scheduler(name, like)
    assert type(scheduler) is getattr(diffusers, name)
    assert torch.equal(scheduler.betas, like.betas)
    assert scheduler.config.prediction_type == "v_prediction"


def test_the_models_scheduler_is_left_alone() -> None:
    like = models.scheduler()
    before = dict(like.config)
    build_scheduler("DDIMScheduler", like).set_timesteps(STEPS)
    assert dict(like.config) == before
    assert len(like.timesteps) == 1000


def test_stochastic_by_its_settings_is_refused() -> None:
    like = DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++")
    message = r"DPMSolverMultistepScheduler with algorithm_type=sde-dpmsolver\+\+ draws fresh noise"
    with pytest.raises(ParamsError, match=message):
        build_scheduler("DPMSolverMultistepScheduler", like)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "DPMSolverMultistepSheduler",
            r"no scheduler 'DPMSolverMultistepSheduler'.*did you mean DPMSolverMulti",
        ),
        ("ddim", r"no scheduler 'ddim' for this model: choose from .*DDIMScheduler"),
        ("SchedulerMixin", r"no scheduler 'SchedulerMixin'"),
        ("StableDiffusionPipeline", r"no scheduler 'StableDiffusionPipeline'"),
        ("", r"no scheduler ''"),
        ("DDPMScheduler", r"DDPMScheduler draws fresh noise.*DDIMScheduler or DPMSolverMultistepScheduler"),
        ("EulerAncestralDiscreteScheduler", r"EulerAncestralDiscreteScheduler draws fresh noise"),
    ],
)
def test_refuses(name: str, message: str) -> None:
    with pytest.raises(ParamsError, match=message) as caught:
        build_scheduler(name, models.scheduler())
    assert "\n" not in str(caught.value)


def test_stochastic_ones_are_not_offered() -> None:
    with pytest.raises(ParamsError) as caught:
        build_scheduler("DDPMSheduler", models.scheduler())
    assert "DDIMScheduler" in str(caught.value)
    assert not re.search(r"\b(DDPM|EulerAncestralDiscrete|DPMSolverSDE)Scheduler", str(caught.value))
