"""Whether a guard would pay: where the extrapolated noise is off by more than calibration saw, ask again.

    python scripts/bench_guard.py [--config YAML] [--cloud-alone] [--num-prompts 32] [--json FILE]

At a real cloud step after a window of approximated ones, what the estimator would have said of that step is
known too. Its distance from the real noise, as a share of that, is compared with a quantile over calibration
prompts at the same step; where it is larger, the next window gets a real call in its middle. Beside it every
prompt gets one call more, and two: in the first windows, where the forecast is the worst, or as a plan with
so many placed calls; of the config's own plan windows drawn at random get as many calls as the guard's. At a
guard's mean number of calls stands what prompts drawn at random have when so many of them get those plans.
Prompts: the calibration's kind; the grammar's rarest (three objects of one shape and size on a patterned
background); the first of these at guidance 7.5. With --cloud-alone the cloud does all steps, by the paper's p
and k and by placed calls; else the plan is the config's own. FILE holds a row for each plan, set and way
(calls, SSIM to the cloud's own images: mean, lowest tenth, worst), and how the largest distance of a prompt
ranks with its loss of SSIM (Spearman).
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

import quiet_terminal  # noqa: F401
from ecdiff_core.config import TunedConfig
from ecdiff_core.io.atomic_files import write_text
from ecdiff_core.io.console import run_command
from ecdiff_core.io.threads import share_cores
from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_core.sampling.plan import Plan
from ecdiff_core.shapes.grammar import Scene, scenes
from ecdiff_tune.metrics.images import ssim
from guarded_runs import Decide, Distances, Run, decoded, never, run, shortened

OTHER_GUIDANCE = 7.5
QUANTILES = (0.5, 0.8, 0.95)
DRAWS = 500
"""Of which prompts get the larger plan, where as many calls are spent at random."""
PLACED = {
    8: (0, 1, 4, 8, 14, 23, 35, 47),
    9: (0, 1, 3, 7, 13, 20, 31, 42, 48),
    10: (0, 1, 3, 6, 10, 15, 22, 31, 42, 48),
}
"""Real calls of 50 steps of the embedded pair with ``secant``, by their number (docs/schedules.csv)."""


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


def limits(run: Run, quantile: float) -> Distances:
    """By step, what that share of the prompts does not exceed."""
    return {step: float(np.quantile([d[step] for d in run.distances], quantile)) for step in run.distances[0]}


@dataclass(frozen=True)
class Case:
    """A plan to guard.

    Args:
        larger: with a call more for everybody, two, …; empty: real calls in the first windows.
        hands_over: whether as many calls in windows drawn at random are measured beside it.
    """

    config: TunedConfig
    larger: tuple[TunedConfig, ...] = ()
    hands_over: bool = False


def cases(config: TunedConfig, cloud_alone: bool) -> dict[str, Case]:
    """By name."""
    steps = config.sampling.num_steps
    if not cloud_alone:
        return {"as tuned": Case(config, hands_over=True)}

    def placed(calls: int) -> TunedConfig:
        sampling = replace(config.sampling, estimator="secant")
        return replace(config, sampling=sampling, params=ECDiffParams.scheduled(PLACED[calls], 0.7, steps))

    paper = replace(config.sampling, estimator="gradient")
    return {
        "p=3 k=4": Case(replace(config, sampling=paper, params=ECDiffParams(3, 4, 0.2, steps))),
        "8 placed": Case(placed(8), (placed(9), placed(10))),
    }


def more_calls(pipe: ECDiffPipeline, case: Case, begun: Any, tuned: Run) -> list[Run]:
    """One call more for everybody, and two."""
    if case.larger:
        pipes = [ECDiffPipeline(pipe.pair, with_guidance(one, pipe)) for one in case.larger]
        return [run(one, begun, one.plan(), never) for one in pipes]
    checks = sorted(tuned.distances[0])
    return [
        run(pipe, begun, pipe.plan(), lambda _, step, __, some=checks[:count]: step in some)
        for count in (1, 2)
    ]


def with_guidance(config: TunedConfig, pipe: ECDiffPipeline) -> TunedConfig:
    sampling = replace(config.sampling, guidance_scale=pipe.config.sampling.guidance_scale)
    return replace(config, pair=pipe.pair.spec, sampling=sampling)


def windows_at_random(guard: Run, plan: Plan) -> Decide:
    """As many windows as the guard shortened, of prompts and steps drawn at random."""
    checks = [
        (i, step)
        for i, found in enumerate(guard.distances)
        for step in found
        if shortened(plan, step) != plan
    ]
    spent = sum(guard.calls) - plan.cloud_calls * len(guard.calls)
    chosen = set(random.Random(0).sample(checks, min(spent, len(checks))))
    return lambda number, step, _: (number, step) in chosen


def at_random(by_calls: Sequence[Tensor], more: float) -> dict[str, float]:
    """The mean of many draws in which prompts get so many calls more on average; SSIM by calls more."""
    least = min(int(more), len(by_calls) - 2)
    fewer, most = by_calls[least], by_calls[least + 1]
    count, rng = round((more - least) * len(fewer)), random.Random(0)
    rows = []
    for _ in range(DRAWS):
        some = rng.sample(range(len(fewer)), min(count, len(fewer)))
        mixed = fewer.clone()
        mixed[some] = most[some]
        rows.append(summary(mixed, [0]))
    return {name: float(np.mean([row[name] for row in rows])) for name in ("mean", "tenth", "worst")}


def bench(args: argparse.Namespace) -> None:
    config = TunedConfig.load(args.config)
    scale = config.sampling.guidance_scale
    sets = {name: (some, scale) for name, some in prompt_sets(args.num_prompts).items()}
    sets[f"guidance {OTHER_GUIDANCE:g}"] = (sets["the same kind"][0], OTHER_GUIDANCE)
    rows: list[dict[str, Any]] = []
    kept: dict[str, dict[float, Distances]] = {}
    pair = ECDiffPipeline.from_config(config).pair
    for name, (prompts, guidance) in sets.items():
        sampling = replace(config.sampling, guidance_scale=guidance)
        whole = ECDiffPipeline(pair, replace(config, pair=pair.spec, sampling=sampling))
        generators = [torch.Generator().manual_seed(1000 + i) for i in range(len(prompts))]
        begun = whole.prepare(prompts, generator=generators)
        wanted = decoded(whole, run(whole, begun, whole.plan("cloud"), never).latents)
        for of_plan, case in cases(config, args.cloud_alone).items():
            pipe = ECDiffPipeline(pair, with_guidance(case.config, whole))
            for row in ways(pipe, case, begun, wanted, kept.setdefault(of_plan, {})):
                rows.append({"set": name, "plan": of_plan, **row})
                print(
                    f"{name:>14}  {of_plan:>9}  {row['way']:>18}  {row['calls']:6.2f} calls  SSIM "
                    f"{row['mean']:.4f}  lowest tenth {row['tenth']:.4f}  worst {row['worst']:.4f}  "
                    f"rank {row.get('rank', float('nan')):+.2f}",
                    flush=True,
                )
        if args.json is not None:
            write_text(args.json, json.dumps({"rows": rows}, indent=1) + "\n")


def ways(
    pipe: ECDiffPipeline, case: Case, begun: Any, wanted: Tensor, kept: dict[float, Distances]
) -> Iterator[dict[str, Any]]:
    """A row each way; the first set of prompts leaves its limits in ``kept``."""
    plan = pipe.plan()
    tuned = run(pipe, begun, plan, never)
    if not kept:
        kept |= {quantile: limits(tuned, quantile) for quantile in QUANTILES}
    made = {"as it is": tuned}
    for count, larger in enumerate(more_calls(pipe, case, begun, tuned), 1):
        made[f"{count} more for all"] = larger
    found = {way: ssim(decoded(pipe, one.latents), wanted) for way, one in made.items()}
    by_calls = list(found.values())
    for quantile, limit in kept.items():
        way = f"guard {quantile:g}"
        made[way] = run(pipe, begun, plan, lambda _, step, d, limit=limit: d > limit[step])
        if case.hands_over:
            chance = windows_at_random(made[way], plan)
            made[f"windows as {quantile:g}"] = run(pipe, begun, plan, chance)
    found |= {way: ssim(decoded(pipe, one.latents), wanted) for way, one in made.items() if way not in found}
    for way, one in made.items():
        row = summary(found[way], one.calls) | {"way": way, "ssim": found[way].tolist()}
        if one is tuned:
            over = [max(d[step] / kept[0.95][step] for step in d) for d in one.distances]
            row |= {"rank": rank(over, found[way]), "distances": one.distances}
        yield row
        more = row["calls"] - plan.cloud_calls
        if way.startswith("guard") and more < len(by_calls) - 1:
            yield {"way": "as many at random", "calls": row["calls"], **at_random(by_calls, more)}


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
    add("--cloud-alone", action="store_true", help="plans in which the cloud does all steps")
    add("--num-prompts", type=int, default=32, metavar="N", help="of each set (default 32)")
    add("--json", type=Path, metavar="FILE", help="where the rows go")
    args = parser.parse_args()
    return run_command(lambda: bench(args))


if __name__ == "__main__":
    sys.exit(main())
