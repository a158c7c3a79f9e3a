"""Prompts out of tiny files in the formats of COCO, WebVid, VBench and tables, read back by the tuner."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import prepare_prompts
from ecdiff_tune.data import calibration, prompt_files, prompt_tables
from ecdiff_tune.data.calibration import PromptSource
from prompt_sources import Request, prepare

from ..refusals import refused

IMAGES, CAPTIONS = 40, 5


def coco(path: Path, order: int = 0) -> Path:
    """Forty images with five captions; every caption of image 7 is also one of image 8."""
    annotations = [
        {"image_id": 1000 + image, "id": 10 * image + i, "caption": f"A photo {image} taken\n {i} times. "}
        for image in range(IMAGES)
        for i in range(CAPTIONS)
    ]
    for one in annotations:
        if one["image_id"] in (1007, 1008):
            one["caption"] = "A man on a wave."
    random.Random(order).shuffle(annotations)
    images = [{"id": 1000 + image, "file_name": f"{image}.jpg"} for image in range(IMAGES)]
    tree = {"info": {"year": 2014}, "images": images, "licenses": [], "annotations": annotations}
    path.write_text(json.dumps(tree))
    return path


def webvid(path: Path, count: int = 20) -> Path:
    lines = [
        f'{1000 + i},https://example.org/{i}.mp4,PT00H00M08S,0001_0050,"A cat, seen {i} times"'
        for i in range(count)
    ]
    path.write_text("\n".join(["videoid,contentUrl,duration,page_dir,name", *lines]) + "\n")
    return path


def drawn(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def column(rows: Sequence[dict[str, Any]], name: str) -> list[Any]:
    return [row[name] for row in rows]


def test_coco_is_one_caption_an_image(tmp_path: Path) -> None:
    source, out = coco(tmp_path / "captions_train2014.json"), tmp_path / "out" / "coco.jsonl"
    prepare(Request(source, out, count=39))
    rows = drawn(out)
    assert len(set(column(rows, "id"))) == len(set(column(rows, "prompt"))) == 39
    assert len({1007, 1008} & set(column(rows, "id"))) == 1  # the same prompt twice is one
    for row in rows:
        image, i = divmod(row["caption_id"], 10)
        assert row["id"] == 1000 + image
        assert row["prompt"] in (f"A photo {image} taken {i} times.", "A man on a wave.")
    assert len({row["caption_id"] % 10 for row in rows}) == CAPTIONS
    sha256 = hashlib.sha256(source.read_bytes()).hexdigest()
    assert {(row["source"], row["source_sha256"]) for row in rows} == {(source.name, sha256)}


def test_the_draw_goes_by_the_seed_and_not_by_the_files_order(tmp_path: Path) -> None:
    sources = [coco(tmp_path / f"captions_{order}.json", order) for order in (0, 1)]

    def chosen(source: Path, seed: int) -> list[tuple[str, int]]:
        prepare(Request(source, tmp_path / "a.jsonl", count=10, seed=seed))
        return [(row["prompt"], row["id"]) for row in drawn(tmp_path / "a.jsonl")]

    first = chosen(sources[0], 0)
    assert chosen(sources[0], 0) == chosen(sources[1], 0) == first
    assert chosen(sources[0], 1) != first


def test_images_are_drawn_evenly(tmp_path: Path) -> None:
    source = coco(tmp_path / "captions.json")
    taken = []
    for seed in range(100):
        prepare(Request(source, tmp_path / "a.jsonl", count=10, seed=seed))
        taken += column(drawn(tmp_path / "a.jsonl"), "id")
    counts = [taken.count(1000 + image) for image in range(IMAGES) if image not in (7, 8)]
    assert min(counts) > 8  # of 25 expected, deviation 4.3
    assert max(counts) < 42


def test_heldout_prompts_are_others(tmp_path: Path) -> None:
    source = coco(tmp_path / "captions.json")
    prepare(Request(source, tmp_path / "a.jsonl", count=20, heldout=15))
    rows, others = drawn(tmp_path / "a.jsonl"), drawn(tmp_path / "a_heldout.jsonl")
    assert (len(rows), len(others)) == (20, 15)
    for name in ("id", "prompt"):
        assert not set(column(rows, name)) & set(column(others, name))
    prepare(Request(source, tmp_path / "b.jsonl", count=20))
    assert drawn(tmp_path / "b.jsonl") == rows
    assert not (tmp_path / "b_heldout.jsonl").exists()


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_the_tuner_reads_it(tmp_path: Path, kind: str) -> None:
    out = tmp_path / f"coco.{kind}"
    prepare(Request(coco(tmp_path / "captions.json"), out, count=30))
    prompts, heldout = calibration.load(PromptSource(20, 10, str(out)))
    expected = pd.read_csv(out)["prompt"] if kind == "csv" else column(drawn(out), "prompt")
    assert sorted((*prompts.prompts, *heldout.prompts)) == sorted(expected)


def test_webvid(tmp_path: Path) -> None:
    prepare(Request(webvid(tmp_path / "results_2M_train.csv"), tmp_path / "a.jsonl", count=20))
    rows = drawn(tmp_path / "a.jsonl")
    assert {(row["id"], row["prompt"]) for row in rows} == {
        (str(1000 + i), f"A cat, seen {i} times") for i in range(20)
    }
    prepare(Request(tmp_path / "results_2M_train.csv", tmp_path / "b.jsonl", count=1, column="page_dir"))
    assert drawn(tmp_path / "b.jsonl")[0]["prompt"] == "0001_0050"


def test_vbench(tmp_path: Path) -> None:
    info = [{"prompt_en": f"prompt {i}", "dimension": ["color"]} for i in range(5)]
    (tmp_path / "VBench_full_info.json").write_text(json.dumps(info))
    prepare(Request(tmp_path / "VBench_full_info.json", tmp_path / "a.jsonl", count=5))
    rows = drawn(tmp_path / "a.jsonl")
    assert {(row["id"], row["prompt"]) for row in rows} == {(i, f"prompt {i}") for i in range(5)}


def test_tables_with_and_without_ids(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a cat\n\n a  dog \na cat\n")
    (tmp_path / "b.csv").write_text("id,key,caption\n7,x,a cat\n8,y,a dog\n8,z,a hen\n")
    (tmp_path / "c.jsonl").write_text('{"words": "a cat", "n": 3}\n{"words": null}\n{"words": "a dog"}\n')

    def found(name: str, count: int, *more: str | None) -> set[tuple[str, str]]:
        prepare(Request(tmp_path / name, tmp_path / "out.jsonl", count, 0, 0, *more))
        return {(str(row["id"]), row["prompt"]) for row in drawn(tmp_path / "out.jsonl")}

    assert found("a.txt", 2) - {("1", "a cat"), ("4", "a cat")} == {("3", "a dog")}
    assert len(found("b.csv", 2)) == 2  # two rows of one id are one
    assert found("b.csv", 3, None, "key") == {("x", "a cat"), ("y", "a dog"), ("z", "a hen")}
    assert found("c.jsonl", 2, "words") == {("1", "a cat"), ("3", "a dog")}


def test_parquet(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    table = pd.DataFrame({"id": [1, 2, 3], "text": ["a cat", None, "a dog"], "all": [["a"], ["b"], ["c"]]})
    table.to_parquet(tmp_path / "a.parquet")
    prepare(Request(tmp_path / "a.parquet", tmp_path / "a.jsonl", count=2))
    assert {(row["id"], row["prompt"]) for row in drawn(tmp_path / "a.jsonl")} == {(1, "a cat"), (3, "a dog")}
    with refused(key=tmp_path / "a.parquet", got="ndarray", expected="text"):
        prepare(Request(tmp_path / "a.parquet", tmp_path / "b.jsonl", count=1, column="all"))
    (tmp_path / "b.parquet").write_text("no parquet")
    with refused(key=tmp_path / "b.parquet", line="no parquet file"):
        prepare(Request(tmp_path / "b.parquet", tmp_path / "b.jsonl", count=1))


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(prompt_tables, "find_spec", lambda name: None if name == "pyarrow" else found(name))
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with refused(key=tmp_path / "a.parquet", expected=["pyarrow"]):
        prepare(Request(tmp_path / "a.parquet", tmp_path / "a.jsonl"))


def test_the_draw_of_a_seed_stays(tmp_path: Path) -> None:
    """Lists that were drawn once can be drawn again."""
    lines = "\n".join(["prompt", *(f"a{i}" for i in range(20))])
    (tmp_path / "a.csv").write_text(lines + "\n")
    prepare(Request(tmp_path / "a.csv", tmp_path / "a.jsonl", count=6, seed=3))
    assert column(drawn(tmp_path / "a.jsonl"), "prompt") == ["a10", "a6", "a9", "a13", "a3", "a7"]


# The command, and what cannot be


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = coco(tmp_path / "captions.json"), tmp_path / "a.jsonl"
    assert prepare_prompts.main([str(source), "--out", str(out), "--count", "10", "--heldout", "5"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{out}  10 prompts of 40 in {source}",
        f"{tmp_path / 'a_heldout.jsonl'}  5 prompts of 40 in {source}",
        f"next: python -m ecdiff_tune tune pair=… calibration.file={out}",
    ]


@pytest.mark.parametrize(
    ("name", "text", "more", "told"),
    [
        ("a.json", "{", [], "Cannot read a.json: it is not JSON."),
        (
            "a.json",
            '{"a": 1}',
            [],
            "Expected the captions of COCO (captions_train2014.json) or VBench_full_info",
        ),
        ("a.json", "[1]", [], 'Expected a list of {"prompt_en": …'),
        (
            "a.json",
            '{"annotations": [{"image_id": 1, "id": 2}]}',
            [],
            "with image_id, id and caption in a.json",
        ),
        ("a.json", '{"annotations": 3}', [], "with image_id, id and caption in a.json"),
        (
            "a.json",
            '{"annotations": []}',
            [],
            "at least 150 different prompts in a.json (150 and 0 held out), got 0",
        ),
        ("a.csv", "videoid,name\n1,a cat\n", ["--count", "2"], "at least 2 different prompts in a.csv"),
        ("a.csv", "id,words\n1,a cat\n", [], "choose from id, words; name it with --column."),
        (
            "a.csv",
            "id,text\n1,a cat\n",
            ["--id-column", "ids"],
            "a.csv has no column 'ids': choose from id, text",
        ),
        ("a.csv", "id,text\n1,a cat\n", ["--column", "txt"], "a.csv has no column 'txt'"),
        ("a.xml", "<a/>", [], "Expected a file of prompts, .txt, .csv"),
        ("a.txt", "a cat\n", ["--count", "0"], "Expected --count >= 1 and --heldout >= 0, got 0 and 0."),
        ("a.txt", "a cat\n", ["--out", "b.txt"], "Expected --out to end with .jsonl or .csv, got 'b.txt'."),
        (
            "b_heldout.jsonl",
            '{"text": "a"}',
            ["--out", "b.jsonl"],
            "would replace the source b_heldout.jsonl",
        ),
    ],
)
def test_one_line_and_nothing_written(
    name: str,
    text: str,
    more: list[str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_text(text)
    assert prepare_prompts.main([name, "--out", "out.jsonl", *more]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert (error.count("\n"), error.startswith("error: ")) == (1, True)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["captions.json", "a.csv", "a.parquet"])
def test_a_source_that_is_not_there(tmp_path: Path, name: str) -> None:
    with refused(key=tmp_path / name):
        prepare(Request(tmp_path / name, tmp_path / "out.jsonl"))


def test_prompts_that_begin_as_formulas_come_back(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("=1+1\n@home in the snow\n'tis\n")
    prepare(Request(tmp_path / "a.txt", tmp_path / "b.csv", count=3))
    text = (tmp_path / "b.csv").read_text()
    assert "\n'=1+1," in text
    assert "\n'@home in the snow," in text
    assert sorted(prompt_files.read_rows(tmp_path / "b.csv").prompts) == ["'tis", "=1+1", "@home in the snow"]
