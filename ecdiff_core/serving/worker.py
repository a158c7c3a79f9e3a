"""The one thread that the device belongs to: takes jobs from a bounded queue and steps the engine."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Protocol

from ecdiff_core.errors import ECDiffError
from ecdiff_core.models.memory import OutOfMemoryError
from ecdiff_core.sampling.batching import Conditioning
from ecdiff_core.serving.engine import Engine, Results, Steps

log = logging.getLogger("ecdiff.serving")
_KEPT = 64
_NEW = 0.2
"""Weight of the newest step in the running mean of seconds."""


class BusyError(ECDiffError):
    """The queue is full; ``seconds`` tells when to try again."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        line, advice = "The queue is full.", f"Try again in {seconds:.1f} s."
        super().__init__(line, key="queue", got=seconds, advice=advice)


class DeadlineError(ECDiffError):
    """A deadline cannot be met; ``seconds`` is the estimate of what the request takes."""

    def __init__(self, seconds: float, deadline: float) -> None:
        self.seconds = seconds
        line = f"This takes about {seconds:.2f} s, and the deadline is {deadline:.2f} s."
        super().__init__(line, key="deadline", got=deadline, expected=f"{seconds:.2f}")


class StoppedError(ECDiffError):
    """The server is going down."""

    def __init__(self) -> None:
        super().__init__("The server is going down.", key="server", advice="Ask another one.")


@dataclass(eq=False)
class Job:
    """What a request asks of the device.

    Args:
        begin: encodes and sets up, in the worker's thread.
        finish: of what the steps ended with makes the result, in that thread.
        calls: of the model, that it takes in all.
        seconds: within which it is to be done; None for any.
        result: cancel it, and the job's place is free before the next call.
    """

    begin: Callable[[], tuple[Steps, Conditioning]]
    finish: Callable[[Any], Any]
    calls: int
    seconds: float | None = None
    result: Future[Any] = field(default_factory=Future)
    since: float = field(default_factory=time.monotonic)
    _settling: threading.Lock = field(default_factory=threading.Lock)

    def settle(self, value: Any) -> None:
        """Give the result, or the exception; nothing where it has one, or was cancelled."""
        with self._settling:
            if self.result.done() or not self.result.set_running_or_notify_cancel():
                return
            if isinstance(value, BaseException):
                self.result.set_exception(value)
            else:
                self.result.set_result(value)

    @property
    def is_late(self) -> bool:
        """Whether its deadline has passed."""
        return self.seconds is not None and time.monotonic() - self.since > self.seconds


class Gauges(Protocol):
    """What is told of the worker, whenever it changes."""

    def queue(self, waiting: int, running: int) -> None: ...


class Worker:
    """The engine in a thread of its own.

    Args:
        queue: jobs that may wait beside those under way.
    """

    def __init__(self, engine: Engine, queue: int, gauges: Gauges) -> None:
        self._engine, self._queue, self._gauges = engine, queue, gauges
        self._waiting: deque[Job] = deque()
        self._running: dict[Job, Job] = {}
        self._changed = threading.Condition()
        self._stopping = False
        self.alone: deque[float] = deque(maxlen=_KEPT)
        """Seconds of the last steps for one image alone; those of the warm-up come first."""
        self.seconds_per_step = 0.0
        self._thread = threading.Thread(target=self._work, name="ecdiff-device", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def stop(self, seconds: float) -> bool:
        """Fail what is left, and end the thread; whether it has ended in that time."""
        self.fail_all()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def fail_all(self) -> int:
        """Answer all that is left that the server stops, and begin nothing more; how many they were."""
        with self._changed:
            self._stopping = True
            left = [*self._running, *self._waiting]
            self._changed.notify()
        for job in left:
            job.settle(StoppedError())
        return len(left)

    def estimate(self, calls: int) -> float:
        """Seconds that a job of that many calls would take from now on, with those before it."""
        with self._changed:
            before = sum(job.calls for job in self._waiting) / self._engine.most
            # A step of a full batch says nothing of one alone, and nobody would ever find out.
            idle = not (self._waiting or self._running)
            step = self.seconds_per_step
            if self.alone and (idle or not step):
                step = median(self.alone)
        return (before + calls) * step

    def submit(self, job: Job) -> None:
        """Queue a job.

        Raises:
            BusyError: the queue is full.
            DeadlineError: the deadline cannot be met.
        """
        needed = self.estimate(job.calls)
        if job.seconds is not None and needed > job.seconds:
            raise DeadlineError(needed, job.seconds)
        with self._changed:
            if self._stopping:
                raise StoppedError
            if len(self._waiting) >= self._queue:
                raise BusyError(max(0.1, needed))
            # One call of an image that is half done; nobody would wait longer for it than for a call.
            self._waiting.appendleft(job) if job.calls == 1 else self._waiting.append(job)
            self._changed.notify()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not (self._waiting or self._running or self._stopping):
                    self._changed.wait()
                if self._stopping:
                    break
            try:
                self._drop()
                self._admit()
                if self._running and not self._stopping:
                    self._step()
            except Exception as error:
                self._fail(error)
            with self._changed:
                self._gauges.queue(len(self._waiting), len(self._running))
        for job in [*self._running, *self._waiting]:
            job.settle(StoppedError())

    def _admit(self) -> None:
        """As many as one call takes: more would not be done earlier."""
        while len(self._running) < self._engine.most:
            with self._changed:
                if self._stopping or not self._waiting:
                    return
                job = self._waiting.popleft()
            if job.result.cancelled():
                continue
            self._running[job] = job
            try:
                self._settle(self._engine.add(job, *job.begin()))
            except Exception as error:  # this job's, not the others'
                del self._running[job]
                job.settle(error)

    def _drop(self) -> None:
        for job in [job for job in self._running if job.result.cancelled() or job.is_late]:
            del self._running[job]
            self._engine.drop(job)
            job.settle(DeadlineError(time.monotonic() - job.since, job.seconds or 0.0))
        with self._changed:
            for job in [job for job in self._waiting if job.result.cancelled() or job.is_late]:
                self._waiting.remove(job)
                job.settle(DeadlineError(time.monotonic() - job.since, job.seconds or 0.0))

    def _step(self) -> None:
        began, is_alone = time.monotonic(), len(self._running) == 1
        ended = self._engine.step()
        took, known = time.monotonic() - began, self.seconds_per_step
        if is_alone:
            with self._changed:
                self.alone.append(took)
        self.seconds_per_step = took if not known else known + _NEW * (took - known)
        self._settle(ended)

    def _settle(self, ended: Results) -> None:
        for key, result in ended.items():
            job = self._running.pop(key)  # type: ignore[call-overload]
            if not isinstance(result, Exception):
                try:
                    result = job.finish(result)
                except Exception as error:
                    result = error
            job.settle(result)

    def _fail(self, error: Exception) -> None:
        """The model failed: what was under way goes, the server stays."""
        if not isinstance(error, OutOfMemoryError):
            log.exception("a model call failed")
        for job in list(self._running):
            del self._running[job]
            self._engine.drop(job)
            job.settle(error)
