"""The benchmark of a server counts what clients saw; the figures themselves are the machine's."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import bench_serve
from ecdiff_core import ECDiffPipeline, TunedConfig

from .conftest import FAMILIES, config_of, serving


@pytest.fixture
def config(tiny_pair: Path, tmp_path: Path) -> str:
    path = tmp_path / "ecdiff.yaml"
    config_of(tiny_pair, FAMILIES["tiny_pair"]).save(path)
    return str(path)


def test_rates_memory_and_the_file(
    config: str,
    tiny_pipe: ECDiffPipeline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    @contextmanager
    def in_a_thread(*_: object) -> Iterator[tuple[str, int]]:
        with serving(tiny_pipe, token=None) as url:
            yield url.removeprefix("http://"), os.getpid()

    monkeypatch.setattr(bench_serve, "server_process", in_a_thread)
    path = tmp_path / "serve.json"
    given = ["--config", config, "--device", "cpu", "--clients", "2", "--seconds", "0.2", "--batch-size", "4"]
    assert bench_serve.main([*given, "--memory", "20", "--json", str(path)]) == 0
    found = json.loads(path.read_text())
    rates, memory = found["rates"], found["memory"]
    assert [*rates["seconds_per_sample"]] == ["1", "2", "4"]
    assert rates["bound"] == pytest.approx(1 / (rates["calls"] * min(rates["seconds_per_sample"].values())))
    row = rates["rows"][0]
    assert row["images"] == pytest.approx(row["images_per_second"] * row["seconds"])
    assert row["images"] >= 2 <= row["clients"]
    assert row["p50_seconds"] <= row["p95_seconds"] <= row["p99_seconds"]
    assert (memory["images"], memory["failed"]) == (20, [])
    assert [*memory["resident_bytes"]] == [str(count) for count in range(21)]
    assert "MiB from the first tenth of the requests to the last" in capsys.readouterr().out


def test_lost_requests_are_an_error(
    config: str,
    tiny_pipe: ECDiffPipeline,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lost = bench_serve.Load(2, 1.0, (0.5, 0.5, 0.7), ("429", "ConnectionResetError"))
    assert (lost.rate, lost.percentile(50)) == (3.0, 0.5)

    @contextmanager
    def nothing(*_: object) -> Iterator[tuple[str, int]]:
        yield "127.0.0.1:9", os.getpid()

    monkeypatch.setattr(bench_serve, "server_process", nothing)
    monkeypatch.setattr(bench_serve, "for_seconds", lambda *_: lost)
    monkeypatch.setattr(bench_serve, "call_seconds", lambda *_: {1: 0.1})
    assert bench_serve.main(["--config", config, "--device", "cpu", "--clients", "2"]) == 2
    out, err = capsys.readouterr()
    assert out.splitlines()[-1].split() == ["2", "3.00", "1.20", "0.50", "0.68", "0.70", "2"]
    assert "lost requests" in err


def test_the_config_of_few_calls(config: str, tmp_path: Path) -> None:
    few = TunedConfig.load(bench_serve.few_calls(config, tmp_path))
    assert few.plan().cloud_calls == bench_serve.MEMORY_CALLS
    assert few.pair == TunedConfig.load(config).pair
