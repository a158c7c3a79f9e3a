"""Fewer steps of a scheduler, which is what saved cloud calls are held against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

import torch

from cloud_call_bench.bench import FIRST, Bench, decibels, measure
from ecdiff_core.config import TunedConfig
from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_core.sampling.timesteps import set_steps
from ecdiff_tune.data.calibration import CalibrationSet
from ecdiff_tune.evaluation.baseline_trajectory import BaselineTrajectory, baseline_trajectory, prepare
from ecdiff_tune.evaluation.candidate import Candidate, ConfigKey
from ecdiff_tune.evaluation.ledger import Measurement
from ecdiff_tune.evaluation.reference import Reference
from ecdiff_tune.metrics.images import psnr, ssim

SOLVERS = {
    "DDIM": [("DDIMScheduler", spacing) for spacing in ("leading", "trailing")],
    "DPM++ 2M": [
        ("DPMSolverMultistepScheduler", spacing) for spacing in ("linspace", "trailing", "same start")
    ],
}
"""Scheduler and timestep spacing to choose from; ``same start`` begins at the 50-step run's first timestep.
Of DDIM also steps spread evenly over those of the 50-step run, which is what ``reuse`` does."""


def solved(bench: Bench, name: str, calls: int) -> tuple[str, Sequence[Measurement]]:
    """Fewer steps: the spacing that is best on the first calibration prompts, on the held-out ones."""
    first = bench.tuning.first(FIRST)
    values = {
        (scheduler, spacing): fmean(
            map(decibels, _solve(bench, scheduler, spacing, calls, first, bench.tuning.made))
        )
        for scheduler, spacing in SOLVERS[name]
    }
    best = max(values, key=lambda one: values[one])
    if name == "DDIM":
        steps = bench.pipe.num_steps
        even = tuple(i * steps // calls for i in range(calls))
        sub_grid = Candidate(ECDiffParams.scheduled(even, 1.0, steps), "reuse")
        (found,) = measure(bench.tuning.evaluator, [sub_grid], FIRST)
        if fmean(map(decibels, found)) > values[best]:
            (measured,) = measure(bench.heldout.evaluator, [sub_grid])
            return f"on the {steps} steps' grid", measured
    return best[1], _solve(bench, *best, calls, bench.heldout.prompts, bench.heldout.made)


def _solve(
    bench: Bench, scheduler: str, spacing: str, calls: int, prompts: CalibrationSet, made: Reference
) -> list[Measurement]:
    """Images of a scheduler with so many steps, kept in the ledger under its name and spacing."""
    key = ConfigKey(f"{calls}C", 0.0, f"{scheduler} {spacing}", "")
    known = bench.ledger.read(key)
    missing = [i for i, name in enumerate(prompts.keys) if name not in known]
    pipe = _with_scheduler(bench, scheduler, spacing, calls)

    def run(rows: Sequence[int]) -> BaselineTrajectory:
        batch = prepare(pipe, prompts, rows)
        if spacing == "same start":
            first = float(bench.pipe.scheduler.timesteps[0])
            timesteps = [round(first * (1 - i / calls)) for i in range(calls)]
            batch.start.scheduler.set_timesteps(timesteps=timesteps, device=pipe.device)
        return baseline_trajectory(pipe, batch, "cloud")

    for rows, done in bench.batches.over(missing, run):
        images = bench.pipe.pair.family.decode(done.latents).cpu()
        cloud = torch.stack([made.prompts[i].cloud for i in rows]).float()
        values = zip(ssim(images, cloud).tolist(), psnr(images, cloud).tolist(), strict=True)
        fresh = [Measurement(*pair, done.seconds / len(rows)) for pair in values]
        bench.ledger.append(key, [(prompts.keys[i], one) for i, one in zip(rows, fresh, strict=True)])
    known = bench.ledger.read(key)
    return [known[name] for name in prompts.keys]


def _with_scheduler(bench: Bench, name: str, spacing: str, calls: int) -> ECDiffPipeline:
    """The cloud with another scheduler, which ends at the noise at which DDIM ends."""
    sampling = replace(bench.pipe.config.sampling, num_inference_steps=calls, scheduler=name)
    config = TunedConfig(bench.pipe.pair.spec, ECDiffParams.cloud_only(calls), sampling)
    pipe = ECDiffPipeline(bench.pipe.pair, config)
    more = {} if spacing == "same start" else {"timestep_spacing": spacing}
    more |= {"final_sigmas_type": "sigma_min"} if name.startswith("DPM") else {}
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, **more)
    set_steps(pipe.scheduler, calls)
    return pipe
