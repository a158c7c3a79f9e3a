"""(candidates, prompts) -> measurements, paying for nothing twice."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from ecdiff_core.models.devices import synchronize
from ecdiff_core.models.memory import Batches
from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_tune.data.calibration import CalibrationSet
from ecdiff_tune.evaluation.candidate import Candidate, ConfigKey, PlannedCandidate
from ecdiff_tune.evaluation.compared import compared
from ecdiff_tune.evaluation.ledger import Ledger, Measurement, added
from ecdiff_tune.evaluation.model_calls import KINDS, Calls
from ecdiff_tune.evaluation.prefix_sharing import Generations
from ecdiff_tune.evaluation.reference import Reference
from ecdiff_tune.evaluation.state_store import StateStore
from ecdiff_tune.evaluation.thumbnails import Thumbnails
from ecdiff_tune.metrics.metric import Metric

Generation = Callable[[], AbstractContextManager[object]]
Measured = dict[ConfigKey, list[tuple[int, Measurement]]]
"""Measurements of configs, each with its prompt's index; two of a prompt that has two reference images."""


class Evaluator:
    """Measures candidates on one prompt set against its reference.

    What the ledger holds is not generated again.

    Args:
        reference: whose images count; None is the cloud's own run with this pipeline.
        batches: of prompts; a model gets at most so many samples at a time.
        store, s_values: as for ``Generations``.
        calls: to count model calls and decodes in, by prompt.
        sampler: of the ledger's keys, empty for the study's own pipeline and reference.
        generation: entered for each generation of a batch, which gets a new one every time.
        extra: metrics that images are measured by beside SSIM and PSNR.
        thumbnails: keeps small images of what is measured.
    """

    def __init__(
        self,
        pipe: ECDiffPipeline,
        prompts: CalibrationSet,
        reference: Reference | None,
        ledger: Ledger,
        *,
        batches: Batches,
        store: StateStore | None = None,
        s_values: Sequence[int] = (),
        calls: Counter[str] | None = None,
        sampler: str = "",
        generation: Generation = nullcontext,
        extra: Sequence[Metric] = (),
        thumbnails: Thumbnails | None = None,
    ) -> None:
        self._pipe, self._device = pipe, pipe.device
        self._prompts, self._reference = prompts, reference
        self._ledger, self._batches, self._sampler = ledger, batches, sampler
        self._generation, self._extra, self._thumbnails = generation, extra, thumbnails
        self._generations = Generations(pipe, prompts, batches, store, s_values)
        self._resolved: dict[Candidate, PlannedCandidate] = {}
        self.calls = Counter(dict.fromkeys(KINDS, 0)) if calls is None else calls

    @property
    def prompts_digest(self) -> str:
        """Of the prompt set."""
        return self._prompts.digest

    def grow(self, reference: Reference) -> None:
        """Measure by a reference of more prompts, the first of which are the present ones."""
        self._prompts, self._reference = reference.prompt_set, reference
        self._generations.grow(reference.prompt_set)

    def resolve(self, candidate: Candidate) -> PlannedCandidate:
        """A candidate with its plan and its key in the ledger."""
        if candidate not in self._resolved:
            sampling = self._pipe.config.sampling
            found = candidate.resolve(self._pipe.num_steps, sampling.handoff, self._sampler)
            self._resolved[candidate] = found
        return self._resolved[candidate]

    def most_calls(self, candidates: Iterable[Candidate]) -> Calls:
        """Cloud and edge calls a prompt that measuring all of these takes, were nothing measured yet."""
        return self._generations.most_calls(map(self.resolve, candidates))

    def forget(self, config: PlannedCandidate) -> None:
        """Drop the states that only this candidate's alpha leads to: no other one will ask for them."""
        self._generations.forget(config)

    def measure(
        self,
        configs: Sequence[PlannedCandidate],
        on_prompts: Callable[[int], None],
        first: int | None = None,
    ) -> list[tuple[Measurement, ...]]:
        """The measurements of every candidate, prompt by prompt; what is new is added to the ledger.

        Args:
            on_prompts: called with how many prompts became ready.
            first: measured on the first so many prompts; None is all.

        Raises:
            OutOfMemoryError: a single prompt does not fit.
        """
        names = self._prompts.keys[:first]
        found = {one.key: self._known(one.key) for one in configs}
        lacking = {one: self._lacking(names, found[one.key]) for one in configs}
        missing = sorted(frozenset().union(*lacking.values()))
        if len(missing) < len(names):
            on_prompts(len(names) - len(missing))
        for rows, (fresh, calls) in self._batches.over(missing, partial(self._generate_lacking, lacking)):
            self.calls.update(calls)
            named = {key: [(names[i], one) for i, one in some] for key, some in fresh.items()}
            self._ledger.append_all(named)
            for key, some in fresh.items():
                for i, one in some:
                    if one.reference == self._plan_of(i):
                        found[key][names[i]] = added(found[key].get(names[i]), one)
            on_prompts(len(rows))
        return [tuple(found[one.key][name] for name in names) for one in configs]

    def missing(self, configs: Iterable[PlannedCandidate], first: int | None = None) -> int:
        """Of how many prompts there is not yet a measurement of every candidate."""
        names = self._prompts.keys[:first]
        lacking = [self._lacking(names, self._known(one.key)) for one in configs]
        return len(frozenset().union(*lacking))

    def _plan_of(self, row: int) -> str:
        """What made the image that counts of a prompt, as ``Reference.plan_of``."""
        return "" if self._reference is None else self._reference.plan_of(row)

    def _known(self, key: ConfigKey) -> dict[str, Measurement]:
        """What the ledger holds of a config against the images that count, by prompt key."""
        plans = [self._plan_of(row) for row in range(len(self._prompts))]
        rows = {plan: self._ledger.read(key, plan) for plan in dict.fromkeys(plans)}
        pairs = zip(self._prompts.keys, plans, strict=True)
        return {name: rows[plan][name] for name, plan in pairs if name in rows[plan]}

    def _lacking(self, names: Sequence[str], known: Mapping[str, Measurement]) -> frozenset[int]:
        """The prompts, by index, that are to be generated: they have no measurement, or not every metric."""
        wanted = {one.name for one in self._extra}
        whole = {name for name, one in known.items() if wanted <= one.extra.keys() or one.ssim is None}
        return frozenset(i for i, name in enumerate(names) if name not in whole)

    def keep(self, config: PlannedCandidate, measured: Sequence[Measurement]) -> None:
        """Add to the ledger what another process measured on the first prompts."""
        self._ledger.append(config.key, zip(self._prompts.keys, measured, strict=False))

    def images(self, config: PlannedCandidate, rows: Sequence[int]) -> Tensor:
        """A candidate's images of some prompts, float32 RGB in 0 … 1.

        Shape (rows, 3, height, width), of videos (rows, frames, 3, height, width).
        """
        made: dict[int, Tensor] = {}
        for some, (images, calls) in self._batches.over(sorted(rows), partial(self._images, config)):
            self.calls.update(calls)
            made.update(zip(some, images, strict=True))
        return torch.stack([made[i] for i in rows])

    # What follows does its work wherever a batch is done, in another process too: it changes nothing here,
    # and returns with its results the calls that they took.

    def _images(self, config: PlannedCandidate, rows: Sequence[int]) -> tuple[Tensor, Counter[str]]:
        finals, calls = self._generations.finals([config], rows)
        (final,) = finals.values()
        return self._pipe.pair.family.decode(final.latents).cpu(), calls + Counter(decode=len(rows))

    def _generate_lacking(
        self, lacking: Mapping[PlannedCandidate, frozenset[int]], rows: Sequence[int]
    ) -> tuple[Measured, Counter[str]]:
        """The measurements of those that lack some of these prompts."""
        wanted = [one for one, lacks in lacking.items() if lacks.intersection(rows)]
        groups = [wanted] if self._generations.shares else [[one] for one in wanted]  # else each for itself
        found: Measured = {}
        calls: Counter[str] = Counter()
        for group in filter(None, groups):
            measured, took = self._generate(group, rows)
            found |= measured
            calls += took
        return found, calls

    def _generate(
        self, configs: Sequence[PlannedCandidate], rows: Sequence[int]
    ) -> tuple[Measured, Counter[str]]:
        self._generations.prepared(rows)  # a prompt is encoded once: not part of a generation's seconds
        synchronize(self._device)
        started = time.perf_counter()
        with self._generation():
            finals, calls = self._generations.finals(configs, rows)
        synchronize(self._device)
        seconds = (time.perf_counter() - started) / (len(rows) * max(1, len(finals)))
        images, of_cloud = self._images_that_count(rows)
        found: Measured = {}
        for key, state in finals.items():
            key = replace(key, sampler=self._sampler)
            started = time.perf_counter()
            decoded = self._pipe.pair.family.decode(state.latents)
            synchronize(self._device)
            spent = seconds + (time.perf_counter() - started) / len(rows)
            found[key] = self._compared(rows, state.latents, decoded.cpu(), images, spent)
            if self._thumbnails is not None:
                self._thumbnails.keep(key, rows, decoded.cpu())
        return found, calls + of_cloud + Counter(decode=len(rows) * len(finals))

    def _images_that_count(self, rows: Sequence[int]) -> tuple[dict[tuple[int, str], Tensor], Counter[str]]:
        """What images of these prompts are held against, by prompt and the plan that made it."""
        if self._reference is None:
            whole = self.resolve(Candidate(ECDiffParams.cloud_only(self._pipe.num_steps)))
            made, calls = self._images(whole, rows)
            return {(row, ""): image for row, image in zip(rows, made, strict=True)}, calls
        plans = [(row, plan) for row in rows for plan in self._reference.plans_of(row)]
        return {(row, plan): self._reference.image(row, plan).float() for row, plan in plans}, Counter()

    def _compared(
        self,
        rows: Sequence[int],
        latents: Tensor,
        decoded: Tensor,
        images: Mapping[tuple[int, str], Tensor],
        seconds: float,
    ) -> list[tuple[int, Measurement]]:
        """A config's images held against those that count; more than once where a prompt has two."""
        at = {row: place for place, row in enumerate(rows)}
        places, prompts = [at[row] for row, _ in images], [self._prompts.prompts[row] for row, _ in images]
        against = torch.stack([*images.values()])
        found = compared(latents[places], decoded[places], against, prompts, seconds, self._extra)
        pairs = zip(images, found, strict=True)
        return [(row, replace(one, reference=plan)) for (row, plan), one in pairs]
