"""Prompts to tune on and to check on: the grammar's, a user's file, and what can be wrong with one."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from diffusers import StableDiffusion3Pipeline
from omegaconf import OmegaConf

from ecdiff_core.models.families.family import Size
from ecdiff_core.models.families.stable_diffusion_3 import StableDiffusion3
from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_core.shapes.grammar import scenes
from ecdiff_core.shapes_video.grammar import scenes as moving_scenes
from ecdiff_tune.config.composed import unread_column
from ecdiff_tune.data import calibration
from ecdiff_tune.data.calibration import CalibrationError, CalibrationSet, PromptSource
from ecdiff_tune.data.prompt_files import Rows, read_rows
from ecdiff_tune.data.prompt_tables import COLUMNS, KINDS, PromptFileError

from ...refusals import refused

FRUIT = ["an apple", "a pear", "a plum", "a fig", "a lime", "a date", "a kiwi"]


def made(
    count: int, spare: int, seed: int = 0, file: Path | None = None, column: str | None = None
) -> tuple[CalibrationSet, CalibrationSet]:
    """The two sets for these settings."""
    name = None if file is None else str(file)
    return calibration.load(PromptSource(count, spare, name, column, seed))


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def read_prompts(path: Path, column: str | None = None) -> list[str]:
    return read_rows(path, column).prompts


def test_the_grammars_sets_are_disjoint_and_new_to_the_models() -> None:
    prompts, heldout = made(100, 50)
    assert (len(prompts), len(heldout)) == (100, 50)
    assert len({*prompts.prompts, *heldout.prompts}) == 150
    assert not {*prompts.prompts, *heldout.prompts} & {s.caption() for s in islice(scenes(0), 1000)}
    assert len({*prompts.seeds, *heldout.seeds}) == 150


def test_the_video_pair_has_captions_that_say_what_moves() -> None:
    sets = calibration.load(PromptSource(3, 2, moving=True))
    drawn = [scene.caption() for scene in islice(moving_scenes(0, held_out=True), 5)]
    assert [*sets[0].prompts, *sets[1].prompts] == drawn


def test_the_seed_decides() -> None:
    assert made(20, 5) == made(20, 5)
    other = made(20, 5, seed=1000)[0]
    assert len({*other.prompts} & {*made(20, 5)[0].prompts}) < 5
    assert other.seeds == tuple(range(1000, 1020))


def test_no_heldout_prompts() -> None:
    assert len(made(3, 0)[1]) == 0


def test_a_file_is_sampled_without_repetition(tmp_path: Path) -> None:
    file = written(tmp_path / "fruit.txt", "\n".join([*FRUIT, *FRUIT, "", "  "]))
    prompts, heldout = made(4, 3, file=file)
    assert sorted((*prompts.prompts, *heldout.prompts)) == sorted(FRUIT)
    assert made(4, 3, file=file) == (prompts, heldout)
    drawn = {made(4, 3, seed=seed, file=file)[0].prompts for seed in range(5)}
    assert len(drawn) == 5


def test_too_few_prompts(tmp_path: Path) -> None:
    file = written(tmp_path / "fruit.txt", "\n".join([*FRUIT, *FRUIT]))
    expected = "to hold at least 8 distinct prompts"
    with refused(CalibrationError, key="calibration.file", expected=expected, line="got 7 .7 lines left out"):
        made(5, 3, file=file)


CSV = 'id,prompt,alt\n1,"a cat, asleep",une chatte\n2,,un chien\n3, a dog ,un chien\n'
JSONL = '{"prompt": "a cat, asleep", "alt": "une chatte"}\n{"prompt": " a dog ", "alt": "un chien"}\n'


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("some.txt", "a cat, asleep\n\n   \n a dog \n"),
        ("prompts", "a cat, asleep\r\na dog"),
        ("some.csv", CSV),
        ("SOME.CSV", CSV),
        ("some.jsonl", JSONL),
        ("some.ndjson", JSONL),
    ],
)
def test_files(tmp_path: Path, name: str, text: str) -> None:
    assert read_prompts(written(tmp_path / name, text)) == ["a cat, asleep", "a dog"]


@pytest.mark.parametrize(("name", "text"), [("some.csv", CSV), ("some.jsonl", JSONL)])
def test_a_named_column(tmp_path: Path, name: str, text: str) -> None:
    assert read_prompts(written(tmp_path / name, text), "alt")[0] == "une chatte"
    with refused(PromptFileError, key="calibration.column", got="promt", nearest="prompt"):
        read_prompts(tmp_path / name, "promt")


@pytest.mark.parametrize("name", COLUMNS)
def test_the_usual_columns_need_no_name(tmp_path: Path, name: str) -> None:
    assert read_prompts(written(tmp_path / "a.csv", f"id,{name}\n1,a cat\n")) == ["a cat"]


def test_a_prompt_column_comes_before_a_caption(tmp_path: Path) -> None:
    assert read_prompts(written(tmp_path / "a.csv", "caption,prompt\nno,yes\n")) == ["yes"]


def test_a_column_must_be_named_where_none_is_usual(tmp_path: Path) -> None:
    with refused(PromptFileError, key="calibration.column", expected=["id", "words"]):
        read_prompts(written(tmp_path / "a.csv", "id,words\n1,a cat\n"))


def test_numbers_and_dates_stay_as_they_are_written(tmp_path: Path) -> None:
    csv = written(tmp_path / "a.csv", "prompt\n007\n2020-01-01\nNA\n")
    assert read_prompts(csv) == ["007", "2020-01-01", "NA"]
    jsonl = written(tmp_path / "a.jsonl", '{"prompt": "007"}\n{"prompt": "2020-01-01"}\n')
    assert read_prompts(jsonl) == ["007", "2020-01-01"]


def test_rows_without_a_prompt_are_left_out(tmp_path: Path) -> None:
    jsonl = written(
        tmp_path / "a.jsonl", '{"prompt": "a cat"}\n{"id": 2}\n{"prompt": null}\n{"prompt": ""}\n'
    )
    assert read_prompts(jsonl) == ["a cat"]
    csv = written(tmp_path / "a.csv", "id,prompt\n1,a cat\n2\n3,\n")
    assert read_prompts(csv) == ["a cat"]


def test_a_byte_order_mark_is_no_part_of_a_prompt(tmp_path: Path) -> None:
    for name, text in (
        ("a.txt", "a cat\n"),
        ("a.csv", "prompt\na cat\n"),
        ("a.jsonl", '{"prompt": "a cat"}'),
    ):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8-sig")
        assert read_prompts(path) == ["a cat"], name


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl"])
def test_an_empty_file(tmp_path: Path, name: str) -> None:
    with refused(PromptFileError, line=name):
        read_prompts(written(tmp_path / name, ""))


@pytest.mark.parametrize(("name", "text"), [("a.txt", "\n  \n\t\n"), ("a.csv", "id,prompt\n1,\n2,  \n")])
def test_a_file_of_blanks(tmp_path: Path, name: str, text: str) -> None:
    with refused(PromptFileError, key=tmp_path / name, got=0):
        read_prompts(written(tmp_path / name, text))


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl"])
def test_a_file_that_cannot_be_opened(tmp_path: Path, name: str) -> None:
    with refused(PromptFileError, key=tmp_path / name, line="No such file"):
        read_prompts(tmp_path / name)
    (tmp_path / name).mkdir()
    with refused(PromptFileError, key=tmp_path / name, line="Is a directory"):
        read_prompts(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "café\n".encode("latin-1")),
        ("a.csv", "prompt\ncafé\n".encode("latin-1")),
        ("a.jsonl", '{"prompt": "café"}\n'.encode("latin-1")),
        ("b.csv", b"id,prompt\n1,a cat\n2,a dog,too many\n"),
    ],
)
def test_a_file_that_is_not_what_its_name_says(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with refused(PromptFileError, key=tmp_path / name):
        read_prompts(tmp_path / name)


@pytest.mark.parametrize("line", ["not json", "[1]", '"a dog"', '{"prompt": '])
def test_a_damaged_line_of_jsonl_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "b.jsonl"
    path.write_text('{"prompt": "a cat"}\n\n' + line + "\n", encoding="utf-8")
    with refused(PromptFileError, key=path, got=3, expected="a JSON object"):
        read_prompts(path)


@pytest.mark.parametrize("delimiter", [";", "\t", ","])
def test_csv_by_its_delimiter(tmp_path: Path, delimiter: str) -> None:
    path = tmp_path / "c.csv"
    path.write_text(f'id{delimiter}caption\n1{delimiter}"a cat{delimiter} asleep"\n', encoding="utf-8-sig")
    assert read_prompts(path) == [f"a cat{delimiter} asleep"]


@pytest.mark.parametrize(
    ("text", "line", "fields", "expected"),
    [
        ("prompt\na cat, sitting\na dog, running\n", 2, 2, "1"),
        ('id,prompt\n1,"a cat,\nsitting"\n2,a cat, sitting\n', 4, 3, "2"),
        ("prompt,seed\na cat,1,\na dog,2,\n", 2, 3, "2"),
    ],
)
def test_a_comma_without_quotes_is_named(
    tmp_path: Path, text: str, line: int, fields: int, expected: str
) -> None:
    """The first field is no index, and no part of a prompt is dropped."""
    path = written(tmp_path / "a.csv", text)
    with refused(PromptFileError, key=path, got={"line": line, "fields": fields}, expected=expected):
        read_rows(path)


def test_a_quote_that_is_never_closed(tmp_path: Path) -> None:
    with refused(PromptFileError, key=tmp_path / "a.csv", line="quote"):
        read_rows(written(tmp_path / "a.csv", 'prompt\n"a cat\na dog\n'))
    assert read_rows(written(tmp_path / "b.csv", 'prompt\na "big" cat\n"12"" tall"')).prompts == [
        'a "big" cat',
        '12" tall',
    ]


def test_blank_lines_of_csv_are_rows(tmp_path: Path) -> None:
    rows = read_rows(written(tmp_path / "a.csv", "\nprompt,id\na cat,1\n\na dog,2\na cat,3\n\n\n"))
    assert rows == Rows(["a cat", "a dog"], missing=(2,), repeated=(4,))


def test_only_a_newline_ends_a_line(tmp_path: Path) -> None:
    """Other characters that Python takes for one may stand in a prompt."""
    odd = "a\u2028cat\x85 and\x0ca dog"
    assert read_rows(written(tmp_path / "a.txt", f"{odd}\r\na fig\n")).prompts == [odd, "a fig"]
    lines = "\n".join(json.dumps({"prompt": prompt}, ensure_ascii=False) for prompt in (odd, "a fig"))
    assert read_rows(written(tmp_path / "a.jsonl", lines)).prompts == [odd, "a fig"]


def test_rows_that_are_left_out_are_counted_and_named(tmp_path: Path) -> None:
    lines = ['{"prompt": "a"}', '{"id": 2}', '{"prompt": " "}', '{"prompt": "a"}', '{"prompt": "b"}']
    lines += ['{"prompt": ["c"]}', '{"prompt": true}', r'{"prompt": "\ud800"}', '{"prompt": 7}'] + ["{}"] * 3
    rows = read_rows(written(tmp_path / "a.jsonl", "\n".join(lines)))
    assert rows == Rows(["a", "b"], (2, 10, 11, 12), (3,), (4,), (6, 7, 8, 9))
    assert rows.left_out() == (
        "10 rows left out: 4 without a prompt (2, 10, 11, …), 1 empty (3), 1 repeated (4), "
        "4 not text (6, 7, 8, …)"
    )
    text = written(tmp_path / "a.txt", "a\n\nb\na\n")
    assert read_rows(text).left_out() == "1 line left out: 1 repeated (4)"
    said: list[str] = []
    calibration.load(PromptSource(1, 1, str(text)), said.append)
    assert said == [f"{text}: 1 line left out: 1 repeated (4)"]
    expected = "to hold at least 3 distinct prompts"
    with refused(CalibrationError, expected=expected, line=r"2 \(1 line left out: 1 repeated \(4\)\)"):
        made(2, 1, file=text)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.tsv", 'id\tprompt\n1\t"a, b; c"\n2\td\n'),
        ("a.json", '["a, b; c", "d"]'),
        ("a.json", '[{"id": 1, "prompt": "a, b; c"}, {"prompt": "d"}]'),
        ("a.json", '{"id": [1, 2], "caption": ["a, b; c", "d"]}'),
    ],
)
def test_tsv_and_json(tmp_path: Path, name: str, text: str) -> None:
    assert read_prompts(written(tmp_path / name, text)) == ["a, b; c", "d"]


def test_captions_of_images_as_coco_has_them(tmp_path: Path) -> None:
    """The first caption of each image; files of COCO without captions are told."""
    captions = [
        {"image_id": 9, "id": 1, "caption": "a dog runs"},
        {"image_id": 4, "id": 2, "caption": "two cats "},
        {"image_id": 9, "id": 3, "caption": "a brown dog"},
        {"image_id": 5, "id": 4, "caption": "two cats"},
    ]
    path = written(tmp_path / "captions_val2014.json", json.dumps({"info": {}, "annotations": captions}))
    assert read_prompts(path) == ["a dog runs", "two cats"]
    for wrong in ([{"image_id": 1, "bbox": [0, 0, 1, 1]}], []):
        path = written(tmp_path / "instances_val2014.json", json.dumps({"images": [], "annotations": wrong}))
        with refused(PromptFileError, key=path, expected=["caption"]):
            read_prompts(path)


@pytest.mark.parametrize("text", ["[[1]]", '{"a": 1}', "3", '{"annotations": 1}'])
def test_other_json(tmp_path: Path, text: str) -> None:
    with refused(PromptFileError, key=tmp_path / "a.json", expected="a JSON list"):
        read_prompts(written(tmp_path / "a.json", text))


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000])
def test_damaged_json(tmp_path: Path, text: str) -> None:
    with refused(PromptFileError, key=tmp_path / "a.json", line="not JSON"):
        read_prompts(written(tmp_path / "a.json", text))


def test_parquet(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    pd.DataFrame({"caption": ["a", None, "b"]}).to_parquet(tmp_path / "a.parquet")
    assert read_rows(tmp_path / "a.parquet") == Rows(["a", "b"], missing=(2,))


@pytest.mark.parametrize("cell", [np.array(["a", "b"]), ["a"], 7, 1.5, b"a", pd.Timestamp(0)])
def test_cells_of_other_kinds_are_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cell: Any) -> None:
    """Parquet has arrays, numbers and times beside text, and several ways to leave a cell out."""
    found = pd.DataFrame({"prompt": ["a", cell, None, pd.NA, float("nan"), pd.NaT]}, dtype=object)
    monkeypatch.setattr("ecdiff_tune.data.prompt_files.read_table", lambda _: found)
    assert read_rows(tmp_path / "a.parquet") == Rows(["a"], missing=(3, 4, 5, 6), unreadable=(2,))


def test_a_parquet_file_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ecdiff_tune.data.prompt_tables.find_spec", lambda _: object())
    with refused(PromptFileError, key=tmp_path / "no.parquet", line="No such file or directory"):
        read_prompts(tmp_path / "no.parquet")


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ecdiff_tune.data.prompt_tables.find_spec", lambda _: None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with refused(PromptFileError, key=tmp_path / "a.parquet", expected=["pyarrow"]):
        read_prompts(tmp_path / "a.parquet")


def test_other_kinds_of_file(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text("")
    with refused(PromptFileError, got=str(tmp_path / "a.xml"), expected=", ".join(KINDS)):
        read_prompts(tmp_path / "a.xml")


def test_prompts_that_are_too_long_are_named(pipe: ECDiffPipeline) -> None:
    family = pipe.pair.family
    most = family.pipeline.tokenizer.model_max_length
    prompts = ["a red circle", "red " * (most - 2), "a " * most]
    line = calibration.note_cut(family, prompts)
    assert line.startswith(
        f"the text encoder reads {most} tokens, so the end is left out of 1 of 3 prompts: 'a a"
    )
    assert line.endswith(f"…' ({most + 2})")
    assert calibration.note_cut(family, prompts[:2]) == ""


def test_of_stable_diffusion_3_a_part_of_what_t5_could_read_is_read(sd3_pair: Path) -> None:
    pipeline = StableDiffusion3Pipeline.from_pretrained(sd3_pair / "cloud")
    pipeline.tokenizer_3.model_max_length = 512
    line = calibration.note_cut(StableDiffusion3(pipeline), ["a" * 200, "a" * 300])
    assert line.startswith(
        "the text encoder reads 256 tokens, so the end is left out of 1 of 2 prompts: 'aaaa"
    )
    assert (
        StableDiffusion3(pipeline).encode(["a"], 1.0, Size(16, 16)).tensors["encoder_hidden_states"].shape[1]
        == 256 + pipeline.tokenizer.model_max_length
    )


def test_the_digest_sees_every_change() -> None:
    base = CalibrationSet(("a", "b"), (0, 1))
    others = [
        CalibrationSet(("a", "c"), (0, 1)),
        CalibrationSet(("a", "b"), (0, 2)),
        CalibrationSet(("b", "a"), (1, 0)),
        CalibrationSet(("b", "a"), (0, 1)),
        CalibrationSet(("a",), (0,)),
        CalibrationSet(("a", "b", "c"), (0, 1, 2)),
    ]
    assert len({one.digest for one in (base, *others)}) == 7
    assert base.digest == CalibrationSet(("a", "b"), (0, 1)).digest


def test_keys_depend_on_nothing_but_prompt_and_seed() -> None:
    keys = CalibrationSet(("a", "b", "a"), (0, 1, 2)).keys
    assert len(set(keys)) == 3
    assert CalibrationSet(("b", "a"), (1, 0)).keys == (keys[1], keys[0])
    # Golden: ledgers and reference files on disk are found by these.
    assert keys[0] == "0d3b8411bde7fa84"


@pytest.mark.parametrize("column", [None, "prompt"])
def test_two_columns_of_one_name(tmp_path: Path, column: str | None) -> None:
    path = written(tmp_path / "a.csv", "prompt,id,prompt,id\na cat,1,a dog,2\n")
    with refused(PromptFileError, key="calibration.column"):
        read_rows(path, column)
    other = written(tmp_path / "b.csv", "prompt,id,id\na cat,1,2\n")
    assert read_rows(other).prompts == ["a cat"]  # the others do not matter


def test_prompts_with_nul_bytes_are_left_out(tmp_path: Path) -> None:
    rows = read_rows(written(tmp_path / "a.txt", "a cat\na\0dog\na fig\n"))
    assert rows.prompts == ["a cat", "a fig"]
    assert rows.left_out() == "1 line left out: 1 not text (2)"


def test_a_column_of_a_text_file_is_told() -> None:
    config = OmegaConf.create({"calibration": {"file": "a.txt", "column": "x"}})
    (line,) = unread_column(config, ["calibration.column=x"])
    assert line == "calibration.column: a.txt has a prompt a line, and no columns"
    assert unread_column(config, []) == []
    assert unread_column(OmegaConf.create({"calibration": {"file": "a.csv"}}), ["calibration.column=x"]) == []
