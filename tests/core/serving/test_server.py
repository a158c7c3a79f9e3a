"""What a client sees of a server that is asked wrongly, too much, or not long enough; and that it goes on."""

from __future__ import annotations

import asyncio
import io
import json
import math
import queue
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch
from PIL import Image

from ecdiff_core import ECDiffPipeline, RemoteCloud
from ecdiff_core.errors import CloudError, CloudUnavailableError, ParamsError
from ecdiff_core.sampling.batching import Conditioning
from ecdiff_core.sampling.sampler import Denoiser
from ecdiff_core.serving.guard import Guard
from ecdiff_core.serving.limits import Limits
from ecdiff_core.serving.listen import Listen
from ecdiff_core.serving.server import make_server
from ecdiff_core.serving.token_file import find_token
from ecdiff_core.serving.transport import Retry

from ...refusals import refused
from .conftest import TOKEN, serving

BODY = {"prompt": "a small red ring", "seed": 3}
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}
ONCE = Retry(attempts=1, timeout=5)


@pytest.fixture
def http(url: str) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=url, headers=AUTHORIZED, timeout=20) as client:
        yield client


def problem(response: httpx2.Response, status: int) -> str:
    """What it says; it is one, and holds no traceback."""
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    tree = response.json()
    assert tree["status"] == status
    assert "Traceback" not in response.text
    return str(tree["detail"])


def before_calls(pipe: ECDiffPipeline, monkeypatch: pytest.MonkeyPatch, work: Callable[[], object]) -> None:
    """Do something before the cloud's model is bound to the prompts of a call."""
    bind = pipe.bind_cloud

    def bound(conditioning: Conditioning) -> Denoiser:
        work()
        return bind(conditioning)

    monkeypatch.setattr(pipe, "bind_cloud", bound)


def test_handoff_has_the_headers_of_diffusers_remote_utils(http: httpx2.Client) -> None:
    told = http.post("/v1/handoff", json=BODY)
    assert told.headers["content-type"] == "application/x-safetensors"
    raw = http.post("/v1/handoff", json=BODY, headers={"Accept": "tensor/binary"})
    shape, dtype = json.loads(raw.headers["shape"]), getattr(torch, raw.headers["dtype"])
    latents = torch.frombuffer(bytearray(raw.content), dtype=dtype).reshape(shape)
    assert (shape, dtype) == ([1, 4, 8, 8], torch.float32)
    assert latents.isfinite().all()


def test_the_clouds_own_image(http: httpx2.Client, tiny_pipe: ECDiffPipeline) -> None:
    response = http.post("/v1/images", json=BODY)
    image = Image.open(io.BytesIO(response.content))
    own = tiny_pipe(BODY["prompt"], generator=torch.Generator().manual_seed(3), mode="cloud").images[0]
    assert image.tobytes() == own.tobytes()


def test_metrics_count_and_name_no_prompt(http: httpx2.Client) -> None:
    http.post("/v1/handoff", json=BODY)
    http.get("/v1/nowhere")
    text = http.get("/metrics").text
    assert 'ecdiff_requests_total{route="/v1/handoff",status="200"}' in text
    assert 'ecdiff_requests_total{route="other",status="404"}' in text
    assert "ecdiff_batch_size_count" in text
    assert "red ring" not in text


