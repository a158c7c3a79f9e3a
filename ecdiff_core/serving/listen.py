"""Where a server listens: looked at and held before anything is loaded, torch included."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from ecdiff_core.errors import ParamsError, first_line

_LACKING = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
"""Of one address of a name, where this machine has others."""


def is_loopback(host: str) -> bool:
    """Whether a name or an address is this machine's own, which no other one reaches."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


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
        raise cannot_listen(listen, error) from error
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
                    raise cannot_listen(listen, error) from error
                lacking = error
            else:
                sockets.append(one)
        if lacking and not sockets:
            raise cannot_listen(listen, lacking) from lacking
        yield sockets


def cannot_listen(listen: Listen, error: Exception) -> ParamsError:
    """What a user is told where an address cannot be had."""
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
