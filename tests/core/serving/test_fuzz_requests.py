"""Damaged requests are refused quickly, and the server goes on; scripts/fuzz_requests.py sends 10,000."""

from __future__ import annotations

import pytest

from ecdiff_core import ECDiffPipeline
from fuzz_requests import MOST_GROWN_BYTES, SLOWEST_SECONDS, fuzz


def test_damaged_requests_are_all_refused_quickly(tiny_pipe: ECDiffPipeline) -> None:
    found = fuzz(tiny_pipe, count=300, seed=1)
    assert found.wrong == {}
    assert found.slowest < SLOWEST_SECONDS
    assert found.grown_bytes < MOST_GROWN_BYTES
    assert {0, 400, 401, 404, 405, 408, 409, 415, 422, 431} <= found.statuses.keys()


def test_a_server_that_checks_less_would_be_noticed(
    tiny_pipe: ECDiffPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ecdiff_core.serving.guard._check_size", lambda _: None)
    found = fuzz(tiny_pipe, count=60, seed=1)
    assert {text.split(":")[0] for text in found.wrong.values()} == {"huge_header"}
