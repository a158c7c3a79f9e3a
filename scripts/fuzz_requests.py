"""Send a server requests that are damaged at random, and see that it refuses each quickly and goes on.

python scripts/fuzz_requests.py                # 10,000 of them, to the embedded pair
python scripts/fuzz_requests.py --count 300 --seed 7

Each goes over a connection of its own. It has to be answered with 4xx (or the connection be closed), within
50 ms of this process's CPU, which is the server's and the client's; damage that leaves a request whole may be
answered as what it is. At the end a sound request is answered as it was at the beginning.
"""

from __future__ import annotations

import argparse
import gc
import json
import queue
import random
import re
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import fuzz_packets
from ecdiff_core.errors import ECDiffError
from ecdiff_core.io.console import quiet_libraries, run_command

if TYPE_CHECKING:
    from ecdiff_core.pipeline import ECDiffPipeline

TOKEN = "a-token-of-the-damage"
SLOWEST_SECONDS, MOST_GROWN_BYTES = 0.05, 50 * 2**20
BODY_SECONDS = 0.2
"""In which the server wants a body; bodies that are shorter than they claim to be take as long."""
_TIMEOUT = 10.0
_HANDOFF = {"prompt": "a small red ring", "negative_prompt": None, "seed": 3, "mode": "edge", "config": {}}
"""Of a mode without calls of the model, so that what is whole costs little."""
_TYPES = {
    "prompt": (str,),
    "negative_prompt": (str, type(None)),
    "seed": (int,),
    "mode": (str,),
    "packet": (str,),
    "deadline_seconds": (int, float, type(None)),
    "config": (dict,),
}


@dataclass(frozen=True)
class Request:
    """What is sent; ``whole`` where the damage may have left it sound."""

    method: bytes
    target: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes = b""
    whole: bool = False

    @property
    def raw(self) -> bytes:
        lines = [b"%s %s HTTP/1.1" % (self.method, self.target)]
        named = {name.lower() for name, _ in self.headers}
        length = () if b"content-length" in named else ((b"Content-Length", b"%d" % len(self.body)),)
        lines += [b"%s: %s" % pair for pair in (*self.headers, *length)]
        return b"\r\n".join(lines) + b"\r\n\r\n" + self.body

    def having(self, *headers: tuple[bytes, bytes]) -> Request:
        """With other values of some headers."""
        named = {name.lower() for name, _ in headers}
        kept = [pair for pair in self.headers if pair[0].lower() not in named]
        return replace(self, headers=(*kept, *headers))


Damage = Callable[[Request, random.Random], Request | bytes]


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


def odd_value(request: Request, rng: random.Random) -> Request:
    """Of one of the names of the JSON."""
    tree = {**_HANDOFF, "packet": "computed", "deadline_seconds": 60}
    name, value = rng.choice([*tree]), fuzz_packets._odd(rng)
    tree[name] = value
    sound = type(value) in _TYPES[name] and name not in ("mode", "packet", "config")
    return replace(request, body=json.dumps(tree).encode(), whole=sound or (name, value) == ("config", {}))


def odd_name(request: Request, rng: random.Random) -> Request:
    tree = dict(_HANDOFF)
    name = str(fuzz_packets._odd(rng)) + rng.choice(("", "\0", "é"))
    if rng.random() < 0.5:
        tree[name] = tree.pop("prompt")
    else:
        tree[name] = 1
    return replace(request, body=json.dumps(tree).encode())


def odd_facts(request: Request, rng: random.Random) -> Request:
    facts = {
        rng.choice(("alpha", "cloud", "schedule")): fuzz_packets._odd(rng),
        **({str(i): "" for i in range(rng.choice((0, 41, 5000)))}),
    }
    return replace(request, body=json.dumps({**_HANDOFF, "config": facts}).encode())


