"""Sessions, and answers that are kept for clients who lost their connection."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from starlette.requests import Request
from starlette.responses import Response

from ecdiff_core.sampling.plan import Plan
from ecdiff_core.serving.kept import Answers, Sessions
from ecdiff_core.serving.problems import Problem


class Client:
    """Sends a request with one key; ``gone`` closes the connection."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()
        self._sent = False

    async def receive(self) -> dict[str, Any]:
        if not self._sent:
            self._sent = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    @property
    def request(self) -> Request:
        headers = [(b"idempotency-key", b"a key"), (b"host", b"localhost")]
        scope = {"type": "http", "path": "/", "query_string": b"", "headers": headers, "method": "POST"}
        return Request({**scope, "server": ("localhost", 80), "scheme": "http"}, self.receive)


async def fail_after(seconds: float) -> Response:
    await asyncio.sleep(seconds)
    raise Problem(503, "late")


def test_a_client_that_has_gone_does_not_drop_what_was_begun_anew_under_its_key() -> None:
    begun: list[int] = []

    async def work() -> Response:
        begun.append(1)
        await asyncio.sleep(0.3)
        return Response("done")

    async def run() -> bytes:
        answers, lost, second = Answers(4, 60.0, 0.1), Client(), Client()
        waiting = asyncio.create_task(answers.once(lost.request, lambda: fail_after(0.05)))
        await asyncio.sleep(0.01)
        lost.gone.set()
        await asyncio.sleep(0.01)
        with pytest.raises(Problem):
            await answers.once(second.request, lambda: fail_after(9))  # the same work, which fails
        third = asyncio.create_task(answers.once(Client().request, work))
        await waiting  # the first has waited for its grace
        again = await answers.once(Client().request, work)
        assert await third is again
        return bytes(again.body)

    assert asyncio.run(run()) == b"done"
    assert begun == [1]


def test_a_place_is_nobody_elses_until_it_is_used_or_given_back() -> None:
    sessions, plan = Sessions(2, 60.0), Plan.from_schedule("2C1E1C1E")

    def begin() -> str:
        return sessions.begin(cast(Any, None), plan)

    async def work(begins: bool) -> bool:
        with sessions.place():
            await asyncio.sleep(0)
            if not begins:
                raise ValueError
            return bool(begin())

    async def all_of(*begin: bool) -> list[object]:
        return await asyncio.gather(*map(work, begin), return_exceptions=True)

    for _ in range(2):
        failed = asyncio.run(all_of(False, False, False))
        assert [type(one) for one in failed] == [ValueError, ValueError, Problem]
    done = asyncio.run(all_of(True, True, True))
    assert done[:2] == [True, True]
    assert isinstance(done[2], Problem)
    (late,) = asyncio.run(all_of(True))
    assert isinstance(late, Problem)
    found = [(one.status, one.headers["Retry-After"]) for one in (done[2], late)]
    assert found == [(429, "1"), (429, "5")]  # who is about to begin may fail; a session lasts
    assert len(sessions) == 2
