"""Everything that a command works with: prompts, folder, models, latency profile, reference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from torch import Tensor

from ecdiff_core.memory import Batches
from ecdiff_core.pair import EMBEDDED
from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_core.plan import HandoffAdapter
from ecdiff_core.text import counted
from ecdiff_tune import calibration, files, long_prompts, reference
from ecdiff_tune.calibration import CalibrationSet
from ecdiff_tune.candidate import Candidate
from ecdiff_tune.edge_along import EdgeAlong
from ecdiff_tune.evaluator import Evaluator
from ecdiff_tune.forecast.predictor import Predictor
from ecdiff_tune.latency import LatencyProfile
from ecdiff_tune.ledger import Ledger
from ecdiff_tune.objective import Weights
from ecdiff_tune.parallel.crew import Crew
from ecdiff_tune.reference import Reference
from ecdiff_tune.search.base import Records
from ecdiff_tune.settings import AUTO, Settings
from ecdiff_tune.state_store import StateStore
from ecdiff_tune.study.common import load_pipe, reference_folder, state_folder, states_bytes, thumbnails
from ecdiff_tune.study.folder import StudyFolder
from ecdiff_tune.study.loop import Scorer
from ecdiff_tune.study.machine import batch_size_of, latency_profile
from ecdiff_tune.study.progress import Progress
from ecdiff_tune.study.references import make_edge_along, make_reference
from ecdiff_tune.study.spending import HELDOUT_REFERENCE, REFERENCE, Spending
from ecdiff_tune.thumbnails import FIRST


@dataclass(frozen=True)
class Workbench:
    """A study that is ready to be worked on."""

    settings: Settings
    path: Path
    created: str
    pipe: ECDiffPipeline
    prompts: CalibrationSet
    heldout: CalibrationSet
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
        return self.settings.latency == "wallclock"

    def p(self) -> int:
        """The warm-up as set, or read off the noise profile; at most the smallest s."""
        if self.settings.params.p != AUTO:
            return int(self.settings.params.p)
        return reference.auto_p(self.reference.noise_change, min(self.settings.s_values))

    def predict(self, candidates: Sequence[Candidate]) -> list[float]:
        """The quality of candidates, foretold from the reference and an edge pass, which is made if need be.

        Raises:
            UnpredictableError: nothing can be foretold with this scheduler or this pair.
        """
        return self.predictor.qualities(candidates)

    @cached_property
    def predictor(self) -> Predictor:
        """What foretells errors and qualities.

        Raises:
            UnpredictableError: nothing can be foretold with this scheduler or this pair.
        """
        calls = self.spending.calls
        along = EdgeAlong(self.pipe, self.prompts, self.reference_folder, calls=calls)

        def passes(adapter: HandoffAdapter) -> list[dict[str, Tensor]]:
            with self.spending.part(REFERENCE):
                return make_edge_along(along, adapter, self.batches, self.progress)

        handoff = self.pipe.config.sampling.handoff
        return Predictor.of(self.pipe.scheduler, handoff, self.reference, passes, along.own_adapter)

    def scorer(self) -> Scorer:
        """Measurements to scores, by this study's weights and latency."""
        objective = self.settings.objective
        weights = Weights(objective.w1, objective.w2, objective.w3)
        timed = self.reference if self.wallclock else None
        return Scorer.of(self.latency, weights, self.settings.earliest_s, timed)

    @cached_property
    def evaluator(self) -> Evaluator:
        """Measures candidates on the calibration set; one for all stages, which share what they can."""
        return self._evaluator(self.prompts, self.reference, self.store)

    def heldout_evaluator(self) -> Evaluator:
        """Measures candidates on the held-out set, whose reference is made now if need be."""
        return self._evaluator(self.heldout, self.heldout_reference(), None)

    def heldout_reference(self) -> Reference:
        """Of the held-out set, made now if need be."""
        with self.spending.part(HELDOUT_REFERENCE):
            return make_reference(
                self.pipe,
                self.heldout,
                self.reference_folder,
                self.batches,
                self.latency,
                self.progress,
                self.spending.calls,
                "reference of the held-out prompts",
            )

    def _evaluator(self, prompts: CalibrationSet, made: Reference, store: StateStore | None) -> Evaluator:
        return Evaluator(
            self.pipe,
            prompts,
            made,
            self.ledger,
            batches=self.batches,
            store=store,
            s_values=self.settings.s_values,
            calls=self.spending.calls,
            thumbnails=thumbnails(self.settings) if prompts is self.prompts else None,
        )

    def records(self) -> Records:
        """What is kept of candidates, for an Optuna study."""
        evaluator, kept = self.evaluator, thumbnails(self.settings)
        clouds = cache(lambda: [one.cloud for one in self.reference.prompts[:FIRST]])

        def picture(candidate: Candidate) -> Path | None:
            return None if kept is None else kept.sheet(evaluator.key(candidate), clouds())

        return Records(evaluator.known, evaluator.learn, picture)


