"""The benchmark of a slow link takes an image's seconds apart, and notices another image."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

import bench_link
import link_figure
from ecdiff_core import ECDiffPipeline
from ecdiff_tune.evaluation.latency import LatencyProfile, Timing

from .conftest import FAMILIES, config_of, serving

CALL = Timing(0.01, 0.01, 0.01)
PROFILE = LatencyProfile(CALL, CALL, CALL, CALL, 0.0, payload_values=1000, tensor_values=256)


@contextmanager
def in_a_thread(config: str, *_: object) -> Iterator[tuple[str, int]]:
    pipe = ECDiffPipeline.from_config(config, device="cpu")
    with serving(pipe, token=None) as url:
        yield url.removeprefix("http://"), 0


@pytest.fixture
def config(tiny_pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(bench_link, "server_process", in_a_thread)
    monkeypatch.setattr("ecdiff_tune.evaluation.latency.measure", lambda *_: PROFILE)
    monkeypatch.setattr(bench_link, "CLOUD_STEPS", (0, 1, 4))
    monkeypatch.setattr(bench_link, "EDGE_STEPS", (3, 5, 8))
    config_of(tiny_pair, FAMILIES["tiny_pair"]).save(tmp_path / "ecdiff.yaml")
    return tmp_path / "ecdiff.yaml"


def test_parts_add_up_and_are_drawn(config: Path, tmp_path: Path) -> None:
    path = tmp_path / "link.json"
    given = ["--config", str(config), "--repeats", "1", "--mbps", "80", "--round-trip", "0.02"]
    assert bench_link.main([*given, "--json", str(path)]) == 0
    rows = json.loads(path.read_text())["rows"]
    assert [*rows] == ["one-way", "interleaved"]
    for row in rows.values():
        assert row["link"] > 0.02
        parts = row["server"] + row["link"] + row["edge"] + row["decode"]
        assert parts == pytest.approx(row["total"])
        assert row["off"] == pytest.approx(row["total"] / row["forecast"] - 1)
    assert link_figure.main([str(path), "--out", str(tmp_path / "link.png")]) == 0
    assert (tmp_path / "link.png").read_bytes()[:4] == b"\x89PNG"


def test_another_image_is_an_error(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = iter([b"one", b"another"])

    def other(*_: object) -> SimpleNamespace:
        return SimpleNamespace(images=[SimpleNamespace(tobytes=lambda: next(images))])

    monkeypatch.setattr(bench_link, "one", other)
    assert bench_link.main(["--config", str(config)]) == 2
    assert "differs from one process's" in capsys.readouterr().err
