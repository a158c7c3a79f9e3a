"""A link between two machines, on one: a TCP proxy with a rate, a delay, lost segments, cuts, spoilt bytes.

It needs no privileges, so that tests and benchmarks show on any machine what a client sees of a slow or a
broken link. What it does not have of a real one is TCP's slow start.
"""

from __future__ import annotations

import asyncio
import queue
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

SEGMENT = 1460
"""Bytes that are lost together: what a packet of Ethernet's size carries."""
RESEND_SECONDS = 0.2
"""After which a lost segment is sent again, the least of Linux; doubled with each further loss."""

Spoil = Callable[[int, int, bytes], bytes | None]
"""Of a connection's number, the bytes of answers that it has carried, and the next ones: what arrives in
their place; None breaks the connection."""


@dataclass(frozen=True)
class Shape:
    """Of a link.

    Args:
        mbps: 10^6 bits a second in each direction, for all connections together; None is no limit.
        round_trip_seconds: half of it in each direction.
        loss: share of segments that are lost on the way, and sent again.
        seed: of the losses.
    """

    mbps: float | None = None
    round_trip_seconds: float = 0.0
    loss: float = 0.0
    seed: int = 0


class _Direction:
    """One way of a link, which all connections share."""

    def __init__(self, shape: Shape, number: int) -> None:
        self._shape, self._rng, self._free = shape, random.Random(2 * shape.seed + number), 0.0

    def arrival(self, size: int) -> float:
        """When so many bytes that are sent now are there, by ``time.monotonic``."""
        begin = max(time.monotonic(), self._free)
        self._free = begin + (0.0 if self._shape.mbps is None else 8e-6 * size / self._shape.mbps)
        arrival, resend = self._free + self._shape.round_trip_seconds / 2, RESEND_SECONDS
        while self._rng.random() < self._shape.loss:
            arrival, resend = arrival + resend, 2 * resend
        return arrival


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


class ShapedLink:
    """The proxy, in a thread, from ``with`` to its end.

    Args:
        url: of the server.
        shape: of the link.
        spoil: what happens to answers.
    """

    def __init__(self, url: str, shape: Shape | None = None, spoil: Spoil = lambda *_: _[2]) -> None:
        self._scheme, _, address = url.partition("://")
        self._target, self._shape, self._spoil = _host_and_port(address), shape or Shape(), spoil
        self._ways = [_Direction(self._shape, number) for number in range(2)]
        self._ports: queue.Queue[int] = queue.Queue()
        self._writers: set[asyncio.StreamWriter] = set()
        self._is_cut, self.connections = False, 0
        self._flows = threading.Event()
        self._flows.set()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="shaped-link")

    def __enter__(self) -> Self:
        self._thread.start()
        self.url = f"{self._scheme}://127.0.0.1:{self._ports.get(timeout=30)}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(30)

    def cut(self) -> None:
        """Break all connections and refuse new ones."""
        self._is_cut = True
        self._loop.call_soon_threadsafe(self._break_all)

    def mend(self) -> None:
        """Let bytes and connections through again."""
        self._is_cut = False
        self._flows.set()

    def hold(self) -> None:
        """Let nothing arrive any more, without a word of it: a cable that is pulled."""
        self._flows.clear()

    def lead_to(self, url: str) -> None:
        """Break all connections; new ones go to another server."""
        self._target = _host_and_port(url.partition("://")[2])
        self._loop.call_soon_threadsafe(self._break_all)

    async def _run(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self._ports.put(server.sockets[0].getsockname()[1])
        await self._end.wait()
        server.close()
        self._break_all()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _break_all(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number, self.connections = self.connections, self.connections + 1
        self._writers.add(writer)
        with suppress(OSError, asyncio.CancelledError):  # the server is not there; the proxy ends
            if self._is_cut:
                raise ConnectionResetError
            await asyncio.sleep(self._shape.round_trip_seconds)  # TCP's handshake
            from_server, to_server = await asyncio.open_connection(*self._target)
            self._writers.add(to_server)
            await asyncio.gather(
                self._carry(reader, to_server, self._ways[0], lambda _, data: data),
                self._carry(from_server, writer, self._ways[1], lambda *some: self._spoil(number, *some)),
            )
            self._writers -= {writer, to_server}
            return
        writer.transport.abort()

    async def _carry(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        way: _Direction,
        spoil: Callable[[int, bytes], bytes | None],
    ) -> None:
        """Bytes of one connection in one direction, in order, until it ends or breaks."""
        on_the_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def send() -> None:
            at = 0.0
            while data := await reader.read(SEGMENT):
                at = max(at, way.arrival(len(data)))
                on_the_way.put_nowait((at, data))
            on_the_way.put_nowait((at, b""))

        async def deliver() -> None:
            carried = 0
            while True:
                at, data = await on_the_way.get()
                await asyncio.sleep(at - time.monotonic())
                while not self._flows.is_set():
                    await asyncio.sleep(0.01)
                if not data:
                    return
                arrived = spoil(carried, data)
                if arrived is None:
                    raise ConnectionResetError
                carried += len(data)
                writer.write(arrived)
                await writer.drain()

        sending, delivering = asyncio.create_task(send()), asyncio.create_task(deliver())
        try:
            await asyncio.wait({sending, delivering}, return_when=asyncio.FIRST_EXCEPTION)
            broken = any(one.done() and one.exception() is not None for one in (sending, delivering))
            writer.transport.abort() if broken else writer.close()
        finally:
            sending.cancel()
            delivering.cancel()
