"""References of a study's prompts, and what they predict: made when they are first asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from filelock import FileLock, Timeout
from torch import Tensor

from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_core.sampling.plan import HandoffAdapter
from ecdiff_tune.data.calibration import CalibrationSet
from ecdiff_tune.evaluation import image_faults, reference
from ecdiff_tune.evaluation.divided_batches import DividedBatches
from ecdiff_tune.evaluation.edge_pass import EdgePass
from ecdiff_tune.evaluation.latency import LatencyProfile
from ecdiff_tune.evaluation.reference import Reference
from ecdiff_tune.evaluation.state_store import StateStore
from ecdiff_tune.forecast.predictor import Predictor
from ecdiff_tune.study import left_out
from ecdiff_tune.study.progress import Progress, duration
from ecdiff_tune.study.spec import StudySpec
from ecdiff_tune.study.spending import HELDOUT_REFERENCE, REFERENCE, Spending


@dataclass(frozen=True)
class LoadedPair:
    """A study's pair on this machine.

    Args:
        latency: what its calls cost.
        batches: how many prompts it generates at a time, on which ranks.
        store: for points of trajectories that candidates share; None where they share none.
    """

    pipe: ECDiffPipeline
    latency: LatencyProfile
    batches: DividedBatches
    store: StateStore | None


class References:
    """The references of a study's prompts.

    Args:
        drawn, drawn_heldout: the prompts; which of them have images that nothing can be compared with is
            known once their references are made.
        folder: of the references.
    """

    def __init__(
        self,
        spec: StudySpec,
        pair: LoadedPair,
        drawn: CalibrationSet,
        drawn_heldout: CalibrationSet,
        folder: Path,
        spending: Spending,
        progress: Progress,
    ) -> None:
        self._spec, self._pair, self._folder = spec, pair, folder
        self.drawn, self._drawn_heldout = drawn, drawn_heldout
        self._spending, self._progress = spending, progress

    @cached_property
    def calibration(self) -> Reference:
        """Of the prompts that are tuned on; with an edge pass for a search that predicts."""
        return self._make(self.drawn, REFERENCE, None, self._edge_pass(self.drawn))

    @cached_property
    def heldout(self) -> Reference:
        """Of the prompts that are checked on; all but one may have images of no use."""
        at_most = max(0, len(self._drawn_heldout) - 1)
        return self._make(self._drawn_heldout, HELDOUT_REFERENCE, at_most, None)

    @property
    def heldout_prompts(self) -> CalibrationSet:
        """Those that are checked on, without those that are known to be of no use."""
        return reference.usable(self._drawn_heldout, self._folder)

    def missing(self) -> tuple[int, int]:
        """Of how many prompts there is no reference yet: of those tuned on, and of those held out."""
        return (
            len(reference.missing(self.drawn, self._folder)),
            len(reference.missing(self._drawn_heldout, self._folder)),
        )

    @cached_property
    def predictor(self) -> Predictor:
        """What predicts errors and qualities, from the reference and an edge pass, which is made if need be.

        Raises:
            UnpredictableError: nothing can be predicted with this scheduler or this pair.
        """
        made, pipe = self.calibration, self._pair.pipe
        edge_pass, calls = EdgePass(pipe, made.prompt_set, self._folder), self._spending.calls

        def passes(adapter: HandoffAdapter) -> list[dict[str, Tensor]]:
            with self._spending.part(REFERENCE):
                return make_edge_pass(edge_pass, adapter, self._pair.batches, self._progress, calls)

        handoff = pipe.config.sampling.handoff
        return Predictor.of(pipe.scheduler, handoff, made, passes, edge_pass.own_adapter)

    def p(self) -> int:
        """The warm-up as set, or read off the noise profile; at most the smallest s."""
        if self._spec.p is not None:
            return self._spec.p
        return reference.auto_p(self.calibration.noise_change, min(self._spec.s_values))

    def _edge_pass(self, prompts: CalibrationSet) -> EdgePass | None:
        if not self._spec.kind.predicts:
            return None
        return EdgePass(self._pair.pipe, prompts, self._folder)

    def _make(
        self, prompts: CalibrationSet, part: str, at_most: int | None, edge_pass: EdgePass | None
    ) -> Reference:
        """The reference of a prompt set, with how much there is to do and progress.

        It lacks the prompts that are of no use: a note names them, ``at_most`` so many. Studies that run side
        by side wait for each other here, so that what they share is made once.
        """
        label = {HELDOUT_REFERENCE: "reference of the held-out prompts"}.get(part, part)
        pipe, latency, where, progress = self._pair.pipe, self._pair.latency, self._folder, self._progress
        turn = _own_turn(where, label, progress) if self._pair.batches.ranks.first else nullcontext()
        with self._spending.part(part), turn:
            missing = reference.missing(prompts, where)
            passes = set(edge_pass.missing(edge_pass.own_adapter)) & set(missing) if edge_pass else ()
            cloud, edge = len(missing) * pipe.num_steps, (len(missing) + len(passes)) * pipe.num_steps
            if missing:
                seconds = cloud * latency.cloud_call.median + edge * latency.edge_call.median
                progress.say(f"{label}: {cloud:,} cloud and {edge:,} edge calls, at most {duration(seconds)}")
            if progress.time_left is not None:
                progress.time_left.plan(part, cloud, edge, 2 * len(missing))
            title = f"{label} (cloud's and edge's images)"
            progress.start_task(title, len(prompts), len(prompts) - len(missing))
            made = reference.make(
                pipe,
                prompts,
                where,
                batches=self._pair.batches,
                on_prompts=progress.prompts_done,
                callback=edge_pass,
                calls=self._spending.calls,
                at_most=at_most,
            )
            for line in image_faults.describe(reference.faulty_rows(prompts, where), prompts):
                progress.say(f"note: {line}")
        keep_left_out(self._spec.path, prompts, where)
        return made


def keep_left_out(study: Path, prompts: CalibrationSet, references: Path) -> None:
    """Write which prompts are left out, for what reads the study without its references.

    Args:
        study: the study's folder.
        prompts: of which others were written before.
        references: the folder of the references.
    """
    found = {
        prompts.keys[row]: image_faults.FAULTS[number]
        for row, (_, number) in reference.faulty_rows(prompts, references).items()
    }
    known = left_out.read(study)
    if found.keys() - known.keys():
        left_out.write(study, known | found)


@contextmanager
def _own_turn(where: Path, what: str, progress: Progress) -> Iterator[None]:
    """The folder of references to itself, waiting for another process if need be."""
    where.mkdir(parents=True, exist_ok=True)
    turn = FileLock(where / ".lock")
    with suppress(Timeout):
        turn.acquire(timeout=0)
    if not turn.is_locked:
        progress.say(f"{what}: another process is making it; waiting")
        turn.acquire()
    try:
        yield
    finally:
        turn.release()


def make_edge_pass(
    edge_pass: EdgePass,
    adapter: HandoffAdapter,
    batches: DividedBatches,
    progress: Progress,
    calls: Counter[str],
) -> list[dict[str, Tensor]]:
    """Edge passes along the cloud's trajectories, with how much there is to do and progress."""
    missing = edge_pass.missing(adapter)
    if missing:
        cloud, edge = edge_pass.missing_calls(adapter)
        progress.say(f"edge along the cloud's trajectory: {cloud:,} cloud and {edge:,} edge calls")
        whole = len(edge_pass.prompts.keys[: edge_pass.first])
        progress.start_task("edge along the cloud's trajectory", whole, whole - len(missing))
    return edge_pass.make(adapter, batches, progress.prompts_done if missing else lambda _: None, calls)
