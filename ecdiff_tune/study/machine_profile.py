"""What a study measures of the machine: once, so that it goes by the same when it is resumed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ecdiff_core import batch_size
from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_tune.evaluation import latency, two_machines
from ecdiff_tune.evaluation.latency import LatencyProfile
from ecdiff_tune.evaluation.machine_conditions import Conditions
from ecdiff_tune.evaluation.model_calls import KINDS
from ecdiff_tune.objective import ObjectiveError, efficiency
from ecdiff_tune.study import files
from ecdiff_tune.study.folder import StudyFolder, read_state
from ecdiff_tune.study.optuna_setup import agree
from ecdiff_tune.study.progress import Progress
from ecdiff_tune.study.spec import LATENCIES
from ecdiff_tune.study.spending import Spending


def given_profile(folder: StudyFolder) -> LatencyProfile | None:
    """The profile of ``latency=FILE``; None where the study measures its own, or has kept what it was given.

    Raises:
        LatencyError: the file cannot be read, or is damaged.
    """
    source = folder.spec.latency
    if source in LATENCIES or (folder.path / files.LATENCY).is_file():
        return None
    return LatencyProfile.load(Path(source).expanduser())


def check_server(folder: StudyFolder) -> None:
    """See that the server of ``link=URL`` answers, where the study has not measured it yet.

    Raises:
        CloudError, CloudUnavailableError: it refuses, or cannot be had.
    """
    if not (folder.path / files.LATENCY).is_file():
        two_machines.check_server(folder.spec.link)


def latency_profile(
    folder: StudyFolder,
    pipe: ECDiffPipeline,
    given: LatencyProfile | None,
    progress: Progress,
    calls: Counter[str],
) -> LatencyProfile:
    """The study's latency profile: measured once, so that a resumed study goes by the same seconds.

    Args:
        given: another study's or machine's, to take in its place.

    Raises:
        LatencyError: what is given is of another pair.
        ObjectiveError: the cloud is not slower than the edge.
    """
    path, spec = folder.path / files.LATENCY, folder.spec
    known = LatencyProfile.load(path) if path.is_file() else None

    def own() -> LatencyProfile:
        if known and known.tensor_values:
            return known
        if known:  # an older file does not say what more tensors and crossings cost
            whole = latency.of_this_pair(known, pipe, spec.link, str(path))
            return replace(whole, transfer_seconds=known.transfer_seconds)
        if given:
            return latency.of_this_pair(given, pipe, spec.link, spec.latency)
        take_turns = spec.memory.offload == "none"
        if spec.link.url is not None:
            calls.update(dict.fromkeys(("edge", "decode"), latency.CALLS))
            return two_machines.measure(pipe, spec.link, take_turns=take_turns)
        calls.update(dict.fromkeys(KINDS, latency.CALLS))
        return latency.measure(pipe, spec.link, take_turns=take_turns)

    profile = (
        agree(spec, read_state(folder.path / files.STATE)["settings"], own) if spec.has_workers else own()
    )
    _check_order(profile, spec.num_steps)
    if profile != known:
        profile.save(path)
    for line in _describe(profile, spec.latency, Conditions.of(pipe)):
        progress.log(line)
    source = spec.latency if given else None
    if profile != known and (varies := profile.spread_note(path, source)):
        progress.log(f"note: {varies}")
    return profile


def _check_order(profile: LatencyProfile, num_steps: int) -> None:
    """Refuse a pair that eq. 10 has no meaning for."""
    try:
        efficiency(0.0, *profile.alone(num_steps))
    except ObjectiveError as error:
        if profile.link is None:
            raise
        cloud, edge = profile.cloud_call.median, profile.edge_call.median
        raise ObjectiveError(
            f"The server's cloud model is no slower than this machine's edge model ({cloud:.3g} s and "
            f"{edge:.3g} s a call): a split saves no time here, and efficiency has no meaning.",
            key="efficiency",
            got={"cloud": cloud, "edge": edge},
            advice="Let the server do all steps, or tune with link=none on one machine.",
        ) from error


def _describe(profile: LatencyProfile, source: str, here: Conditions) -> Iterator[str]:
    """Its seconds, and what to know of how they were measured."""
    cloud, edge = profile.cloud_call.median * 1e3, profile.edge_call.median * 1e3
    given = "" if source in LATENCIES else f" of {source}"
    yield (
        f"latency{given}: cloud call {cloud:.1f} ms, edge call {edge:.1f} ms ({edge / cloud:.2f} of it), "
        f"encode {profile.encode.median * 1e3:.1f} ms, decode {profile.decode.median * 1e3:.1f} ms, "
        f"transfer {profile.transfer_seconds * 1e3:.1f} ms"
    )
    if profile.link is not None:
        yield f"cloud call and encoding by the server, edge call and decoding here; link {profile.link}"
    others = profile.conditions.differences(here) if profile.conditions else []
    if others:
        yield f"note: the latency profile was measured with {', '.join(others)} here."


def batch_size_of(
    folder: StudyFolder, pipe: ECDiffPipeline, prompts: int, progress: Progress, spending: Spending
) -> int:
    """As set; ``auto`` is found once, so that a resumed study goes on with the same."""
    if folder.spec.batch_size is not None:
        return folder.spec.batch_size

    def find() -> dict[int, float]:
        return batch_size.throughputs(pipe, prompts, spending.calls)

    return batch_size.kept(folder.path / files.BATCH_SIZE, find, progress.log)
