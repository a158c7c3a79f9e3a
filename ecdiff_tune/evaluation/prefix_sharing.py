"""Generations of candidates that share what their trajectories have in common."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice

from ecdiff_core.models.memory import Batches
from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_core.sampling.batching import join, join_prompts, move, move_prompts, take, take_prompts
from ecdiff_core.sampling.plan import Action
from ecdiff_core.sampling.plan_of_params import effective_s
from ecdiff_core.sampling.sampler import SamplerState
from ecdiff_core.tuned_pair import Prepared
from ecdiff_tune.data.calibration import CalibrationSet
from ecdiff_tune.evaluation import batched_execution
from ecdiff_tune.evaluation.baseline_trajectory import prepare
from ecdiff_tune.evaluation.candidate import ConfigKey, PlannedCandidate
from ecdiff_tune.evaluation.model_calls import Calls
from ecdiff_tune.evaluation.state_store import StateStore


class Generations:
    """Trajectories of one prompt set.

    With a ``store``, candidates share the warm-up, the first window of each k and the cloud side of every s.
    Without one every generation runs whole, so that its seconds mean something.

    Args:
        batches: a model gets at most so many samples at a time.
        store: for states at branch points.
        s_values: at which later candidates may hand over, or go another way for another reason.
    """

    def __init__(
        self,
        pipe: ECDiffPipeline,
        prompts: CalibrationSet,
        batches: Batches,
        store: StateStore | None,
        s_values: Sequence[int],
    ) -> None:
        self._pipe, self._device = pipe, pipe.device
        self._prompts, self._batches = prompts, batches
        self._store, self._s_values = store, s_values
        self._prepared: dict[int, Prepared] = {}

    def grow(self, prompts: CalibrationSet) -> None:
        """Go on with more prompts, the first of which are the present ones."""
        self._prompts = prompts

    @property
    def shares(self) -> bool:
        """Whether candidates that are asked for together cost less than one by one."""
        return self._store is not None

    def most_calls(self, configs: Iterable[PlannedCandidate]) -> Calls:
        """Cloud and edge calls a prompt that measuring all of these takes, were nothing measured yet."""
        paid = {segment.key: segment for config in configs for segment in self._segments(config)}
        calls = [
            model
            for segment in paid.values()
            for step in range(segment.begin, segment.end)
            for model in segment.plan.models(step)
        ]
        return calls.count(Action.CLOUD), calls.count(Action.EDGE)

    def forget(self, config: PlannedCandidate) -> None:
        """Drop the states that only this candidate's alpha leads to: no other one will ask for them."""
        if self._store is not None:
            for segment in self._segments(config):
                if segment.key.alpha:
                    self._store.forget(segment.key)

    def finals(
        self, configs: Iterable[PlannedCandidate], rows: Sequence[int]
    ) -> tuple[dict[ConfigKey, SamplerState], Counter[str]]:
        """The states at step T, by key (which knows no sampler), and the model calls that they took."""
        device, store = self._device, self._store
        names = [self._prompts.keys[i] for i in rows]
        begun = self.prepared(rows)
        known: dict[ConfigKey | None, SamplerState] = {None: begun.start}
        wanted: dict[ConfigKey, batched_execution.Segment] = {}
        for config in configs:
            chain = self._segments(config)
            there = [i for i, one in enumerate(chain) if store is not None and store.has(one.key, names)]
            first = there[-1] + 1 if there else 0
            if store is not None and there and chain[there[-1]].key not in known:
                known[chain[there[-1]].key] = store.get(chain[there[-1]].key, names, device)
            wanted |= {one.key: one for one in chain[first:]}
        finals: dict[ConfigKey, SamplerState] = {}

        def keep(key: ConfigKey, state: SamplerState) -> None:
            if state.step == self._pipe.num_steps:
                finals[key] = state
            elif store is not None:
                store.put(key, names, state)

        models = batched_execution.Models(self._pipe, begun.conditioning, max(self._batches.size, len(rows)))
        batched_execution.run(wanted.values(), known, models, keep)
        return finals, Counter({action.name.lower(): count for action, count in models.calls.items()})

    def _segments(self, config: PlannedCandidate) -> list[batched_execution.Segment]:
        branch_points = self._branch_points(config) if self._store is not None else ()
        return batched_execution.segments(config.candidate, config.plan, branch_points)

    def _branch_points(self, config: PlannedCandidate) -> Iterable[int]:
        """Where other candidates may go another way: other k, other alphas, other s, other edge steps."""
        params, pipe = config.candidate.params, self._pipe
        if params.edge_schedule is not None:
            return ()
        handoff = config.candidate.handoff or pipe.config.sampling.handoff
        later = (step for step in params.real_steps(pipe.num_steps) if step > params.warm_up)
        branch_points = [params.warm_up, *(step + 1 for step in islice(later, 1))]
        branch_points += [
            effective_s(replace(params, s=s), pipe.num_steps, handoff)
            for s in self._s_values
            if s >= params.warm_up
        ]
        handoff_step = effective_s(params, pipe.num_steps, handoff)
        own = [handoff_step + params.edge_first] if params.extends_paper else []
        return [*own, *(step for step in branch_points if step <= handoff_step)]

    def prepared(self, rows: Sequence[int]) -> Prepared:
        """Some prompts, ready to run; encoded once each, and kept in the host's memory."""
        fresh = [i for i in rows if i not in self._prepared]
        if fresh:
            made = prepare(self._pipe, self._prompts, fresh)
            for row, i in enumerate(fresh):
                start, conditioning = take(made.start, [row]), take_prompts(made.conditioning, [row])
                self._prepared[i] = Prepared(move(start, "cpu"), move_prompts(conditioning, "cpu"))
        parts = [self._prepared[i] for i in rows]
        start, conditioning = join([p.start for p in parts]), join_prompts([p.conditioning for p in parts])
        return Prepared(move(start, self._device), move_prompts(conditioning, self._device))
