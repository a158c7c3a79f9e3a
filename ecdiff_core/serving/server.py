"""``ecdiff serve``: the cloud's machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import uvicorn

from ecdiff_core.errors import ParamsError
from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_core.serving.app import Service, create_app
from ecdiff_core.serving.cloud_side import Sides
from ecdiff_core.serving.guard import Guard
from ecdiff_core.serving.limits import Limits


@dataclass(frozen=True)
class Listen:
    """Where a server listens, and to whom.

    Args:
        host, port: port 0 is any that is free.
        token: what every request is to bring; None for nobody's but this machine's.
        certfile, keyfile: of TLS; None for plain HTTP.

    Raises:
        ParamsError: other machines could connect, and there is no token.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    certfile: Path | None = None
    keyfile: Path | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.port < 2**16:
            raise ParamsError(key="--port", got=self.port, expected=f"within 0 … {2**16 - 1}")
        if self.token is None and not _is_loopback(self.host):
            raise ParamsError(
                f"Expected a token to listen on {self.host}, which other machines can reach.",
                key="--token-file",
                got={"host": self.host},
                advice="Give --token-file FILE or set ECDIFF_TOKEN, or listen on 127.0.0.1.",
            )
        for key, path in (("--ssl-certfile", self.certfile), ("--ssl-keyfile", self.keyfile)):
            if path is not None and not path.is_file():
                raise ParamsError(f"No file at {path}.", key=key, got=str(path), advice="Give a PEM file.")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Server(uvicorn.Server):
    """uvicorn's, which says where it listens once it does."""

    def __init__(self, config: uvicorn.Config, on_start: Callable[[str], None]) -> None:
        super().__init__(config)
        self._on_start = on_start

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        await super().startup(sockets)  # type: ignore[arg-type]
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            scheme = "https" if self.config.is_ssl else "http"
            self._on_start(f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}")

    async def shutdown(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        await super().shutdown(sockets)  # type: ignore[arg-type]
        self._captured_signals.clear()  # else uvicorn raises them again, and the status is not 0


def make_server(
    pipe: ECDiffPipeline, listen: Listen, limits: Limits, on_start: Callable[[str], None] = lambda _: None
) -> Server:
    """A server of a pipeline; ``run()`` ends with SIGTERM or Ctrl-C, when what is under way is done.

    Args:
        on_start: is called with the server's URL once it listens.
    """
    service = Service(Sides(pipe), limits)
    app = Guard(
        create_app(service), listen.token, service.most_bytes, limits.body_seconds, service.metrics.answered
    )
    config = uvicorn.Config(
        app,
        host=listen.host,
        port=listen.port,
        ssl_certfile=listen.certfile,
        ssl_keyfile=listen.keyfile,
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="on",
        timeout_graceful_shutdown=limits.drain_seconds,
    )
    return Server(config, on_start)
