"""The latency benchmark: its arithmetic, that it runs at the smallest size, what it says when it cannot."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import bench_latency
from ecdiff_core import ECDiffParams, TunedConfig
from ecdiff_core.models.families.family import Size
from ecdiff_core.sampling.plan_of_params import plan
from ecdiff_tune.data.paper import paper_files
from full_size import measure, models, pairs, run, table
from full_size.measure import Generations, Measured
from full_size.models import SCALES, count_parameters, read_config
from full_size.pairs import PAIRS, BenchmarkError

from ..refusals import refused

Capture = pytest.CaptureFixture[str]
TABLE_5 = ECDiffParams(p=6, k=5, alpha=0.2, s=36)  # SDXL and Vega: 11 cloud, 25 approximated, 14 edge


# Arithmetic, by hand: a cloud call of 0.2 s, an edge call of 0.1 s.


@pytest.mark.parametrize(
    ("params", "limit"),
    [
        (ECDiffParams.cloud_only(50), 1.0),
        (ECDiffParams.edge_only(), 2.0),
        (ECDiffParams.hybrid(40), 10 / 9),  # 8 + 1 s
        (ECDiffParams.hybrid(25), 10 / 7.5),  # 5 + 2.5 s
        (TABLE_5, 10 / 3.6),  # 2.2 + 1.4 s
    ],
)
def test_limit_by_calls(params: ECDiffParams, limit: float) -> None:
    assert table.limit_by_calls(plan(params, 50), 0.2, 0.1) == pytest.approx(limit)


def test_speedup_and_its_ratio_to_the_limit() -> None:
    found = table.speedups(plan(TABLE_5, 50), 12.0, 6.0, (0.2, 0.1))
    assert found == pytest.approx([2.0, 10 / 3.6, 0.72])


def by_hand() -> Measured:
    seconds = {
        "cloud only": (12.0, 99.0, 11.0),  # the median is 12
        "edge only": (6.0,),
        "HybridSD k=10": (10.0,),
        "HybridSD k=25": (8.0,),
        "EC-Diff": (4.0, 5.0),  # 4.5
    }
    params = [
        ECDiffParams.cloud_only(50),
        ECDiffParams.edge_only(),
        ECDiffParams.hybrid(40),
        ECDiffParams.hybrid(25),
        TABLE_5,
    ]
    generations = {
        name: Generations(plan(one, 50), values)
        for (name, values), one in zip(seconds.items(), params, strict=True)
    }
    calls = {"cloud": (0.3, 0.2, 0.1), "edge": (0.1,), "decode": (0.5, 0.5)}
    return Measured(calls, generations, transfer_seconds=1.5)


def test_rows() -> None:
    measurements = {"sdxl_vega": {"eager": by_hand()}}
    (calls,) = table.calls_rows(measurements)
    assert calls == ["sdxl_vega", "eager", "0.200", "0.100", "0.500", "0.500", "1.50"]
    rows = {row[2]: row[3:] for row in table.generations_rows(measurements)}
    # Calls, seconds, spread, speedup, limit, ratio, with a transfer of 1.5 s; the paper's four.
    assert rows == {
        "cloud only": [
            "50 + 0",
            "12.0",
            "733%",
            "1.00",
            "1.00",
            "1.00",
            "1.00",
            "6.25",
            "1.00",
            "1.00",
            "1.00",
        ],
        "edge only": ["0 + 50", "6.00", "0%", "2.00", "2.00", "1.00", "2.00", "3.27", "1.91", "1.91", "1.00"],
        "HybridSD k=10": [
            "40 + 10",
            "10.0",
            "0%",
            "1.20",
            "1.11",
            "1.08",
            "1.04",
            "5.64",
            "1.11",
            "1.11",
            "1.00",
        ],
        "HybridSD k=25": [
            "25 + 25",
            "8.00",
            "0%",
            "1.50",
            "1.33",
            "1.12",
            "1.26",
            "4.76",
            "1.31",
            "1.31",
            "1.00",
        ],
        # 6.25 / (11 * 0.125 + 14 * 0.0654) = 2.729, and 6.25 / 2.61 = 2.395
        "EC-Diff": ["11 + 14", "4.50", "22%", "2.67", "2.78", "0.96", "2.00", "2.61", "2.39", "2.73", "0.88"],
    }


def test_tables_are_drawn() -> None:
    header, rows = ["a", "bbb"], [["long", "1"], ["x", "2"]]
    assert table.plain(header, rows).splitlines() == ["a     bbb", "long  1", "x     2"]
    assert table.markdown(header, rows).splitlines() == [
        "| a | bbb |",
        "| --- | --- |",
        "| long | 1 |",
        "| x | 2 |",
    ]


# Models


def test_the_pairs_are_those_with_a_row_of_table_5() -> None:
    assert set(PAIRS) == {path.stem for path in paper_files()} == set(table.PAPER_SECONDS)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("vae_sd14", 83_653_863), ("vae_sdxl", 83_653_863), ("vae_cogvideox_5b", 215_583_907)],
)
def test_parameters_of_the_autoencoders(name: str, parameters: int) -> None:
    assert count_parameters(name, SCALES["full"]) == parameters


@pytest.mark.parametrize("path", sorted(models.CONFIGS.glob("*.json")), ids=lambda path: path.stem)
def test_full_size_is_what_the_config_says_and_others_are_smaller(path: Path) -> None:
    config = json.loads(path.read_text(encoding="utf-8"))
    assert read_config(path.stem) == config
    if "scheduler" not in path.stem:
        sizes = [count_parameters(path.stem, SCALES[name]) for name in ("full", "reduced", "tiny")]
        assert sizes == sorted(sizes, reverse=True)
        assert sizes[1] < sizes[0] / 4


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("size", SCALES)
def test_the_generation_is_table_5s_at_that_size(name: str, size: str) -> None:
    config = pairs.tuned_config(name, SCALES[size], None)
    own = pairs.tuned_config(name, SCALES["full"], None)
    assert (config.plan(), config.sampling.scheduler) == (own.plan(), own.sampling.scheduler)
    assert config.sampling.dtype == ("bfloat16" if name.startswith("cog") else "float16")
    asked = config.sampling
    found = Size(asked.height or 0, asked.width or 0, asked.num_frames or 1)
    full = {"sd14": Size(512, 512), "sdxl": Size(1024, 1024), "cogvideox": Size(480, 720, 49)}
    scale = SCALES[size]
    wanted = scale.video if name.startswith("cog") else scale.image
    assert found == (wanted or full[name.partition("_")[0]])


# The script


def bench(*arguments: str) -> int:
    return bench_latency.main(["--size", "tiny", "--device", "cpu", "--repeats", "1", *arguments])


def seen_columns(printed: str, pair: str) -> dict[str, str]:
    """Of the pair's rows of generations in Markdown: the calls by mode and variant."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines()]
    return {f"{row[1]} {row[2]}": row[3] for row in rows if len(row) > 10 and row[0] == pair}


