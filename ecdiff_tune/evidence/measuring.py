"""Methods on a study's held-out prompts: every picture is made once, what comes of it kept in the ledger."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

from ecdiff_core.memory import Batches
from ecdiff_core.tuned_config import Sampling
from ecdiff_tune.evaluator import Evaluator, Metric, compared
from ecdiff_tune.evidence import running
from ecdiff_tune.evidence.caches import CACHES
from ecdiff_tune.evidence.methods import ALONE, Method, Sampler, distinct
from ecdiff_tune.ledger import Measurement
from ecdiff_tune.own_run import Side
from ecdiff_tune.progress import duration
from ecdiff_tune.reference import SIDES, Reference
from ecdiff_tune.workbench import Workbench

Measured = dict[str, list[Measurement]]
"""By the names of methods, prompt by prompt."""


class Measuring:
    """Measures methods on the held-out prompts, in this process alone.

    Args:
        study: the sampling settings that the study was tuned with.
        lpips: measured where it is given.
    """

    def __init__(self, bench: Workbench, study: Sampling, lpips: Metric | None = None) -> None:
        self._bench, self._study, self._lpips = bench, study, lpips
        self._prompts = bench.heldout

    def usable(self, methods: Iterable[Method]) -> list[Method]:
        """Those that these models can do and that make pictures of their own; the others are told of."""
        pair, say = self._bench.pipe.pair, self._bench.progress.say
        found = []
        for method in methods:
            reason = running.obstacle(pair, method)
            if reason is None:
                found.append(method)
            else:
                say(f"{method.name} is left out: {reason}")
        return distinct(found, self._study, say)

    def measure(self, methods: Sequence[Method]) -> Measured:
        """Every method on every prompt; what the ledger holds is not generated again."""
        by_sampler: dict[Sampler, list[Method]] = {}
        found: Measured = {}
        for method in methods:
            if method.name in ALONE:
                found[method.name] = self._of_reference(method)
            else:
                by_sampler.setdefault(method.sampler, []).append(method)
        for group in by_sampler.values():
            found |= self._generated(group)
        return {one.name: found[one.name] for one in methods}

    @cached_property
    def _reference(self) -> Reference:
        return self._bench.heldout_reference()

    def _of_reference(self, method: Method) -> list[Measurement]:
        """The cloud's or the edge's own pictures against the cloud's, without a model call."""
        side: Side = "cloud" if method.name == "cloud" else "edge"
        key, ledger, names = method.key(self._study), self._bench.ledger, self._prompts.keys
        known = ledger.read(key)
        for name, prompt in zip(names, self._reference.prompts, strict=True):
            if name in known and (self._lpips is None or known[name].lpips is not None):
                continue
            picture, cloud = getattr(prompt, side).float()[None], prompt.cloud.float()[None]
            seconds = prompt.seconds[SIDES.index(side)].item()
            ledger.append(key, [(name, compared(picture, picture, cloud, seconds, self._lpips)[0])])
        known = ledger.read(key)
        return [known[name] for name in names]

    def _generated(self, methods: Sequence[Method]) -> Measured:
        """Methods of one sampler together, which share what their trajectories have in common."""
        evaluator, progress = self._evaluator(methods), self._bench.progress
        candidates = [one.candidate for one in methods]
        names, prompts = ", ".join(one.name for one in methods), len(self._prompts)
        cloud, edge = (calls * prompts for calls in evaluator.most_calls(candidates))
        paces = [seconds / self._study.num_steps for seconds in self._reference.seconds()]
        progress.say(
            f"{names}: up to {cloud:,} cloud and {edge:,} edge calls on {prompts} prompts, "
            f"about {duration(cloud * paces[0] + edge * paces[1])}"
        )
        progress.start_task(names, prompts)
        rows = evaluator.measure(candidates, progress.prompts_done)
        progress.end_stage()
        return {one.name: found for one, found in zip(methods, rows, strict=True)}

    def _evaluator(self, methods: Sequence[Method]) -> Evaluator:
        bench, sampler = self._bench, methods[0].sampler
        alone = sampler.cache is not None and CACHES[sampler.cache].one_by_one
        key, pipe = sampler.key(self._study), running.pipeline(bench.pipe.pair, methods[0])
        forks = {step for one in methods for step in (one.candidate.params.warm_up, one.plan.handoff_step)}
        return Evaluator(
            pipe,
            self._prompts,
            None if sampler.own_cloud else self._reference,
            bench.ledger,
            batches=Batches(1 if alone else bench.settings.batch_size, bench.progress.say),
            store=None if key else bench.store,  # whose keys know no sampler
            s_values=sorted(forks - {0}),
            sampler=key,
            generation=running.generation(methods[0], pipe),
            lpips=self._lpips,
        )
