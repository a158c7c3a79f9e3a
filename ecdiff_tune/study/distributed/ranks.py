"""Several processes that do one command together, as torchrun and accelerate launch start them.

Rank 0 runs the command as a single process would: it alone searches, writes and prints. The others, its
workers, generate what it tells them to (``crew`` is its side of that, ``worker`` theirs). So every rank goes
by the same decisions, whatever a search decides by.

Messages are bytes in host memory between rank 0 and a worker, over gloo on GPU machines too: no tensor of a
GPU travels, and a connection that breaks raises at once instead of hanging.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from ecdiff_core.errors import ECDiffError
from ecdiff_core.io.console import quiet_libraries

CONNECTING = timedelta(minutes=10)
"""For all ranks to come."""
SILENCE = timedelta(hours=6)
"""For an answer. A process that ends is noticed at once; this is for a machine that is suddenly away."""
GOODBYE = timedelta(seconds=5)
"""For a worker to hear that the command is over."""
AGAIN = "What was measured is kept: run the same command again, on any number of ranks, to go on from here."


class RankError(ECDiffError):
    """Ranks cannot work together, or no longer."""


@dataclass(frozen=True)
class End:
    """Rank 0's last message: the exit status of all."""

    status: int


class Ranks:
    """This process among several.

    Raises:
        RankError: the others cannot be reached.
    """

    def __init__(self) -> None:
        self.rank, self.count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self._under_way: dict[int, list[tuple[dist.Work | None, torch.Tensor]]] = {}
        try:
            dist.init_process_group("gloo", timeout=CONNECTING)
        except (RuntimeError, ValueError) as error:
            raise RankError(
                f"Rank {self.rank} of {self.count} cannot reach the others ({str(error).splitlines()[0]}). "
                "Start all ranks together, with torchrun or accelerate launch."
            ) from error

    def send(self, rank: int, message: bytes, within: timedelta = SILENCE) -> None:
        """Begin to send; what was sent to that rank before has arrived, within that time, when this returns.

        Raises:
            RankError: it has ended.
        """
        self._arrived(rank, within)
        parts = torch.tensor([len(message)]), torch.frombuffer(bytearray(message), dtype=torch.uint8)
        with _loss_told(rank):
            self._under_way[rank] = [(dist.isend(part, rank), part) for part in parts]

    def receive(self, rank: int) -> bytes:
        """The next message of that rank.

        Raises:
            RankError: it has ended.
        """
        with _loss_told(rank):
            size = _received(torch.empty(1, dtype=torch.int64), rank)
            return _received(torch.empty(int(size), dtype=torch.uint8), rank).numpy().tobytes()

    def end(self, status: int) -> None:
        """Let the workers end too; one that does not listen any more is left alone."""
        end = pickle.dumps(End(status))
        for rank in range(1, self.count):
            with suppress(RankError):
                self.send(rank, end, GOODBYE)
        for rank in range(1, self.count):
            with suppress(RankError):
                self._arrived(rank, GOODBYE)

    def _arrived(self, rank: int, within: timedelta) -> None:
        with _loss_told(rank):
            for work, _ in self._under_way.pop(rank, []):
                if work is not None:
                    work.wait(within)


def _received(buffer: torch.Tensor, rank: int) -> torch.Tensor:
    work = dist.irecv(buffer, rank)
    assert work is not None
    work.wait(SILENCE)
    return buffer


@contextmanager
def _loss_told(rank: int) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise RankError(f"Rank {rank} ended before its work was done. {AGAIN}") from error


_current: Ranks | None = None


def current() -> Ranks | None:
    """The ranks that this process is rank 0 of; None where it works alone."""
    return _current


def run(command: Callable[[], int], serve: Callable[[Ranks], int]) -> int:
    """Run a command on rank 0 with the others as workers; the exit status, which is rank 0's on all.

    The launcher stops the other ranks when one has ended: rank 0 then says so, as after a broken connection.
    """
    try:
        ranks = Ranks()
    except RankError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    status = _help(ranks, serve) if ranks.rank else _lead(ranks, command)
    dist.destroy_process_group()
    return status


def _lead(ranks: Ranks, command: Callable[[], int]) -> int:
    global _current
    _current, status = ranks, 1
    handlers = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGTERM, _stopped_by_launcher)
    try:
        status = command()
    except SystemExit as stop:  # Hydra's own --help
        status = int(stop.code or 0)
    finally:
        for one in handlers:
            signal.signal(one, signal.SIG_IGN)  # the end is seconds away
        ranks.end(status)
        _current = None
        for one, handler in handlers.items():
            signal.signal(one, handler)
    return status


def _help(ranks: Ranks, serve: Callable[[Ranks], int]) -> int:
    try:
        quiet_libraries()
        return serve(ranks)
    except KeyboardInterrupt:
        return 130
    except RankError as error:
        if ranks.rank == 1:  # rank 0 speaks for all, but it has gone
            print(f"error: {error}", file=sys.stderr)
        return 2


def _stopped_by_launcher(*_: Any) -> None:
    raise RankError(f"Stopped from outside, as launchers do when a rank has ended. {AGAIN}")
