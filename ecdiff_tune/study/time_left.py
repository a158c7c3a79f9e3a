"""How long the rest of a command takes: the model calls that are left, at the pace of those of this run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from ecdiff_core.models.pair_spec import Side
from ecdiff_tune.evaluation.latency import LatencyProfile
from ecdiff_tune.study.spending import Spending


class TimeLeft:
    """The parts of a command, each with the calls that it will take at most.

    A latency profile says what calls cost beside each other; how long they take, in batches, beside whatever
    else the machine does, is seen in what this run has spent. What is in the ledger already is not planned,
    so that a resumed run is right too. A batch may take minutes, and is spent only once it is done: the calls
    of the one under way are those that ``called`` was told of.

    Args:
        last: seconds of what comes in the end and calls no model.
    """

    def __init__(self, spending: Spending, latency: LatencyProfile, last: float = 0.0) -> None:
        self._spending, self._latency, self._last = spending, latency, last
        self._planned: dict[str, float] = {}
        self._under_way, self._counted = Counter[str](), Counter(spending.calls)

    def plan(self, part: str, cloud: float, edge: float, decode: float = 0) -> None:
        """The calls that a part of the command will take from now on, in place of what was planned before."""
        done, _ = self._spending.of(part)
        self._planned[part] = self._price(done) + self._price(
            {"cloud": cloud, "edge": edge, "decode": decode}
        )

    def called(self, kind: Side, calls: float) -> None:
        """So many calls were made of a batch that is under way."""
        if self._spending.calls != self._counted:  # the batch before has ended
            self._under_way, self._counted = Counter(), Counter(self._spending.calls)
        self._under_way[kind] += calls  # type: ignore[assignment]  # a share of a call, where ranks divide it

    def _done(self, part: str) -> float:
        """What this run has done of a part, in seconds of single calls."""
        done = self._price(self._spending.of(part)[0])
        now = part == self._spending.under_way and self._spending.calls == self._counted
        return done + (self._price(self._under_way) if now else 0.0)

    def at_most(self) -> float:
        """Seconds of all that is planned if every call were one alone, which batches are not."""
        return sum(self._planned.values())

    def work(self) -> tuple[float, float]:
        """What this run has done, and what is left, in seconds of single calls."""
        done = {part: self._done(part) for part in self._planned}
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
        spent = sum(self._spending.of(part)[1] for part in self._planned if self._done(part))
        return left * spent / done + self._last

    def share(self) -> float:
        """Of the work that is done, 0 … 1."""
        done, left = self.work()
        return done / (done + left) if done else 0.0

    def _price(self, calls: Mapping[str, float]) -> float:
        latency = self._latency
        cost = {"cloud": latency.cloud_call, "edge": latency.edge_call, "decode": latency.decode}
        return sum(calls.get(kind, 0) * timing.median for kind, timing in cost.items())


@contextmanager
def watched(
    models: Mapping[Side, nn.Module], samples: float, on_call: Callable[[Side, float], None]
) -> Iterator[None]:
    """Tell of every call of these models while it lasts.

    Args:
        samples: of a prompt in a call, 2 where it is made with and without the prompt.
        on_call: called with whose it was, and of how many prompts.
    """

    def hook(side: Side) -> Callable[..., None]:
        def after(_: nn.Module, given: tuple[Any, ...], named: Mapping[str, Any], __: object) -> None:
            on_call(side, len(given[0] if given else next(iter(named.values()))) / samples)

        return after

    hooks = [one.register_forward_hook(hook(side), with_kwargs=True) for side, one in models.items()]
    try:
        yield
    finally:
        for one in hooks:
            one.remove()