@pytest.mark.parametrize("token", [None, "Bearer wrong", "Bearer", TOKEN, f"Basic {TOKEN}"])
def test_without_the_token_nothing_but_health_answers(url: str, token: str | None) -> None:
    headers = {} if token is None else {"Authorization": token}
    with httpx2.Client(base_url=url, headers=headers, timeout=20) as client:
        for path in ("/v1/config", "/metrics", "/v1/bytes", "/openapi.json", "/v1/nowhere"):
            response = client.get(path)
            assert "Authorization: Bearer TOKEN" in problem(response, 401)
            assert response.headers["www-authenticate"] == "Bearer"
        assert problem(client.post("/v1/handoff", json=BODY), 401)
        assert client.get("/health/live").text == "alive\n"
        assert client.get("/health/ready").text == "ready\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": None}, "prompt: Input should be a valid string"),
        ({"seed": "3"}, "seed: Input should be a valid integer"),
        ({"seed": True}, "seed: Input should be a valid integer"),
        ({"prompt": "\ud800"}, "prompt: Value error, not UTF-8 text"),
        ({"negative_prompt": "a\ud800"}, "negative_prompt: Value error, not UTF-8 text"),
        ({"seed": -1}, "seed: Input should be greater than or equal to 0"),
        ({"seed": 2**70}, "seed: Input should be less than or equal to"),
        ({"mode": "fast"}, "mode: Input should be"),
        ({"packet": "pickle"}, "packet: Input should be"),
        ({"deadline_seconds": 0}, "deadline_seconds: Input should be greater than 0"),
        ({"more": 1}, "more: Extra inputs are not permitted"),
        ({"prompt": "x" * 2001}, "a prompt of at most 2000 characters, got 2001"),
        ({"config": {str(i): "" for i in range(50)}}, "at most 40 items"),
    ],
)
def test_requests_that_are_not_as_expected(
    http: httpx2.Client, change: dict[str, object], message: str
) -> None:
    body, asked = json.dumps({**BODY, **change}), {"content-type": "application/json"}
    assert message in problem(http.post("/v1/handoff", content=body, headers=asked), 422)


def test_bodies_that_are_no_json_or_too_large_are_refused_before_they_are_read(http: httpx2.Client) -> None:
    asked = {"content-type": "application/json"}
    bodies = (b"{", b"", b"[" * 60_000, b"\xff", b'{"prompt": NaN}', b"1" * 5000, b'{"seed": 1, "seed": 2}')
    for body in (*bodies, json.dumps({str(i): i for i in range(5000)}).encode()):
        assert "JSON, with each name once" in problem(
            http.post("/v1/handoff", content=body, headers=asked), 400
        )
    assert problem(http.post("/v1/handoff", content=b"[]", headers=asked), 422)
    assert "at most" in problem(http.post("/v1/handoff", content=b" " * 2**20, headers=asked), 413)
    assert "Content-Length" in problem(http.post("/v1/handoff", content=iter([b"{}"]), headers=asked), 411)


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_what_a_web_page_sends_without_asking_is_refused(http: httpx2.Client, media_type: str) -> None:
    response = http.post("/v1/images", content=json.dumps(BODY), headers={"content-type": media_type})
    assert "application/json" in problem(response, 415)


def test_without_a_token_a_server_answers_to_this_machine_s_names_alone(tiny_pipe: ECDiffPipeline) -> None:
    with serving(tiny_pipe, token=None) as url, httpx2.Client(base_url=url) as client:
        for host in ("127.0.0.1", "localhost:8000", "[::1]:8000", "127.0.0.9"):
            assert client.get("/health/live", headers={"Host": host}).status_code == 200
        for host in ("attacker.example", "127.0.0.1.attacker.example:8000", "[::2]", "10.0.0.1"):
            assert "127.0.0.1 or localhost" in problem(client.get("/v1/config", headers={"Host": host}), 421)


def test_another_config_is_409_with_the_differences(http: httpx2.Client) -> None:
    for name, yours in (("alpha", "0.9"), ("cloud", "another fingerprint")):
        response = http.post("/v1/handoff", json={**BODY, "config": {name: yours, "dtype": "float32"}})
        assert f"{name} '{yours}' | '" in problem(response, 409)
        assert [*response.json()["differences"]] == [name]


def test_noise_needs_a_session_a_step_of_the_plan_and_a_sound_packet(http: httpx2.Client) -> None:
    def noise(session: str, step: int, body: bytes = b"") -> httpx2.Response:
        headers = {"Ecdiff-Session": session}
        return http.post("/v1/noise", params={"step": step}, content=body, headers=headers)

    session = http.post("/v1/handoff", json=BODY).headers["ecdiff-session"]
    assert "No such session" in problem(noise("guessed", 6), 404)
    assert "Expected a step of [6]" in problem(noise(session, 5), 422)
    assert "no safetensors file" in problem(noise(session, 6, b"PICKLE"), 422)


def test_a_deadline_that_cannot_be_met_is_told_at_once(http: httpx2.Client) -> None:
    http.post("/v1/handoff", json=BODY)
    response = http.post("/v1/handoff", json={**BODY, "deadline_seconds": 1e-6})
    assert "the deadline is 0.00 s" in problem(response, 503)
    assert response.json()["estimate_seconds"] > 0


