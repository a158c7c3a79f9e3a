"""Rank 0's side of the work on several ranks: what it tells its workers, and what it hears from them.

Prompts are divided into blocks of ``batch_size`` by their place in the set, and block b is done by rank
b mod count. So every prompt is generated in the company in which a single process generates it, and a rank
finds what its trajectories have in common with earlier ones in its own store.
"""

from __future__ import annotations

import io
import itertools
import math
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from ecdiff_core.config import PairSpec
from ecdiff_core.errors import ECDiffError
from ecdiff_core.io.text import counted
from ecdiff_core.models.memory import Batches
from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_tune.data.calibration import CalibrationSet
from ecdiff_tune.evaluation.candidate import ConfigKey
from ecdiff_tune.evaluation.evaluator import Evaluator
from ecdiff_tune.evaluation.state_store import StateStore
from ecdiff_tune.study.distributed import ranks
from ecdiff_tune.study.distributed.ranks import RankError
from ecdiff_tune.study.spec import StudySpec

T = TypeVar("T")
PIPE = "pipe"
STORE = "store"
_numbers = itertools.count()


@dataclass(frozen=True)
class Setup:
    """A study to help with; answered, when the models are loaded, with what they are."""

    number: int
    spec: StudySpec
    prompts: CalibrationSet
    heldout: CalibrationSet


@dataclass(frozen=True)
class Task:
    """Work on some prompts; answered with [(rows, result), …].

    Args:
        work: pickled, with names in place of what every rank has its own of.
        rows: None is work without prompts and without an answer.
        batch_size: of rank 0.
    """

    number: int
    work: bytes
    rows: tuple[int, ...] | None
    batch_size: int


@dataclass(frozen=True)
class Reply:
    """The answer to the message of that number: what came of it, or why nothing did."""

    number: int
    found: Any
    error: ECDiffError | None = None
    said: tuple[str, ...] = ()


class _Pickler(pickle.Pickler):
    """Leaves out what the receiver has its own of; a work is a function of a module or a bound method."""

    def persistent_id(self, thing: Any) -> str | None:
        if isinstance(thing, ECDiffPipeline):
            return PIPE
        if isinstance(thing, StateStore):
            return STORE
        return thing.prompts_digest if isinstance(thing, Evaluator) else None


def _pickled(work: Callable[..., Any]) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer).dump(work)
    return buffer.getvalue()


class Crew:
    """The ranks that work on a study; nobody but this process where it was started alone.

    Raises:
        RankError: several ranks cannot work on such a study.
    """

    def __init__(self, spec: StudySpec, prompts: CalibrationSet, heldout: CalibrationSet) -> None:
        self._ranks = ranks.current()
        self.count = 1 if self._ranks is None else self._ranks.count
        if self.count > 1 and spec.timed:
            raise RankError(
                f"latency=wallclock times trials one at a time, which {self.count} ranks do not do: "
                "start it as one process, or set latency=profile."
            )
        self._number = next(_numbers)
        self._batch_size = 1
        for rank in range(1, self.count):
            self._send(rank, Setup(self._number, spec, prompts, heldout))

    def check(self, pair: PairSpec) -> None:
        """Wait until all have loaded their models, which must be these.

        Raises:
            RankError: they are other ones.
        """
        for rank in range(1, self.count):
            reply = self._receive(rank, self._number)
            if reply.found != pair:
                raise RankError(f"Rank {rank} has other weights: expected {pair}, got {reply.found}.")

    def told(self, prompts: int, batch_size: int) -> str:
        """How the work is shared, in one line."""
        blocks = math.ceil(prompts / batch_size)
        rounds = math.ceil(blocks / self.count)
        batches = f"{blocks} batch{'es' * (blocks != 1)}"
        line = f"{self.count} ranks share {counted(prompts, 'prompt')} in {batches}"
        line += f": about {rounds}/{blocks} of the times foretold below"
        if blocks < self.count:
            line += f"; ranks without a batch: {self.count - blocks}"
            smaller = math.ceil(prompts / self.count)
            if smaller < batch_size:
                line += f", fewer with batch_size={smaller}"
        return line

    def batches(self, size: int, say: Callable[[str], None]) -> Batches:
        """Batches that all ranks work on."""
        self._batch_size = size
        return _Shared(self, size, say)

    def store(self, folder: Path, budget_bytes: int) -> StateStore:
        """A store for states that forgets what all ranks should."""
        return _Forgetting(self, folder, budget_bytes)

    def give(self, rank: int, work: Callable[..., Any], rows: Sequence[int] | None) -> int:
        """Tell a worker to do work; the number of its answer."""
        number = next(_numbers)
        self._send(
            rank, Task(number, _pickled(work), None if rows is None else tuple(rows), self._batch_size)
        )
        return number

    def take(self, rank: int, number: int, say: Callable[[str], None]) -> Any:
        """What came of it.

        Raises:
            ECDiffError: what went wrong there.
        """
        reply = self._receive(rank, number)
        for line in reply.said:
            say(f"rank {rank}: {line}")
        return reply.found

    def _send(self, rank: int, message: Setup | Task) -> None:
        assert self._ranks is not None
        self._ranks.send(rank, pickle.dumps(message))

    def _receive(self, rank: int, number: int) -> Reply:
        assert self._ranks is not None
        while True:
            reply: Reply = pickle.loads(self._ranks.receive(rank))
            if reply.number == number:  # an answer that nobody waited for may come before
                if reply.error is not None:
                    raise reply.error
                return reply


class _Shared(Batches):
    """Batches within blocks, block by block, a round of as many blocks as there are ranks at a time."""

    def __init__(self, crew: Crew, size: int, say: Callable[[str], None]) -> None:
        super().__init__(size, say)
        self._crew, self._block = crew, size

    def over(
        self, rows: Sequence[int], work: Callable[[Sequence[int]], T]
    ) -> Iterator[tuple[Sequence[int], T]]:
        count = self._crew.count
        size = self.size if count == 1 else self._block  # ranks have to agree, so theirs does not shrink
        blocks = [(number, [*block]) for number, block in itertools.groupby(rows, lambda row: row // size)]
        for _, together in itertools.groupby(blocks, lambda block: block[0] // count):
            mine: list[int] = []
            given: list[tuple[int, int]] = []
            for number, block in together:
                rank = number % count
                if rank:
                    given.append((rank, self._crew.give(rank, work, block)))
                else:
                    mine = block
            yield from super().over(mine, work)
            for rank, number in given:
                yield from self._crew.take(rank, number, self._say)


class _Forgetting(StateStore):
    """Rank 0's store."""

    def __init__(self, crew: Crew, folder: Path, budget_bytes: int) -> None:
        super().__init__(folder, budget_bytes)
        self._crew = crew

    def forget(self, key: ConfigKey) -> None:
        super().forget(key)
        for rank in range(1, self._crew.count):
            self._crew.give(rank, partial(StateStore.forget, self, key), None)
