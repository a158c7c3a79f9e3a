"""``ecdiff serve``: the cloud's machine."""

from __future__ import annotations

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


class Server(uvicorn.Server):
    """uvicorn's, which says where it listens once it does, and gives up on who does not read.

    Args:
        on_start: is called with its URL once it listens.
        on_stop: is called when it is told to end.
        seconds: in which what was sent has to be taken (Linux).
    """

    def __init__(
        self,
        config: uvicorn.Config,
        listen: Listen,
        on_start: Callable[[str], None],
        on_stop: Callable[[], None],
        seconds: float,
    ) -> None:
        super().__init__(config)
        self._listen, self._on_start, self._on_stop, self._seconds = listen, on_start, on_stop, seconds
        self.is_done = False  # it has ended, and what was under way before

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self.should_exit:
            self._on_stop()
        super().handle_exit(sig, frame)

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

    def _limit_readers(self) -> None:
        """Connections take the option from the sockets that they come from."""
        option = getattr(socket, "TCP_USER_TIMEOUT", None)
        if option is None:
            return
        for listening in [one for server in self.servers for one in server.sockets]:
            listening.setsockopt(socket.IPPROTO_TCP, option, round(1000 * self._seconds))

    async def _wait_tasks_to_complete(self) -> None:
        await super()._wait_tasks_to_complete()
        self.is_done = not self.force_exit

    async def shutdown(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        await super().shutdown(sockets)  # type: ignore[arg-type]
        self._captured_signals.clear()  # else uvicorn raises them again, and the status is not 0


def make_app(pipe: ECDiffPipeline, token: str | None, limits: Limits) -> Guard:
    """The server as an ASGI app, which others than uvicorn can run too (``scripts/ray_serve.py``)."""
    service = Service(Sides(pipe), limits)
    most, answered = service.most_bytes, service.metrics.answered
    return Guard(create_app(service), token, most, limits.body_seconds, answered)


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
    config = uvicorn.Config(
        make_app(pipe, listen.token, limits),
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
        timeout_graceful_shutdown=limits.drain_seconds,
    )
    return Server(config, listen, on_start, on_stop, limits.reader_seconds)