def test_a_retried_request_is_not_worked_for_twice(http: httpx2.Client) -> None:
    def calls() -> int:
        text = http.get("/metrics").text
        return int(float(text.split("ecdiff_batch_size_count ")[1].split()[0]))

    key = {"Idempotency-Key": "once"}
    first = http.post("/v1/handoff", json=BODY, headers=key)
    before = calls()
    assert http.post("/v1/handoff", json=BODY, headers=key).content == first.content
    assert calls() == before
    assert "another request" in problem(http.post("/v1/handoff", json={**BODY, "seed": 4}, headers=key), 422)


def test_full_slow_and_gone(tiny_pipe: ECDiffPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """One at a time, one that waits: the next is 429; who goes away frees the place; a slow body is 408."""
    slow = threading.Event()
    slow.set()
    before_calls(tiny_pipe, monkeypatch, lambda: time.sleep(0.25 * slow.is_set()))
    limits = {"batch_size": 1, "queue": 1, "body_seconds": 0.3, "sessions": 1}
    with (
        serving(tiny_pipe, **limits) as url,
        httpx2.Client(base_url=url, headers=AUTHORIZED, timeout=20) as http,
    ):

        def leave_early() -> None:
            with pytest.raises(httpx2.ReadTimeout):
                http.post("/v1/images", json=BODY, timeout=1.5)

        leaving = [threading.Thread(target=leave_early) for _ in range(2)]
        for thread, expected in zip(leaving, ("ecdiff_running 1.0", "ecdiff_queue 1.0"), strict=True):
            thread.start()
            while expected not in http.get("/metrics").text:
                time.sleep(0.02)
        response = http.post("/v1/images", json=BODY)
        assert "The queue is full" in problem(response, 429)
        assert int(response.headers["retry-after"]) >= 1
        for thread in leaving:
            thread.join()
        slow.clear()
        began = time.monotonic()
        assert http.post("/v1/images", json=BODY).status_code == 200
        assert time.monotonic() - began < 5
        assert 'ecdiff_job_seconds_count{route="/v1/images"} 1.0' in http.get("/metrics").text

        assert http.post("/v1/handoff", json=BODY).status_code == 200
        assert "All 1 sessions are in use" in problem(http.post("/v1/handoff", json=BODY), 429)
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=5) as stalled:
            head = f"POST /v1/handoff HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
            stalled.sendall(f"{head}Content-Length: 99\r\n\r\nabc".encode())
            assert b" 408 " in stalled.recv(4096)


