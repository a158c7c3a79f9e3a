"""What a winner is held against at its end: the cloud alone with as many steps as take the winner's time."""

from __future__ import annotations

from statistics import fmean

from ecdiff_core.config import TunedConfig
from ecdiff_tune.evaluation.evaluator import Evaluator
from ecdiff_tune.evaluation.ledger import Measurement
from ecdiff_tune.evaluation.reference import Reference
from ecdiff_tune.experiments import baselines, method_runs
from ecdiff_tune.experiments.methods import ComparedMethod
from ecdiff_tune.study.config_sections import DIGITS, ssims_of
from ecdiff_tune.study.open_study import OpenStudy
from ecdiff_tune.study.process_setup import LoadedPair
from ecdiff_tune.study.spending import FEWER_STEPS


def fewer_steps(tuned: TunedConfig, pair: LoadedPair) -> ComparedMethod | None:
    """The cloud alone, with the study's own scheduler; None where that has no fewer steps, or makes none."""
    own = {scheduler: name for name, scheduler in baselines.FEWER.items()}
    name = own.get(tuned.sampling.scheduler, "fewer_own")
    (method,), _ = baselines.made(baselines.Known(tuned, None, None, pair.latency), [name])
    if method.sampler.sampling.num_inference_steps >= tuned.sampling.num_inference_steps:
        return None
    return None if method_runs.obstacle(pair.pipe.pair, method) else method


def measure(
    study: OpenStudy,
    pair: LoadedPair,
    reference: Reference,
    tuned: TunedConfig,
    winner: tuple[Measurement, ...],
    count: int,
) -> dict[str, int | float | str] | None:
    """``score.heldout.fewer_steps`` of a YAML; what the ledger holds, of ``compare`` too, is not generated
    again.

    Args:
        reference: of the held-out prompts.
        winner: its measurements on them.
        count: on the first so many.

    Returns:
        ``steps`` of which ``scheduler``, their mean SSIM as ``quality``, the winner's on the same
        ``num_prompts`` as ``tuned``; None where there is nothing to compare with.
    """
    method = fewer_steps(tuned, pair)
    if method is None or not count:
        return None
    names, sampling = reference.prompt_set.keys[:count], method.sampler.sampling
    evaluator = Evaluator(
        method_runs.pipeline(pair.pipe.pair, method),
        reference.prompt_set,
        reference,
        study.ledger,
        batches=pair.batches,
        calls=study.spending.calls,
        sampler=method.sampler.key(tuned.sampling),
    )
    config, progress = evaluator.resolve(method.candidate), study.progress
    with study.spending.part(FEWER_STEPS):
        missing = evaluator.missing([config], count)
        if progress.time_left is not None:
            progress.time_left.plan(FEWER_STEPS, missing * sampling.num_steps, 0, missing)
        progress.start_task(f"{method.label}, in the winner's time", len(names), len(names) - missing)
        (found,) = evaluator.measure([config], progress.prompts_done, count)
        progress.end_stage()
    ours, theirs = ssims_of(winner[:count]), ssims_of(found)
    if not len(ours) == len(theirs) == len(names):  # an image that is not finite
        return None
    return {
        "steps": sampling.num_inference_steps,
        "scheduler": sampling.scheduler,
        "quality": round(fmean(theirs), DIGITS),
        "tuned": round(fmean(ours), DIGITS),
        "num_prompts": len(names),
    }
