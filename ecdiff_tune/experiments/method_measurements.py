"""Methods on a study's held-out prompts: every image is made once, what comes of it kept in the ledger."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ecdiff_core.config import Sampling
from ecdiff_core.models.memory import Batches
from ecdiff_core.models.pair_spec import Side
from ecdiff_tune.evaluation.compared import compared
from ecdiff_tune.evaluation.evaluator import Evaluator
from ecdiff_tune.evaluation.ledger import Measurement, added
from ecdiff_tune.evaluation.reference import Reference
from ecdiff_tune.evaluation.reference_files import SIDES
from ecdiff_tune.experiments import method_runs
from ecdiff_tune.experiments.methods import ComparedMethod, LeftOut, Sampler, describe, distinct
from ecdiff_tune.metrics.choice import MetricChoice
from ecdiff_tune.metrics.metric import Metric, load_metrics
from ecdiff_tune.report.comparison import ALONE
from ecdiff_tune.study.open_study import OpenStudy
from ecdiff_tune.study.process_setup import LoadedPair
from ecdiff_tune.study.progress import duration
from ecdiff_tune.study.references import References

Measured = dict[str, tuple[Measurement, ...]]
"""By the names of methods, prompt by prompt."""


def extra_metrics(chosen: MetricChoice, device: torch.device) -> tuple[Metric, ...]:
    """Those of ``metrics.names`` beside SSIM and PSNR, which are always measured, with names that tell their
    networks apart.

    Raises:
        MetricError: weights are missing.
    """
    names = [name for name in chosen.names if name not in ("ssim", "psnr")]
    whose = {"lpips": chosen.lpips_net, "clip": Path(chosen.clip or "").name}
    loaded = load_metrics(replace(chosen, names=names), device)
    return tuple(replace(one, name=f"{one.name}_{whose[one.name]}") for one in loaded)


class MethodEvaluator:
    """Measures methods on the held-out prompts, in this process alone.

    Args:
        tuned_with: the sampling settings that the study was tuned with.
        extra: metrics beside SSIM and PSNR.
        first: on so many prompts; None is all.
    """

    def __init__(
        self,
        study: OpenStudy,
        pair: LoadedPair,
        references: References,
        tuned_with: Sampling,
        extra: Sequence[Metric] = (),
        first: int | None = None,
    ) -> None:
        self._study, self._pair, self._references = study, pair, references
        self._tuned_with, self._extra, self._first = tuned_with, extra, first

    @property
    def _reference(self) -> Reference:
        return self._references.heldout_with_edge

    @property
    def _names(self) -> tuple[str, ...]:
        """The prompts' keys."""
        return self._reference.prompt_set.keys[: self._first]

    def usable(self, methods: Iterable[ComparedMethod], left_out: LeftOut) -> list[ComparedMethod]:
        """Those that these models can do and that make images of their own.

        The others are logged, with those that are left out already.
        """
        obstacles = {one: method_runs.obstacle(self._pair.pipe.pair, one) for one in methods}
        left_out = left_out | {one.name: reason for one, reason in obstacles.items() if reason is not None}
        possible = [one for one, reason in obstacles.items() if reason is None]
        found, doubled = distinct(possible, self._tuned_with)
        for line in describe(left_out | doubled):
            self._study.progress.log(line)
        return found

    def measure(self, methods: Sequence[ComparedMethod]) -> Measured:
        """Every method on every prompt; what the ledger holds is not generated again."""
        by_sampler: dict[Sampler, list[ComparedMethod]] = {}
        found: Measured = {}
        for method in methods:
            if method.name in ALONE:
                found[method.name] = self._of_reference(method)
            else:
                by_sampler.setdefault(method.sampler, []).append(method)
        for group in by_sampler.values():
            found |= self._generated(group)
        return {one.name: found[one.name] for one in methods}

    def _of_reference(self, method: ComparedMethod) -> tuple[Measurement, ...]:
        """The cloud's or the edge's own images against the cloud's, without a model call."""
        side: Side = "cloud" if method.name == "cloud" else "edge"
        key, names = method.key(self._tuned_with), self._names
        found, wanted = self._study.ledger.read(key), {one.name for one in self._extra}
        for i, name in enumerate(names):
            if name in found and wanted <= found[name].extra.keys():
                continue
            prompt, text = self._reference.prompts[i], self._reference.prompt_set.prompts[i]
            image, cloud = getattr(prompt, side).float()[None], prompt.cloud.float()[None]
            seconds = prompt.seconds[SIDES.index(side)].item()
            (measured,) = compared(image, image, cloud, [text], seconds, self._extra)
            self._study.ledger.append(key, [(name, measured)])
            found[name] = added(found.get(name), measured)
        return tuple(found[name] for name in names)

    def _generated(self, methods: Sequence[ComparedMethod]) -> Measured:
        """Methods of one sampler together, which share what their trajectories have in common."""
        evaluator, progress = self._evaluator(methods), self._study.progress
        candidates = [one.candidate for one in methods]
        configs = [evaluator.resolve(one) for one in candidates]
        names = ", ".join(one.name for one in methods)
        prompts = evaluator.missing(configs, self._first)
        cloud, edge = (calls * prompts for calls in evaluator.most_calls(candidates))
        if methods[0].sampler.own_cloud:
            cloud += prompts * methods[0].plan.num_steps
        paces = [seconds / self._tuned_with.num_steps for seconds in self._reference.seconds()]
        if prompts:
            progress.log(
                f"{names}: up to {cloud:,} cloud and {edge:,} edge calls on {prompts} prompts, "
                f"about {duration(cloud * paces[0] + edge * paces[1])}"
            )
        progress.start_task(names, len(self._names), len(self._names) - prompts)
        rows = evaluator.measure(configs, progress.prompts_done, self._first)
        progress.end_stage()
        return {one.name: found for one, found in zip(methods, rows, strict=True)}

    def _evaluator(self, methods: Sequence[ComparedMethod]) -> Evaluator:
        pair, sampler = self._pair, methods[0].sampler
        alone = sampler.acceleration is not None and sampler.acceleration.method.batch_wide
        key, pipe = sampler.key(self._tuned_with), method_runs.pipeline(pair.pipe.pair, methods[0])
        branch_points = {
            step for one in methods for step in (one.candidate.params.warm_up, one.plan.handoff_step)
        }
        return Evaluator(
            pipe,
            self._reference.prompt_set,
            None if sampler.own_cloud else self._reference,
            self._study.ledger,
            batches=Batches(1 if alone else pair.batches.size, self._study.progress.log),
            store=None if key else pair.store,  # whose keys know no sampler
            s_values=sorted(branch_points - {0}),
            calls=self._study.spending.calls,
            sampler=key,
            generation=method_runs.generation(methods[0], pipe),
            extra=self._extra,
        )