@contextmanager
def prepare(settings: Settings, as_worker: bool = False) -> Iterator[Workbench]:
    """Make a study ready, from the cheapest check to the dearest step; the folder is locked meanwhile.

    Args:
        as_worker: take the first free folder of the study's, as one of several workers of an Optuna study.

    Raises:
        ECDiffError: something that the user can mend.
    """
    left_out: list[str] = []
    prompts, heldout = calibration.load(settings, left_out.append)
    begun = StudyFolder.of_worker(settings) if as_worker else StudyFolder(settings)
    with begun as folder, Progress() as progress:
        settings = folder.settings
        crew = Crew(settings, prompts, heldout)
        pipe = load_pipe(settings)
        spec = pipe.pair.spec
        crew.check(spec)
        created = folder.claim(spec, prompts.digest, str(pipe.device))
        progress.say(_opening(settings, pipe, len(prompts), len(heldout)))
        if (folder.path / files.LEDGER).is_file():
            progress.say(f"going on with the study of {created}: what it measured is not generated again")
        for note in (*left_out, *_notes(settings, pipe, (*prompts.prompts, *heldout.prompts))):
            progress.say(f"note: {note}")
        spending = Spending(folder.path / files.CALLS)
        with spending.part("latency"):
            profile = latency_profile(folder, pipe, progress, spending.calls)
        where = reference_folder(settings, pipe)
        timed = settings.latency == "wallclock"
        with spending.part("batch size"):
            size = 1 if timed else batch_size_of(folder, pipe, len(prompts), progress, spending)
        if crew.count > 1:
            progress.say(crew.told(len(prompts), size))
        batches = crew.batches(size, progress.say)
        with (
            closing(Ledger(folder.path / files.LEDGER, settings.sampling.handoff_adapter)) as ledger,
            crew.store(state_folder(settings), states_bytes(settings)) as store,
        ):
            calls = spending.calls
            predicting = settings.kind.foretells
            along = EdgeAlong(pipe, prompts, where, calls=calls) if predicting else None
            with spending.part(REFERENCE):
                made = make_reference(pipe, prompts, where, batches, profile, progress, calls, along=along)
            yield Workbench(
                settings,
                folder.path,
                created,
                pipe,
                prompts,
                heldout,
                profile,
                ledger,
                progress,
                made,
                where,
                batches,
                None if timed or settings.sharing == "off" else store,
                spending,
            )


def _opening(settings: Settings, pipe: ECDiffPipeline, prompts: int, heldout: int) -> str:
    pair = pipe.pair
    cloud, edge = (sum(p.numel() for p in m.parameters()) / 1e6 for m in (pair.cloud, pair.edge))
    return (
        f"pair {settings.pair.name}: cloud {cloud:.1f} M, edge {edge:.1f} M parameters; "
        f"{counted(prompts, 'prompt')} to tune on, {heldout} held out; "
        f"{settings.num_steps} {settings.sampling.scheduler} steps on {pipe.device}"
    )


def _notes(settings: Settings, pipe: ECDiffPipeline, prompts: Sequence[str]) -> Iterator[str]:
    """What may not be as it was meant."""
    if cut := long_prompts.note(pipe.pair.family.pipeline, prompts):
        yield cut
    scale = settings.sampling.guidance_scale
    if scale < 1:
        yield f"sampling.guidance_scale={scale:g} runs without guidance, as 1 does."
    if pipe.pair.convertible and settings.sampling.handoff_adapter == "identity":
        names = ", ".join(f"{row.name} {row.cloud} | {row.edge}" for row in pipe.pair.convertible)
        yield f"cloud and edge differ in {names}; sampling.handoff_adapter=matched converts."
    if settings.calibration.file is None and not settings.pair.cloud.startswith(EMBEDDED):
        yield (
            "without calibration.file the prompts are captions of the embedded pair's scenes; "
            "give a file of your own."
        )
