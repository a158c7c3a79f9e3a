"""Everything that a command works with: prompts, folder, models, latency profile, reference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from torch import Tensor

from ecdiff_core.io.text import counted
from ecdiff_core.models.memory import Batches
from ecdiff_core.models.pair import EMBEDDED
from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_core.sampling.plan import HandoffAdapter
from ecdiff_tune.data import calibration, long_prompts
from ecdiff_tune.data.calibration import CalibrationSet
from ecdiff_tune.evaluation import reference
from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.evaluation.edge_pass import EdgePass
from ecdiff_tune.evaluation.evaluator import Evaluator
from ecdiff_tune.evaluation.latency import LatencyProfile
from ecdiff_tune.evaluation.ledger import Ledger
from ecdiff_tune.evaluation.reference import Reference
from ecdiff_tune.evaluation.state_store import StateStore
from ecdiff_tune.evaluation.thumbnails import FIRST
from ecdiff_tune.forecast.predictor import Predictor
from ecdiff_tune.objective import Scorer
from ecdiff_tune.search.base import Records
from ecdiff_tune.study import files
from ecdiff_tune.study.distributed.leader import Leader
from ecdiff_tune.study.folder import StudyFolder
from ecdiff_tune.study.machine_profile import batch_size_of, given_profile, latency_profile
from ecdiff_tune.study.optuna_setup import refuse_another_start
from ecdiff_tune.study.process_setup import (
    load_pipe,
    reference_folder,
    state_folder,
    states_bytes,
    thumbnails,
)
from ecdiff_tune.study.progress import Progress
from ecdiff_tune.study.references import keep_left_out, make_edge_pass, make_reference
from ecdiff_tune.study.spec import StudySpec
from ecdiff_tune.study.spending import HELDOUT_REFERENCE, LATENCY, REFERENCE, Spending


@dataclass(frozen=True)
class Workbench:
    """A study that is ready to be worked on.

    ``prompts`` are those that can be compared; of ``drawn_heldout`` it is known once they are made.
    """

    spec: StudySpec
    path: Path
    created: str
    pipe: ECDiffPipeline
    prompts: CalibrationSet
    drawn_heldout: CalibrationSet
    latency: LatencyProfile
    ledger: Ledger
    progress: Progress
    reference: Reference
    reference_folder: Path
    batches: Batches
    store: StateStore | None
    spending: Spending

    @property
    def wallclock(self) -> bool:
        """Whether trials are timed instead of estimated."""
        return self.spec.timed

    @property
    def heldout(self) -> CalibrationSet:
        """The held-out prompts, without those that are known to be of no use."""
        return reference.usable(self.drawn_heldout, self.reference_folder)

    def p(self) -> int:
        """The warm-up as set, or read off the noise profile; at most the smallest s."""
        if self.spec.p is not None:
            return self.spec.p
        return reference.auto_p(self.reference.noise_change, min(self.spec.s_values))

    def predict(self, candidates: Sequence[Candidate]) -> list[float]:
        """The quality of candidates, predicted from the reference and an edge pass, which is made if need be.

        Raises:
            UnpredictableError: nothing can be predicted with this scheduler or this pair.
        """
        return self.predictor.qualities(candidates)

    @cached_property
    def predictor(self) -> Predictor:
        """What predicts errors and qualities.

        Raises:
            UnpredictableError: nothing can be predicted with this scheduler or this pair.
        """
        calls = self.spending.calls
        edge_pass = EdgePass(self.pipe, self.prompts, self.reference_folder, calls=calls)

        def passes(adapter: HandoffAdapter) -> list[dict[str, Tensor]]:
            with self.spending.part(REFERENCE):
                return make_edge_pass(edge_pass, adapter, self.batches, self.progress)

        handoff = self.pipe.config.sampling.handoff
        return Predictor.of(self.pipe.scheduler, handoff, self.reference, passes, edge_pass.own_adapter)

    def scorer(self) -> Scorer:
        """Measurements to scores, by this study's weights and latency."""
        timed = self.reference if self.wallclock else None
        return Scorer.of(self.latency, self.spec.weights, self.spec.earliest_s, timed)

    @cached_property
    def evaluator(self) -> Evaluator:
        """Measures candidates on the calibration set; one for all stages, which share what they can."""
        return self._evaluator(self.prompts, self.reference, self.store)

    def heldout_evaluator(self) -> Evaluator:
        """Measures candidates on the held-out set, whose reference is made now if need be."""
        made = self.heldout_reference()
        return self._evaluator(self.heldout, made, None)

    def heldout_reference(self) -> Reference:
        """Of ``heldout``, made now if need be."""
        with self.spending.part(HELDOUT_REFERENCE):
            made = make_reference(
                self.pipe,
                self.drawn_heldout,
                self.reference_folder,
                self.batches,
                self.latency,
                self.progress,
                self.spending.calls,
                "reference of the held-out prompts",
                at_most=max(0, len(self.drawn_heldout) - 1),
            )
        keep_left_out(self.path, self.drawn_heldout, self.reference_folder)
        return made

    def _evaluator(self, prompts: CalibrationSet, made: Reference, store: StateStore | None) -> Evaluator:
        return Evaluator(
            self.pipe,
            prompts,
            made,
            self.ledger,
            batches=self.batches,
            store=store,
            s_values=self.spec.s_values,
            calls=self.spending.calls,
            thumbnails=thumbnails(self.spec) if prompts is self.prompts else None,
        )

    def records(self) -> Records:
        """What is kept of candidates, for an Optuna study."""
        evaluator, kept = self.evaluator, thumbnails(self.spec)
        clouds = cache(lambda: [one.cloud for one in self.reference.prompts[:FIRST]])

        def picture(candidate: Candidate) -> Path | None:
            return None if kept is None else kept.sheet(evaluator.key(candidate), clouds())

        return Records(evaluator.known, evaluator.learn, picture)


