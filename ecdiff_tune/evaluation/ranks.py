"""Several processes that do one command together, as torchrun and accelerate launch start them.

The rule: every rank runs the same command on the same values. What could differ from process to process
(settings, the clock, what a search asks for) is rank 0's, which tells the others; prompts are divided, and
what comes of them is gathered; only rank 0's folder is the study's, and only rank 0 prints.

Values travel through host memory over gloo, on GPU machines too: no tensor of a GPU travels, and a connection
that breaks raises at once instead of hanging.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

from ecdiff_core.errors import ECDiffError

T = TypeVar("T")
CONNECTING = timedelta(minutes=10)
"""For all ranks to come."""
SILENCE = timedelta(hours=6)
"""For a value. A process that ends is noticed at once; this is for a machine that is suddenly away."""
GOODBYE_SECONDS = 5.0
"""For the others to hear that rank 0 has failed, while they work."""
LAST_SECONDS = 600.0
"""For the others to end too, where rank 0 has done its work."""
AGAIN = "What was measured is kept: run the same command again, on any number of ranks, to go on from here."

OWN_STOP_SECONDS = 1.0
"""So long a rank that sees another end waits for a signal of its own: launchers stop one after the other."""


class RankError(ECDiffError):
    """Ranks cannot work together, or no longer."""


class LostRankError(RankError):
    """A rank has gone without a word."""


@dataclass(frozen=True)
class _End:
    """A rank's last value: its exit status, and the error that ended it."""

    status: int
    error: ECDiffError | None = None


class Ranks:
    """This process and those that do the same; by itself alone.

    A value is anything that can be pickled; code is not.
    """

    def __init__(self, rank: int = 0, size: int = 1, group: dist.ProcessGroup | None = None) -> None:
        self.rank, self.size, self._group = rank, size, group
        self._over: ECDiffError | None = (
            None if size > 1 else RankError("There is one process alone.", key="WORLD_SIZE", got=1)
        )

    @property
    def first(self) -> bool:
        """Whether this rank decides, writes and prints."""
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """The values of all ranks, in their order, on each of them.

        Raises:
            ECDiffError: on rank 0, what ended another rank.
            LostRankError: a rank has gone.
            SystemExit: on other ranks, where one has ended.
        """
        if self.size == 1:
            return [value]
        found = self._exchange(value)
        for rank, end in enumerate(found):
            if isinstance(end, _End):
                self._over = end.error or _ended(f"Rank {rank} ended before its work was done. {AGAIN}", rank)
                if self.first:
                    raise self._over
                raise SystemExit(found[0].status if isinstance(found[0], _End) else end.status)
        return found

    def broadcast(self, value: T) -> T:
        """Rank 0's value, on all ranks; raises as ``gather``."""
        return self.gather(value if self.first else None)[0]  # type: ignore[return-value]

    def end(self, status: int, error: ECDiffError | None = None) -> int:
        """Tell the others, if they do not know yet; the status of all, which is rank 0's.

        From then on ``gather`` raises the error, also where a caller has caught it.
        """
        if self._over is not None:
            return status
        found: list[Any] = []

        def tell() -> None:
            with suppress(ECDiffError):
                found.extend(self._exchange(_End(status, error)))

        telling = threading.Thread(target=tell, daemon=True)
        telling.start()
        telling.join((GOODBYE_SECONDS if status else LAST_SECONDS) if self.first else None)
        self._over = error or _ended("The command is over.", self.rank)
        return found[0].status if found and isinstance(found[0], _End) else status

    def _exchange(self, value: Any) -> list[Any]:
        found: list[Any] = [None] * self.size
        if self._over is not None:
            raise self._over
        try:
            dist.all_gather_object(found, value, group=self._group)
        except RuntimeError as error:
            time.sleep(OWN_STOP_SECONDS)
            self._over = LostRankError(
                f"A rank ended before its work was done (rank {self.rank} has noticed it). {AGAIN}",
                key="rank",
                got=self.rank,
            )
            raise self._over from error
        return found


ALONE = Ranks()
_current = ALONE


def current() -> Ranks:
    """The ranks that this process belongs to."""
    return _current


def run(lead: Callable[[], int], follow: Callable[[Ranks], None]) -> int:
    """Run a command; the exit status, which is rank 0's on all.

    The launcher stops the other ranks when one has ended: rank 0 then says so, as after a broken connection.

    Args:
        lead: of rank 0; told errors are a status.
        follow: of the others; does rank 0's jobs until it ends.
    """
    global _current
    try:
        _current = ranks = _join()
    except RankError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        return _lead(ranks, lead) if ranks.first else _follow(ranks, follow)
    finally:
        _current = ALONE
        dist.destroy_process_group()


def _join() -> Ranks:
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    try:
        dist.init_process_group("gloo", timeout=CONNECTING)
        return Ranks(rank, size, dist.new_group(backend="gloo", timeout=SILENCE))
    except (RuntimeError, ValueError) as error:
        raise RankError(
            f"Rank {rank} of {size} cannot reach the others ({str(error).splitlines()[0]}).",
            key="rank",
            got=rank,
            advice="Start all ranks together, with torchrun or accelerate launch.",
        ) from error


def _lead(ranks: Ranks, command: Callable[[], int]) -> int:
    status = 1
    handlers = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGTERM, _stopped_by_launcher)
    try:
        status = command()
    except SystemExit as stop:  # Hydra's own --help
        status = int(stop.code or 0)
    finally:
        for one in handlers:
            signal.signal(one, signal.SIG_IGN)  # the end is near
        ranks.end(status)
        for one, handler in handlers.items():
            signal.signal(one, handler)
    return status


def _follow(ranks: Ranks, follow: Callable[[Ranks], None]) -> int:
    try:
        follow(ranks)
        return ranks.end(0)
    except SystemExit as stop:
        return int(stop.code or 0)
    except KeyboardInterrupt:
        return 130
    except LostRankError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ECDiffError as error:  # rank 0 has it too, or is told
        return ranks.end(2, error)
    except Exception as error:
        traceback.print_exc()
        what = f"Rank {ranks.rank} failed ({type(error).__name__}); its traceback is above."
        return ranks.end(2, _ended(what, ranks.rank))


def _stopped_by_launcher(*_: Any) -> None:
    raise RankError(f"Stopped from outside, as launchers do when a rank has ended. {AGAIN}", key="rank")


def _ended(line: str, rank: int) -> RankError:
    return RankError(line, key="rank", got=rank)
