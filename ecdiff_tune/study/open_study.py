"""A study opened for a command: its folder and files, its pair on this machine, its prompts' references."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ecdiff_core.io.text import counted
from ecdiff_core.models.pair import EMBEDDED, Pair
from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_tune.data import calibration
from ecdiff_tune.data.calibration import CalibrationSet
from ecdiff_tune.evaluation.divided_batches import DividedBatches, division
from ecdiff_tune.evaluation.evaluator import Evaluator
from ecdiff_tune.evaluation.latency import LatencyProfile
from ecdiff_tune.evaluation.ledger import Ledger
from ecdiff_tune.evaluation.ranks import ALONE, RankError, Ranks
from ecdiff_tune.evaluation.reference import Reference
from ecdiff_tune.evaluation.state_store import StateStore
from ecdiff_tune.study import files
from ecdiff_tune.study.folder import StudyFolder
from ecdiff_tune.study.machine_profile import batch_size_of, check_server, given_profile, latency_profile
from ecdiff_tune.study.optuna_setup import refuse_another_start
from ecdiff_tune.study.process_setup import (
    LoadedPair,
    load_pipe,
    own_copy,
    reference_folder,
    remove_copies,
    state_folder,
    states_bytes,
    thumbnails,
)
from ecdiff_tune.study.progress import Progress
from ecdiff_tune.study.references import References
from ecdiff_tune.study.spec import StudySpec
from ecdiff_tune.study.spending import LATENCY, Spending


@dataclass(frozen=True)
class Caller:
    """What a program that tunes gives beside settings.

    Args:
        pair: loaded already; None loads it.
        log: called with every line of progress; None prints them.
    """

    pair: Pair | None = None
    log: Callable[[str], None] | None = None


COMMAND_LINE = Caller()


@dataclass(frozen=True)
class OpenStudy:
    """A study's folder while a command works in it: where measurements, costs and lines of progress go.

    Args:
        created: when the folder was first bound to its settings.
    """

    spec: StudySpec
    created: str
    ledger: Ledger
    spending: Spending
    progress: Progress

    @property
    def path(self) -> Path:
        """The folder."""
        return self.spec.path

    def evaluator(self, pair: LoadedPair, reference: Reference, tuning: bool) -> Evaluator:
        """Measures candidates on the prompts of a reference, into the ledger.

        Args:
            tuning: many candidates will be measured, which share what they can, and are shown to people.
        """
        return Evaluator(
            pair.pipe,
            reference.prompt_set,
            reference,
            self.ledger,
            batches=pair.batches,
            store=pair.store if tuning else None,
            s_values=self.spec.s_values,
            calls=self.spending.calls,
            thumbnails=thumbnails(self.spec) if tuning else None,
        )


@contextmanager
def open_study(
    spec: StudySpec, ranks: Ranks = ALONE, as_worker: bool = False, caller: Caller = COMMAND_LINE
) -> Iterator[tuple[OpenStudy, LoadedPair, References]]:
    """Open a study, from the cheapest check to the most expensive step; the folder is locked meanwhile.

    Args:
        ranks: that work on it; all of them call this.
        as_worker: take the first free folder of the study's, as one of several workers of an Optuna study.

    Raises:
        ECDiffError: something that the user can act on.
    """
    if ranks.size > 1 and spec.timed:
        raise RankError(
            f"latency=wallclock times trials one at a time, which {ranks.size} ranks do not do: "
            "start it as one process, or set latency=profile.",
            key="latency",
            got="wallclock",
            expected="profile",
        )
    left_out: list[str] = []
    prompts, heldout = calibration.load(spec.prompts, left_out.append)
    with ExitStack() as stack:
        if ranks.first:
            locked = StudyFolder.of_worker(spec) if as_worker else StudyFolder(spec)
            folder = stack.enter_context(locked)
            spec, given = folder.spec, given_profile(folder)
            check_server(folder)
        progress = stack.enter_context(Progress(caller.log))
        pipe = load_pipe(spec, caller.pair)
        for rank, found in enumerate(ranks.gather(pipe.pair.spec)):
            if found != pipe.pair.spec:
                own = pipe.pair.spec
                line = f"Rank {rank} has other weights: expected {own}, got {found}."
                raise RankError(line, key="rank", got=rank, expected=str(own))
        bound: _Bound | None = None
        spending: Spending | None = None
        if ranks.first:
            notes = (*left_out, *_notes(spec, pipe, (*prompts.prompts, *heldout.prompts)))
            bound, spending = _bind(folder, given, pipe, (prompts, heldout), notes, progress)
        bound = ranks.broadcast(bound)
        assert bound is not None
        spec, created, profile, size = bound
        if not ranks.first:
            spec = stack.enter_context(own_copy(spec))
        ranks.gather(None)  # all have their copy, before anything is written
        if ranks.size > 1:
            progress.log(division(ranks, len(prompts), size))
        spending = spending or Spending(spec.path / files.CALLS)
        ledger = Ledger(spec.path / files.LEDGER, spec.sampling.handoff_adapter)
        stack.enter_context(closing(ledger))
        store = stack.enter_context(StateStore(state_folder(spec), states_bytes(spec)))
        batches = DividedBatches(ranks, size, progress.log)
        pair = LoadedPair(pipe, profile, batches, store if spec.shares and not spec.timed else None)
        where = reference_folder(spec, pipe)
        references = References(spec, pair, prompts, heldout, where, spending, progress)
        yield OpenStudy(spec, created, ledger, spending, progress), pair, references


_Bound = tuple[StudySpec, str, LatencyProfile, int]
"""The study in its folder, when that was first bound, the latency profile, the batch size."""


def _bind(
    folder: StudyFolder,
    given: LatencyProfile | None,
    pipe: ECDiffPipeline,
    sets: tuple[CalibrationSet, CalibrationSet],
    notes: Sequence[str],
    progress: Progress,
) -> tuple[_Bound, Spending]:
    """Bind the folder, and measure the machine where this was not done before; what that took."""
    prompts, heldout = sets
    refuse_another_start(folder.spec)
    remove_copies(folder.path)
    created = folder.claim(pipe.pair.spec, prompts.digest, str(pipe.device))
    spec = folder.spec  # which now says what the folder's state has decided
    progress.log(_opening(spec, pipe, len(prompts), len(heldout)))
    if folder.set_aside is not None:
        progress.log(f"resume=false: the earlier study lies in {folder.set_aside}")
    if (folder.path / files.LEDGER).is_file():
        progress.log(f"going on with the study of {created}: what it measured is not generated again")
    for note in notes:
        progress.log(f"note: {note}")
    spending = Spending(folder.path / files.CALLS)
    with spending.part(LATENCY):
        profile = latency_profile(folder, pipe, given, progress, spending.calls)
    with spending.part("batch size"):
        size = 1 if spec.timed else batch_size_of(folder, pipe, len(prompts), progress, spending)
    if profile.link is not None:
        spec = replace(spec, link=profile.link.link)
    return (spec, created, profile, size), spending


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
    if cut := calibration.note_cut(pipe.pair.family, prompts):
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