def shortened(config: TunedConfig) -> TunedConfig:
    """27 steps, ``2C2A1C2A1C19E``."""
    sampling = replace(config.sampling, num_inference_steps=27)
    return replace(config, params=ECDiffParams(p=2, k=2, alpha=0.3, s=8), sampling=sampling)


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[nn.Module]]:
    """What went through ``torch.compile``, which runs the models as they are; and short generations."""
    seen: list[nn.Module] = []
    own = torch.compile

    def noted(model: nn.Module) -> Any:
        seen.append(model)
        return own(model)

    monkeypatch.setattr(torch, "compile", noted)
    monkeypatch.setattr(measure, "CALLS_IN_A_ROW", 1)
    monkeypatch.setattr(run, "tuned_config", lambda *given: shortened(pairs.tuned_config(*given)))
    with torch.compiler.set_stance("force_eager"):
        yield seen


@pytest.mark.parametrize(
    ("pair", "modes"), [("sd14_bksdm_tiny", ["eager"]), ("cogvideox_5b_2b", ["eager", "compiled"])]
)
def test_a_pair_is_measured(
    pair: str, modes: list[str], traced: list[nn.Module], tmp_path: Path, capsys: Capture
) -> None:
    path = tmp_path / "out" / "figures.json"
    arguments = ["--pair", pair, "--markdown", "--json", str(path)]
    some = ["--compiled"] if "compiled" in modes else ["--variants", "cloud only,EC-Diff"]
    assert bench(*arguments, *some) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[0].endswith("size tiny, 1 round")
    expected = {
        "cloud only": "27 + 0",
        "edge only": "0 + 27",
        "HybridSD k=10": "17 + 10",
        "HybridSD k=25": "2 + 25",
        "EC-Diff": "4 + 19",
    }
    names = expected if "compiled" in modes else ("cloud only", "EC-Diff")
    assert seen_columns(printed, pair) == {
        f"{mode} {name}": expected[name] for mode in modes for name in names
    }
    assert len(traced) == 2 * (len(modes) - 1)

    found = json.loads(path.read_text(encoding="utf-8"))["pairs"][pair]
    assert found["parameters"]["cloud"] > found["parameters"]["edge"] > 10_000
    for mode in modes:
        counts = {name: len(seconds) for name, seconds in found[mode]["calls"].items()}
        assert counts == {"cloud": len(names), "edge": len(names), "decode": 1}
        generations = found[mode]["generations"]
        assert generations["EC-Diff"]["plan"] == "2C2A1C2A1C19E"
        assert all(seconds > 0 for way in generations.values() for seconds in way["seconds"])


