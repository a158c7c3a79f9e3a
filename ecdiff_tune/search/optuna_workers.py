"""Several processes that work on one Optuna study: who is alive, and whose measurement one waits for.

Optuna's own heartbeat is of ``Study.optimize`` on a database. Here every storage will do: a worker counts up
a user attribute of the trial that it measures, and the others go by whether it moves, not by the time of day.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

BEAT_SECONDS = 10.0
SILENT_SECONDS = 90.0
"""A worker that was not heard of for so long is dead."""
POLL_SECONDS = 0.5
BEAT = "beat"
"""The user attribute."""


@contextmanager
def beating(trial: optuna.Trial, worker: str) -> Iterator[None]:
    """Show the other workers that this trial is being measured; nothing where there are none."""
    if not worker:
        yield
        return
    over = threading.Event()

    def beat() -> None:
        count = 0
        while not over.wait(BEAT_SECONDS):
            count += 1
            try:
                trial.set_user_attr(BEAT, count)
            except UpdateFinishedTrialError:
                return  # it was told of its end, or given up by another worker

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class Watch:
    """Watches the trials of other workers.

    Args:
        worker: who watches; empty where there are no others.
    """

    def __init__(self, study: optuna.Study, worker: str) -> None:
        self._study, self._worker = study, worker
        self._heard: dict[int, tuple[object, float]] = {}

    def running(self) -> list[FrozenTrial]:
        """Trials that others are measuring. One whose worker is dead has failed, and is none of them."""
        now, alive = time.monotonic(), []
        for one in self._study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            if one.user_attrs.get("worker") == self._worker:
                continue
            sign = (one.user_attrs.get(BEAT), len(one.user_attrs), len(one.params))
            last, since = self._heard.get(one.number, (None, now))
            if sign != last:
                since = now
            self._heard[one.number] = sign, since
            if now - since > SILENT_SECONDS:
                self._study.tell(one.number, state=TrialState.FAIL, skip_if_finished=True)
            else:
                alive.append(one)
        return alive
