"""(candidates, prompts) -> measurements, paying for nothing twice."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from itertools import takewhile
from typing import TypeVar

import torch
from torch import Tensor

from ecdiff_core.models.devices import synchronize
from ecdiff_core.models.memory import Batches
from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_core.sampling.plan import Plan
from ecdiff_tune.data.calibration import CalibrationSet
from ecdiff_tune.evaluation.candidate import Candidate, ConfigKey
from ecdiff_tune.evaluation.compared import compared
from ecdiff_tune.evaluation.ledger import Ledger, Measurement
from ecdiff_tune.evaluation.model_calls import KINDS
from ecdiff_tune.evaluation.prefix_sharing import Generations
from ecdiff_tune.evaluation.reference import Reference
from ecdiff_tune.evaluation.state_store import StateStore
from ecdiff_tune.evaluation.thumbnails import Thumbnails
from ecdiff_tune.metrics.choice import Metric

T = TypeVar("T")
Generation = Callable[[], AbstractContextManager[object]]


class Evaluator:
    """Measures candidates on one prompt set against its reference.

    What the ledger holds is not generated again.

    Args:
        reference: whose cloud pictures count; None is the cloud's own run with this pipeline.
        batches: of prompts; a model gets at most so many samples at a time.
        store, s_values: as for ``Generations``.
        calls: to count model calls and decodes in, by prompt.
        sampler: of the ledger's keys, empty for the study's own pipeline and reference.
        generation: entered for each generation of a batch, which gets a new one every time.
        further: metrics that pictures are measured by beside SSIM and PSNR.
        thumbnails: keeps small pictures of what is measured.
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
        further: Sequence[Metric] = (),
        thumbnails: Thumbnails | None = None,
    ) -> None:
        self._pipe, self._prompts, self._reference = pipe, prompts, reference
        self._ledger, self._batches, self._sampler = ledger, batches, sampler
        self._generation, self._further, self._thumbnails = generation, further, thumbnails
        self._generations = Generations(pipe, prompts, batches, store, s_values)
        self.calls = Counter(dict.fromkeys(KINDS, 0)) if calls is None else calls

    @property
    def prompts_digest(self) -> str:
        """Of the prompt set."""
        return self._prompts.digest

    def plan(self, candidate: Candidate) -> Plan:
        """What every step of a candidate does."""
        return self._generations.plan(candidate)

    def most_calls(self, candidates: Sequence[Candidate]) -> tuple[int, int]:
        """Cloud and edge calls a prompt that measuring all of these takes, were nothing measured yet."""
        return self._generations.most_calls(candidates)

    def forget(self, candidate: Candidate) -> None:
        """Drop the states that only this candidate's alpha leads to: no other one will ask for them."""
        self._generations.forget(candidate)

    def measure(
        self,
        candidates: Sequence[Candidate],
        on_prompts: Callable[[int], None],
        first: int | None = None,
    ) -> list[list[Measurement]]:
        """A list a candidate, prompt by prompt; ``on_prompts`` hears how many prompts became ready.

        Args:
            first: measured on the first so many prompts; None is all.

        Raises:
            OutOfMemoryError: a single prompt does not fit.
        """
        keys = [self.key(one) for one in candidates]
        known = {key: self._read(key) for key in keys}
        names = self._prompts.keys[:first]
        missing = _missing(names, known)
        if len(missing) < len(names):
            on_prompts(len(names) - len(missing))

        lacking = {
            one: frozenset(i for i in missing if names[i] not in known[key])
            for one, key in zip(candidates, keys, strict=True)
        }
        work = partial(self._counted, partial(self._generate_lacking, lacking))
        for rows, (found, calls) in self._batches.over(missing, work):
            self.calls.update(calls)
            measured = {
                replace(key, sampler=self._sampler): {
                    names[i]: one for i, one in zip(rows, fresh, strict=True)
                }
                for key, fresh in found.items()
            }
            self._ledger.append_all({key: some.items() for key, some in measured.items()})
            known |= {key: self._read(key) for key in measured}
            on_prompts(len(rows))
        return [[known[key][name] for name in names] for key in keys]

    def missing(self, candidates: Sequence[Candidate], first: int | None = None) -> int:
        """Of how many prompts there is not yet a measurement of every candidate."""
        known = {key: self._read(key) for key in map(self.key, candidates)}
        return len(_missing(self._prompts.keys[:first], known))

    def key(self, candidate: Candidate) -> ConfigKey:
        """The candidate's key in the ledger."""
        return replace(ConfigKey.of(candidate, self.plan(candidate)), sampler=self._sampler)

    def _read(self, key: ConfigKey) -> dict[str, Measurement]:
        """What need not be measured again."""
        rows, wanted = self._ledger.read(key), {one.name for one in self._further}
        return {name: one for name, one in rows.items() if wanted <= one.further.keys() or one.ssim is None}

    def known(self, candidate: Candidate) -> list[Measurement]:
        """What the ledger has of a candidate on the first prompts, as many as there are."""
        known = self._ledger.read(self.key(candidate))
        return [known[name] for name in takewhile(known.__contains__, self._prompts.keys)]

    def learn(self, candidate: Candidate, measured: Sequence[Measurement]) -> None:
        """Add to the ledger what another process measured on the first prompts."""
        rows = zip(self._prompts.keys, measured, strict=False)
        self._ledger.append(self.key(candidate), rows)

    def pictures(self, candidate: Candidate, rows: Sequence[int]) -> Tensor:
        """A candidate's pictures of some prompts, float32 RGB in 0 … 1.

        Shape (rows, 3, height, width), of videos (rows, frames, 3, height, width).
        """
        made: dict[int, Tensor] = {}
        work = partial(self._counted, partial(self._pictures, candidate))
        for some, (pictures, calls) in self._batches.over(sorted(rows), work):
            self.calls.update(calls)
            made.update(zip(some, pictures, strict=True))
        return torch.stack([made[i] for i in rows])

    def _pictures(self, candidate: Candidate, rows: Sequence[int]) -> Tensor:
        (final,) = self._generations.finals([candidate], rows, self.calls).values()
        self.calls["decode"] += len(rows)
        return self._pipe.pair.family.decode(final.latents).cpu()

    def _counted(self, work: Callable[[Sequence[int]], T], rows: Sequence[int]) -> tuple[T, Counter[str]]:
        """Work on some prompts, and the calls that it took: another process may have done it."""
        before, self.calls = self.calls, Counter()
        try:
            return work(rows), self.calls
        finally:
            self.calls = before

    def _generate_lacking(
        self, lacking: Mapping[Candidate, frozenset[int]], rows: Sequence[int]
    ) -> dict[ConfigKey, list[Measurement]]:
        return self._generate([one for one, lacks in lacking.items() if lacks.intersection(rows)], rows)

    def _generate(
        self, candidates: Sequence[Candidate], rows: Sequence[int]
    ) -> dict[ConfigKey, list[Measurement]]:
        if not self._generations.shares and len(candidates) > 1:  # each for itself
            return {key: found for one in candidates for key, found in self._generate([one], rows).items()}
        self._generations.prepared(rows)  # a prompt is encoded once: not part of a generation's seconds
        synchronize(self._pipe.device)
        started = time.perf_counter()
        with self._generation():
            finals = self._generations.finals(candidates, rows, self.calls)
        synchronize(self._pipe.device)
        seconds = (time.perf_counter() - started) / (len(rows) * max(1, len(finals)))
        cloud, prompts = self._cloud(rows), [self._prompts.prompts[i] for i in rows]
        found = {}
        for key, state in finals.items():
            decoded, found[key] = self._measured(state.latents, cloud, prompts, seconds)
            if self._thumbnails is not None:
                self._thumbnails.keep(key, rows, decoded)
        return found

    def _cloud(self, rows: Sequence[int]) -> Tensor:
        """The pictures that count."""
        if self._reference is not None:
            return torch.stack([self._reference.prompts[i].cloud for i in rows]).float()
        return self._pictures(Candidate(ECDiffParams.cloud_only(self._pipe.num_steps)), rows)

    def _measured(
        self, latents: Tensor, cloud: Tensor, prompts: Sequence[str], seconds: float
    ) -> tuple[Tensor, list[Measurement]]:
        """Latents decoded, and held against the cloud's pictures."""
        started = time.perf_counter()
        decoded = self._pipe.pair.family.decode(latents)
        synchronize(self._pipe.device)
        seconds += (time.perf_counter() - started) / len(latents)
        self.calls["decode"] += len(latents)
        decoded = decoded.cpu()
        return decoded, compared(latents, decoded, cloud, prompts, seconds, self._further)


def _missing(names: Sequence[str], known: Mapping[ConfigKey, Mapping[str, Measurement]]) -> list[int]:
    """The prompts, by index, that some config lacks."""
    return [i for i, name in enumerate(names) if any(name not in rows for rows in known.values())]
