"""What so many cloud calls are worth, cloud only, on the embedded pair: placed real steps, the paper's (p, k,
alpha), fewer DDIM steps, fewer DPM++ 2M steps.

    python scripts/bench_schedules.py [--budgets 8 9 … 25] [--calibration 12] [--heldout 30] [--out FOLDER]

PSNR and SSIM are to the cloud's 50-step DDIM pictures. Every method chooses its config for a number of calls
on the calibration prompts and is measured on held-out ones: ours and the paper's by the predicted error, then
by real generations of the few best, the solvers by their timestep spacing. Stopped at any moment it goes on.
Processes with different budgets may share a folder; a run over all of them afterwards writes the whole table.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from statistics import fmean, median
from typing import TypeVar

import pandas as pd
import torch

import schedules_figure
from ecdiff_core.config import Sampling, TunedConfig
from ecdiff_core.io.console import quiet_libraries
from ecdiff_core.models.memory import Batches
from ecdiff_core.models.pair_spec import ModelRef, PairSpec
from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_core.sampling.plan import HandoffAdapter
from ecdiff_core.sampling.timesteps import set_steps
from ecdiff_tune.data import calibration
from ecdiff_tune.data.calibration import CalibrationSet, PromptSource
from ecdiff_tune.evaluation import reference
from ecdiff_tune.evaluation.baseline_trajectory import BaselineTrajectory, baseline_trajectory, prepare
from ecdiff_tune.evaluation.candidate import Candidate, ConfigKey
from ecdiff_tune.evaluation.edge_pass import EdgePass
from ecdiff_tune.evaluation.evaluator import Evaluator
from ecdiff_tune.evaluation.ledger import Ledger, Measurement
from ecdiff_tune.evaluation.reference import Reference
from ecdiff_tune.evaluation.state_store import StateStore
from ecdiff_tune.forecast.placement import Forecast
from ecdiff_tune.forecast.predictor import Predictor
from ecdiff_tune.forecast.proposals import Placer, paper_params
from ecdiff_tune.metrics.images import psnr, ssim
from ecdiff_tune.study import files
from ecdiff_tune.study.process_setup import load_pipe, reference_folder
from ecdiff_tune.study.spec import StudySpec

SAMPLING = {
    "shapes": Sampling(guidance_scale=3.0),
    "shapes_flow": Sampling(28, "FlowMatchEulerDiscreteScheduler", guidance_scale=3.0),
    "shapes_video": Sampling(
        scheduler="CogVideoXDDIMScheduler", guidance_scale=3.0, handoff_adapter="matched"
    ),
}
"""Of the embedded pairs, as in conf/pair/."""
ALPHAS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
PLACED_ALPHAS = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
ESTIMATORS = {"secant": 4, "newton2": 3, "gradient": 1}
"""How many of the best predicted of each are generated."""
PAIRS = 5
"""(p, k) that are generated for the paper, each with up to three alphas."""
FIRST = 4
"""Calibration prompts that all finalists are generated on; the best two are on all."""
SOLVERS = {
    "DDIM": [("DDIMScheduler", spacing) for spacing in ("leading", "trailing")],
    "DPM++ 2M": [
        ("DPMSolverMultistepScheduler", spacing) for spacing in ("linspace", "trailing", "same start")
    ],
}
"""Scheduler and timestep spacing to choose from; ``same start`` begins at the 50-step run's first timestep.
Of DDIM also steps spread evenly over those of the 50-step run, which is what ``reuse`` does."""


@dataclass(frozen=True)
class Prompts:
    """A prompt set with its reference, and what measures candidates on it."""

    prompts: CalibrationSet
    made: Reference
    evaluator: Evaluator

    def first(self, count: int) -> CalibrationSet:
        return CalibrationSet(self.prompts.prompts[:count], self.prompts.seeds[:count])


class Bench:
    """The embedded pair, two prompt sets, and everything that was measured."""

    @staticmethod
    def merit(one: Measurement) -> float:
        """What configs are chosen by: PSNR."""
        return decibels(one)

    def __init__(self, args: argparse.Namespace, ledger: Ledger, store: StateStore) -> None:
        name = getattr(args, "pair", "shapes")
        pair = PairSpec(name, ModelRef(f"embedded:{name}/cloud"), ModelRef(f"embedded:{name}/edge"))
        spec = StudySpec(
            path=args.out / name / "default",
            pair=pair,
            sampling=SAMPLING[name],
            prompts=PromptSource(args.calibration, args.heldout, moving=name == "shapes_video"),
            s_values=(),
            earliest_s=30,
            search="schedule",
            device=args.device,
        )
        self.budgets = args.budgets
        self.ledger, self.batches = ledger, Batches(args.batch)
        self.pipe = load_pipe(spec)
        self.folder = reference_folder(spec, self.pipe)
        tuning, heldout = calibration.load(spec.prompts)
        self.edge_pass = EdgePass(self.pipe, tuning, self.folder)
        self.tuning = self._prompts(tuning, store, self.edge_pass)
        self.heldout = self._prompts(heldout, None, None)

    def _prompts(
        self, prompts: CalibrationSet, store: StateStore | None, edge_pass: EdgePass | None
    ) -> Prompts:
        made = reference.make(
            self.pipe,
            prompts,
            self.folder,
            batches=self.batches,
            on_prompts=lambda _: None,
            callback=edge_pass,
        )
        evaluator = Evaluator(self.pipe, prompts, made, self.ledger, batches=self.batches, store=store)
        return Prompts(prompts, made, evaluator)

    @cached_property
    def predictor(self) -> Predictor:
        def passes(adapter: HandoffAdapter) -> list[dict[str, torch.Tensor]]:
            return self.edge_pass.make(adapter, self.batches, lambda _: None)

        return Predictor.of(self.pipe.scheduler, "aligned", self.tuning.made, passes, self.adapter)

    @property
    def adapter(self) -> HandoffAdapter:
        """The pair's own."""
        return self.pipe.config.sampling.handoff_adapter

    @cache  # noqa: B019
    def placer(self, estimator: str) -> Placer:
        forecast = Forecast.of(self.predictor)
        return Placer(forecast, estimator, PLACED_ALPHAS, max(self.budgets), self.pipe.num_steps)

    def ours(self, calls: int) -> Candidate:
        """The best of the few best predicted of every estimator."""
        return self._best(placed(self.placer, calls, self.pipe.num_steps))

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
        return self._best([one for one in ranked if (one.params.p, one.params.k, one.params.alpha) in wanted])

    def _best(self, finalists: Sequence[Candidate], prompts: int | None = None) -> Candidate:
        """By mean merit: all on the first calibration prompts, the best two on all, or on so many."""
        evaluator = self.tuning.evaluator
        for count, left in ((min(FIRST, prompts or FIRST), 2), (prompts, 1)):
            found = measure(evaluator, finalists, count)
            values = {one: fmean(map(self.merit, rows)) for one, rows in zip(finalists, found, strict=True)}
            finalists = sorted(finalists, key=lambda one: -values[one])[:left]
        return finalists[0]

    def solved(self, name: str, calls: int) -> tuple[str, Sequence[Measurement]]:
        """Fewer steps: the spacing that is best on the first calibration prompts, on the held-out ones."""
        first = self.tuning.first(FIRST)
        values = {
            (scheduler, spacing): fmean(
                map(decibels, self._solve(scheduler, spacing, calls, first, self.tuning.made))
            )
            for scheduler, spacing in SOLVERS[name]
        }
        best = max(values, key=lambda one: values[one])
        if name == "DDIM":
            steps = self.pipe.num_steps
            even = tuple(i * steps // calls for i in range(calls))
            sub_grid = Candidate(ECDiffParams.scheduled(even, 1.0, steps), "reuse")
            (found,) = measure(self.tuning.evaluator, [sub_grid], FIRST)
            if fmean(map(decibels, found)) > values[best]:
                (measured,) = measure(self.heldout.evaluator, [sub_grid])
                return f"on the {steps} steps' grid", measured
        return best[1], self._solve(*best, calls, self.heldout.prompts, self.heldout.made)

    def _solve(
        self, scheduler: str, spacing: str, calls: int, prompts: CalibrationSet, made: Reference
    ) -> list[Measurement]:
        """Pictures of a scheduler with so many steps, kept in the ledger under its name and spacing."""
        key = ConfigKey(f"{calls}C", 0.0, f"{scheduler} {spacing}", "")
        known = self.ledger.read(key)
        missing = [i for i, name in enumerate(prompts.keys) if name not in known]
        pipe = self._with_scheduler(scheduler, spacing, calls)

        def run(rows: Sequence[int]) -> BaselineTrajectory:
            batch = prepare(pipe, prompts, rows)
            if spacing == "same start":
                first = float(self.pipe.scheduler.timesteps[0])
                timesteps = [round(first * (1 - i / calls)) for i in range(calls)]
                batch.start.scheduler.set_timesteps(timesteps=timesteps, device=pipe.device)
            return baseline_trajectory(pipe, batch, "cloud")

        for rows, done in self.batches.over(missing, run):
            pictures = self.pipe.pair.family.decode(done.latents).cpu()
            cloud = torch.stack([made.prompts[i].cloud for i in rows]).float()
            values = zip(ssim(pictures, cloud).tolist(), psnr(pictures, cloud).tolist(), strict=True)
            fresh = [Measurement(*pair, done.seconds / len(rows)) for pair in values]
            self.ledger.append(key, [(prompts.keys[i], one) for i, one in zip(rows, fresh, strict=True)])
        known = self.ledger.read(key)
        return [known[name] for name in prompts.keys]

    def _with_scheduler(self, name: str, spacing: str, calls: int) -> ECDiffPipeline:
        """The cloud with another scheduler, which ends at the noise at which DDIM ends."""
        sampling = replace(self.pipe.config.sampling, num_inference_steps=calls, scheduler=name)
        config = TunedConfig(self.pipe.pair.spec, ECDiffParams.cloud_only(calls), sampling)
        pipe = ECDiffPipeline(self.pipe.pair, config)
        more = {} if spacing == "same start" else {"timestep_spacing": spacing}
        more |= {"final_sigmas_type": "sigma_min"} if name.startswith("DPM") else {}
        pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, **more)
        set_steps(pipe.scheduler, calls)
        return pipe

    def rows(self, calls: int) -> list[dict[str, object]]:
        """A row a method."""
        found = []
        for name, one in (("ours", self.ours(calls)), ("paper", self.papers(calls))):
            (measured,) = measure(self.heldout.evaluator, [one])
            found.append(row(name, calls, told(one), measured, one))
        return found + [row(name, calls, *self.solved(name, calls)) for name in SOLVERS]


