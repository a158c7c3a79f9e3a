"""Others' ways of placing a number of cloud calls beside `search=schedule`, and others' ways of sharing the
steps with an edge model, on the embedded pair.

    python scripts/bench_rivals.py [--budgets 8,10,14,20] [--prompts 50] [--json FILE] [--out FOLDER]

Every search chooses real steps for a number of cloud calls, and what it chose is measured on held-out prompts
against the cloud's 50-step images. `search_cloud_calls` and `search_edge_calls` are the model calls that it
took to choose, those of the full runs that it goes by included. Ours goes by the reference runs of all
calibration prompts, or of the first alone; BudCache generates on the first; DPCache goes by the full runs of
all. T-Stitch and SRDiffusion choose without a search: SRDiffusion's number of cloud calls is its own, its row
has the mean. Stopped at any moment it goes on; a search of BudCache's that was under way begins anew. FILE is
a list of rows.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean, median
from typing import Any

import pandas as pd
import torch

import quiet_terminal  # noqa: F401
from bench_split import numbers
from cloud_call_bench.bench import FIRST, PLACED_ALPHAS, Bench, decibels, measure, opened, placed
from ecdiff_core.io.atomic_files import write_text
from ecdiff_core.sampling.estimators import get_estimator
from ecdiff_core.sampling.params import ECDiffParams, Factors
from ecdiff_core.sampling.plan_of_params import plan
from ecdiff_core.sampling.sampler import SamplerState, advance
from ecdiff_tune.evaluation.baseline_trajectory import baseline_trajectory, prepare
from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.evaluation.ledger import Ledger, Measurement
from ecdiff_tune.evaluation.state_store import StateStore
from ecdiff_tune.forecast.placement import Forecast
from ecdiff_tune.forecast.predictor import Predictor
from ecdiff_tune.forecast.proposals import Placer
from ecdiff_tune.metrics.intervals import interval95
from rivals import budcache, dpcache, splits

Schedule = tuple[int, ...]

SKIPPED = ("reuse", "secant")
"""What fills a rival's skipped steps: the last answer again, or the line through the last two."""
SWITCH_SHARES = (0.1, 0.6)
"""SRDiffusion's switch lies between these shares of T."""


@dataclass(frozen=True)
class Choice:
    """What a search chose, and the model calls that it took."""

    candidate: Candidate
    cloud_calls: int
    edge_calls: int = 0


class RivalBench(Bench):
    """The rivals, beside ours of ``Bench``."""

    def __init__(self, args: argparse.Namespace, ledger: Ledger, store: StateStore) -> None:
        super().__init__(args, ledger, store)
        self.out: Path = args.out

    @property
    def _steps(self) -> int:
        return self.pipe.num_steps

    def chosen(self, calls: int) -> Iterator[tuple[str, Choice]]:
        """By method, its choice for a number of cloud calls."""
        yield "ours", self._ours(calls, self.predictor, len(self.tuning.made.prompts))
        yield "ours, one prompt", self._ours(calls, self._first_predictor, 1)
        for name in SKIPPED:
            yield f"DPCache, {name}", self._dpcache(calls, name)
            yield f"BudCache, {name}", self._budcache(calls, name)

    @cached_property
    def _first_predictor(self) -> Predictor:
        """Of the first calibration prompt alone."""
        made = replace(
            self.tuning.made, prompts=self.tuning.made.prompts[:1], prompt_set=self.tuning.first(1)
        )

        def passes(adapter: Any) -> list[dict[str, torch.Tensor]]:
            return self.edge_pass.make(adapter, self.batches, lambda _: None)[:1]

        return Predictor.of(self.pipe.scheduler, "aligned", made, passes, "identity")

    def _ours(self, calls: int, predictor: Predictor, prompts: int) -> Choice:
        """As ``Bench.ours``, on the first so many calibration prompts."""
        steps = self._steps

        def placer(name: str) -> Placer:
            return Placer(Forecast.of(predictor), name, PLACED_ALPHAS, calls, steps)

        finalists = placed(placer, calls, steps)
        first = min(FIRST, prompts)
        spent = prompts * steps + calls * (first * len(finalists) + (prompts - first) * 2)
        # The edge's own runs and the edge asked along the cloud's tell the forecast how models react.
        return Choice(self.best(finalists, prompts), spent, edge_calls=2 * prompts * steps)

    def _dpcache(self, calls: int, skipped: str) -> Choice:
        gram = self.predictor.cloud_grams.mean(axis=0)
        found = dpcache.search(gram, calls, linear=skipped == "secant")
        return Choice(_scheduled(found, self._steps, skipped), len(self.tuning.made.prompts) * self._steps)

    def _budcache(self, calls: int, skipped: str) -> Choice:
        kept = self.out / f"budcache-{skipped}-{calls}.json"
        if not kept.exists():
            error = _latent_error(self, skipped)
            found = budcache.search(error, calls, self._steps, get_estimator(skipped).real_noises)
            write_text(kept, json.dumps(asdict(found)) + "\n")
        found = budcache.Found(**json.loads(kept.read_text(encoding="utf-8")))
        candidate = _scheduled(found.schedule, self._steps, skipped)
        return Choice(candidate, self._steps + found.evaluations * calls)

    def search_rows(self, calls: int) -> Iterator[dict[str, Any]]:
        """A row a search."""
        for method, one in self.chosen(calls):
            (measured,) = measure(self.heldout.evaluator, [one.candidate])
            yield row(method, calls, 0, measured) | {
                "search_cloud_calls": one.cloud_calls,
                "search_edge_calls": one.edge_calls,
                "config": f"{one.candidate.estimator} {one.candidate.params}",
            }

    def split_rows(self, calls: int) -> Iterator[dict[str, Any]]:
        """T-Stitch's order, and the usual one beside it."""
        for method, params in (
            ("T-Stitch", splits.t_stitch(calls, self._steps)),
            ("HybridSD", ECDiffParams.hybrid(calls)),
        ):
            (measured,) = measure(self.heldout.evaluator, [Candidate(params)])
            yield row(method, calls, self._steps - calls, measured)

    def switched_row(self) -> dict[str, Any]:
        """SRDiffusion, whose number of cloud calls differs from prompt to prompt."""
        earliest, latest = (round(share * self._steps) for share in SWITCH_SHARES)
        grams = [one.gram.numpy() for one in self.heldout.made.prompts]
        switches = [splits.srdiffusion_switch(gram, earliest, latest) for gram in grams]
        different = sorted(set(switches))
        found = measure(self.heldout.evaluator, [Candidate(ECDiffParams.hybrid(s)) for s in different])
        measured = [found[different.index(s)][i] for i, s in enumerate(switches)]
        cloud = fmean(switches)
        made = row("SRDiffusion", cloud, self._steps - cloud, measured)
        return made | {"config": f"switch after {min(switches)} … {max(switches)} steps"}