def test_handoffs_side_by_side_begin_no_more_sessions_than_there_may_be(
    tiny_pipe: ECDiffPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fails, and who goes away, gives the place back."""
    before_calls(tiny_pipe, monkeypatch, lambda: time.sleep(0.1))
    with (
        serving(tiny_pipe, sessions=2) as url,
        httpx2.Client(base_url=url, headers=AUTHORIZED, timeout=20) as http,
    ):

        def status(_: int) -> int:
            return http.post("/v1/handoff", json=BODY).status_code

        for _ in range(3):
            problem(http.post("/v1/handoff", json={**BODY, "deadline_seconds": 1e-6}), 503)
            with pytest.raises(httpx2.ReadTimeout):
                http.post("/v1/handoff", json=BODY, timeout=0.05)
        while "ecdiff_running 0.0" not in http.get("/metrics").text:
            time.sleep(0.02)
        with ThreadPoolExecutor(6) as pool:
            assert sorted(pool.map(status, range(6))) == [200] * 2 + [429] * 4


def test_what_is_under_way_is_done_before_the_server_ends(
    tiny_pipe: ECDiffPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    before_calls(tiny_pipe, monkeypatch, lambda: time.sleep(0.05))
    statuses: list[int] = []

    def ask() -> None:
        statuses.append(
            httpx2.post(f"{url}/v1/images", json=BODY, headers=AUTHORIZED, timeout=20).status_code
        )

    with serving(tiny_pipe, drain_seconds=20) as url:
        asking = threading.Thread(target=ask)
        asking.start()
        while "ecdiff_running 1.0" not in httpx2.get(f"{url}/metrics", headers=AUTHORIZED).text:
            time.sleep(0.02)
        assert statuses == []
    asking.join()
    assert statuses == [200]
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{url}/health/live")


def test_a_body_that_the_servers_end_cuts_off_is_answered() -> None:
    sent: list[Any] = []

    async def app(*_: object) -> None:
        raise AssertionError("without its body")

    async def never() -> Any:
        await asyncio.sleep(60)

    async def send(message: Any) -> None:
        sent.append(message)

    async def cut() -> None:
        guard = Guard(app, TOKEN, 100, 60.0, lambda *_: None)
        headers = [(b"authorization", f"Bearer {TOKEN}".encode()), (b"content-length", b"9")]
        asked = {"type": "http", "path": "/v1/handoff", "headers": headers}
        task = asyncio.ensure_future(guard(asked, never, send))
        await asyncio.sleep(0.01)
        task.cancel()
        await task

    asyncio.run(cut())
    assert sent[0]["status"] == 503


def test_who_cannot_be_served_in_time_is_told_so(
    tiny_pipe: ECDiffPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_begun, is_held, may_end = (threading.Event() for _ in range(3))

    def hold() -> None:
        if has_begun.is_set():
            is_held.set()
            assert may_end.wait(20)

    before_calls(tiny_pipe, monkeypatch, hold)
    urls: queue.Queue[str] = queue.Queue()
    server = make_server(tiny_pipe, Listen(port=0, token=TOKEN), Limits(drain_seconds=1), urls.put)
    running = threading.Thread(target=server.run)
    running.start()
    url, statuses = urls.get(timeout=60), list[int]()
    has_begun.set()

    def ask() -> None:
        answer = httpx2.post(f"{url}/v1/images", json=BODY, headers=AUTHORIZED, timeout=20)
        assert "going down" in problem(answer, 503)
        statuses.append(answer.status_code)

    asking = threading.Thread(target=ask)
    asking.start()
    assert is_held.wait(20)
    server.should_exit = True
    asking.join(20)
    assert (server.dropped, statuses) == (1, [503])
    may_end.set()
    running.join(20)
    assert not running.is_alive()


def test_a_server_that_is_not_there_or_does_not_know_us(tiny_pair: Path, url: str) -> None:
    with refused(CloudUnavailableError, key="http://127.0.0.1:9", got=re.compile("^ConnectError: ")):
        RemoteCloud("http://127.0.0.1:9", retry=Retry(2, 0.01)).config()
    with refused(CloudError, key=url, got=401, advice=re.compile("--token-file FILE or set ECDIFF_TOKEN")):
        RemoteCloud(url, "another-token-altogether", retry=ONCE).config()
    with refused(CloudError, key=url.replace("http", "https"), expected=url):
        RemoteCloud(url.replace("http", "https"), TOKEN, retry=Retry(2, 60.0)).config()
    with refused(
        ParamsError,
        key="the cloud's URL",
        got="gpu.example:8000",
        expected="to begin with http:// or https://",
    ):
        RemoteCloud("gpu.example:8000")
    with refused(ParamsError, key="deadline_seconds", got=math.inf):
        RemoteCloud("http://127.0.0.1:9", deadline_seconds=math.inf)


def test_does_not_listen_to_strangers_without_a_token() -> None:
    assert Listen("localhost").port == 8000
    assert Listen("::1").host == "::1"
    for host in ("0.0.0.0", "::", "192.168.1.4", "gpu.example"):
        with refused(ParamsError, key="--token-file", got={"host": host}):
            Listen(host)
        assert Listen(host, token=TOKEN).token == TOKEN
    with refused(ParamsError, key="--ssl-certfile", got="nowhere.pem"):
        Listen(certfile=Path("nowhere.pem"))


def test_tokens_come_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ECDIFF_TOKEN", raising=False)
    assert find_token(None) is None
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    assert find_token(path) == TOKEN
    monkeypatch.setenv("ECDIFF_TOKEN", "short")
    with refused(ParamsError, key="ECDIFF_TOKEN", expected="16 to 1024 printable ASCII characters"):
        find_token(None)
    with refused(ParamsError, key=tmp_path / "none"):
        find_token(tmp_path / "none")


def test_the_link_is_measured(url: str) -> None:
    trip, rate = RemoteCloud(url, TOKEN).measure(repeats=3, size_bytes=2**18)
    assert 0 < trip.low <= trip.median <= trip.high < 5
    assert 1 < rate.low <= rate.median <= rate.high
