"""Prompts to tune on and to check on: the grammar's, a user's file, and what can be wrong with one."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from ecdiff_core.shapes.grammar import scenes
from ecdiff_core.shapes_video.grammar import scenes as moving_scenes
from ecdiff_tune import calibration
from ecdiff_tune.calibration import CalibrationError, CalibrationSet, read_prompts
from ecdiff_tune.settings import CalibrationSettings, HeldoutSettings, PairSettings, Settings

FRUIT = ["an apple", "a pear", "a plum", "a fig", "a lime", "a date", "a kiwi"]


def made(
    count: int, spare: int, seed: int = 0, file: Path | None = None, column: str | None = None
) -> tuple[CalibrationSet, CalibrationSet]:
    """The two sets for these settings."""
    name = None if file is None else str(file)
    return calibration.load(
        Settings(
            calibration=CalibrationSettings(count, name, column), heldout=HeldoutSettings(spare), seed=seed
        )
    )


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_the_grammars_sets_are_disjoint_and_new_to_the_models() -> None:
    prompts, heldout = made(100, 50)
    assert (len(prompts), len(heldout)) == (100, 50)
    assert len({*prompts.prompts, *heldout.prompts}) == 150
    assert not {*prompts.prompts, *heldout.prompts} & {s.caption() for s in islice(scenes(0), 1000)}
    assert len({*prompts.seeds, *heldout.seeds}) == 150


def test_the_video_pair_has_captions_that_say_what_moves() -> None:
    pair = PairSettings(cloud="embedded:shapes_video/cloud", edge="embedded:shapes_video/edge")
    sets = calibration.load(
        Settings(pair=pair, calibration=CalibrationSettings(3), heldout=HeldoutSettings(2), seed=0)
    )
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
    with pytest.raises(
        CalibrationError, match=r"at least 8 distinct .*\(5 to tune on, 3 held out\), got 7\."
    ):
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
    with pytest.raises(CalibrationError, match=r"no column 'promt': .*did you mean prompt"):
        read_prompts(tmp_path / name, "promt")


@pytest.mark.parametrize("name", calibration.COLUMNS)
def test_the_usual_columns_need_no_name(tmp_path: Path, name: str) -> None:
    assert read_prompts(written(tmp_path / "a.csv", f"id,{name}\n1,a cat\n")) == ["a cat"]


def test_a_prompt_column_comes_before_a_caption(tmp_path: Path) -> None:
    assert read_prompts(written(tmp_path / "a.csv", "caption,prompt\nno,yes\n")) == ["yes"]


def test_a_column_must_be_named_where_none_is_usual(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"none of the columns .*choose from id, words.*calibration\."):
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
    with pytest.raises(CalibrationError, match=name) as caught:
        read_prompts(written(tmp_path / name, ""))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "text"), [("a.txt", "\n  \n\t\n"), ("a.csv", "id,prompt\n1,\n2,  \n")])
def test_a_file_of_blanks(tmp_path: Path, name: str, text: str) -> None:
    with pytest.raises(CalibrationError, match="holds no prompt"):
        read_prompts(written(tmp_path / name, text))


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl"])
def test_a_file_that_cannot_be_opened(tmp_path: Path, name: str) -> None:
    with pytest.raises(CalibrationError, match=f"Cannot read the prompts file .*{name}: No such file"):
        read_prompts(tmp_path / name)
    (tmp_path / name).mkdir()
    with pytest.raises(CalibrationError, match="Is a directory"):
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
    with pytest.raises(CalibrationError, match=f"Cannot read the prompts file .*{name}: ") as caught:
        read_prompts(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("line", ["not json", "[1]", '"a dog"', '{"prompt": '])
def test_a_damaged_line_of_jsonl_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "b.jsonl"
    path.write_text('{"prompt": "a cat"}\n\n' + line + "\n", encoding="utf-8")
    with pytest.raises(CalibrationError, match=r"Expected a JSON object .* in line 3 of .*b\.jsonl"):
        read_prompts(path)


@pytest.mark.parametrize("delimiter", [";", "\t", ","])
def test_csv_by_its_delimiter(tmp_path: Path, delimiter: str) -> None:
    path = tmp_path / "c.csv"
    path.write_text(f'id{delimiter}caption\n1{delimiter}"a cat{delimiter} asleep"\n', encoding="utf-8-sig")
    assert read_prompts(path) == [f"a cat{delimiter} asleep"]


def test_other_kinds_of_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(CalibrationError, match=r"Expected a \.txt, \.csv or \.jsonl file"):
        read_prompts(tmp_path / "a.json")


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