def _scheduled(schedule: Schedule, steps: int, skipped: str) -> Candidate:
    return Candidate(ECDiffParams.scheduled(schedule, 1.0, steps), skipped)


def _latent_error(bench: RivalBench, skipped: str) -> Callable[[Schedule], float]:
    """The squared distance of the first calibration prompt's final latents from the cloud's.

    Lists that begin alike share their beginning here; what a search of its own would spend is counted whole.
    """
    pipe, steps, estimator = bench.pipe, bench.pipe.num_steps, get_estimator(skipped)
    batch = prepare(pipe, bench.tuning.prompts, [0])
    wanted = baseline_trajectory(pipe, batch, "cloud").latents
    cloud, edge = pipe.bind(batch.conditioning)
    states: dict[str, SamplerState] = {"": batch.start}

    def error(schedule: Schedule) -> float:
        whole = plan(ECDiffParams.scheduled(schedule, 1.0, steps), steps, estimator=estimator)
        begun = next(n for n in range(steps, -1, -1) if whole.letters[:n] in states)
        for step in range(begun, steps):
            state, factors = states[whole.letters[:step]], Factors(1.0)
            states[whole.letters[: step + 1]] = advance(
                state, whole, cloud, edge, estimator, factors, until=step + 1
            )
        return float((states[whole.letters].latents - wanted).square().sum())

    return error


def row(method: str, cloud: float, edge: float, measured: Sequence[Measurement]) -> dict[str, Any]:
    """What is written of a method."""
    psnrs = [decibels(one) for one in measured]
    low, high = interval95(psnrs, seed=0)
    return {
        "budget": round(cloud),
        "method": method,
        "cloud_calls": cloud,
        "edge_calls": edge,
        "psnr": median(psnrs),
        "psnr_mean": fmean(psnrs),
        "psnr_low": low,
        "psnr_high": high,
        "ssim": fmean(one.ssim for one in measured if one.ssim is not None),
        "prompts": len(measured),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--budgets", type=numbers, default=[8, 10, 14, 20], help="cloud calls")
    parser.add_argument("--prompts", type=int, default=50, help="held-out prompts to measure on")
    parser.add_argument("--calibration", type=int, default=12, help="prompts to choose on")
    parser.add_argument("--batch", type=int, default=25)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="where to write the rows")
    parser.add_argument("--out", type=Path, default=Path("outputs/bench_rivals"))
    args = parser.parse_args()
    args.heldout = args.prompts
    found: list[dict[str, Any]] = []
    with opened(RivalBench, args) as bench:

        def write(fresh: dict[str, Any]) -> None:
            found.append(fresh)
            shown = ("budget", "method", "psnr", "ssim", "search_cloud_calls", "search_edge_calls")
            print(*(f"{name} {fresh[name]}" for name in shown if name in fresh), flush=True)
            if args.json is not None:
                write_text(args.json, json.dumps(found, indent=1) + "\n")

        for calls in args.budgets:
            for one in bench.search_rows(calls):
                write(one)
        write(bench.switched_row())
        for calls in args.budgets:
            for one in bench.split_rows(calls):
                write(one)
    print(pd.DataFrame(found).drop(columns="config").to_string(index=False, float_format="%.4g"))


if __name__ == "__main__":
    main()
