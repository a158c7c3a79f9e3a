"""Step-level batching: generations at different steps share one call of the model.

Trajectories wait for model calls (``sampling.sampler.trajectory``). All that wait are answered together, each
sample at its own timestep; a new one joins at the next call, and approximated steps cost no call at all.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ecdiff_core.models.memory import Batches
from ecdiff_core.sampling.batching import Conditioning, join_prompts
from ecdiff_core.sampling.sampler import Call

Answer = Callable[[Tensor, Tensor, Conditioning], Tensor]
"""Guided noise of latents (batch, channels, …), at timesteps (batch,) or one for all, for prompts."""
Steps = Generator[Call, Tensor, Any]
"""A trajectory, or whatever else asks one model for noise and ends with a result."""
Results = dict[Hashable, Any]
"""What ended, by key: its result, or the exception that it failed with."""


@dataclass
class _Running:
    steps: Steps
    conditioning: Conditioning
    call: Call


class Engine:
    """Generations under way. Not thread-safe: one thread does all of it.

    Args:
        answer: of the model.
        most: samples in one call; fewer from then on where memory runs out.
        timestep_per_sample: whether samples of one call may be at different timesteps; else those at equal
            ones go together.
        on_batch: is called with the number of samples of every call.
    """

    def __init__(
        self,
        answer: Answer,
        most: int,
        *,
        timestep_per_sample: bool = True,
        on_batch: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._answer, self._per_sample, self._on_batch = answer, timestep_per_sample, on_batch
        self._batches = Batches(most)
        self._running: dict[Hashable, _Running] = {}

    def __len__(self) -> int:
        """How many generations are under way."""
        return len(self._running)

    @property
    def most(self) -> int:
        """Samples in one call."""
        return self._batches.size

    @torch.no_grad()
    def add(self, key: Hashable, steps: Steps, conditioning: Conditioning) -> Results:
        """Let a generation join at the next call; one that needs none has ended already."""
        try:
            self._running[key] = _Running(steps, conditioning, next(steps))
        except StopIteration as finished:
            return {key: finished.value}
        return {}

    def drop(self, key: Hashable) -> None:
        """Forget a generation, if it is still under way."""
        self._running.pop(key, None)

    @torch.no_grad()
    def step(self) -> Results:
        """One call of the model for those that wait longest; returns what ended with it.

        Raises:
            OutOfMemoryError: not even one sample fits.
        """
        keys = self._next()
        ended: Results = {}
        for rows, outputs in self._batches.over(range(len(keys)), lambda rows: self._call(keys, rows)):
            for row, output in zip(rows, outputs, strict=True):
                ended |= self._send(keys[row], output)
        return ended

    def _next(self) -> list[Hashable]:
        """Whose calls are answered next: the oldest first, so that what has begun is done soon."""
        waiting = list(self._running.items())
        if not self._per_sample and waiting:
            timestep = waiting[0][1].call.timestep
            waiting = [one for one in waiting if torch.equal(one[1].call.timestep, timestep)]
        return [key for key, _ in waiting[: self._batches.size]]

    def _call(self, keys: Sequence[Hashable], rows: Sequence[int]) -> Sequence[Tensor]:
        together = [self._running[keys[row]] for row in rows]
        calls, sizes = [one.call for one in together], [len(one.call.latents) for one in together]
        if self._per_sample:
            timestep = torch.cat([c.timestep.expand(size) for c, size in zip(calls, sizes, strict=True)])
        else:
            timestep = calls[0].timestep
        conditioning = join_prompts([one.conditioning for one in together])
        output = self._answer(torch.cat([call.latents for call in calls]), timestep, conditioning)
        self._on_batch(len(output))
        return output.split(sizes)

    def _send(self, key: Hashable, output: Tensor) -> Results:
        running = self._running[key]
        try:
            running.call = running.steps.send(output)
            return {}
        except StopIteration as finished:
            result: Any = finished.value
        except Exception as error:  # one generation's, which the others outlive
            result = error
        del self._running[key]
        return {key: result}
