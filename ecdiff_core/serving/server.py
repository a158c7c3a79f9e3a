"""``ecdiff serve``: the cloud's machine."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from ecdiff_core.errors import ParamsError, first_line
from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_core.serving.app import Service, create_app
from ecdiff_core.serving.cloud_side import Sides
from ecdiff_core.serving.guard import Guard, is_loopback
from ecdiff_core.serving.limits import Limits

_LACKING = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
"""Of one address of a name, where this machine has others."""


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
        if self.token is None and not is_loopback(self.host):
            raise ParamsError(
                f"Expected a token to listen on {self.host}, which other machines can reach.",
                key="--token-file",
                got={"host": self.host},
                advice="Give --token-file FILE or set ECDIFF_TOKEN, or listen on 127.0.0.1.",
            )
        if self.keyfile is not None and self.certfile is None:
            line = "--ssl-keyfile goes with --ssl-certfile PEM."
            raise ParamsError(line, key="--ssl-keyfile", got=str(self.keyfile))
        for key, path in (("--ssl-certfile", self.certfile), ("--ssl-keyfile", self.keyfile)):
            if path is not None and not path.is_file():
                raise ParamsError(f"No file at {path}.", key=key, got=str(path), advice="Give a PEM file.")
        if self.certfile is not None:
            _check_certificate(self.certfile, self.keyfile)


def _check_certificate(certfile: Path, keyfile: Path | None) -> None:
    try:
        # With an empty password, or it would be asked for.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certfile, keyfile, password=lambda: "")
    except OSError as error:  # ssl's own are among them
        raise ParamsError(
            f"Cannot use the certificate {certfile} and its key: {first_line(error)}.",
            key="--ssl-certfile",
            got={"certificate": str(certfile), "key": str(keyfile or certfile)},
            advice="Give PEM files that belong together, the key without a password.",
        ) from error


@contextmanager
def bound(listen: Listen) -> Iterator[list[socket.socket]]:
    """Sockets that hold the address for a server to come; nobody can connect before it runs.

    Raises:
        ParamsError: the address is in use, or none of this machine's.
    """
    try:
        found = socket.getaddrinfo(listen.host, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise _cannot_listen(listen, error) from error
    with ExitStack() as stack:
        sockets: list[socket.socket] = []
        lacking: OSError | None = None
        for family, kind, protocol, _, address in found if listen.port else found[:1]:
            try:
                one = stack.enter_context(socket.socket(family, kind, protocol))
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, os.name == "posix")
                if family == socket.AF_INET6:
                    one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                one.bind(address)
            except OSError as error:
                if error.errno not in _LACKING:
                    raise _cannot_listen(listen, error) from error
                lacking = error
            else:
                sockets.append(one)
        if lacking and not sockets:
            raise _cannot_listen(listen, lacking) from lacking
        yield sockets


def _cannot_listen(listen: Listen, error: Exception) -> ParamsError:
    number, why = getattr(error, "errno", None), getattr(error, "strerror", None) or "no such name"
    other_port = number in (errno.EADDRINUSE, errno.EACCES)
    return ParamsError(
        f"Cannot listen on {listen.host}:{listen.port}: {why}.",
        key="--port" if other_port else "--host",
        got={"host": listen.host, "port": listen.port},
        advice="Give another --port; 0 is any that is free."
        if other_port
        else "Give an address of this machine; 0.0.0.0 is all of them.",
    )


class Server(uvicorn.Server):
    """uvicorn's, which says where it listens once it does, and gives up on who does not read.

    Args:
        seconds: in which what was sent has to be taken (Linux).
    """

    def __init__(
        self, config: uvicorn.Config, listen: Listen, on_start: Callable[[str], None], seconds: float
    ) -> None:
        super().__init__(config)
        self._listen, self._on_start, self._seconds = listen, on_start, seconds

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        try:
            await super().startup(sockets)  # type: ignore[arg-type]
        except OSError as error:  # two that held one address began to listen at a time
            raise _cannot_listen(self._listen, error) from error
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

    async def shutdown(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        await super().shutdown(sockets)  # type: ignore[arg-type]
        self._captured_signals.clear()  # else uvicorn raises them again, and the status is not 0


def make_app(pipe: ECDiffPipeline, token: str | None, limits: Limits) -> Guard:
    """The server as an ASGI app, which others than uvicorn can run too (``scripts/ray_serve.py``)."""
    service = Service(Sides(pipe), limits)
    most, answered = service.most_bytes, service.metrics.answered
    return Guard(create_app(service), token, most, limits.body_seconds, answered)


def make_server(
    pipe: ECDiffPipeline, listen: Listen, limits: Limits, on_start: Callable[[str], None] = lambda _: None
) -> Server:
    """A server of a pipeline; ``run()`` ends with SIGTERM or Ctrl-C, when what is under way is done.

    ``run(sockets)`` takes those of ``bound``, in place of the address.

    Args:
        on_start: is called with the server's URL once it listens.
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
    return Server(config, listen, on_start, limits.reader_seconds)
