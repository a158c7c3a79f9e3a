"""A method's own pipeline, and the clock on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import torch

from ecdiff_core.config import Sampling, TunedConfig
from ecdiff_core.errors import NonFiniteLatentsError, ParamsError
from ecdiff_core.methods.in_pair import accelerated, why_not
from ecdiff_core.models.pair import Pair
from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_tune.data.calibration import CalibrationSet
from ecdiff_tune.evaluation.evaluator import Generation
from ecdiff_tune.evaluation.model_calls import PlanCalls
from ecdiff_tune.evaluation.side_by_side import finite, machine, side_by_side
from ecdiff_tune.experiments.methods import ComparedMethod
from ecdiff_tune.study.open_study import OpenStudy


def pipeline(pair: Pair, method: ComparedMethod) -> ECDiffPipeline:
    """Inference with a method, but for its acceleration.

    Raises:
        ParamsError: these models cannot be used with its scheduler.
    """
    candidate = method.candidate
    sampling = replace(
        method.sampler.sampling, estimator=candidate.estimator, handoff_adapter=candidate.handoff_adapter
    )
    return ECDiffPipeline(pair, TunedConfig(pair.spec, candidate.params, sampling))


def generation(method: ComparedMethod, pipe: ECDiffPipeline) -> Generation:
    """To be entered for each generation of a method."""
    choice, sampling = method.sampler.acceleration, pipe.config.sampling
    if choice is None:
        return nullcontext
    return partial(accelerated, pipe.pair, choice, pipe.num_steps, sampling.guidance_scale, pipe.scheduler)


def obstacle(pair: Pair, method: ComparedMethod) -> str | None:
    """Why a method cannot be used with these models, or its scheduler makes too few steps for it; None where
    it can."""
    choice = method.sampler.acceleration
    if choice is not None and (reason := why_not(choice, pair, method.sampler.sampling.num_steps)):
        return reason
    try:
        pipeline(pair, method).config.plan()
    except ParamsError as error:
        return str(error).rstrip(".")
    return None


def time_methods(
    study: OpenStudy,
    pipe: ECDiffPipeline,
    heldout: CalibrationSet,
    methods: Sequence[ComparedMethod],
    tuned_with: Sampling,
    prompts: int,
    again: bool = False,
) -> dict[ComparedMethod, float | None]:
    """Seconds of a generation at batch 1, encoding and decoding included, the median over prompts.

    Each method is warmed up by an untimed generation; then the methods take turns, prompt by prompt. What the
    ledger holds of these same methods side by side on this machine is not timed again.

    Args:
        tuned_with: the sampling settings that the study was tuned with.
        prompts: how many of the held-out ones.
        again: times all anew.

    Returns:
        None where there is no finite image.
    """
    progress, names = study.progress, heldout.keys[:prompts]
    pipes = {one: pipeline(pipe.pair, one) for one in methods}

    def take(method: ComparedMethod, row: int) -> float:
        seconds = _seconds(method, pipes[method], heldout.prompts[row], heldout.seeds[row])
        calls = PlanCalls.of(method.plan)
        study.spending.calls.update(cloud=calls.cloud_calls, edge=calls.edge_calls, decode=1)
        progress.prompts_done(1)
        return seconds

    progress.start_task("seconds at batch 1", (len(names) + 1) * len(methods))
    keys = {one: one.key(tuned_with) for one in methods}
    timed = side_by_side(study.ledger, keys, machine(pipe.device), names, take, again)
    progress.end_stage()
    return {one: finite(seconds) for one, seconds in timed.items()}


def _seconds(method: ComparedMethod, pipe: ECDiffPipeline, prompt: str, seed: int) -> float:
    """Of one image; infinite where it is not finite."""
    try:
        with generation(method, pipe)():
            output = pipe(prompt, generator=torch.Generator().manual_seed(seed))
    except NonFiniteLatentsError:
        return math.inf
    return output.seconds.total
