"""What so many cloud calls are worth, cloud only, on the embedded pair: placed real steps, the paper's (p, k,
alpha), fewer DDIM steps, fewer DPM++ 2M steps.

    python scripts/bench_schedules.py [--budgets 8 9 … 25] [--calibration 12] [--heldout 30] [--out FOLDER]

PSNR and SSIM are to the cloud's 50-step DDIM images. Every method chooses its config for a number of calls
on the calibration prompts and is measured on held-out ones: ours and the paper's by the predicted error, then
by real generations of the few best, the solvers by their timestep spacing. Stopped at any moment it goes on.
Processes with different budgets may share a folder; a run over all of them afterwards writes the whole table.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median

import pandas as pd

import quiet_terminal  # noqa: F401
from cloud_call_bench import schedules_figure
from cloud_call_bench.bench import ALPHAS, Bench, decibels, measure, opened
from cloud_call_bench.fewer_steps import SOLVERS, solved
from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.evaluation.ledger import Measurement
from ecdiff_tune.forecast.proposals import paper_params

PAIRS = 5
"""(p, k) that are generated for the paper, each with up to three alphas."""


class ScheduleBench(Bench):
    """Beside ours the paper's, and fewer steps."""

    def papers(self, calls: int) -> Candidate:
        """The best of the (p, k) with the least predicted error.

        Each with the alpha that is predicted, with the next smaller one (small ones are underrated), and with
        the least.
        """
        steps, ks = self.pipe.num_steps, range(1, self.pipe.num_steps // 2)
        some = [Candidate(one) for one in paper_params(calls, steps, steps, "aligned", ks, ALPHAS)]
        errors = [float(one.mean()) for one in self.predictor.squared_errors(some)]
        ranked = [one for _, one in sorted(zip(errors, some, strict=True), key=lambda pair: pair[0])]
        best: dict[tuple[int | None, int | None], float] = {}
        for one in ranked:
            best.setdefault((one.params.p, one.params.k), one.params.alpha)
        wanted = {
            (p, k, value)
            for (p, k), alpha in list(best.items())[:PAIRS]
            for value in (alpha, round(max(0.1, alpha - 0.1), 1), 0.1)
        }
        return self.best([one for one in ranked if (one.params.p, one.params.k, one.params.alpha) in wanted])

    def rows(self, calls: int) -> list[dict[str, object]]:
        """A row a method."""
        found = []
        for name, one in (("ours", self.ours(calls)), ("paper", self.papers(calls))):
            (measured,) = measure(self.heldout.evaluator, [one])
            found.append(row(name, calls, described(one), measured, one))
        return found + [row(name, calls, *solved(self, name, calls)) for name in SOLVERS]


def described(one: Candidate) -> str:
    """A config in a few words."""
    params = one.params
    if params.schedule is None:
        return f"p={params.p} k={params.k} alpha={params.alpha:g}"
    return f"{one.estimator} alpha={params.alpha:g}"


def row(
    method: str, calls: int, config: str, measured: Sequence[Measurement], one: Candidate | None = None
) -> dict[str, object]:
    psnrs, ssims = [decibels(m) for m in measured], [m.ssim for m in measured if m.ssim is not None]
    schedule = one.params.schedule if one is not None else None
    return {
        "cloud_calls": calls,
        "method": method,
        "config": config,
        "psnr_median": median(psnrs),
        "psnr_mean": fmean(psnrs),
        "ssim": fmean(ssims) if ssims else float("nan"),
        "prompts": len(psnrs),
        "real_steps": " ".join(map(str, schedule or ())),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--budgets", type=int, nargs="+", default=list(range(8, 26)))
    parser.add_argument("--calibration", type=int, default=12, help="prompts to choose on")
    parser.add_argument("--heldout", type=int, default=30, help="prompts to measure on")
    parser.add_argument("--batch", type=int, default=25)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("outputs/bench_schedules"))
    args = parser.parse_args()
    with opened(ScheduleBench, args) as bench:
        found = []
        for calls in args.budgets:
            found += bench.rows(calls)
            table = pd.DataFrame(found)
            print(table.tail(4).to_string(header=False, index=False), flush=True)
        for path in schedules_figure.write(args.out, table.sort_values(["cloud_calls"], kind="stable")):
            print(f"wrote {path}")


if __name__ == "__main__":
    main()