def placed(placer: Callable[[str], Placer], calls: int, steps: int) -> list[Candidate]:
    """Of every estimator the few best predicted placements of so many cloud calls."""
    return [
        Candidate(ECDiffParams.scheduled(real, alpha, steps), name)
        for name, count in ESTIMATORS.items()
        for real, alpha in placer(name).propose(calls, steps)[:count]
    ]


def measure(
    evaluator: Evaluator, candidates: Sequence[Candidate], first: int | None = None
) -> list[tuple[Measurement, ...]]:
    return evaluator.measure(list(map(evaluator.resolve, candidates)), lambda _: None, first)


def decibels(one: Measurement) -> float:
    return float("-inf") if one.psnr is None else one.psnr


def told(one: Candidate) -> str:
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


B = TypeVar("B", bound=Bench)


@contextmanager
def opened(bench: type[B], args: argparse.Namespace) -> Iterator[B]:
    """A bench with the ledger in ``args.out``, which lets it go on."""
    quiet_libraries()
    args.out.mkdir(parents=True, exist_ok=True)
    with (
        closing(Ledger(args.out / files.LEDGER)) as ledger,
        tempfile.TemporaryDirectory() as spill,
        StateStore(Path(spill) / "states", 2**30) as store,
    ):
        yield bench(args, ledger, store)


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
    with opened(Bench, args) as bench:
        found = []
        for calls in args.budgets:
            found += bench.rows(calls)
            table = pd.DataFrame(found)
            print(table.tail(4).to_string(header=False, index=False), flush=True)
        for path in schedules_figure.write(args.out, table.sort_values(["cloud_calls"], kind="stable")):
            print(f"wrote {path}")


if __name__ == "__main__":
    main()
