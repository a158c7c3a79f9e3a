"""How well the reference run predicts plans in which the edge is thinned, carries a residual on, or takes
turns with the cloud, on the embedded pair.

    python scripts/bench_forecast.py [--plans 40] [--calibration 12] [--json FILE] [--out FOLDER]

Plans of three kinds are drawn, generated on the calibration prompts and held against their predicted error:

- `grid`: the paper's (p, k, alpha, s) with `edge_k` and `residual`;
- `one-way`, `interleaved`: listed steps for both models, 3 to 8 cloud and 4 to 15 edge calls, spread by a
  formula and then moved at random.

Printed for each kind: Spearman's rank correlation of the predicted error with the measured SSIM and PSNR, the
true rank of the best predicted, and the SSIM that it lacks to the true best. FILE is a list of rows, one a
plan.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import fmean

import pandas as pd

import quiet_terminal  # noqa: F401
from bench_split import ESTIMATORS, SplitBench
from cloud_call_bench.bench import ALPHAS, PLACED_ALPHAS, decibels, measure, opened
from ecdiff_core.io.atomic_files import write_text
from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.forecast.placement import Forecast
from ecdiff_tune.forecast.splits import Split, SplitPlacer

KINDS = ("grid", "one-way", "interleaved")
MOVES = 3
"""Of single calls of a listed plan, at most."""


class ForecastBench(SplitBench):
    """Plans by chance, predicted and generated."""

    def rows(self, kind: str, count: int) -> list[dict[str, object]]:  # type: ignore[override]
        """So many plans of a kind."""
        chance, some = random.Random(kind), []
        draw = self._grid if kind == "grid" else partial(self._listed, kind == "one-way")
        while len(some) < count:
            one = draw(chance)
            if one not in some:
                some.append(one)
        predicted = [float(one.mean()) for one in self.predictor.squared_errors(some)]
        found = []
        for one, error, measured in zip(some, predicted, measure(self.tuning.evaluator, some), strict=True):
            steps = one.resolve(self.pipe.num_steps, "aligned").plan
            found.append(
                {
                    "kind": kind,
                    "predicted_error": error,
                    "ssim": fmean(m.ssim for m in measured if m.ssim is not None),
                    "psnr": fmean(map(decibels, measured)),
                    "cloud_calls": steps.cloud_calls,
                    "edge_calls": steps.edge_calls,
                    "estimator": one.estimator,
                    "residual": one.params.residual,
                    "config": str(one.params),
                }
            )
        return found

    def _grid(self, chance: random.Random) -> Candidate:
        p = chance.choice((2, 3, 5))
        s = chance.choice(range(p + 4, self.pipe.num_steps * 4 // 5))
        params = ECDiffParams(
            p,
            chance.choice((1, 2, 3, 4, 5)),
            chance.choice(ALPHAS),
            s,
            edge_k=chance.choice((0, 1, 2, 3, 5)),
            residual=chance.choice((0.0, 0.5, 1.0)),
        )
        return Candidate(params, chance.choice(ESTIMATORS))

    def _listed(self, one_way: bool, chance: random.Random) -> Candidate:
        residual, name = chance.choice((0.0, 1.0, 1.0)), chance.choice(ESTIMATORS)
        placer = SplitPlacer(Forecast.of(self.predictor, "identity"), name, PLACED_ALPHAS, residual)
        begun = list(placer.beginnings(chance.randint(3, 8), chance.randint(4, 15), one_way))
        split = Split(chance.choice(begun), chance.choice(PLACED_ALPHAS))
        for _ in range(chance.randint(0, MOVES)):
            split = chance.choice([one for one in placer.near(split) if one.one_way or not one_way])
        return Candidate(split.params(residual), name)


def summary(table: pd.DataFrame) -> Iterator[dict[str, object]]:
    """A row a kind, and one a kind and estimator."""
    for kind, part in table.groupby("kind", sort=False):
        yield _summary(str(kind), part)
        for name, some in part.groupby("estimator"):
            yield _summary(f"{kind}, {name}", some)


def _summary(name: str, part: pd.DataFrame) -> dict[str, object]:
    """Spearman's correlation is Pearson's of the ranks."""
    ranks = part[["predicted_error", "ssim", "psnr"]].rank()
    best = part["predicted_error"].idxmin()
    return {
        "kind": name,
        "plans": len(part),
        "rank_ssim": -ranks["predicted_error"].corr(ranks["ssim"]),
        "rank_psnr": -ranks["predicted_error"].corr(ranks["psnr"]),
        "true_rank_of_best": int((part["ssim"] > part["ssim"][best]).sum()) + 1,
        "ssim_lacking": part["ssim"].max() - part["ssim"][best],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--plans", type=int, default=40, help="of each kind")
    parser.add_argument("--calibration", type=int, default=12, help="prompts to predict and generate on")
    parser.add_argument("--batch", type=int, default=25)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="where to write the rows")
    parser.add_argument("--out", type=Path, default=Path("outputs/bench_forecast"))
    args = parser.parse_args()
    args.budgets, args.heldout, found = [], 1, []
    with opened(ForecastBench, args) as bench:
        for kind in KINDS:
            found += bench.rows(kind, args.plans)
            if args.json is not None:
                write_text(args.json, json.dumps(found, indent=1) + "\n")
            print(pd.DataFrame(summary(pd.DataFrame(found))).to_string(index=False), flush=True)


if __name__ == "__main__":
    main()
