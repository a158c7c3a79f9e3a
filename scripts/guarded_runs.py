"""Generations that get a real call in the next window where the extrapolated noise was off."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_core.sampling.batching import Conditioning, join_prompts, take, take_prompts
from ecdiff_core.sampling.plan import Action, Plan
from ecdiff_core.sampling.sampler import Call, SamplerState, trajectory

BATCH = 16
Distances = dict[int, float]
"""Of one prompt, by the real step."""
Decide = Callable[[int, int, float], bool]
"""Whether the window after a real step is shortened: of a prompt's number, the step, and the distance."""


def never(*_: Any) -> bool:
    return False


@dataclass(frozen=True)
class Run:
    """What a way made of prompts, one entry each."""

    latents: Tensor
    calls: list[int]
    distances: list[Distances]


def shortened(plan: Plan, step: int) -> Plan:
    """With a real call in the middle of the approximated steps after ``step``."""
    end = next((i for i in range(step + 1, plan.num_steps) if plan.steps[i] is not Action.APPROX), step + 1)
    if end == step + 1:
        return plan
    steps = list(plan.steps)
    steps[(step + 1 + end) // 2] = Action.CLOUD
    return replace(plan, steps=tuple(steps))


def guarded(
    pipe: ECDiffPipeline, state: SamplerState, plan: Plan, number: int, decide: Decide
) -> Generator[Call, Tensor, tuple[Tensor, Plan, Distances]]:
    """A trajectory whose plan changes on the way."""
    factors, estimator, planned = pipe.config.factors, pipe.estimator, plan
    found: Distances = {}
    while state.step < plan.num_steps:
        step, before = state.step, state
        state = yield from trajectory(state, plan, estimator, factors, until=step + 1)
        is_check = step and planned.steps[step] is Action.CLOUD and planned.steps[step - 1] is Action.APPROX
        if is_check:
            expected, real = estimator.estimate(before.noise, factors.alpha).eps, state.noise.eps
            assert expected is not None
            assert real is not None
            found[step] = float((expected - real).norm() / real.norm())
            if decide(number, step, found[step]):
                plan = shortened(plan, step)
    return state.latents, plan, found


@torch.no_grad()
def run(pipe: ECDiffPipeline, begun: Any, plan: Plan, decide: Decide) -> Run:
    """All prompts side by side, those that wait for one model in one call of it."""
    count = len(begun.start.latents)
    runs = [guarded(pipe, take(begun.start, [i]), plan, i, decide) for i in range(count)]
    prompts = [take_prompts(begun.conditioning, [i]) for i in range(count)]
    ended: dict[int, tuple[Tensor, Plan, Distances]] = {}
    waiting = {i: next(one) for i, one in enumerate(runs)}
    while waiting:
        for i, answer in answers(pipe, waiting, prompts):
            try:
                waiting[i] = runs[i].send(answer)
            except StopIteration as finished:
                ended[i] = finished.value
                del waiting[i]
    rows = [ended[i] for i in range(count)]
    latents = torch.cat([latents for latents, *_ in rows])
    return Run(latents, [plan.cloud_calls for _, plan, _ in rows], [found for *_, found in rows])


def answers(
    pipe: ECDiffPipeline, waiting: Mapping[int, Call], prompts: Sequence[Conditioning]
) -> Iterator[tuple[int, Tensor]]:
    """Of the calls at the earliest step of one model, the cloud's first."""
    first = min(waiting.values(), key=lambda call: (call.step, call.action.value))
    same = [i for i, call in waiting.items() if (call.step, call.action) == (first.step, first.action)]
    for at in range(0, len(same), BATCH):
        rows = same[at : at + BATCH]
        cloud, edge = pipe.bind(join_prompts([prompts[i] for i in rows]))
        model = cloud if first.action is Action.CLOUD else edge
        output = model(torch.cat([waiting[i].latents for i in rows]), first.timestep)
        yield from zip(rows, output.split(1), strict=True)


def decoded(pipe: ECDiffPipeline, latents: Tensor) -> Tensor:
    return torch.cat([pipe.pair.family.decode(some) for some in latents.split(BATCH)])
