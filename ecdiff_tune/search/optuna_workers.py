"""Several processes that work on one Optuna study: who is alive, and whose measurement one waits for.

Optuna's own heartbeat is of ``Study.optimize`` on a database. Here every storage will do: a worker counts up
a user attribute of the trial that it measures, and the others go by whether it moves, not by the time of day.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

BEAT_SECONDS = 10.0
SILENT_SECONDS = 90.0
"""A worker that gave no sign of life for so long is dead."""
POLL_SECONDS = 0.5
BEAT = "beat"
"""The user attribute."""
MADE = "made"
"""The user attribute of what one worker made for all."""


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
                return  # it has ended, or was failed by another worker

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
        self._last_signs: dict[int, tuple[object, float]] = {}

    def running(self) -> list[FrozenTrial]:
        """Trials that others are measuring. One whose worker is dead has failed, and is none of them."""
        now, alive = time.monotonic(), []
        for one in self._study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            if one.user_attrs.get("worker") == self._worker:
                continue
            sign = (one.user_attrs.get(BEAT), len(one.user_attrs), len(one.params))
            last, since = self._last_signs.get(one.number, (None, now))
            if sign != last:
                since = now
            self._last_signs[one.number] = sign, since
            if now - since > SILENT_SECONDS:
                self._study.tell(one.number, state=TrialState.FAIL, skip_if_finished=True)
            else:
                alive.append(one)
        return alive


def once(turns: optuna.Study, worker: str, make: Callable[[], Any]) -> Any:
    """What the first worker made, for all workers alike; where one fails or dies the next one makes it.

    A turn is a trial, whose numbers and ends every storage keeps apart: the lowest turn that is not over
    makes it, and the first that has ended counts.

    Args:
        turns: a study for this alone.
        worker: this one.
        make: of something that JSON can hold.
    """
    while (made := _made(turns)) is None:
        turn = turns.ask()
        try:
            with suppress(UpdateFinishedTrialError), beating(turn, worker):  # failed for its silence
                turn.set_user_attr("worker", worker)
                _wait_for_earlier(turns, turn.number, worker)
                if _made(turns) is None:
                    turn.set_user_attr(MADE, make())
                    turns.tell(turn, 0.0, skip_if_finished=True)
        finally:
            turns.tell(turn, state=TrialState.FAIL, skip_if_finished=True)
    return made


def _made(turns: optuna.Study) -> Any:
    """By the first turn that has ended; None if there is none yet."""
    over = turns.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    return min(over, key=lambda one: one.number).user_attrs[MADE] if over else None


def _wait_for_earlier(turns: optuna.Study, number: int, worker: str) -> None:
    """Until no earlier turn can end any more, or one has."""
    watch = Watch(turns, worker)
    while any(one.number < number for one in watch.running()) and _made(turns) is None:
        time.sleep(POLL_SECONDS)
