"""Schedulers by name: the model's own noise schedule, and none that draws noise while sampling."""

from __future__ import annotations

import re
from typing import Any

import diffusers
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchHeunDiscreteScheduler,
    SchedulerMixin,
)
from torch import Tensor

from ecdiff_core.errors import ParamsError
from ecdiff_core.sampling import estimators, sampler, schedulers
from ecdiff_core.sampling.params import ECDiffParams, Factors
from ecdiff_core.sampling.plan_of_params import plan
from ecdiff_core.sampling.scheduler_trial import refuse_stochastic, rehearse
from ecdiff_core.sampling.schedulers import build_scheduler, offered
from shapes_pair import models

from ...refusals import refused

EVERY_NAME = sorted(name for name in dir(diffusers) if name.endswith("Scheduler"))
STOCHASTIC = {"key": "scheduler", "expected": "deterministic"}
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
        return sampler.advance(
            state, steps, model, model, estimators.get_estimator("gradient"), Factors(1.0)
        ).latents


@pytest.mark.parametrize("name", EVERY_NAME)
def test_every_scheduler_of_diffusers_is_deterministic_or_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedulers, "offered", lambda like: USUAL)  # half a second each time
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
    with refused(ParamsError, **STOCHASTIC, got="DPMSolverMultistepScheduler", line="sde-dpmsolver"):
        refuse_stochastic(like)


@pytest.mark.parametrize("name", USUAL)
def test_models_that_ship_a_stochastic_solver_have_the_deterministic_ones(name: str) -> None:
    """The setting ``algorithm_type`` is that of another class, or asks for what cannot be compared."""
    like = DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++")
    solver = build_scheduler(name, like).config.get("algorithm_type", "none")
    expected = {"DEISMultistepScheduler": "deis"} | {
        f"DPMSolver{steps}Scheduler": "dpmsolver++" for steps in ("Multistep", "Singlestep")
    }
    assert solver == expected.get(name, solver)
    rehearse(build_scheduler(name, like), STEPS)


@pytest.mark.parametrize(
    "name",
    [
        "CMStochasticIterativeScheduler",
        "DDPMParallelScheduler",
        "FlowMatchLCMScheduler",
        "LTXEulerAncestralRFScheduler",
        "SASolverScheduler",
        "UnCLIPScheduler",
    ],
)
def test_stochastic_ones_of_models_own_are_seen_by_what_they_do(name: str) -> None:
    like = getattr(diffusers, name)()
    random = torch.random.get_rng_state()
    with refused(ParamsError, **STOCHASTIC, got=name):
        rehearse(build_scheduler(name, like), STEPS)
    assert torch.equal(torch.random.get_rng_state(), random)


@pytest.mark.parametrize("name", ["EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"])
def test_edm_is_for_models_that_were_trained_by_it(name: str) -> None:
    with refused(ParamsError, key="scheduler", got=name, expected=re.compile("DDIMScheduler")):
        build_scheduler(name, models.scheduler())
    like = getattr(diffusers, name)()
    rehearse(build_scheduler(name, like), STEPS)
    with refused(ParamsError, key="scheduler", got="DDIMScheduler", expected=[name]):
        build_scheduler("DDIMScheduler", like)


@pytest.mark.parametrize("name", ["LCMScheduler", "TCDScheduler"])
def test_models_that_ship_a_distilled_scheduler_have_the_deterministic_ones(name: str) -> None:
    """Both name no compatible class, and betas that they leave to their defaults are not other classes'."""
    like = getattr(diffusers, name)()
    scheduler = build_scheduler("DDIMScheduler", like)
    assert torch.equal(scheduler.alphas_cumprod, like.alphas_cumprod)
    assert set(USUAL) <= set(offered(like))


def test_latents_are_clipped_only_where_the_models_own_scheduler_clips() -> None:
    """DDIM clips unless it is told otherwise, of which DPM-Solver's config knows nothing."""
    trained = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    plain = DDIMScheduler(**trained, clip_sample=False)
    found = sample(build_scheduler("DDIMScheduler", DPMSolverMultistepScheduler(**trained)), seed=1)
    assert torch.equal(found, sample(plain, seed=1))
    assert build_scheduler("DDIMScheduler", DDIMScheduler(**trained, clip_sample=True)).config.clip_sample


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("CogVideoXDPMScheduler", "old_pred_original_sample, timestep_back"),
        ("ScoreSdeVeScheduler", "no step"),
    ],
)
def test_other_steps_are_refused_of_a_pipelines_own_scheduler_too(name: str, line: str) -> None:
    with refused(ParamsError, key="scheduler", got=name, line=line):
        refuse_stochastic(getattr(diffusers, name)())


def test_a_runge_kutta_start_of_the_models_own_is_refused_and_other_schedulers_go() -> None:
    own = diffusers.PNDMScheduler()  # skip_prk_steps is false unless it is set
    with refused(ParamsError, key="scheduler", got="PNDMScheduler", line="skip_prk_steps"):
        build_scheduler("PNDMScheduler", own)
    assert type(build_scheduler("DDIMScheduler", own)) is diffusers.DDIMScheduler
    assert build_scheduler("PNDMScheduler", diffusers.DDIMScheduler()).config.skip_prk_steps


