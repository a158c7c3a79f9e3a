"""What the benchmark of the methods reads in a study's folder."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

import bench_methods
from ecdiff_core import MethodChoice, TunedConfig
from ecdiff_tune.methods.seen import DialResult, Seen
from ecdiff_tune.methods.tuning import Winner
from ecdiff_tune.methods.winner_config import config_of

ARGUMENTS = argparse.Namespace(prompts=6, steps=20)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "methods").mkdir()
    lines = ["method,cache_interval,max_order,prompts,quality,worst,work"]
    lines += ["taylorseer,5,1,2,0.37,0.3,0.4", "taylorseer,2,1,6,0.99,0.98,0.6"]
    (tmp_path / "methods/methods.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "calls.csv").write_text(
        "part,cloud\ntaylorseer,100\nreference,7\ntaylorseer,80\nheld-out,9\n"
    )
    return tmp_path


def test_a_row_has_price_default_and_held_out(folder: Path, tiny_config: TunedConfig) -> None:
    row = bench_methods.row("taylorseer", folder, ARGUMENTS)
    assert (row["calls"], row["sweep_calls"]) == (180, 20 * 3 * 6 * 20)  # three orders beside each other
    assert row["of_a_sweep"] == 0.025
    assert (row["default_quality"], row["default_prompts"]) == (0.37, 2)
    assert row["setting"] == "none that does something keeps the floor"
    seen = DialResult(2, (Seen(0.99, 0.6, 20, 9, "x", 2, 2),) * 6, True)
    winner = Winner(MethodChoice("taylorseer", {"cache_interval": 2}), seen)
    config = config_of(tiny_config, winner, 2.0, 3.0, seen, {}, 0)
    config.save(folder / "methods/taylorseer.yaml")
    row = bench_methods.row("taylorseer", folder, ARGUMENTS)
    assert (row["setting"], row["speedup"]) == (
        "TaylorSeer cache_interval=2 disable_cache_before_step=3 max_order=1",
        1.5,
    )
    assert (row["quality"], row["quality_ci95"], row["worst"]) == (0.99, [0.99, 0.99], 0.99)


def test_a_fault_of_one_method_leaves_the_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def tune(pair: str, method: str, _: argparse.Namespace) -> dict[str, object] | None:
        if method == "pab":
            raise RuntimeError("broken")
        return None if method == "tome" else {"pair": pair, "method": method}

    monkeypatch.setattr(bench_methods, "tune", tune)
    target = tmp_path / "new" / "methods.json"
    bench_methods.main(
        ["--pairs", "shapes", "--methods", "taylorseer", "pab", "tome", "deepcache", "--json", str(target)]
    )
    assert [row["method"] for row in bench_methods.json.loads(target.read_text())] == [
        "taylorseer",
        "deepcache",
    ]
    assert "RuntimeError: broken" in capsys.readouterr().err