@contextmanager
def prepare(spec: StudySpec, as_worker: bool = False) -> Iterator[Workbench]:
    """Make a study ready, from the cheapest check to the most expensive step; the folder is locked meanwhile.

    Args:
        as_worker: take the first free folder of the study's, as one of several workers of an Optuna study.

    Raises:
        ECDiffError: something that the user can act on.
    """
    left_out: list[str] = []
    prompts, heldout = calibration.load(spec.prompts, left_out.append)
    begun = StudyFolder.of_worker(spec) if as_worker else StudyFolder(spec)
    with begun as folder, Progress() as progress:
        spec, given = folder.spec, given_profile(folder)
        leader = Leader(spec, prompts, heldout)
        pipe = load_pipe(spec)
        leader.check(pipe.pair.spec)
        refuse_another_start(spec)
        created = folder.claim(pipe.pair.spec, prompts.digest, str(pipe.device))
        progress.say(_opening(spec, pipe, len(prompts), len(heldout)))
        if (folder.path / files.LEDGER).is_file():
            progress.say(f"going on with the study of {created}: what it measured is not generated again")
        for note in (*left_out, *_notes(spec, pipe, (*prompts.prompts, *heldout.prompts))):
            progress.say(f"note: {note}")
        spending = Spending(folder.path / files.CALLS)
        with spending.part(LATENCY):
            profile = latency_profile(folder, pipe, given, progress, spending.calls)
        where = reference_folder(spec, pipe)
        with spending.part("batch size"):
            size = 1 if spec.timed else batch_size_of(folder, pipe, len(prompts), progress, spending)
        if leader.count > 1:
            progress.say(leader.told(len(prompts), size))
        batches = leader.batches(size, progress.say)
        with (
            closing(Ledger(folder.path / files.LEDGER, spec.sampling.handoff_adapter)) as ledger,
            leader.store(state_folder(spec), states_bytes(spec)) as store,
        ):
            calls = spending.calls
            predicting = spec.kind.predicts
            edge_pass = EdgePass(pipe, prompts, where, calls=calls) if predicting else None
            with spending.part(REFERENCE):
                made = make_reference(
                    pipe, prompts, where, batches, profile, progress, calls, edge_pass=edge_pass
                )
            keep_left_out(folder.path, prompts, where)
            yield Workbench(
                spec,
                folder.path,
                created,
                pipe,
                reference.usable(prompts, where),
                heldout,
                profile,
                ledger,
                progress,
                made,
                where,
                batches,
                store if spec.shares and not spec.timed else None,
                spending,
            )


def _opening(spec: StudySpec, pipe: ECDiffPipeline, prompts: int, heldout: int) -> str:
    pair = pipe.pair
    cloud, edge = (sum(p.numel() for p in m.parameters()) / 1e6 for m in (pair.cloud, pair.edge))
    return (
        f"pair {spec.pair.name}: cloud {cloud:.1f} M, edge {edge:.1f} M parameters; "
        f"{counted(prompts, 'prompt')} to tune on, {heldout} held out; "
        f"{spec.num_steps} {spec.sampling.scheduler} steps on {pipe.device}"
    )


def _notes(spec: StudySpec, pipe: ECDiffPipeline, prompts: Sequence[str]) -> Iterator[str]:
    """What may not be as it was meant."""
    yield from pipe.pair.notes
    if cut := long_prompts.note(pipe.pair.family, prompts):
        yield cut
    scale = spec.sampling.guidance_scale
    if scale < 1:
        yield f"sampling.guidance_scale={scale:g} runs without guidance, as 1 does."
    if pipe.pair.convertible and spec.sampling.handoff_adapter == "identity":
        names = ", ".join(f"{row.name} {row.cloud} | {row.edge}" for row in pipe.pair.convertible)
        yield f"cloud and edge differ in {names}; sampling.handoff_adapter=matched converts."
    if spec.prompts.file is None and not spec.pair.cloud.id.startswith(EMBEDDED):
        yield (
            "without calibration.file the prompts are captions of the embedded pair's scenes; "
            "give a file of your own."
        )
