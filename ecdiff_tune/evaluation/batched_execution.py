"""Several configs on the same prompts at once: what they have in common is done once, and calls of one model
at one timestep go through it together.

A config's trajectory is cut at *branch points*, steps at which another config may go another way. The
segments of all configs form a forest, in which equal segments are one (``ConfigKey`` of the steps so far).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_core.sampling.batching import Conditioning, take_prompts
from ecdiff_core.sampling.estimators import get_estimator
from ecdiff_core.sampling.plan import Action, HandoffAdapter, Plan
from ecdiff_core.sampling.sampler import Call, Denoiser, SamplerState, Trajectory, trajectory
from ecdiff_tune.evaluation.candidate import Candidate, ConfigKey

OnState = Callable[[ConfigKey, SamplerState], None]


@dataclass(frozen=True)
class Segment:
    """A part of a trajectory: the plan's steps from ``begin`` up to, not including, ``end``.

    Args:
        before: the key of the segment that it follows; None for one that starts at step 0.
    """

    key: ConfigKey
    before: ConfigKey | None
    candidate: Candidate
    plan: Plan
    begin: int
    end: int


def segments(candidate: Candidate, plan: Plan, branch_points: Iterable[int]) -> list[Segment]:
    """A candidate's trajectory, cut at those branch points that lie within it; the last segment ends at T."""
    found: list[Segment] = []
    for end in (*sorted(step for step in set(branch_points) if 0 < step < plan.num_steps), plan.num_steps):
        key = ConfigKey.of(candidate, plan.until(end))
        before, begin = (found[-1].key, found[-1].end) if found else (None, 0)
        found.append(Segment(key, before, candidate, plan, begin, end))
    return found


class Models:
    """Both models bound to some prompts, for batches that hold every prompt several times; counts calls.

    Args:
        most: samples that go through a model at a time.
    """

    def __init__(self, pipe: ECDiffPipeline, conditioning: Conditioning, most: int) -> None:
        self._pipe, self._conditioning = pipe, conditioning
        self._groups_at_a_time = max(1, most // conditioning.size)
        self._bound: dict[tuple[int, HandoffAdapter], tuple[Denoiser, Denoiser]] = {}
        self.calls = {Action.CLOUD: 0, Action.EDGE: 0}

    def answer(self, calls: Sequence[Call], adapter: HandoffAdapter) -> list[Tensor]:
        """The outputs for calls of one model at one timestep, each for all prompts."""
        outputs: list[Tensor] = []
        for first in range(0, len(calls), self._groups_at_a_time):
            group = calls[first : first + self._groups_at_a_time]
            cloud, edge = self._models(len(group), adapter)
            model = cloud if group[0].action is Action.CLOUD else edge
            latents = torch.cat([call.latents for call in group]) if len(group) > 1 else group[0].latents
            outputs += model(latents, group[0].timestep).chunk(len(group))
            self.calls[group[0].action] += len(latents)
        return outputs

    def _models(self, times: int, adapter: HandoffAdapter) -> tuple[Denoiser, Denoiser]:
        if (times, adapter) not in self._bound:
            size = self._conditioning.size
            repeated = take_prompts(self._conditioning, [*range(size)] * times)
            self._bound[times, adapter] = self._pipe.bind(repeated, adapter)
        return self._bound[times, adapter]


@torch.no_grad()
def run(
    wanted: Iterable[Segment], known: dict[ConfigKey | None, SamplerState], models: Models, on_state: OnState
) -> None:
    """Do segments, each after the one that it follows, all at the same step together.

    Args:
        wanted: the segments; of equal ones one is done.
        known: states that segments follow; under None the state before step 0.
        on_state: called with the state at the end of every segment.
    """
    left = {segment.key: segment for segment in wanted}
    running: dict[ConfigKey, tuple[Segment, Trajectory, Call]] = {}

    def go_on(segment: Segment, steps: Trajectory, output: Tensor | None) -> None:
        try:
            running[segment.key] = (segment, steps, next(steps) if output is None else steps.send(output))
        except StopIteration as finished:
            running.pop(segment.key, None)
            on_state(segment.key, finished.value)
            begin_after(segment.key, finished.value)

    def begin_after(before: ConfigKey | None, state: SamplerState) -> None:
        for segment in [segment for segment in left.values() if segment.before == before]:
            del left[segment.key]
            estimator = get_estimator(segment.candidate.estimator)
            factors = segment.candidate.params.factors(estimator)
            go_on(segment, trajectory(state, segment.plan, estimator, factors, until=segment.end), None)

    for before, state in known.items():
        begin_after(before, state)
    while running:
        turn = min(map(_turn, running.values()))
        together = [one for one in running.values() if _turn(one) == turn]
        outputs = models.answer([call for _, _, call in together], turn[2])
        for (segment, steps, _), output in zip(together, outputs, strict=True):
            go_on(segment, steps, output)


def _turn(running: tuple[Segment, Trajectory, Call]) -> tuple[int, str, HandoffAdapter]:
    """Those with an equal turn can share a model call; the least is next."""
    segment, _, call = running
    adapter: HandoffAdapter = segment.candidate.handoff_adapter if call.action is Action.EDGE else "identity"
    return call.step, call.action.value, adapter
