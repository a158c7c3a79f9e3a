"""Requests to a server, and what damages them at random: what ``fuzz_requests`` sends."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import fuzz_packets

TOKEN = "a-token-of-the-damage"
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


def odd_value(request: Request, rng: random.Random) -> Request:
    """Of one of the names of the JSON."""
    tree = {**_HANDOFF, "packet": "computed", "deadline_seconds": 60}
    name, value = rng.choice([*tree]), fuzz_packets.junk(rng)
    tree[name] = value
    sound = type(value) in _TYPES[name] and name not in ("mode", "packet", "config")
    return replace(request, body=json.dumps(tree).encode(), whole=sound or (name, value) == ("config", {}))


def odd_name(request: Request, rng: random.Random) -> Request:
    tree = dict(_HANDOFF)
    name = str(fuzz_packets.junk(rng)) + rng.choice(("", "\0", "é"))
    if rng.random() < 0.5:
        tree[name] = tree.pop("prompt")
    else:
        tree[name] = 1
    return replace(request, body=json.dumps(tree).encode())


def odd_facts(request: Request, rng: random.Random) -> Request:
    facts = {
        rng.choice(("alpha", "cloud", "schedule")): fuzz_packets.junk(rng),
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
    some = ((b"X-%d" % i, b"a") for i in range(5_000))
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
