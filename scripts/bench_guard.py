"""Whether a guard would pay: where the extrapolated noise is off by more than calibration saw, ask again.

    python scripts/bench_guard.py [--config YAML] [--num-prompts 32] [--json FILE]

At a real cloud step after a window of approximated ones, what the estimator would have said of that step is
known too. Its distance from the real noise, as a share of that, is compared with a quantile over calibration
prompts at the same step; where it is larger, the next window gets a real call in its middle. Beside it the
same number of calls is spent on windows of prompts drawn at random, and one call more on every prompt where
the forecast is the worst (the first window). Prompts: the calibration's kind; the grammar's rarest (three
objects of one shape and size on a patterned background); the first of these at guidance 7.5. FILE holds a row
for each set and way (calls, SSIM to the cloud's own images: mean, lowest tenth, worst), and how the largest
distance of a prompt ranks with its loss of SSIM (Spearman).
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ecdiff_core.config import TunedConfig
from ecdiff_core.io.atomic_files import write_text
from ecdiff_core.io.console import quiet_libraries, run_command
from ecdiff_core.io.threads import share_cores
from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_core.sampling.batching import Conditioning, join_prompts, take, take_prompts
from ecdiff_core.sampling.plan import Action, Plan
from ecdiff_core.sampling.sampler import Call, SamplerState, trajectory
from ecdiff_core.shapes.grammar import Scene, scenes
from ecdiff_tune.metrics.images import ssim

BATCH = 16
OTHER_GUIDANCE = 7.5
QUANTILES = (0.8, 0.95)
Distances = dict[int, float]
"""Of one prompt, by the real step."""
Decide = Callable[[int, int, float], bool]
"""Whether the window after a real step is shortened: of a prompt's number, the step, and the distance."""


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


def rare(scene: Scene) -> bool:
    """Three objects of one shape and size on a pattern: of every scene of the grammar the least frequent."""
    alike = len({(one.shape, one.size) for one in scene.objects}) == 1
    return len(scene.objects) == 3 and alike and scene.pattern not in ("plain", "shaded")


def prompt_sets(count: int) -> dict[str, list[str]]:
    """Captions that training never saw; ``calibration`` sets the limits."""
    usual = [scene.caption() for scene in islice(scenes(0, held_out=True), 2 * count)]
    special = filter(rare, scenes(1, held_out=True))
    rarest = [scene.caption() for scene in islice(special, count)]
    return {"calibration": usual[:count], "the same kind": usual[count:], "rarest": rarest}


def never(*_: Any) -> bool:
    return False


def limits(run: Run, quantile: float) -> Distances:
    """By step, what that share of the prompts does not exceed."""
    return {step: float(np.quantile([d[step] for d in run.distances], quantile)) for step in run.distances[0]}


def at_random(guard: Run, plan: Plan, seed: int) -> Decide:
    """As many windows as the guard shortened, of prompts and steps drawn at random."""
    checks = [
        (i, step)
        for i, found in enumerate(guard.distances)
        for step in found
        if shortened(plan, step) != plan
    ]
    spent = sum(guard.calls) - plan.cloud_calls * len(guard.calls)
    chosen = set(random.Random(seed).sample(checks, min(spent, len(checks))))
    return lambda number, step, _: (number, step) in chosen


def bench(args: argparse.Namespace) -> None:
    quiet_libraries()
    config = TunedConfig.load(args.config)
    scale = config.sampling.guidance_scale
    sets = {name: (some, scale) for name, some in prompt_sets(args.num_prompts).items()}
    sets[f"guidance {OTHER_GUIDANCE:g}"] = (sets["the same kind"][0], OTHER_GUIDANCE)
    rows: list[dict[str, Any]] = []
    kept: dict[float, Distances] = {}
    pair = ECDiffPipeline.from_config(config).pair
    for name, (prompts, guidance) in sets.items():
        sampling = replace(config.sampling, guidance_scale=guidance)
        pipe = ECDiffPipeline(pair, replace(config, pair=pair.spec, sampling=sampling))
        plan, cloud = pipe.plan(), pipe.plan("cloud")
        generators = [torch.Generator().manual_seed(1000 + i) for i in range(len(prompts))]
        begun = pipe.prepare(prompts, generator=generators)
        wanted = decoded(pipe, run(pipe, begun, cloud, never).latents)
        tuned = run(pipe, begun, plan, never)
        first = min(tuned.distances[0])
        more = run(pipe, begun, plan, lambda _, step, __, first=first: step == first)
        ways = {"as tuned": tuned, "one more for all": more}
        if not kept:
            kept = {quantile: limits(tuned, quantile) for quantile in QUANTILES}
        for quantile, limit in kept.items():
            guard = run(pipe, begun, plan, lambda _, step, d, limit=limit: d > limit[step])
            ways[f"guard {quantile:g}"] = guard
            ways[f"random as {quantile:g}"] = run(pipe, begun, plan, at_random(guard, plan, seed=0))
        for way, made in ways.items():
            found = ssim(decoded(pipe, made.latents), wanted)
            row = summary(found, made.calls) | {"set": name, "way": way, "distances": made.distances}
            over = [max(d[step] / kept[0.95][step] for step in d) for d in made.distances]
            rows.append(row | {"rank": rank(over, found), "ssim": found.tolist()})
            print(
                f"{name:>14}  {way:>16}  {row['calls']:6.2f} calls  SSIM {row['mean']:.4f}  lowest tenth "
                f"{row['tenth']:.4f}  worst {row['worst']:.4f}  rank {rows[-1]['rank']:+.2f}",
                flush=True,
            )
        if args.json is not None:
            write_text(args.json, json.dumps({"limits": kept[0.95], "rows": rows}, indent=1) + "\n")


def decoded(pipe: ECDiffPipeline, latents: Tensor) -> Tensor:
    return torch.cat([pipe.pair.family.decode(some) for some in latents.split(BATCH)])


def summary(found: Tensor, calls: Sequence[int]) -> dict[str, float]:
    """Mean cloud calls, and SSIM: its mean, that of the lowest tenth, the worst."""
    tenth = found.sort().values[: max(1, len(found) // 10)]
    scores = {"mean": float(found.mean()), "tenth": float(tenth.mean()), "worst": float(found.min())}
    return {"calls": float(np.mean(calls)), **scores}


def rank(over: Sequence[float], found: Tensor) -> float:
    """Spearman's correlation of the largest distance with the loss of SSIM."""
    table = pd.DataFrame({"over": over, "loss": (1 - found).tolist()}).rank()
    return float(table["over"].corr(table["loss"]))


def main() -> int:
    share_cores()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config", default="shapes", metavar="YAML", help="of the embedded image pair (default shapes)")
    add("--num-prompts", type=int, default=32, metavar="N", help="of each set (default 32)")
    add("--json", type=Path, metavar="FILE", help="where the rows go")
    args = parser.parse_args()
    return run_command(lambda: bench(args))


if __name__ == "__main__":
    sys.exit(main())