def test_nothing_is_offered_that_does_not_go_with_the_model() -> None:
    like = FlowMatchHeunDiscreteScheduler()
    name = "FlowMatchHeunDiscreteScheduler"
    with refused(ParamsError, key="scheduler", got=name, advice=re.compile(r"step\.$")):
        rehearse(build_scheduler("FlowMatchHeunDiscreteScheduler", like), STEPS)
    with refused(ParamsError, key="scheduler", got="DDIMScheduler", expected=[]):
        build_scheduler("DDIMScheduler", diffusers.CMStochasticIterativeScheduler())


COSINE = {"beta_schedule": "squaredcos_cap_v2"}


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler"])
@pytest.mark.parametrize("sigmas", ["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"])
def test_what_would_fail_in_the_middle_fails_before(name: str, sigmas: str) -> None:
    """Their timesteps come twice there, in which they lose their way."""
    scheduler = build_scheduler(name, DPMSolverMultistepScheduler(**COSINE, **{sigmas: True}))
    with refused(ParamsError, key="scheduler", got=name, line=r"fails with 20 steps"):
        rehearse(scheduler, 20)


def test_timesteps_beyond_the_models_last() -> None:
    scheduler = build_scheduler("DDIMScheduler", DDIMScheduler(timestep_spacing="leading", steps_offset=1))
    with refused(ParamsError, key="scheduler", got="DDIMScheduler", line="1000 .*IndexError: index 1000"):
        rehearse(scheduler, 1000)


def test_a_noise_schedule_that_a_class_does_not_know() -> None:
    with refused(ParamsError, key="scheduler", got="DDIMScheduler", line="sigmoid is not"):
        build_scheduler("DDIMScheduler", DDPMScheduler(beta_schedule="sigmoid"))


def test_a_package_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_scipy(*_: object, **__: object) -> None:
        raise ImportError("No module named 'scipy'")

    scheduler = build_scheduler("LMSDiscreteScheduler", models.scheduler())
    monkeypatch.setattr(type(scheduler), "set_timesteps", without_scipy)
    with refused(ParamsError, key="scheduler", got="LMSDiscreteScheduler", line="No module named 'scipy'"):
        rehearse(scheduler, STEPS)


def test_a_trial_leaves_the_noise_of_every_device_and_thread_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on the way: another thread may draw meanwhile. The GPU's is seeded by ``torch.manual_seed``."""
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    before, on_the_way = torch.random.get_rng_state(), []

    class Watched(DDPMScheduler):
        def step(self, model_output: Tensor, timestep: int, sample: Tensor, **others: Any) -> Any:
            result = super().step(model_output, timestep, sample, **others)
            on_the_way.append(torch.random.get_rng_state())
            return result

    with refused(ParamsError, **STOCHASTIC, got="Watched"):
        refuse_stochastic(Watched())
    assert seeded == []
    assert len(on_the_way) == 16
    assert all(torch.equal(state, before) for state in on_the_way)


def test_a_trial_where_tensors_are_made_on_another_device() -> None:
    scheduler = DDPMScheduler()
    with torch.device("meta"), refused(ParamsError, **STOCHASTIC, got="DDPMScheduler"):
        refuse_stochastic(scheduler)


def test_a_rehearsal_leaves_the_scheduler_alone() -> None:
    scheduler = build_scheduler("DPMSolverMultistepScheduler", models.scheduler())
    rehearse(scheduler, STEPS)
    fresh = build_scheduler("DPMSolverMultistepScheduler", models.scheduler())
    assert torch.equal(sample(scheduler, seed=1), sample(fresh, seed=1))
    assert scheduler.num_inference_steps is None


@pytest.mark.parametrize(
    ("name", "about"),
    [
        ("DPMSolverMultistepSheduler", {"nearest": "DPMSolverMultistepScheduler"}),
        ("ddim", {"nearest": "DDIMScheduler"}),
        ("SchedulerMixin", {"expected": re.compile("DDIMScheduler")}),
        ("StableDiffusionPipeline", {"expected": re.compile("DDIMScheduler")}),
        ("", {"expected": re.compile("DDIMScheduler")}),
        (
            "DDPMScheduler",
            {
                "expected": "deterministic",
                "advice": re.compile("DDIMScheduler or DPMSolverMultistepScheduler"),
            },
        ),
        ("EulerAncestralDiscreteScheduler", {"expected": "deterministic"}),
    ],
)
def test_refuses(name: str, about: dict[str, Any]) -> None:
    with refused(ParamsError, key="scheduler", got=name, **about):
        build_scheduler(name, models.scheduler())


def test_stochastic_ones_are_not_offered() -> None:
    with refused(ParamsError, key="scheduler", got="DDPMSheduler") as caught:
        build_scheduler("DDPMSheduler", models.scheduler())
    offers = caught.value.expected
    assert "DDIMScheduler" in offers
    assert not {f"{name}Scheduler" for name in ("DDPM", "EulerAncestralDiscrete", "DPMSolverSDE")} & set(
        offers
    )
