"""References of prompt sets, with how much there is to do and progress."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
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
from ecdiff_tune.study import left_out
from ecdiff_tune.study.progress import Progress, duration
from ecdiff_tune.study.spending import REFERENCE


def make_reference(
    pipe: ECDiffPipeline,
    prompts: CalibrationSet,
    where: Path,
    batches: DividedBatches,
    profile: LatencyProfile,
    progress: Progress,
    calls: Counter[str],
    what: str = REFERENCE,
    edge_pass: EdgePass | None = None,
    at_most: int | None = None,
) -> Reference:
    """The reference of a prompt set, with how much there is to do and progress.

    It is that of ``reference.usable`` prompts: a note names those that are left out, ``at_most`` so many.

    ``edge_pass`` makes those of the prompts whose reference is made; ``calls`` counts model calls.
    Studies that run side by side wait for each other here, so that what they share is made once.
    """
    with _own_turn(where, what, progress) if batches.ranks.first else nullcontext():
        missing = reference.missing(prompts, where)
        passes = set(edge_pass.missing(edge_pass.own_adapter)) & set(missing) if edge_pass else ()
        cloud, edge = len(missing) * pipe.num_steps, (len(missing) + len(passes)) * pipe.num_steps
        if missing:
            seconds = cloud * profile.cloud_call.median + edge * profile.edge_call.median
            progress.say(f"{what}: {cloud:,} cloud and {edge:,} edge calls, about {duration(seconds)}")
        progress.start_task(
            f"{what} (cloud's and edge's pictures)", len(prompts), len(prompts) - len(missing)
        )
        made = reference.make(
            pipe,
            prompts,
            where,
            batches=batches,
            on_prompts=progress.prompts_done,
            callback=edge_pass,
            calls=calls,
            at_most=at_most,
        )
        for line in image_faults.told(reference.faulty_rows(prompts, where), prompts):
            progress.say(f"note: {line}")
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
