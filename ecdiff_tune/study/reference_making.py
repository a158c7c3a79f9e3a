"""How references are made: by one study at a time, with what it takes logged before and counted after."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from torch import Tensor

from ecdiff_core.sampling.plan import HandoffAdapter
from ecdiff_tune.data.calibration import CalibrationSet
from ecdiff_tune.evaluation import image_faults, reference_files, reference_runs
from ecdiff_tune.evaluation.edge_pass import EdgePass
from ecdiff_tune.evaluation.placed_images import PlacedImages, ReferencePlan
from ecdiff_tune.evaluation.prefix_sharing import Generations
from ecdiff_tune.evaluation.reference import Reference
from ecdiff_tune.study import left_out, reference_plan
from ecdiff_tune.study.process_setup import LoadedPair
from ecdiff_tune.study.progress import Progress, duration
from ecdiff_tune.study.spec import FULL_RUNS, StudySpec
from ecdiff_tune.study.spending import HELDOUT_REFERENCE, REFERENCE, Spending

PLACED_SHARE = 0.25
"""Placed calls of an image as a share of T, until their number is decided."""


class ReferenceMaking:
    """Makes references in a folder that studies share."""

    def __init__(
        self, spec: StudySpec, pair: LoadedPair, folder: Path, spending: Spending, progress: Progress
    ) -> None:
        self._spec, self._pair, self._folder = spec, pair, folder
        self._spending, self._progress = spending, progress
        self._placed = False  # whether it was said how

    def make(
        self,
        prompts: CalibrationSet,
        part: str,
        at_most: int | None = None,
        edge_pass: EdgePass | None = None,
        edge: bool = True,
        placed_later: CalibrationSet | None = None,
    ) -> Reference:
        """The reference of a prompt set, with how much there is to do and progress.

        It lacks the prompts that are of no use: a note names them, ``at_most`` so many. Studies that run side
        by side wait for each other here, so that what they share is made once.
        """
        label = {HELDOUT_REFERENCE: "reference of the held-out prompts"}.get(part, part)
        pipe, where, progress = self._pair.pipe, self._folder, self._progress
        with self._spending.part(part), self._turn(label):
            missing = reference_files.missing(prompts, where)
            passes = set(edge_pass.missing(edge_pass.own_adapter)) & set(missing) if edge_pass else ()
            later = reference_files.without_edge(prompts, where) if edge else ()
            edge_runs = len(missing) * edge + len(passes) + len(later)
            self._log_calls(label, len(missing) * pipe.num_steps, edge_runs * pipe.num_steps)
            self.plan(part, len(missing) * pipe.num_steps, edge_runs * pipe.num_steps, placed_later)
            title = f"{label} ({'cloud' if not edge else 'cloud and edge'} alone)"
            progress.start_task(title, len(prompts), len(prompts) - len(missing) - len(later))
            made = reference_runs.make(
                pipe,
                prompts,
                where,
                batches=self._pair.batches,
                on_prompts=progress.prompts_done,
                callback=edge_pass,
                calls=self._spending.calls,
                at_most=at_most,
                edge=edge,
            )
        self._leave_out(prompts, reference_files.faulty_rows(prompts, where))
        return made

    def _turn(self, label: str) -> AbstractContextManager[None]:
        """For rank 0 the folder to itself."""
        if self._pair.batches.ranks.first:
            return _own_turn(self._folder, label, self._progress)
        return nullcontext()

    def _log_calls(self, label: str, cloud: int, edge: int) -> None:
        """How much there is to do; nothing is no line."""
        if cloud or edge:
            latency = self._pair.latency
            seconds = cloud * latency.cloud_call.median + edge * latency.edge_call.median
            self._progress.log(
                f"{label}: {cloud:,} cloud and {edge:,} edge calls, at most {duration(seconds)}"
            )

    def _leave_out(self, prompts: CalibrationSet, faulty: Mapping[int, tuple[str, int]]) -> None:
        for line in image_faults.describe(faulty, prompts):
            self._progress.log(f"note: {line}")
        left_out.add(self._spec.path, prompts, faulty)

    def place(
        self,
        plan: ReferencePlan,
        prompts: CalibrationSet,
        own: Reference,
        at_most: int,
        ahead: CalibrationSet,
    ) -> Reference:
        """The own runs with a placed plan's images of some prompts; without those that are of no use.

        Args:
            at_most: so many may be of no use.
            ahead: the prompts whose images are likely to be asked for.
        """
        placed, pair = PlacedImages(plan, self._folder), self._pair
        # Without what it might share with configs: how they round would depend on whether it was made now.
        generations = Generations(pair.pipe, prompts, pair.batches, None, ())
        label = "reference, placed calls"
        done, calls = self._progress.prompts_done, self._spending.calls
        with self._spending.part(REFERENCE), self._turn(label):
            missing = len(placed.missing(prompts))
            if not self._placed:
                self._progress.log(
                    f"reference: the cloud's own run on {len(own.prompts)} prompts, on the others "
                    f"{len(plan.steps)} placed cloud calls with a predicted error of "
                    f"{plan.predicted_error:.1g} SSIM"
                )
            self._placed = True
            self._log_calls(label, missing * len(plan.steps), 0)
            self.plan(REFERENCE, 0, 0, ahead)
            self._progress.start_task(label, len(prompts), len(prompts) - missing)
            placed.make(pair.pipe, prompts, generations, pair.batches, done, calls)
        known = reference_files.faulty_rows(prompts.first(FULL_RUNS), self._folder)
        found = {row: fault for row, fault in placed.faulty_rows(prompts).items() if row not in known}
        image_faults.refuse_many(known | found, prompts, at_most, pair.pipe.config.sampling.dtype)
        self._leave_out(prompts, found)
        kept = prompts.without(known | found)
        runs = zip(own.prompt_set.keys, own.prompts, strict=True)
        return Reference(tuple(one for key, one in runs if key in kept.keys), kept, placed)

    def make_edge_pass(self, edge_pass: EdgePass, adapter: HandoffAdapter) -> list[dict[str, Tensor]]:
        """Edge passes along the cloud's trajectories, with how much there is to do and progress."""
        progress = self._progress
        with self._spending.part(REFERENCE):
            missing = edge_pass.missing(adapter)
            if missing:
                cloud, edge = edge_pass.missing_calls(adapter)
                progress.log(f"edge along the cloud's trajectory: {cloud:,} cloud and {edge:,} edge calls")
                whole = len(edge_pass.prompts.keys[: edge_pass.first])
                progress.start_task("edge along the cloud's trajectory", whole, whole - len(missing))
            on_prompts = progress.prompts_done if missing else lambda _: None
            return edge_pass.make(adapter, self._pair.batches, on_prompts, self._spending.calls)

    def plan(self, part: str, cloud: float, edge: float, placed_later: CalibrationSet | None = None) -> None:
        """Tell the time left what a part will take from now on.

        Args:
            placed_later: the prompts whose images placed calls make after that.
        """
        left, steps = self._progress.time_left, self._spec.num_steps
        if left is None:
            return
        decodes = (cloud + edge) / steps
        if placed_later is not None:
            plan = reference_plan.read(self._spec.path)
            others = (
                len(placed_later)
                if plan is None
                else len(PlacedImages(plan, self._folder).missing(placed_later))
            )
            cloud += others * (PLACED_SHARE * steps if plan is None else len(plan.steps))
            decodes += others
        left.plan(part, cloud, edge, decodes)


@contextmanager
def _own_turn(where: Path, what: str, progress: Progress) -> Iterator[None]:
    """The folder of references to itself, waiting for another process if need be."""
    where.mkdir(parents=True, exist_ok=True)
    turn = FileLock(where / ".lock")
    with suppress(Timeout):
        turn.acquire(timeout=0)
    if not turn.is_locked:
        progress.log(f"{what}: another process is making it; waiting")
        turn.acquire()
    try:
        yield
    finally:
        turn.release()