def odd_json(request: Request, rng: random.Random) -> Request:
    """What JSON readers disagree on, or break at."""
    good = json.dumps(_HANDOFF)
    deep = rng.choice((100, 10_000, 60_000))
    body = rng.choice(
        (
            *(b"", b"null", b"[]", b"1", b'"a"', b"{", b"[" * deep, b'{"a":' * (deep // 5), b"\xff\xfe{"),
            good[:-1].encode() + b',"seed":4}',  # a name twice
            good.replace("3", rng.choice(("NaN", "Infinity", "-Infinity", "1e999", "03", "0x3"))).encode(),
            good.replace("3", "9" * rng.choice((20, 5000, 60_000))).encode(),
            good.replace("a small", rng.choice(("\\ud800", "\\x", "\n", "a" * 70_000))).encode(),
            good.encode("utf-16-le") + b"!",
            b"{%s}" % b",".join(b'"%d":0' % i for i in range(8000)),
            good.encode() + rng.choice((b"{}", b"\0", b"//")),
        )
    )
    return replace(request, body=body)


def odd_method(request: Request, rng: random.Random) -> Request:
    odd = (b"GET", b"PUT", b"DELETE", b"TRACE", b"CONNECT", b"post", b"A" * 9999, b"\0", b"")
    return replace(request, method=rng.choice(odd))


def odd_target(request: Request, rng: random.Random) -> Request:
    odd = (b"/v1/../../etc/passwd", b"/v1/handoff/", b"/v1/handoff%00", b"//", b"*", b"/" + b"a" * 9999, b"")
    other = (b"http://other/v1/handoff%2f", b"/v1/handoff;x", b"/v1/HANDOFF", "/é".encode(), b"/v1/h andoff")
    return replace(request, target=rng.choice((*odd, *other)))


def odd_query(request: Request, rng: random.Random) -> Request:
    values = (b"-1", b"1e9", b"NaN", b"9" * 5000, b"3.5", b"", b"%00", b"6&step=-1", b"a" * 9999)
    path = rng.choice((b"/v1/noise?step=", b"/v1/noise?packet=pickle&step=", b"/v1/bytes?count="))
    return replace(request, target=path + rng.choice(values)).having((b"Ecdiff-Session", b"guessed"))


def huge_header(request: Request, rng: random.Random) -> Request:
    value = b"a" * rng.choice((70_000, 200_000))
    some = ((b"X-%d" % i, b"a") for i in range(10_000))
    name = rng.choice((b"X", b"Idempotency-Key", b"Ecdiff-Session", b"Authorization", b"Cookie"))
    return request.having(*(some if rng.random() < 0.3 else ((name, value),)))


def odd_header(request: Request, rng: random.Random) -> Request:
    """Lengths and encodings that are not those of the body, and lines that are none."""
    odd = (
        *((b"Content-Length", value) for value in (b"-1", b"+5", b"1e9", b"9" * 400, b"0x10", b"", b"5, 6")),
        *((b"Content-Length", b"%d" % (10**size)) for size in (6, 9, 12, 18)),
        (b"Content-Length", b"%d" % (len(request.body) + rng.randrange(1, 99))),
        *((b"Transfer-Encoding", value) for value in (b"chunked", b"gzip, chunked", b"identity", b"\0")),
        *((b"Content-Type", value) for value in (b"text/plain", b"multipart/form-data; boundary=x", b"")),
        *((b"Authorization", value) for value in (b"", b"Bearer", b"Bearer wrong", b"\xff" * 99)),
        *((name, b"x") for name in (b"a b", b"", b"\0", b"a\r\n b", "é".encode())),
        (b"X", b"a\0b"),
    )
    pair = rng.choice(odd)
    if pair[0] == b"Content-Length" and rng.random() < 0.3:
        return replace(request, headers=(*request.headers, pair, (b"Content-Length", b"7")))
    return request.having(pair)


def packet_of_noise(request: Request, rng: random.Random) -> Request:
    """A damaged packet, of a session that nobody has."""
    damage = rng.choice(fuzz_packets.MUTATIONS)
    body = damage(fuzz_packets.packet("computed"), rng)
    fresh = replace(request, target=b"/v1/noise?step=6", body=body)
    return fresh.having((b"Ecdiff-Session", b"guessed"))


def flip(request: Request, rng: random.Random) -> bytes:
    return fuzz_packets.flip(request.raw, rng)


def cut(request: Request, rng: random.Random) -> bytes:
    return fuzz_packets.cut(request.raw, rng)


def drop(request: Request, rng: random.Random) -> bytes:
    return fuzz_packets.drop(request.raw, rng)


def insert(request: Request, rng: random.Random) -> bytes:
    raw, some = request.raw, rng.randbytes(rng.choice((1, 8, 4096)))
    place = rng.randrange(len(raw))
    return raw[:place] + some + raw[place:]


def another_protocol(_: Request, rng: random.Random) -> bytes:
    odd = (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /\r\n\r\n",
    )
    return rng.choice((*odd, b"POST /v1/handoff HTTP/9.9\r\n\r\n", rng.randbytes(500), b"\r\n" * 99))


STRUCTURED: tuple[Damage, ...] = (
    *(odd_value, odd_name, odd_facts, odd_json, odd_method, odd_target, odd_query, huge_header, odd_header),
    packet_of_noise,
)
"""What is always to be refused, but where a request says that it is whole."""
RAW: tuple[Damage, ...] = (flip, cut, drop, insert, another_protocol)
"""What may leave a request sound: then it is answered."""


def sound() -> Request:
    return Request(
        b"POST",
        b"/v1/handoff",
        (
            (b"Host", b"127.0.0.1"),
            (b"Authorization", b"Bearer " + TOKEN.encode()),
            (b"Content-Type", b"application/json"),
        ),
        json.dumps(_HANDOFF).encode(),
    )


@contextmanager
def serving(pipe: ECDiffPipeline) -> Iterator[tuple[str, int]]:
    """Host and port of a server in a thread."""
    from ecdiff_core.serving.limits import Limits
    from ecdiff_core.serving.server import Listen, make_server

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
        found, before = Found(), fuzz_packets._height()
        for number in range(count):
            damage = rng.choice(STRUCTURED if rng.random() < 0.7 else RAW)
            _send_one(address, damage, rng, found, number)
        found.grown_bytes = fuzz_packets._height() - before
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
    began = time.process_time()
    try:
        status, body = send(address, raw)
        wrong = check(request, status, body)
    except TimeoutError:
        status, wrong = -1, "neither answered nor closed"
    took = time.process_time() - began
    found.statuses[status] += 1
    if wrong:
        found.wrong[number] = f"{damage.__name__}: {wrong}: {raw[:200]!r}"
    if status != 200 and took > found.slowest:
        found.slowest, found.slowest_kind = took, f"{damage.__name__}, {status}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=10_000, metavar="N", help="requests (default 10000)")
    parser.add_argument("--seed", type=int, default=0, help="of the damage (default 0)")
    args = parser.parse_args(arguments)

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
