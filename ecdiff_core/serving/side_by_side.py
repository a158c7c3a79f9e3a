"""Requests for the rows of a batch, under way at once: the server batches them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from threading import Thread
from typing import TypeVar

T = TypeVar("T")
_AT_A_TIME = 16


def side_by_side(work: Callable[[int], T], rows: Sequence[int]) -> list[T]:
    """Results by row. Ctrl-C and a row that fails wait for no other one, as they would in an executor."""
    if len(rows) == 1:
        return [work(rows[0])]
    results: list[Future[T]] = [Future() for _ in rows]
    waiting = deque(zip(rows, results, strict=True))

    def take() -> None:
        with suppress(IndexError):
            while True:
                row, result = waiting.popleft()
                try:
                    result.set_result(work(row))
                except BaseException as error:
                    result.set_exception(error)

    for _ in range(min(len(rows), _AT_A_TIME)):
        Thread(target=take, name="ecdiff-row", daemon=True).start()
    try:
        return [result.result() for result in results]
    finally:
        waiting.clear()
