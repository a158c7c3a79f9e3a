"""An embedded pair, its prompts and what was measured on them: the benchmarks of cloud calls share it."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from statistics import fmean
from typing import TypeVar

import torch

from ecdiff_core.config import Sampling
from ecdiff_core.io.console import quiet_libraries
from ecdiff_core.models.memory import Batches
from ecdiff_core.models.pair_spec import ModelRef, PairSpec
from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_core.sampling.plan import HandoffAdapter
from ecdiff_tune.data import calibration
from ecdiff_tune.data.calibration import CalibrationSet, PromptSource
from ecdiff_tune.evaluation import reference_runs
from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.evaluation.edge_pass import EdgePass
from ecdiff_tune.evaluation.evaluator import Evaluator
from ecdiff_tune.evaluation.ledger import Ledger, Measurement
from ecdiff_tune.evaluation.reference import Reference
from ecdiff_tune.evaluation.state_store import StateStore
from ecdiff_tune.forecast.placement import Forecast
from ecdiff_tune.forecast.predictor import Predictor
from ecdiff_tune.forecast.proposals import Placer
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
FIRST = 4
"""Calibration prompts that all finalists are generated on; the best two are on all."""


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
        made = reference_runs.make(
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
        return self.best(placed(self.placer, calls, self.pipe.num_steps))

    def best(self, finalists: Sequence[Candidate], prompts: int | None = None) -> Candidate:
        """By mean merit: all on the first calibration prompts, the best two on all, or on so many."""
        evaluator = self.tuning.evaluator
        for count, left in ((min(FIRST, prompts or FIRST), 2), (prompts, 1)):
            found = measure(evaluator, finalists, count)
            values = {one: fmean(map(self.merit, rows)) for one, rows in zip(finalists, found, strict=True)}
            finalists = sorted(finalists, key=lambda one: -values[one])[:left]
        return finalists[0]


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
