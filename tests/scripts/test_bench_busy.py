"""What surrounds a measurement beside busy processes; the measurement itself is the latency profile's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import bench_busy


def timing(median: float) -> dict[str, float]:
    return {"median": median, "low": median - 0.001, "high": median + 0.002}


def test_busy_processes_end_with_the_block() -> None:
    with bench_busy.busy_processes(2) as processes:
        assert [one.poll() for one in processes] == [None, None]
    assert all(one.poll() is not None for one in processes)


def test_each_way_to_wait_has_its_environment() -> None:
    given = {"HOME": "/me", "OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": "1"}
    assert bench_busy.environment("active", given) == {"HOME": "/me", "OMP_WAIT_POLICY": "active"}
    assert bench_busy.environment("unset", given) == {"HOME": "/me"}
    assert bench_busy.environment("passive", given) == {"HOME": "/me"}


def test_table_and_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measured(policy: str, count: int) -> dict[str, object]:
        seconds = 0.064 if policy == "passive" or not count else 3.08
        calls = {"cloud_call": timing(seconds), "edge_call": timing(seconds / 2)}
        return {"policy": policy, "busy": count, **calls, "conditions": {"threads": 2}}

    monkeypatch.setattr(bench_busy, "measure_apart", measured)
    path = tmp_path / "busy.json"
    arguments = ["--json", str(path), "--busy", "0", "2", "--policies", "unset", "passive"]
    assert bench_busy.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:6] == [
        "| cloud call, ms | idle | beside 2 |",
        "|---|---|---|",
        "| unset | 63.0 … 64.0 … 66.0 | 3079.0 … 3080.0 … 3082.0 |",
        "| passive | 63.0 … 64.0 … 66.0 | 63.0 … 64.0 … 66.0 |",
    ]
    found = [(one["policy"], one["busy"]) for one in json.loads(path.read_text())]
    assert found == [("unset", 0), ("unset", 2), ("passive", 0), ("passive", 2)]


def test_a_process_that_fails_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_busy.sys, "executable", "/bin/false")
    assert bench_busy.main(["--busy", "0", "--policies", "active"]) == 2
    assert capsys.readouterr().err == "error: The process of active beside 0 others ended with 1.\n"
