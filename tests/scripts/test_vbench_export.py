"""Videos for VBench out of the tiny video pair: names, seeds, going on, refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
import torch

import vbench
from ecdiff_core.config import TunedConfig
from ecdiff_core.errors import ParamsError
from ecdiff_core.pipeline import ECDiffPipeline
from vbench_suite.export import Request

from ..refusals import refused

PROMPTS = ["a red circle.", "two stars, frozen in time"]
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def given(video_config: TunedConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a config and a suite of two prompts."""
    folder = tmp_path_factory.mktemp("given")
    video_config.save(folder / "ecdiff.yaml")
    info = [{"prompt_en": prompt, "dimension": ["color"]} for prompt in PROMPTS]
    (folder / "full_info.json").write_text(json.dumps(info))
    return folder


def run(given: Path, out: Path, *more: str) -> int:
    config, suite = str(given / "ecdiff.yaml"), str(given / "full_info.json")
    arguments = ["--config", config, "--prompts", suite, "--out", str(out), "--device", "cpu", *more]
    return vbench.main(["export", *arguments])


def files(out: Path) -> list[str]:
    return sorted(path.name for path in (out / "videos").iterdir())


def test_names_seeds_and_what_is_in_them(
    given: Path, video_config: TunedConfig, tmp_path: Path, capsys: Capture
) -> None:
    assert run(given, tmp_path, "--samples", "2", "--batch-size", "3") == 0
    wanted = [f"{prompt}-{i}.mp4" for prompt in PROMPTS for i in range(2)]
    assert files(tmp_path) == sorted(wanted)  # nothing else: VBench takes the first file's ending for all
    rows = [json.loads(line) for line in (tmp_path / "videos.jsonl").read_text().splitlines()]
    assert [row["file"] for row in rows] == wanted
    assert [(row["prompt"], row["index"]) for row in rows] == [(p, i) for p in PROMPTS for i in range(2)]
    assert len({row["seed"] for row in rows}) == 4
    assert "4 videos in" in capsys.readouterr().out

    pipe = ECDiffPipeline.from_config(video_config, device="cpu")
    generator = torch.Generator().manual_seed(rows[1]["seed"])
    (expected,) = pipe(rows[1]["prompt"], generator=generator).images
    found = imageio.imread(tmp_path / "videos" / wanted[1]).astype(float)
    assert found.shape == (9, 32, 32, 3)
    same = np.abs(found - np.stack([np.asarray(frame) for frame in expected])).mean()
    other = np.abs(found - imageio.imread(tmp_path / "videos" / wanted[0]).astype(float)).mean()
    assert same < 0.5 * other  # mp4 loses some


def test_it_goes_on_and_a_part_is_the_same(given: Path, tmp_path: Path, capsys: Capture) -> None:
    assert run(given, tmp_path / "a", "--samples", "1") == 0
    whole = {name: (tmp_path / "a" / "videos" / name).read_bytes() for name in files(tmp_path / "a")}
    assert run(given, tmp_path / "b", "--samples", "1", "--first", "1") == 0
    assert files(tmp_path / "b") == [f"{PROMPTS[0]}-0.mp4"]
    stamp = (tmp_path / "b" / "videos" / f"{PROMPTS[0]}-0.mp4").stat().st_mtime_ns
    capsys.readouterr()
    assert run(given, tmp_path / "b", "--samples", "1") == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"2 videos in {tmp_path / 'b' / 'videos'}, 1 of them made now"
    assert (tmp_path / "b" / "videos" / f"{PROMPTS[0]}-0.mp4").stat().st_mtime_ns == stamp
    assert {name: (tmp_path / "b" / "videos" / name).read_bytes() for name in files(tmp_path / "b")} == whole
    assert len((tmp_path / "b" / "videos.jsonl").read_text().splitlines()) == 2


def test_videos_of_other_settings_are_not_mixed(given: Path, tmp_path: Path, capsys: Capture) -> None:
    one = ("--samples", "1", "--first", "1")
    assert run(given, tmp_path, *one) == 0
    before = files(tmp_path)
    assert run(given, tmp_path, "--samples", "2", "--mode", "cloud", "--seed", "1") == 2
    assert capsys.readouterr().err == (
        f"error: {tmp_path} holds videos of another mode and seed. Choose another --out.\n"
    )
    assert run(given, tmp_path, *one, "--dtype", "bfloat16") == 2
    assert "another config" in capsys.readouterr().err
    assert files(tmp_path) == before


def test_a_pair_that_makes_images(
    given: Path, tiny_config: TunedConfig, tmp_path: Path, capsys: Capture
) -> None:
    tiny_config.save(tmp_path / "ecdiff.yaml")
    (tmp_path / "full_info.json").write_text((given / "full_info.json").read_text())
    assert run(tmp_path, tmp_path / "out") == 2
    assert "VBench measures videos, and the pair tiny makes images." in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("prompt", ["a cat / a dog", "a" * 225, "é" * 113, "two\ttabs"])
def test_prompts_that_are_no_files_name(given: Path, tmp_path: Path, prompt: str, capsys: Capture) -> None:
    (tmp_path / "ecdiff.yaml").write_text((given / "ecdiff.yaml").read_text())
    (tmp_path / "full_info.json").write_text(json.dumps([{"prompt_en": prompt}]))
    assert run(tmp_path, tmp_path / "out") == 2
    assert "VBench names a video by its prompt" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_seeds_depend_on_nothing_else(given: Path) -> None:
    request = Request(given / "ecdiff.yaml", given / "full_info.json", given / "out")
    five = request.videos()
    assert len(five) == 10
    assert replace(request, samples=2).videos() == [five[i] for i in (0, 1, 5, 6)]
    assert not {one.seed for one in five} & {one.seed for one in replace(request, seed=1).videos()}


@pytest.mark.parametrize(
    "change", [{"samples": 0}, {"first": 0}, {"batch_size": 0}, {"fps": 0}, {"seed": -1}]
)
def test_values_out_of_range(given: Path, change: dict[str, int]) -> None:
    (name,) = change
    with refused(ParamsError, key=f"--{name.replace('_', '-')}", got=change[name]):
        Request(given / "ecdiff.yaml", given / "full_info.json", given / "out", **change)
    with refused(ParamsError, key="mode", got="clod", nearest="cloud"):
        Request(given, given, given, mode="clod")  # type: ignore[arg-type]
