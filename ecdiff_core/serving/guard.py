"""Before a request is read: its token, its size, its pace."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from ecdiff_core.serving.listen import is_loopback
from ecdiff_core.serving.problems import Problem

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_MOST_DIGITS = 18
_MOST_HEADERS, _MOST_HEADER_BYTES = 100, 2**15
_OPEN = ("/health/live", "/health/ready")
"""That a balancer asks, which has no token."""


def _check_size(headers: Sequence[tuple[bytes, bytes]]) -> None:
    """h11 limits what it has to wait for alone, not what comes in one piece."""
    if len(headers) > _MOST_HEADERS or sum(len(n) + len(v) for n, v in headers) > _MOST_HEADER_BYTES:
        most = f"at most {_MOST_HEADERS} headers, of {_MOST_HEADER_BYTES} bytes together"
        raise Problem(431, f"Expected {most}.", {"Connection": "close"})


def _without_port(host: str) -> str:
    return host[1 : host.find("]")] if host.startswith("[") else host.partition(":")[0]


class Guard:
    """ASGI middleware around an app.

    Args:
        token: that every request but those for health brings as ``Authorization: Bearer``; None for none.
        most_bytes: of a body.
        seconds: in which a body is to arrive.
        on_answer: is called with path and status of every answer.
    """

    def __init__(
        self,
        app: App,
        token: str | None,
        most_bytes: int,
        seconds: float,
        on_answer: Callable[[str, int], None],
    ) -> None:
        self._app, self._most, self._seconds, self._on_answer = app, most_bytes, seconds, on_answer
        self._authorization = None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._on_answer(scope["path"], message["status"])
            await send(message)

        try:
            _check_size(scope["headers"])
            headers = dict(scope["headers"])
            self._check_host(headers)
            self._check_token(scope["path"], headers)
            body = await self._read(headers, receive)
        except Problem as problem:
            await problem.response(scope, receive, counted)
            return
        if body is None:  # the client is gone
            return
        await self._app(scope, _replayed(body, receive), counted)

    def _check_host(self, headers: dict[bytes, bytes]) -> None:
        """A web page may lead its own name to this machine, and so pass for a program that runs here."""
        host = _without_port(headers.get(b"host", b"").decode("latin-1"))
        if self._authorization is None and not is_loopback(host):
            raise Problem(421, "Expected the host 127.0.0.1 or localhost, as this server has no token.")

    def _check_token(self, path: str, headers: dict[bytes, bytes]) -> None:
        if self._authorization is None or path in _OPEN:
            return
        if not hmac.compare_digest(headers.get(b"authorization", b""), self._authorization):
            raise Problem(
                401,
                "Expected the server's token as Authorization: Bearer TOKEN.",
                {"WWW-Authenticate": "Bearer"},
            )

    async def _read(self, headers: dict[bytes, bytes], receive: Receive) -> bytes | None:
        """The whole body; None where the client has gone."""
        length = self._length(headers)
        try:
            async with asyncio.timeout(self._seconds):
                body = b""
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    body += message.get("body", b"")
                    if len(body) > length:
                        raise Problem(413, f"Expected {length} bytes, got more.")
                    if not message.get("more_body"):
                        return body
        except TimeoutError:
            late = f"Expected the whole body within {self._seconds:g} s."
            raise Problem(408, late, {"Connection": "close"}) from None
        except asyncio.CancelledError:  # by the server's end; the answer is the task's last act
            raise Problem(
                503, "The server is going down. Ask another one.", {"Connection": "close"}
            ) from None

    def _length(self, headers: dict[bytes, bytes]) -> int:
        if b"transfer-encoding" in headers:
            raise Problem(411, "Expected a body of a Content-Length that is told beforehand.")
        text = headers.get(b"content-length", b"0")
        if not text.isdigit() or len(text) > _MOST_DIGITS:
            raise Problem(400, "Expected Content-Length to be a number of bytes.", {"Connection": "close"})
        length = int(text)
        if length > self._most:
            most = f"Expected a body of at most {self._most} bytes, got {length}."
            raise Problem(413, most, {"Connection": "close"})
        return length


def _replayed(body: bytes, receive: Receive) -> Receive:
    """What gives the body once, and then what comes after it."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
