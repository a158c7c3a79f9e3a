"""Send a server requests that are damaged at random, and see that it refuses each quickly and goes on.

python scripts/fuzz_requests.py                # 10,000 of them, to the embedded pair
python scripts/fuzz_requests.py --count 300 --seed 7

Each goes over a connection of its own. It has to be answered with 4xx (or the connection be closed), within
50 ms of this process's CPU, which is the server's and the client's; damage that leaves a request whole may be
answered as what it is. At the end a sound request is answered as it was at the beginning.
"""

from __future__ import annotations

import gc
import queue
import random
import re
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from damaged_requests import RAW, STRUCTURED, TOKEN, Damage, Request, sound
from ecdiff_core.errors import ECDiffError
from ecdiff_core.io.console import quiet_libraries, run_command
from fuzz_packets import memory_height, parse_args

if TYPE_CHECKING:
    from ecdiff_core.pipeline import ECDiffPipeline

SLOWEST_SECONDS, MOST_GROWN_BYTES = 0.05, 50 * 2**20
BODY_SECONDS = 0.2
"""In which the server wants a body; bodies that are shorter than they claim to be take as long."""
_TIMEOUT = 10.0
_TRIES = 3
"""Of a request that seems slow, of which the quickest counts: the process's other threads are in its time."""


@dataclass
class Found:
    """Of many requests.

    Args:
        statuses: how many answers had each; 0 is a connection that was closed without one.
        wrong: what was done to those that were not refused though they should be, or failed in the server, or
            hung, by the number of the request.
        slowest: CPU seconds of one refusal.
        grown_bytes: of the process's memory at its height.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    wrong: dict[int, str] = field(default_factory=dict)
    slowest: float = 0.0
    slowest_kind: str = ""
    grown_bytes: int = 0


@contextmanager
def serving(pipe: ECDiffPipeline) -> Iterator[tuple[str, int]]:
    """Host and port of a server in a thread."""
    from ecdiff_core.serving.limits import Limits
    from ecdiff_core.serving.listen import Listen
    from ecdiff_core.serving.server import make_server

    urls: queue.Queue[str] = queue.Queue()
    limits = Limits(body_seconds=BODY_SECONDS, drain_seconds=2)
    server = make_server(pipe, Listen(port=0, token=TOKEN), limits, urls.put)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        host, port = urls.get(timeout=60).removeprefix("http://").split(":")
        yield host, int(port)
    finally:
        server.should_exit = True
        thread.join(30)


def send(address: tuple[str, int], raw: bytes) -> tuple[int, bytes]:
    """Status and body of the answer; 0 of a connection that was closed without one.

    Raises:
        TimeoutError: neither came.
    """
    with socket.create_connection(address, timeout=_TIMEOUT) as connection:
        got = b""
        try:
            connection.sendall(raw)
            if not re.search(rb"\n\r?\n", raw):  # nobody answers half a header
                connection.shutdown(socket.SHUT_WR)
            while not _is_whole(got) and (part := connection.recv(2**16)):
                got += part
        except ConnectionError:
            pass
    status = re.match(rb"HTTP/1\.1 (\d{3})", got)
    return int(status[1]) if status else 0, got.partition(b"\r\n\r\n")[2]


def _is_whole(answer: bytes) -> bool:
    head, end, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"\ncontent-length: (\d+)", head.lower())
    return bool(end) and (length is None or len(body) >= int(length[1]))


def check(request: Request | bytes, status: int, body: bytes) -> str:
    """What is wrong with an answer; empty where nothing is."""
    refused = status == 0 or 400 <= status < 500
    if status >= 500 and not (status == 503 and b"deadline" in body):
        return f"failed with {status}"
    if not refused and status < 500 and isinstance(request, Request) and not request.whole:
        return f"accepted with {status}"
    return "a traceback" if b"Traceback" in body else ""


def fuzz(pipe: ECDiffPipeline, count: int, seed: int) -> Found:
    """Send that many requests to a server of the pipeline.

    Raises:
        ECDiffError: a sound request is answered otherwise at the end than at the beginning.
    """
    rng, found = random.Random(seed), Found()
    with serving(pipe) as address:
        first = send(address, sound().raw)
        for damage in (*STRUCTURED, *RAW):  # once each: what is imported or cached then is not counted
            _send_one(address, damage, random.Random(0), found, -1)
        gc.collect()
        gc.freeze()  # else a collection among the libraries' million objects counts as a slow refusal
        found, before = Found(), memory_height()
        for number in range(count):
            damage = rng.choice(STRUCTURED if rng.random() < 0.7 else RAW)
            _send_one(address, damage, rng, found, number)
        found.grown_bytes = memory_height() - before
        last = send(address, sound().raw)
    if first[0] != 200 or last[0] != 200 or len(last[1]) != len(first[1]):
        line = f"A sound request got {first[0]} at the beginning and {last[0]} at the end."
        raise ECDiffError(line, key="a sound request", got=last[0], expected=str(first[0]))
    return found


def _send_one(
    address: tuple[str, int], damage: Damage, rng: random.Random, found: Found, number: int
) -> None:
    request = damage(sound(), rng)
    raw = request if isinstance(request, bytes) else request.raw
    took = float("inf")
    for _ in range(_TRIES):
        began = time.process_time()
        try:
            status, body = send(address, raw)
            wrong = check(request, status, body)
        except TimeoutError:
            status, wrong = -1, "neither answered nor closed"
        took = min(took, time.process_time() - began)
        if took < SLOWEST_SECONDS:
            break
    found.statuses[status] += 1
    if wrong:
        found.wrong[number] = f"{damage.__name__}: {wrong}: {raw[:200]!r}"
    if status != 200 and took > found.slowest:
        found.slowest, found.slowest_kind = took, f"{damage.__name__}, {status}"


def main(arguments: list[str] | None = None) -> int:
    args = parse_args(__doc__, "requests", arguments)

    def run() -> None:
        quiet_libraries()
        from ecdiff_core.pipeline import ECDiffPipeline

        found = fuzz(ECDiffPipeline.from_config("shapes", device="cpu", side="cloud"), args.count, args.seed)
        for number, why in found.wrong.items():
            print(f"number {number}, {why}")
        statuses = ", ".join(
            f"{status or 'closed'}: {many}" for status, many in sorted(found.statuses.items())
        )
        print(
            f"{args.count} damaged requests ({statuses}): {len(found.wrong)} wrong; slowest refusal "
            f"{found.slowest * 1000:.1f} ms ({found.slowest_kind}), memory "
            f"{found.grown_bytes / 2**20:.1f} MiB more"
        )
        if found.wrong or found.slowest > SLOWEST_SECONDS or found.grown_bytes > MOST_GROWN_BYTES:
            line = "Not every damaged request was refused quickly and in little memory."
            raise ECDiffError(line, key="damaged requests", got=vars(found))

    return run_command(run)


if __name__ == "__main__":
    sys.exit(main())
