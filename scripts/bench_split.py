"""What so many cloud calls are worth when an edge model helps, on an embedded pair: ours, the paper's best,
HybridSD, the cloud alone, fewer steps.

    python scripts/bench_split.py [--budgets 2,3,4,5,6,8,10,14] [--prompts 50] [--json FILE] [--out FOLDER]
    python scripts/bench_split.py --budgets 4 --edge-calls 25
    python scripts/bench_split.py --pair shapes_flow --budgets 4,6,8 --prompts 8

Every method chooses its config for a number of cloud calls on calibration prompts, by the predicted error and
then by real generations of the few best, and is measured on held-out ones against the cloud's 50-step images:
mean SSIM with a bootstrap 95% interval, median PSNR. Seconds are reckoned from calls timed once and kept in
the folder (or those of --latency), once on one machine and once over the paper's link with a round trip of
20 ms an exchange. FILE is a list of rows with budget, method, cloud_calls, edge_calls, crossings, ssim, psnr,
seconds. Stopped at any moment it goes on. Fewer DDIM and DPM++ 2M steps are for the pair with DDIM alone.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from statistics import fmean, median
from typing import Any

import pandas as pd

import quiet_terminal  # noqa: F401
from cloud_call_bench import split_figure
from cloud_call_bench.bench import ALPHAS, PLACED_ALPHAS, SAMPLING, Bench, decibels, opened
from cloud_call_bench.fewer_steps import SOLVERS, solved
from ecdiff_core.io.atomic_files import write_text
from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_core.sampling.plan import Plan
from ecdiff_core.sampling.plan_of_params import plan
from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.evaluation.latency import LatencyProfile, measure
from ecdiff_tune.evaluation.ledger import Ledger, Measurement
from ecdiff_tune.evaluation.link import Link
from ecdiff_tune.evaluation.state_store import StateStore
from ecdiff_tune.forecast.placement import Forecast
from ecdiff_tune.forecast.proposals import paper_params
from ecdiff_tune.forecast.splits import SplitPlacer
from ecdiff_tune.metrics.intervals import interval95
from ecdiff_tune.study import files

LINK = Link(mbps=18.88, round_trip_seconds=0.02)
"""The paper's bandwidth."""
ONE_WAY_EDGE_CALLS = 8
INTERLEAVED_EDGE_CALLS = 15
"""As many as ours may make, those for the residual included; interleaved also as --edge-calls says."""
ESTIMATORS = ("gradient", "secant", "newton2")
FINALISTS = 3
"""Plans of each estimator that are generated."""
PAPERS = 6
"""The paper's configs that are generated."""


