"""Two network namespaces, a cloud's and an edge's, joined by a veth pair as slow as a link (Linux, root).

The delay needs the kernel's netem; where it lacks that, tbf limits the rate alone, and there is no delay.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from ecdiff_core.errors import ECDiffError
from shaped_link import Shape

CLOUD_ADDRESS, EDGE_ADDRESS = "10.213.0.1", "10.213.0.2"
"""In networks of their own: no other machine sees them."""
_CLONE_NEWNET = 0x40000000


class NamespaceError(ECDiffError):
    """This machine does not allow it; the line says why."""


@dataclass(frozen=True)
class Namespaces:
    """Their names, and what the link between them is."""

    cloud: str
    edge: str
    shape: Shape

    def within(self, command: list[str]) -> list[str]:
        """A command as the cloud's machine runs it."""
        return ["ip", "netns", "exec", self.cloud, *command]

    @contextmanager
    def entered(self, name: str) -> Iterator[None]:
        """Sockets that this thread makes are of that one.

        Raises:
            NamespaceError: the system does not let it.
        """
        with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{name}") as away:
            _enter(away.fileno())
            try:
                yield
            finally:
                _enter(home.fileno())


def _enter(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET):
        why = os.strerror(ctypes.get_errno())
        raise NamespaceError(f"Cannot enter a network namespace: {why}.", key="setns", got=why)


@contextmanager
def two_namespaces(shape: Shape) -> Iterator[Namespaces]:
    """Make them, and remove them at the end.

    Raises:
        NamespaceError: the machine does not allow it, or lacks ``ip`` and ``tc`` (iproute2).
    """
    number = os.getpid()
    names = (f"ecdiff-cloud-{number}", f"ecdiff-edge-{number}")
    ends = (f"ecc{number}"[:15], f"ece{number}"[:15])
    try:
        for name in names:
            _run("ip", "netns", "add", name)
        _run(
            "ip",
            "link",
            "add",
            ends[0],
            "netns",
            names[0],
            "type",
            "veth",
            "peer",
            "name",
            ends[1],
            "netns",
            names[1],
        )
        for name, end, address in zip(names, ends, (CLOUD_ADDRESS, EDGE_ADDRESS), strict=True):
            _run("ip", "-n", name, "address", "add", f"{address}/30", "dev", end)
            for device in ("lo", end):
                _run("ip", "-n", name, "link", "set", device, "up")
        made = [_slow(name, end, shape) for name, end in zip(names, ends, strict=True)]
        yield Namespaces(*names, made[0])
    finally:
        for name in names:
            if Path(f"/run/netns/{name}").exists():
                with suppress(NamespaceError):
                    _run("ip", "netns", "delete", name)  # and the veth pair with it


def _slow(name: str, end: str, shape: Shape) -> Shape:
    """Let a device send as slowly as the shape says; returns what was possible."""
    add = ("tc", "-n", name, "qdisc", "add", "dev", end, "root")
    rate = f"{shape.mbps or 10_000}mbit"
    delay = f"{1e3 * shape.round_trip_seconds / 2}ms"
    try:
        _run(*add, "netem", "rate", rate, "delay", delay, "loss", f"{100 * shape.loss}%")
    except NamespaceError as error:
        if "unknown" not in str(error.got):
            raise
        _run(*add, "tbf", "rate", rate, "burst", "8kb", "latency", "500ms")
        return replace(shape, round_trip_seconds=0.0, loss=0.0)
    return shape


def _run(*command: str) -> None:
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
    except OSError as error:
        line = f"Cannot run {command[0]}: {error.strerror}. It comes with iproute2."
        raise NamespaceError(line, key=command[0]) from error
    if done.returncode:
        said = " ".join(done.stdout.split())
        line = f"This machine does not allow `{' '.join(command)}`: {said}"
        raise NamespaceError(line, key=command[0], got=said)
