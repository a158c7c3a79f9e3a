"""How long the rest of a command takes: the model calls that are left, at the pace of those of this run."""

from __future__ import annotations

from collections.abc import Mapping

from ecdiff_tune.evaluation.latency import LatencyProfile
from ecdiff_tune.study.spending import Spending


class TimeLeft:
    """The parts of a command, each with the calls that it will take at most.

    A latency profile says what calls cost beside each other; how long they take, in batches, beside whatever
    else the machine does, is seen in what this run has spent. What is in the ledger already is not planned,
    so that a resumed run is right too.
    """

    def __init__(self, spending: Spending, latency: LatencyProfile) -> None:
        self._spending, self._latency = spending, latency
        self._planned: dict[str, float] = {}

    def plan(self, part: str, cloud: float, edge: float, decode: float = 0) -> None:
        """The calls that a part of the command will take from now on, in place of what was planned before."""
        done, _ = self._spending.of(part)
        self._planned[part] = self._price(done) + self._price(
            {"cloud": cloud, "edge": edge, "decode": decode}
        )

    def at_most(self) -> float:
        """Seconds of all that is planned if every call were one alone, which batches are not."""
        return sum(self._planned.values())

    def work(self) -> tuple[float, float]:
        """What this run has done, and what is left, in seconds of single calls."""
        done = {part: self._price(self._spending.of(part)[0]) for part in self._planned}
        left = [
            max(0.0, planned - done[part])
            for part, planned in self._planned.items()
            if part not in self._spending.ended
        ]
        return sum(done.values()), sum(left)

    def seconds(self) -> float | None:
        """Seconds left; None before anything was done."""
        done, left = self.work()
        if not done:
            return None
        spent = [self._spending.of(part) for part in self._planned]
        return left * sum(seconds for calls, seconds in spent if self._price(calls)) / done

    def _price(self, calls: Mapping[str, float]) -> float:
        latency = self._latency
        cost = {"cloud": latency.cloud_call, "edge": latency.edge_call, "decode": latency.decode}
        return sum(calls[kind] * timing.median for kind, timing in cost.items())
