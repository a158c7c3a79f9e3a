"""Whose call it is: two threads on one pipeline, and pipelines that share a model but no scheduler."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from ecdiff_core import TunedConfig, apply_ecdiff
from ecdiff_core.errors import ParamsError
from ecdiff_core.sampling.schedulers import build_scheduler

from ...hooking import CLASSES, STEPS, Pipe, denoise, run, with_sampling
from ...refusals import refused

BUSY = "under way in another thread"


def outcome(make: Callable[[], Tensor]) -> Tensor | str:
    try:
        return make()
    except ParamsError as error:
        return str(error)


def test_two_threads_that_start_together(
    config: TunedConfig, pipe: Pipe, edge: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply_ecdiff(pipe, config, edge=edge)
    alone = [run(pipe, seed=seed) for seed in (1, 2)]
    both_ready, prepare = threading.Barrier(2), pipe.prepare_latents

    def prepared(*args: Any, **kwargs: Any) -> Tensor:  # the last thing before the first step
        latents: Tensor = prepare(*args, **kwargs)
        both_ready.wait(timeout=600)
        return latents

    with monkeypatch.context() as patched, ThreadPoolExecutor(2) as pool:
        patched.setattr(pipe, "prepare_latents", prepared)
        found = list(pool.map(lambda seed: outcome(lambda: run(pipe, seed=seed)), (1, 2)))
    refused = [one for one in found if isinstance(one, str)]
    assert refused
    assert all(BUSY in one and "\n" not in one for one in refused)
    for one, expected in zip(found, alone, strict=True):
        assert isinstance(one, str) or torch.equal(one, expected)
    assert torch.equal(run(pipe, seed=2), alone[1])


def test_the_first_of_two_that_start_together_ends_at_its_next_step(
    config: TunedConfig, pipe: Pipe, edge: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its prompt may have been tokenized by the other's settings: a tokenizer holds those of one call."""
    apply_ecdiff(pipe, config, edge=edge)
    alone, prepare = run(pipe), pipe.prepare_latents
    both_ready, has_begun, is_refused = threading.Barrier(2), threading.Event(), threading.Event()
    waits = threading.local()

    def prepared(*args: Any, **kwargs: Any) -> Tensor:
        latents: Tensor = prepare(*args, **kwargs)
        both_ready.wait(timeout=600)
        if getattr(waits, "too", False):
            has_begun.wait(timeout=600)
        return latents

    def after_step(_pipe: Pipe, step: int, _timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        has_begun.set()
        if step == 1:
            is_refused.wait(timeout=600)
        return values

    def second() -> Tensor | str:
        waits.too = True
        found = outcome(lambda: run(pipe))
        is_refused.set()
        return found

    with monkeypatch.context() as patched, ThreadPoolExecutor(1) as pool:
        patched.setattr(pipe, "prepare_latents", prepared)
        other = pool.submit(second)
        first = outcome(lambda: run(pipe, callback_on_step_end=after_step))
        found = [first, other.result()]
    assert all(isinstance(one, str) and BUSY in one for one in found), found
    assert torch.equal(run(pipe), alone)


@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "DPMSolverMultistepScheduler"])
def test_a_call_in_the_middle_of_another(scheduler: str, config: TunedConfig, pipe: Pipe, edge: Pipe) -> None:
    """It resets the scheduler that both have, so the first cannot go on; afterwards all is as before."""
    pipe.scheduler = build_scheduler(scheduler, pipe.scheduler)
    apply_ecdiff(pipe, with_sampling(config, scheduler=scheduler), edge=edge)
    expected, inner = run(pipe), []

    with ThreadPoolExecutor(1) as pool:

        def interfere(_: Pipe, step: int, timestep: Tensor, given: dict[str, Tensor]) -> dict[str, Tensor]:
            if step == 4:
                inner.append(pool.submit(outcome, lambda: run(pipe, seed=1)).result(timeout=600))
            return given

        with refused(ParamsError, key="pipe", got="busy"):
            run(pipe, callback_on_step_end=interfere)
        assert BUSY in inner[0]
        assert torch.equal(pool.submit(run, pipe).result(timeout=600), expected)  # one after another may
    assert torch.equal(run(pipe), expected)


def test_loops_of_one_s_own_in_two_threads(config: TunedConfig, pipe: Pipe, edge: Pipe) -> None:
    apply_ecdiff(pipe, config, edge=edge)
    with torch.no_grad(), ThreadPoolExecutor(1) as pool:
        expected = denoise(pipe, 1)
        pipe.scheduler.set_timesteps(STEPS)
        first, second = pipe.scheduler.timesteps[:2]
        text = torch.randn(2, 24, 32)
        pipe.unet(torch.ones(2, 4, 8, 8), first, text)
        for timestep in (first, second):
            with refused(ParamsError, key="pipe", got="busy"):
                pool.submit(pipe.unet, torch.ones(2, 4, 8, 8), timestep, text).result(timeout=600)
        assert torch.equal(denoise(pipe, 1), expected)


@pytest.mark.parametrize("scheduler", ["EulerDiscreteScheduler", "DDIMScheduler"])
@pytest.mark.parametrize("after", ["nothing", "a call", "an interrupted call"])
def test_another_pipeline_with_its_own_scheduler(
    scheduler: str, after: str, config: TunedConfig, pipe: Pipe, edge: Pipe
) -> None:
    """Also where its timesteps are those of the hooked pipeline's last call."""
    bare = run(pipe)
    other = CLASSES["sd"].from_pipe(pipe, requires_safety_checker=False)
    other.set_progress_bar_config(disable=True)
    other.scheduler = build_scheduler(scheduler, pipe.scheduler)
    apply_ecdiff(pipe, config, edge=edge)
    if after != "nothing":
        shared = run(pipe)
        assert not torch.equal(shared, bare)
    if after == "an interrupted call":

        def stop(*_: Any) -> dict[str, Tensor]:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(pipe, callback_on_step_end=stop)
    with refused(ParamsError, key="pipe", got="StableDiffusionPipeline"):
        run(other)
    if after == "a call":
        other.scheduler = pipe.scheduler
        assert torch.equal(run(other), shared)
