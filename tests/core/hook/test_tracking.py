"""Steps and branches told from timesteps alone; numbers of steps that do not fit."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, PNDMScheduler, SchedulerMixin
from torch import Tensor

from ecdiff_core import ECDiffParams, TunedConfig
from ecdiff_core.errors import ParamsError
from ecdiff_core.hook.tracking import StepTracker

from ...hooking import STEPS, with_sampling
from ...refusals import refused


def pipe_with(scheduler: SchedulerMixin, num_inference_steps: int = STEPS) -> Any:
    scheduler.set_timesteps(num_inference_steps)
    return SimpleNamespace(scheduler=scheduler)


def pndm() -> PNDMScheduler:
    return PNDMScheduler(skip_prk_steps=True)


def enter_all(tracker: StepTracker, timesteps: Tensor, branches: int) -> list[tuple[int, int]]:
    """Step and branch of every call of a generation."""
    seen = []
    for timestep in timesteps:
        for _ in range(branches):
            tracker.enter(timestep)
            seen.append((tracker.step, tracker.branch))
    return seen


@pytest.mark.parametrize("branches", [1, 2, 3])
@pytest.mark.parametrize("scheduler", [pndm(), DDIMScheduler(), FlowMatchEulerDiscreteScheduler()])
def test_steps_and_branches(scheduler: SchedulerMixin, branches: int, tiny_config: TunedConfig) -> None:
    """Also where PNDM repeats a timestep, and from one generation to the next with other branches."""
    pipe = pipe_with(scheduler)
    tracker = StepTracker(pipe, with_sampling(tiny_config, scheduler=type(scheduler).__name__))
    timesteps = scheduler.timesteps
    for count in (branches, 1, branches):
        expected = [(step, branch) for step in range(len(timesteps)) for branch in range(count)]
        assert enter_all(tracker, timesteps, count) == expected
    tracker.enter(timesteps[0])
    tracker.enter(timesteps[1])
    scheduler.set_timesteps(STEPS)  # the generation ended here, another begins
    assert enter_all(tracker, scheduler.timesteps, branches)[0] == (0, 0)


def test_a_scheduler_without_timesteps(tiny_config: TunedConfig) -> None:
    pipe = pipe_with(DDIMScheduler())
    tracker = StepTracker(pipe, tiny_config)
    tracker.enter(pipe.scheduler.timesteps[0])
    pipe.scheduler = pndm()
    for timestep in (0, 900):
        with refused(ParamsError, key="timestep", got=timestep):
            tracker.enter(torch.tensor(timestep))


def test_a_branch_too_few_at_a_repeated_timestep(tiny_config: TunedConfig) -> None:
    pipe = pipe_with(pndm())
    tracker = StepTracker(pipe, with_sampling(tiny_config, scheduler="PNDMScheduler"))
    first, second, third, fourth = pipe.scheduler.timesteps[:4]
    for timestep in (first, first, second, third):
        tracker.enter(timestep)
    with refused(ParamsError, key="step", got=3, expected="2"):
        tracker.enter(fourth)


def test_timesteps_as_flux_tells_them(tiny_config: TunedConfig) -> None:
    """Divided by 1000 and in bfloat16, some are one number; the pipeline's own timestep tells them apart."""
    timesteps = torch.linspace(1000, 990, STEPS)
    scheduler = SimpleNamespace(timesteps=timesteps, num_inference_steps=STEPS)
    pipe = SimpleNamespace(scheduler=scheduler)
    tracker = StepTracker(pipe, tiny_config)
    seen = []
    for t in timesteps:
        pipe._current_timestep = t
        for _ in range(2):
            tracker.enter(t.expand(2).to(torch.bfloat16) / 1000)
            seen.append((tracker.step, tracker.branch))
    assert seen == [(step, branch) for step in range(STEPS) for branch in range(2)]
    pipe._current_timestep = None
    tracker.forget()
    with refused(ParamsError, key="timestep", got=1.0, expected="one of pipe.scheduler.timesteps"):
        tracker.enter(timesteps[0].to(torch.bfloat16) / 1000)


@pytest.mark.parametrize("asked", [1, 2, 3, 11, 13, 24, 50])
@pytest.mark.parametrize("make", [pndm, DDIMScheduler])
@pytest.mark.parametrize(
    "params",
    [ECDiffParams(3, 2, 0.3, 9), ECDiffParams(2, 1, 0.5, STEPS), ECDiffParams(0, 0, 1.0, 0)],
    ids=["tuned", "to the end", "edge"],
)
def test_the_advice_for_another_number_of_steps_can_be_taken(
    params: ECDiffParams, make: Any, asked: int, tiny_config: TunedConfig
) -> None:
    pipe = pipe_with(make(), asked)
    name = type(pipe.scheduler).__name__
    config = replace(with_sampling(tiny_config, scheduler=name), params=params)
    with refused(ParamsError, key="num_inference_steps", got=asked) as raised:
        StepTracker(pipe, config).enter(pipe.scheduler.timesteps[0])
    told = dict(
        re.findall(r"\b(p|k|s|num_inference_steps)=(\d+)", raised.value.advice.partition("scaled")[2])
    )
    advised = ECDiffParams(int(told["p"]), int(told["k"]), params.alpha, int(told["s"]))
    config = replace(
        with_sampling(config, num_inference_steps=int(told["num_inference_steps"])), params=advised
    )
    plan = config.plan()
    enter_all(StepTracker(pipe, config), pipe.scheduler.timesteps, 1)
    assert plan.num_steps == len(pipe.scheduler.timesteps)
    assert abs(advised.s / plan.num_steps - params.s / STEPS) < 0.5 / min(asked, STEPS) + 0.05


def test_pndm_counts_its_own_steps(tiny_config: TunedConfig) -> None:
    """T = num_inference_steps + 1 on both sides of the proportion, and with a config of another scheduler."""
    config = replace(
        with_sampling(tiny_config, scheduler="PNDMScheduler"), params=ECDiffParams(3, 2, 0.3, 13)
    )
    pipe = pipe_with(pndm(), 25)
    advice = re.compile(r"p=6, k=2, s=26, num_inference_steps=25\.")
    with refused(ParamsError, key="num_inference_steps", got=25, advice=advice):
        StepTracker(pipe, config).enter(pipe.scheduler.timesteps[0])
    pipe = pipe_with(pndm(), STEPS)
    advice = re.compile("^Pass num_inference_steps=11,")
    with refused(ParamsError, key="num_inference_steps", got=12, advice=advice):
        StepTracker(pipe, tiny_config).enter(pipe.scheduler.timesteps[0])
