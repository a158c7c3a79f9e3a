"""A link or a server that fails, as the client sees it: the same image or one clear line, in time."""

from __future__ import annotations

import gzip
import random
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from os import kill
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
import torch

from bench_serve import server_process
from ecdiff_core import ECDiffPipeline, RemoteCloud
from ecdiff_core.errors import CloudError, CloudUnavailableError, ECDiffError
from ecdiff_core.serving import transport
from ecdiff_core.serving.transport import RefusedError, Retry
from shaped_link import Shape, ShapedLink, Spoil

from ...refusals import refused
from .conftest import FAMILIES, TOKEN, config_of, serving

MODES = ("ecdiff", "hybrid")
"""Back and forth; one way."""
SOON = Retry(attempts=3, seconds=0.01, timeout=5)
IN_THE_HANDOFF = 2000
"""A byte of its answer's body."""


@pytest.fixture(scope="session")
def expected(tiny_pipe: ECDiffPipeline) -> dict[str, torch.Tensor]:
    """Latents of one process, by mode."""
    return {mode: latents(tiny_pipe, mode) for mode in MODES}


def latents(pipe: ECDiffPipeline, mode: str = "ecdiff", **others: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return pipe("a ring", generator=generator, mode=mode, **others).latents  # type: ignore[arg-type]


@contextmanager
def through(
    edge: ECDiffPipeline, link: ShapedLink, retry: Retry = SOON, **others: Any
) -> Iterator[RemoteCloud]:
    """The edge's cloud is at the other end of the link."""
    with link:
        edge.cloud = cloud = RemoteCloud(link.url, TOKEN, retry=retry, **others)
        yield cloud
        cloud.close()


def model_calls(url: str) -> int:
    text = httpx2.get(f"{url}/metrics", headers={"Authorization": f"Bearer {TOKEN}"}).text
    return int(float(text.split("ecdiff_batch_size_count ")[1].split()[0]))


def spoiling(place: int, how: str, times: int) -> Spoil:
    """What spoils the answers of the first so many connections at a byte."""

    def spoil(connection: int, carried: int, data: bytes) -> bytes | None:
        inner = place - carried
        if connection >= times or not 0 <= inner < len(data):
            return data
        if how == "changed":
            return data[:inner] + bytes([data[inner] ^ 1]) + data[inner + 1 :]
        return None

    return spoil


@pytest.fixture(scope="session")
def in_the_noise(edge: ECDiffPipeline, url: str) -> int:
    """A byte of the second answer's body, on the connection of the first."""
    carried = 0

    def count(_: int, before: int, data: bytes) -> bytes:
        nonlocal carried
        carried = before + len(data)
        return data

    with through(edge, ShapedLink(url, spoil=count)):
        latents(edge, "hybrid")
    return carried + 900


@pytest.mark.parametrize("how", ["broken", "changed"])
@pytest.mark.parametrize("place", [0, IN_THE_HANDOFF, None])
def test_an_answer_that_is_spoilt_once_is_asked_for_again(
    how: str,
    place: int | None,
    in_the_noise: int,
    edge: ECDiffPipeline,
    url: str,
    expected: dict[str, torch.Tensor],
) -> None:
    before = model_calls(url)
    spoil = spoiling(in_the_noise if place is None else place, how, times=1)
    with through(edge, ShapedLink(url, spoil=spoil)):
        assert torch.equal(latents(edge), expected["ecdiff"])
    assert model_calls(url) - before == edge.plan().cloud_calls  # and not paid twice


def test_what_a_balancer_says_of_a_dead_replica_is_asked_for_again(
    edge: ECDiffPipeline, url: str, expected: dict[str, torch.Tensor]
) -> None:
    """Ray Serve's, whose other replica answers the next attempt."""
    why = b"Internal Server Error"
    head = f"HTTP/1.1 500 {why.decode()}\r\ncontent-type: text/plain; charset=utf-8\r\n"
    answer = f"{head}content-length: {len(why)}\r\nconnection: close\r\n\r\n".encode() + why

    def spoil(connection: int, carried: int, data: bytes) -> bytes:
        return data if connection else answer * (not carried)

    for mode in MODES:
        with through(edge, ShapedLink(url, spoil=spoil)):
            assert torch.equal(latents(edge, mode), expected[mode])


def test_a_download_of_another_length_measures_no_link() -> None:
    with answering(200, b"") as (url, _), refused(CloudError, key=url, got=0, expected="64 bytes"):
        RemoteCloud(url, retry=SOON).measure(1, 64)


@pytest.mark.parametrize("name", [b"", b"short", b"with a space in it", b"x" * 65])
def test_a_handoff_without_its_session_is_one_line(name: bytes, edge: ECDiffPipeline, url: str) -> None:
    """As by a proxy that lets no such header pass; rows of a batch would else take one another's."""

    def spoil(_: int, __: int, data: bytes) -> bytes:
        found = re.search(rb"(?i)ecdiff-session: [^\r]*\r\n", data)
        return data if found is None else data.replace(found[0], b"Ecdiff-Session: " + name + b"\r\n")

    with through(edge, ShapedLink(url, spoil=spoil)), refused(CloudError, key="Ecdiff-Session"):
        latents(edge)


def always_changed(connection: int, carried: int, data: bytes) -> bytes:
    """Every long segment, which headers are not."""
    return data[:-1] + bytes([data[-1] ^ 1]) if len(data) > 700 else data


@pytest.mark.parametrize("spoil", [spoiling(IN_THE_HANDOFF, "broken", times=99), always_changed])
def test_answers_that_are_always_spoilt_are_one_line(spoil: Spoil, edge: ECDiffPipeline, url: str) -> None:
    with (
        through(edge, ShapedLink(url, spoil=spoil)) as cloud,
        refused(CloudUnavailableError, key=cloud.url),
    ):
        latents(edge)


def test_a_link_that_is_cut_and_back(
    edge: ECDiffPipeline, url: str, expected: dict[str, torch.Tensor]
) -> None:
    def spoil(connection: int, carried: int, data: bytes) -> bytes:
        if connection == 0 and carried + len(data) > IN_THE_HANDOFF:
            link.cut()
            threading.Timer(0.3, link.mend).start()
        return data

    link, before = ShapedLink(url, spoil=spoil), model_calls(url)
    with through(edge, link, Retry(attempts=9, seconds=0.05)):
        assert torch.equal(latents(edge), expected["ecdiff"])
    assert link.connections > 2
    assert model_calls(url) - before == edge.plan().cloud_calls


def test_a_link_that_falls_silent_is_noticed_within_its_timeout(edge: ECDiffPipeline, url: str) -> None:
    link = ShapedLink(url)
    with through(edge, link, Retry(attempts=2, seconds=0.01, timeout=0.3)) as cloud:
        link.hold()
        began = time.monotonic()
        with refused(CloudUnavailableError, key=link.url, got=re.compile("^ReadTimeout")):
            cloud.config()
        assert 0.6 <= time.monotonic() - began < 3
        link.mend()
        assert cloud.config().facts


def test_three_segments_in_ten_lost_and_three_connections_in_ten_broken(
    edge: ECDiffPipeline, url: str, expected: dict[str, torch.Tensor]
) -> None:
    rng = random.Random(1)
    doomed = [rng.random() < 0.3 for _ in range(99)]

    def spoil(connection: int, carried: int, data: bytes) -> bytes | None:
        return None if doomed[connection] else data

    with through(edge, ShapedLink(url, Shape(loss=0.3, seed=1)), Retry(attempts=8)):
        assert torch.equal(latents(edge), expected["ecdiff"])
    doomed[0] = True
    for mode in MODES:
        with through(edge, ShapedLink(url, spoil=spoil), Retry(attempts=8, seconds=0.01)):
            assert torch.equal(latents(edge, mode), expected[mode])


def test_a_server_that_does_not_know_the_session_begins_it_anew(
    edge: ECDiffPipeline, tiny_pipe: ECDiffPipeline, url: str, expected: dict[str, torch.Tensor]
) -> None:
    """It was started anew after the handoff, or is another one behind the same address."""
    link = ShapedLink(url)
    with serving(tiny_pipe) as other, through(edge, link):

        def change_over(step: int, *_: object) -> None:
            if step == 4:
                link.lead_to(other)

        assert torch.equal(latents(edge, on_step=change_over), expected["ecdiff"])
        assert model_calls(other) == edge.plan().cloud_calls


def test_a_server_that_is_killed_after_the_handoff(
    edge: ECDiffPipeline, tiny_pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ECDIFF_TOKEN", TOKEN)
    config_of(tiny_pair, FAMILIES["tiny_pair"]).save(tmp_path / "ecdiff.yaml")
    with server_process(str(tmp_path / "ecdiff.yaml"), "cpu") as (address, pid):
        edge.cloud = RemoteCloud(f"http://{address}", TOKEN, retry=SOON)
        began = time.monotonic()

        def end_it(step: int, *_: object) -> None:
            if step == 4:
                kill(pid, signal.SIGKILL)

        with refused(CloudUnavailableError, got=re.compile("^ConnectError")):
            latents(edge, on_step=end_it)
        assert time.monotonic() - began < 10


def test_clocks_that_differ_change_nothing(
    edge: ECDiffPipeline, url: str, expected: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = time.time

    def jump(step: int, *_: object) -> None:
        if step == 4:
            monkeypatch.setattr(time, "time", lambda: clock() - 3e8)

    monkeypatch.setattr(time, "time", lambda: clock() + 3e8)
    edge.cloud = RemoteCloud(url, TOKEN, retry=SOON, deadline_seconds=60)
    assert torch.equal(latents(edge, on_step=jump), expected["ecdiff"])


def test_who_does_not_read_is_disconnected(tiny_pipe: ECDiffPipeline) -> None:
    with serving(tiny_pipe, reader_seconds=0.5) as url, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        host, port = url.removeprefix("http://").split(":")
        client.connect((host, int(port)))
        asked = f"GET /v1/bytes?count={2**23} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
        client.sendall(asked.encode())
        time.sleep(2)
        client.settimeout(5)
        taken = 0
        with suppress(ConnectionError):
            while data := client.recv(2**16):
                taken += len(data)
        assert 0 < taken < 2**23
        assert RemoteCloud(url, TOKEN, retry=SOON).config()


@contextmanager
def answering(status: int, body: bytes, **headers: str) -> Iterator[tuple[str, list[str]]]:
    """A server that is none of ours: its URL, and the paths that it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("status", "body", "headers", "error", "message", "attempts"),
    [
        (200, b"<html>", {}, CloudError, "does not answer as a server of ecdiff serve", 1),
        (200, b"[" * 50_000, {}, CloudError, "does not answer as a server of ecdiff serve", 1),
        (200, b" " * (2**20 + 1), {}, CloudError, "longer than the 1048576 bytes", 1),
        (
            *(200, gzip.compress(b" " * 2**24), {"Content_Encoding": "gzip"}, CloudError),
            *("longer than the 1048576 bytes", 1),
        ),
        (200, b"not gzip", {"Content_Encoding": "gzip"}, CloudUnavailableError, "DecodingError", 2),
        (500, b"Internal Server Error", {}, CloudUnavailableError, "attempts: Internal", 2),  # a balancer's
        (502, b"<html>", {}, CloudUnavailableError, "attempts: Bad Gateway", 2),
        (
            *(500, b'{"detail": "It\\nfailed."}', {"Content_Type": "application/problem+json"}),
            *(RefusedError, r"refuses \(500\): It failed\.", 1),
        ),
        (404, b"[" * 50_000, {}, RefusedError, r"refuses \(404\): Not Found", 1),
        (429, b'{"detail": 1}', {"Retry_After": "\xb2"}, CloudUnavailableError, "attempts: 1", 2),
        (400, b'{"detail": "\x1b[2Jred"}', {}, RefusedError, r"refuses \(400\): Bad Request", 1),
        (400, b'{"detail": "\\u001b[2J"}', {}, RefusedError, r"refuses \(400\): \\x1b\[2J$", 1),
        (503, b'{"detail": "late", "estimate_seconds": 3}', {}, CloudUnavailableError, "deadline: late", 1),
        (302, b"", {"Location": "http://127.0.0.1:9"}, RefusedError, r"refuses \(302\)", 1),
    ],
)
def test_what_another_server_answers_is_one_line(
    status: int, body: bytes, headers: dict[str, str], error: type[ECDiffError], message: str, attempts: int
) -> None:
    with answering(status, body, **headers) as (url, asked):
        with refused(error, key=url, line=message):
            RemoteCloud(url, retry=Retry(attempts=2, seconds=0.01, timeout=5)).config()
        assert len(asked) == attempts


@pytest.mark.parametrize(("after", "least"), [(None, (0.5, 1.0, 2.0)), ("3", (3.0, 3.0, 3.0))])
def test_pauses_double_and_none_is_shorter_than_the_server_asks_for(
    after: str | None, least: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(
        transport, "time", SimpleNamespace(sleep=pauses.append, perf_counter=time.perf_counter)
    )
    headers = {} if after is None else {"Retry_After": after}
    with answering(503, b"", **headers) as (url, _), refused(CloudUnavailableError, key=url):
        RemoteCloud(url, retry=Retry(attempts=4, seconds=1.0)).config()
    most = [max(one, two) for one, two in zip(least, (1.0, 2.0, 4.0), strict=True)]
    assert all(low <= one <= high for low, one, high in zip(least, pauses, most, strict=True))
