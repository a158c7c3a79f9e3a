"""Rows side by side: in their order, and none waits for another that it needs not."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator

import pytest

from ecdiff_core.serving.side_by_side import side_by_side


@pytest.fixture
def never() -> Iterator[threading.Event]:
    """What happens only after the test."""
    event = threading.Event()
    yield event
    event.set()


def test_results_are_in_the_order_of_rows() -> None:
    met = threading.Barrier(3)  # which all three have to reach at once

    def work(row: int) -> int:
        met.wait(5)
        time.sleep(0.01 * (5 - row))
        return 10 * row

    assert side_by_side(work, [2, 0, 1]) == [20, 0, 10]
    assert side_by_side(lambda _: threading.current_thread(), [0]) == [threading.main_thread()]


def test_a_row_that_fails_ends_the_others(never: threading.Event) -> None:
    begun: list[int] = []

    def work(row: int) -> None:
        begun.append(row)
        if row == 0:
            raise ValueError(row)
        never.wait(5)

    began = time.monotonic()
    with pytest.raises(ValueError, match="0"):
        side_by_side(work, range(40))
    assert time.monotonic() - began < 2
    assert len(begun) <= 17


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Behind a shell's & it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_waits_for_no_answer(never: threading.Event) -> None:
    main = threading.main_thread().ident
    assert main is not None
    began = time.monotonic()
    threading.Timer(0.1, lambda: signal.pthread_kill(main, signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        side_by_side(lambda _: never.wait(5), [0, 1])
    assert time.monotonic() - began < 2
