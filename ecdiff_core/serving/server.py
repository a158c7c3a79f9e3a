"""``ecdiff serve``: the cloud's machine."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_core.serving.app import Service, create_app
from ecdiff_core.serving.cloud_side import Sides
from ecdiff_core.serving.guard import Guard
from ecdiff_core.serving.limits import Limits
from ecdiff_core.serving.listen import Listen, cannot_listen

_LAST_WORDS = 3
"""Seconds in which those who were not served in time are to take that answer."""


class Server(uvicorn.Server):
    """uvicorn's, which says where it listens once it does, and gives up on who does not read.

    Args:
        limits: of the service; its drain_seconds end with an answer to all that is left.
        fail_all: answers it, and tells how much it was.
        on_start: is called with its URL once it listens.
        on_stop: is called when it is told to end.

    Attributes:
        dropped: requests that were not done when it ended.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        listen: Listen,
        limits: Limits,
        fail_all: Callable[[], int],
        on_start: Callable[[str], None],
        on_stop: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._listen, self._limits, self._fail_all = listen, limits, fail_all
        self._on_start, self._on_stop = on_start, on_stop
        self.dropped = 0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        is_first = not self.should_exit
        super().handle_exit(sig, frame)
        if is_first:
            self._on_stop()

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        try:
            await super().startup(sockets)  # type: ignore[arg-type]
        except OSError as error:  # two that held one address began to listen at a time
            raise cannot_listen(self._listen, error) from error
        if self.started:
            self._limit_readers()
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            scheme = "https" if self.config.is_ssl else "http"
            self._on_start(f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}")

    def _drop(self) -> None:
        self.dropped = self._fail_all()

    def _limit_readers(self) -> None:
        """Connections take the option from the sockets that they come from."""
        option = getattr(socket, "TCP_USER_TIMEOUT", None)
        if option is None:
            return
        for listening in [one for server in self.servers for one in server.sockets]:
            listening.setsockopt(socket.IPPROTO_TCP, option, round(1000 * self._limits.reader_seconds))

    async def shutdown(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        late = asyncio.get_running_loop().call_later(self._limits.drain_seconds, self._drop)
        await super().shutdown(sockets)  # type: ignore[arg-type]
        late.cancel()
        self._captured_signals.clear()  # else uvicorn raises them again, and the status is not 0


def make_app(pipe: ECDiffPipeline, token: str | None, limits: Limits) -> Guard:
    """The server as an ASGI app, which others than uvicorn can run too (``scripts/ray_serve.py``)."""
    return _guarded(Service(Sides(pipe), limits), token)


def _guarded(service: Service, token: str | None) -> Guard:
    most, answered = service.most_bytes, service.metrics.answered
    return Guard(create_app(service), token, most, service.limits.body_seconds, answered)


def make_server(
    pipe: ECDiffPipeline,
    listen: Listen,
    limits: Limits,
    on_start: Callable[[str], None] = lambda _: None,
    on_stop: Callable[[], None] = lambda: None,
) -> Server:
    """A server of a pipeline; ``run()`` ends with SIGTERM or Ctrl-C, when what is under way is done.

    ``run(sockets)`` takes those of ``bound``, in place of the address.

    Args:
        on_start, on_stop: of ``Server``.
    """
    service = Service(Sides(pipe), limits)
    config = uvicorn.Config(
        _guarded(service, listen.token),
        host=listen.host,
        port=listen.port,
        ssl_certfile=listen.certfile,
        ssl_keyfile=listen.keyfile,
        log_level="error",  # a warning of each broken request lets strangers fill the disk
        # What is tested, whatever else is installed.
        http="h11",
        loop="asyncio",
        ws="none",
        access_log=False,
        server_header=False,
        lifespan="on",
        timeout_graceful_shutdown=limits.drain_seconds + _LAST_WORDS,
    )
    return Server(config, listen, limits, service.worker.fail_all, on_start, on_stop)