def test_each_round_begins_elsewhere_and_does_everything() -> None:
    done: list[str] = []

    def operation(name: str) -> Any:
        def run() -> float:
            done.append(name)
            return float(len(done))

        return run

    keys = [("eager", name) for name in "abcd"]
    found = measure._in_turns({key: operation(key[1]) for key in keys}, keys, 2)
    assert "".join(done) == "abcdcdab"
    assert found["eager", "c"] == (3.0, 5.0)


# What cannot be


def one_line(capsys: Capture) -> str:
    """What was told on stderr, without the progress."""
    told = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("measuring ")]
    assert len(told) == 1, told
    return told[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pair", "sdxl_vegas"], "Unknown pair 'sdxl_vegas': choose from .* (did you mean sdxl_vega?)"),
        (["--size", "small"], "Unknown size 'small': choose from full, reduced, tiny"),
        (["--repeats", "0"], "Expected --repeats >= 1, got 0."),
        (["--variants", "EC-Dif"], "Unknown variant 'EC-Dif': choose from .* (did you mean EC-Diff?)"),
        (["--variants", "EC-Diff"], "Expected --variants with cloud only, got"),
        (["--dtype", "half"], "Unknown dtype 'half': choose from bfloat16, float16, float32"),
        (["--device", "moon"], "Cannot use the device 'moon' here"),
    ],
)
def test_bad_settings(arguments: list[str], message: str, capsys: Capture) -> None:
    assert bench(*arguments) == 2
    start, _, end = message.partition(" .* ")
    told = one_line(capsys)
    assert told.startswith(f"error: {start}")
    assert end in told


def test_full_size_on_a_cpu_must_be_meant(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr(run, "get_device", lambda name: torch.device("cpu"))
    assert bench_latency.main([]) == 2
    assert "No accelerator here" in one_line(capsys)


def test_a_file_that_cannot_be_written_is_told_before_the_work(tmp_path: Path, capsys: Capture) -> None:
    assert bench("--pair", "sdxl_vega", "--json", str(tmp_path)) == 2
    output = capsys.readouterr()
    assert output.err.startswith(f"error: Cannot write {tmp_path}: ")
    assert output.out == ""


def test_out_of_memory_is_told_and_the_other_pairs_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(run, "choose", lambda name: ["sdxl_vega", "sdxl_ssd1b"])
    monkeypatch.setattr(run, "build_pair", lambda config, *_: _Nothing(config.pair.name))
    monkeypatch.setattr(run, "measure", _full_for("sdxl_vega"))
    assert bench("--pair", "all") == 2
    output = capsys.readouterr()
    assert output.err.splitlines()[-1] == (
        "error: sdxl_vega: cpu ran out of memory. Use a larger one, or --size reduced."
    )
    assert "sdxl_ssd1b  eager  EC-Diff" in output.out


def test_other_errors_of_torch_are_bugs(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(run, "build_pair", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        bench("--pair", "sdxl_vega")


class _Nothing:
    """In place of a pair."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.cloud = self.edge = nn.Linear(1, 1)


def _full_for(name: str) -> Any:
    def measured(found: dict[str, Any], *_: object) -> dict[str, Measured]:
        if found["eager"].name == name:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return {"eager": by_hand()}

    return measured


def test_weights_larger_than_the_memory_are_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sysconf", lambda name: 1024)  # a page, and the pages: 1 MiB in all
    config = pairs.tuned_config("sd14_bksdm_tiny", SCALES["tiny"], "float32")
    with refused(BenchmarkError, key="--size", expected=f"<= {1024**2}"):
        pairs.build_pair(config, SCALES["tiny"], torch.device("cpu"), torch.float32)
