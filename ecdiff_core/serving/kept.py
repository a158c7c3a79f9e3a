"""What a server keeps between requests, bounded and for a time: sessions, and answers to be had again."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import Response

from ecdiff_core.sampling.batching import Conditioning
from ecdiff_core.sampling.plan import Plan
from ecdiff_core.serving.problems import Problem

_HEADERS = ("accept", "ecdiff-session")
"""That change what is answered."""


@dataclass
class Session:
    """An image under way at the edge, whose plan asks for the cloud again ``left`` times."""

    conditioning: Conditioning
    plan: Plan
    until: float
    left: int


class Sessions:
    """Bounded and expiring; not for several threads.

    Args:
        most: of them.
        seconds: after its last use that one is kept.
    """

    def __init__(self, most: int, seconds: float) -> None:
        self._most, self._seconds = most, seconds
        self._kept: OrderedDict[str, Session] = OrderedDict()
        self._promised = 0

    def __len__(self) -> int:
        self._expire()
        return len(self._kept)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Room for a session that may begin within, for nobody else meanwhile; raises Problem where there is
        none.
        """
        if len(self) + self._promised >= self._most:
            oldest = next((session.until for session in self._kept.values()), 0.0)
            raise Problem(
                429,
                f"All {self._most} sessions are in use. Try again later.",
                {"Retry-After": str(min(5, max(1, int(oldest - time.monotonic()))))},
            )
        self._promised += 1
        try:
            yield
        finally:
            self._promised -= 1

    def begin(self, conditioning: Conditioning, plan: Plan) -> str:
        """A new one in a ``place``; returns its name, which cannot be guessed."""
        name = secrets.token_urlsafe(16)
        self._kept[name] = Session(
            conditioning,
            plan,
            time.monotonic() + self._seconds,
            len(plan.later_cloud_steps),
        )
        return name

    def use(self, name: str) -> Session:
        """The session of that name; raises Problem where it is unknown or has expired."""
        self._expire()
        if name not in self._kept:
            raise Problem(404, "No such session, or it has expired. Begin with /v1/handoff.")
        session = self._kept[name]
        session.until = time.monotonic() + self._seconds
        self._kept.move_to_end(name)
        return session

    def count(self, name: str) -> None:
        """A call of the plan was answered; after the last one the session is over."""
        if name in self._kept:
            self._kept[name].left -= 1
            if not self._kept[name].left:
                del self._kept[name]

    def _expire(self) -> None:
        now = time.monotonic()
        for name in [name for name, session in self._kept.items() if session.until < now]:
            del self._kept[name]


@dataclass
class _Entry:
    digest: str
    task: asyncio.Task[Response]
    clients: int = 0
    done: float = field(default=float("inf"))


class Answers:
    """Work for clients that may go away, and come back with the same ``Idempotency-Key``.

    Work whose client has gone is cancelled; with a key after ``grace`` seconds, in which a client whose
    connection was lost may ask again.

    Args:
        most: answers that are kept.
        seconds: for which they are.
    """

    def __init__(self, most: int, seconds: float, grace: float) -> None:
        self._most, self._seconds, self._grace = most, seconds, grace
        self._kept: OrderedDict[str, _Entry] = OrderedDict()

    async def once(self, request: Request, work: Callable[[], Awaitable[Response]]) -> Response:
        """The answer to a request; that of an earlier one with the same key is not worked for again."""
        key, digest = request.headers.get("idempotency-key"), await _digest(request)
        self._expire()
        entry = None if key is None else self._kept.get(key)
        if entry is None:
            entry = _Entry(digest, asyncio.ensure_future(_run(work)))
            if key is not None:
                self._kept[key] = entry
        elif entry.digest != digest:
            raise Problem(422, "This Idempotency-Key was used with another request. Take a new one.")
        return await self._wait(request, key, entry)

    async def _wait(self, request: Request, key: str | None, entry: _Entry) -> Response:
        entry.clients += 1
        gone = asyncio.create_task(_gone(request))
        try:
            await asyncio.wait({entry.task, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            entry.clients -= 1
            gone.cancel()
        if not entry.task.done():
            if key is not None:
                await asyncio.sleep(self._grace)
            if not entry.clients:
                entry.task.cancel()
                self._forget(key, entry)
            return Response(status_code=499)  # nobody reads it
        entry.done = time.monotonic()
        try:
            return entry.task.result()
        except BaseException:
            self._forget(key, entry)  # what failed may be tried again
            raise

    def _forget(self, key: str | None, entry: _Entry) -> None:
        """Drop an entry; one that a client has begun anew under its key stays."""
        if key is not None and self._kept.get(key) is entry:
            del self._kept[key]

    def _expire(self) -> None:
        old = time.monotonic() - self._seconds
        for key in [key for key, entry in self._kept.items() if entry.done < old]:
            del self._kept[key]
        while len(self._kept) >= self._most:
            done = next((key for key, entry in self._kept.items() if entry.task.done()), None)
            if done is None:
                return
            del self._kept[done]


async def _run(work: Callable[[], Awaitable[Response]]) -> Response:
    return await work()


async def _digest(request: Request) -> str:
    """Of what an answer follows from."""
    asked = [request.url.path, request.url.query, *map(request.headers.get, _HEADERS)]
    found = hashlib.sha256(repr(asked).encode())
    found.update(await request.body())
    return found.hexdigest()


async def _gone(request: Request) -> None:
    """Ends when the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