class SplitBench(Bench):
    """The methods in which an edge model takes part, beside those of the cloud alone."""

    def __init__(self, args: argparse.Namespace, ledger: Ledger, store: StateStore) -> None:
        super().__init__(args, ledger, store)
        self.edge_calls: int = getattr(args, "edge_calls", INTERLEAVED_EDGE_CALLS)

    @staticmethod
    def merit(one: Measurement) -> float:
        """What configs are chosen by: SSIM."""
        return -1.0 if one.ssim is None else one.ssim

    @cache  # noqa: B019
    def _splits(self, estimator: str) -> SplitPlacer:
        return SplitPlacer(Forecast.of(self.predictor, self.adapter), estimator, PLACED_ALPHAS, residual=1.0)

    def candidate(self, params: ECDiffParams, estimator: str = "gradient") -> Candidate:
        """With the pair's handoff adapter."""
        return Candidate(params, estimator, self.adapter)

    def split(self, calls: int, edge_calls: int, one_way: bool) -> Candidate:
        """Ours: the best of the few best predicted of every estimator, and of the cloud alone."""
        finalists = [
            self.candidate(one.params(1.0), name)
            for name in ESTIMATORS
            for one in self._splits(name).propose(calls, edge_calls, one_way)[:FINALISTS]
        ]
        for name in ESTIMATORS if calls > 2 else ():
            real, alpha = self.placer(name).propose(calls, self.pipe.num_steps)[0]
            finalists.append(Candidate(ECDiffParams.scheduled(real, alpha, self.pipe.num_steps), name))
        return self.best(finalists)

    def paper_split(self, calls: int) -> Candidate | None:
        """The best of the paper's (p, k, alpha, s) with so many cloud calls; None where there is none."""
        steps = self.pipe.num_steps
        some = [
            self.candidate(one)
            for s in range(calls, steps + 1)
            for one in paper_params(calls, s, steps, "aligned", range(1, steps // 2), ALPHAS)
        ]
        errors = [float(one.mean()) for one in self.predictor.squared_errors(some)]
        ranked = [one for _, one in sorted(zip(errors, some, strict=True), key=lambda pair: pair[0])]
        best = {(one.params.p, one.params.k, one.params.s): one for one in reversed(ranked)}
        finalists = sorted(best.values(), key=ranked.index)[:PAPERS]
        return self.best(finalists) if finalists else None

    def methods(self, calls: int) -> dict[str, Candidate | None]:
        """A config of each method, chosen on the calibration prompts; None where it has none."""
        return {
            "ours, one-way": self.split(calls, ONE_WAY_EDGE_CALLS, one_way=True),
            "ours, interleaved": self.split(calls, self.edge_calls, one_way=False),
            "the paper's best": self.paper_split(calls),
            "HybridSD": self.candidate(ECDiffParams.hybrid(calls)),
            "cloud alone, placed": self.ours(calls) if calls > 2 else None,
        }

    def split_rows(self, calls: int, profile: LatencyProfile) -> list[dict[str, Any]]:
        """A row a method."""
        found = []
        for name, one in self.methods(calls).items():
            if one is not None:
                config = one.resolve(self.pipe.num_steps, "aligned")
                (measured,) = self.heldout.evaluator.measure([config], lambda _: None)
                text = f"{one.estimator} {one.params}"
                found.append({**row(calls, name, config.plan, measured, profile), "config": text})
        for name in SOLVERS if self.pipe.config.sampling.scheduler == "DDIMScheduler" else ():
            spacing, measured = solved(self, name, calls)
            whole = plan(ECDiffParams.cloud_only(calls), calls)
            found.append({**row(calls, f"fewer {name} steps", whole, measured, profile), "config": spacing})
        return found


def row(
    calls: int, method: str, steps: Plan, measured: Sequence[Measurement], profile: LatencyProfile
) -> dict[str, Any]:
    """What is written of a method with a number of cloud calls."""
    ssims = [one.ssim for one in measured if one.ssim is not None]
    low, high = interval95(ssims, seed=0)
    return {
        "budget": calls,
        "method": method,
        "cloud_calls": steps.cloud_calls,
        "edge_calls": steps.edge_calls,
        "crossings": steps.crossings,
        "ssim": fmean(ssims),
        "ssim_low": low,
        "ssim_high": high,
        "psnr": median(map(decibels, measured)),
        "seconds": profile.over(Link()).seconds(steps),
        "seconds_over_link": profile.seconds(steps),
        "cloud_call_seconds": profile.cloud_call.median,
        "edge_call_seconds": profile.edge_call.median,
        "prompts": len(measured),
        "schedule": steps.schedule,
    }


def latency(args: argparse.Namespace, bench: SplitBench) -> LatencyProfile:
    """Of the file that is given, or measured once and kept in the folder."""
    kept: Path = args.latency or args.out / args.pair / files.LATENCY
    if args.latency is None and not kept.exists():
        measure(bench.pipe, LINK).save(kept)
    return LatencyProfile.load(kept).over(LINK)


def numbers(text: str) -> list[int]:
    """What a comma-separated list says."""
    return [int(one) for one in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--budgets", type=numbers, default=[2, 3, 4, 5, 6, 8, 10, 14], help="cloud calls")
    parser.add_argument("--prompts", type=int, default=50, help="held-out prompts to measure on")
    parser.add_argument("--calibration", type=int, default=12, help="prompts to choose on")
    parser.add_argument(
        "--edge-calls", type=int, default=INTERLEAVED_EDGE_CALLS, help="of ours interleaved, at most"
    )
    parser.add_argument("--batch", type=int, default=25)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--pair", default="shapes", choices=SAMPLING, help="an embedded pair")
    parser.add_argument("--latency", type=Path, metavar="FILE", help="a latency.json of this pair to go by")
    parser.add_argument("--json", type=Path, help="where to write the rows")
    parser.add_argument("--out", type=Path, default=Path("outputs/bench_split"))
    args = parser.parse_args()
    args.heldout = args.prompts
    with opened(SplitBench, args) as bench:
        profile, found = latency(args, bench), []
        for calls in args.budgets:
            fresh = bench.split_rows(calls, profile)
            found += fresh
            shown = ["budget", "method", "cloud_calls", "edge_calls", "crossings", "ssim", "psnr", "seconds"]
            print(pd.DataFrame(fresh)[shown].to_string(index=False, float_format="%.3f"), flush=True)
            if args.json is not None:
                write_text(args.json, json.dumps(found, indent=1) + "\n")
        for path in split_figure.write(args.out, pd.DataFrame(found)):
            print(f"wrote {path}")


if __name__ == "__main__":
    main()
