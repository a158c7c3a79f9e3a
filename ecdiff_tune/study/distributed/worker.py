"""What ranks other than 0 do: load the models of a study and generate what rank 0 asks for.

They read the references that rank 0 writes, so all ranks need one file system. They write nothing but states
that do not fit into memory.
"""

from __future__ import annotations

import io
import pickle
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from ecdiff_core.errors import ECDiffError
from ecdiff_core.models.memory import Batches
from ecdiff_tune.evaluation import reference
from ecdiff_tune.evaluation.evaluator import Evaluator
from ecdiff_tune.evaluation.ledger import Ledger
from ecdiff_tune.evaluation.state_store import StateStore
from ecdiff_tune.study.distributed.leader import PIPE, STORE, Reply, Setup, Task
from ecdiff_tune.study.distributed.ranks import End, RankError, Ranks
from ecdiff_tune.study.process_setup import (
    load_pipe,
    reference_folder,
    state_folder,
    states_bytes,
    thumbnails,
)


class Worker:
    """A rank's own models, batches, states and evaluators for a study."""

    def __init__(self, setup: Setup, rank: int) -> None:
        spec = setup.spec
        self.said: list[str] = []
        self.pipe = load_pipe(spec)
        self.store = StateStore(state_folder(spec) / str(rank), states_bytes(spec))
        self._setup, self._evaluators = setup, dict[str, Evaluator]()
        self._batches: Batches | None = None

    def do(self, task: Task) -> list[tuple[Any, Any]]:
        """What comes of a task, batch by batch."""
        if self._batches is None:  # from then on it shrinks where memory runs out
            self._batches = Batches(task.batch_size, self.said.append)
        unpickler = pickle.Unpickler(io.BytesIO(task.work))
        unpickler.persistent_load = self._mine  # type: ignore[method-assign]
        work: Callable[..., Any] = unpickler.load()
        if task.rows is None:
            work()
            return []
        return list(self._batches.over(task.rows, work))

    def _mine(self, name: str) -> Any:
        if name in (PIPE, STORE):
            return self.pipe if name == PIPE else self.store
        if name not in self._evaluators:
            self._evaluators[name] = self._evaluator(name)
        return self._evaluators[name]

    def _evaluator(self, prompts_digest: str) -> Evaluator:
        """As rank 0 has it; the ledger stays empty."""
        spec = self._setup.spec
        folder = reference_folder(spec, self.pipe)
        tuned_on = reference.usable(self._setup.prompts, folder)
        heldout = reference.usable(self._setup.heldout, folder)
        prompts = {one.digest: one for one in (heldout, tuned_on)}[prompts_digest]
        if missing := reference.missing(prompts, folder):
            raise RankError(
                f"A rank misses {len(missing)} of {len(prompts)} references in {folder.absolute()}, which "
                "rank 0 has written: all ranks need the same file system and the same working folder."
            )
        batches = self._batches
        assert batches is not None
        shares = spec.shares and prompts is tuned_on
        return Evaluator(
            self.pipe,
            prompts,
            reference.load(prompts, folder),
            Ledger.in_memory(),
            batches=batches,
            store=self.store if shares else None,
            s_values=spec.s_values,
            thumbnails=thumbnails(spec) if prompts is tuned_on else None,
        )


def serve(ranks: Ranks) -> int:
    """Help until rank 0 ends; its exit status."""
    with ExitStack() as stores:
        return _serve(ranks, stores)


def _serve(ranks: Ranks, stores: ExitStack) -> int:
    worker: Worker | None = None
    while True:
        message = pickle.loads(ranks.receive(0))
        if isinstance(message, End):
            return message.status
        try:
            if isinstance(message, Setup):
                worker = None  # models and states of an earlier study go first
                stores.close()
                worker = Worker(message, ranks.rank)
                stores.enter_context(worker.store)
                reply = Reply(message.number, worker.pipe.pair.spec)
            else:
                assert worker is not None
                worker.said.clear()
                reply = Reply(message.number, worker.do(message), said=tuple(worker.said))
        except ECDiffError as error:
            reply = Reply(message.number, None, error)
        except Exception as error:
            traceback.print_exc()
            what = f"Rank {ranks.rank} failed ({type(error).__name__}); its traceback is above."
            reply = Reply(message.number, None, RankError(what))
        if isinstance(message, Setup) or message.rows is not None:
            ranks.send(0, pickle.dumps(reply))
