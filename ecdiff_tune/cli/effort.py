"""What a command will take at most, said before it begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ecdiff_tune.search.upper_bound import CallBound, Calls
from ecdiff_tune.study.progress import duration

if TYPE_CHECKING:
    from ecdiff_tune.study.workbench import Workbench


def effort(bench: Workbench, what: str, p: int, stages: Sequence[Sequence[CallBound]]) -> str:
    """How many trials and calls at most, and about how long.

    Args:
        stages: what the search of each asks for at most.
    """
    trials = sum(shares[0].count for shares in stages)
    every = [share for shares in stages for share in shares]
    (cloud, edge), seconds = total_calls(bench, every), total_seconds(bench, every)
    return (
        f"{what}: up to {trials} trial{'s' * (trials != 1)}, {cloud:,} cloud and {edge:,} edge calls, "
        f"about {duration(seconds)} if all are needed" + ("" if bench.spec.kind.places else f" (p = {p})")
    )


def total_seconds(bench: Workbench, shares: Sequence[CallBound]) -> float:
    """Of the calls at the reference's pace, and of decoding what they make."""
    cloud_pace, edge_pace = (seconds / bench.spec.num_steps for seconds in bench.reference.seconds())
    cloud, edge = total_calls(bench, shares)
    pictures = sum(share.count * share.prompts for share in shares)
    return cloud * cloud_pace + edge * edge_pace + pictures * bench.latency.decode.median


def total_calls(bench: Workbench, shares: Sequence[CallBound]) -> Calls:
    """Of the cloud and of the edge."""
    found = [share.calls(bench.evaluator.most_calls) for share in shares]
    cloud, edge = (sum(side) for side in zip(*found, strict=True))
    return cloud, edge
