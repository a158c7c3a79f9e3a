"""VBench's scores out of its result files; the totals are those of the paper's own Tables 1, 3 and 4."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import vbench
from ecdiff_tune.data.prompt_tables import PromptFileError
from vbench_suite.scores import DIMENSIONS, Score, VBenchError, read_results, read_suite

from ..refusals import refused

# Table 3 of the paper, and below it the same row of Table 4; percent.
PAPER = {
    "5B": "94.22 96.74 98.78 97.85 73.18 62.63 67.97 83.76 65.12 87.85 85.66 70.28 35.25 23.80 24.36 26.66",
    "Hb-10": "94.05 96.38 98.78 97.55 73.18 62.39 67.97 83.70 "
    "65.12 87.08 84.59 70.23 35.18 23.80 24.36 26.59",
    "Hb-25": "92.89 96.01 98.73 97.01 71.98 61.13 67.97 82.85 "
    "63.76 85.54 81.11 69.18 35.22 22.58 24.35 26.12",
    "ours": "94.01 96.31 98.78 97.51 73.18 62.38 67.97 83.69 65.12 87.05 84.56 70.23 35.17 23.80 24.36 26.58",
}


def fractions(row: str) -> dict[str, float]:
    return {name: float(cell) / 100 for name, cell in zip(DIMENSIONS, PAPER[row].split(), strict=True)}


def written(path: Path, scores: dict[str, float]) -> Path:
    """A result file as VBench writes it."""
    tree = {
        name: [value, [{"video_path": f"videos/{name}-0.mp4", "video_results": value}]]
        for name, value in scores.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(tree, indent=4), encoding="utf-8")
    return path


@pytest.mark.parametrize(("row", "total"), [("Hb-10", 81.58), ("Hb-25", 80.57), ("ours", 81.54)])
def test_the_papers_totals(row: str, total: float) -> None:
    # Table 1 prints 81.57 for Hb-10, 0.01 less than its own dimensions give.
    assert round(100 * Score(fractions(row)).total, 2) == total


def test_scores_by_hand() -> None:
    # The best that was seen in every dimension but two.
    best = {name: one.most for name, one in DIMENSIONS.items()}
    assert Score(best).total == pytest.approx(1)
    worse = Score({**best, "dynamic_degree": 0.0, "scene": 0.4111})
    assert worse.quality == pytest.approx(6 / 6.5)  # dynamic degree counts half
    assert worse.semantic == pytest.approx(8.5 / 9)  # 0.4111 is half of 0.8222
    assert worse.total == pytest.approx((4 * 6 / 6.5 + 8.5 / 9) / 5)
    low = Score({**best, "subject_consistency": 0.1462, "appearance_style": 0.0009})
    assert (low.quality, low.semantic) == pytest.approx((5.5 / 6.5, 8 / 9))


def test_a_row_is_percent_in_the_papers_order() -> None:
    row = Score(fractions("ours")).row()
    assert list(row) == [*DIMENSIONS, "quality", "semantic", "total"]
    assert row["scene"] == pytest.approx(35.17)


def test_a_missing_dimension_is_named() -> None:
    left = fractions("ours")
    del left["scene"], left["color"]
    with refused(VBenchError, key="dimensions", expected=["color", "scene"]):
        Score(left)


@pytest.mark.parametrize("value", [67.97, -0.1, float("nan")])
def test_values_that_are_no_fractions(value: float) -> None:
    with refused(VBenchError, key="imaging_quality", expected="as a fraction within 0 … 1"):
        Score({**fractions("ours"), "imaging_quality": value})


def test_an_unknown_dimension() -> None:
    with refused(VBenchError, key="VBench dimension", got="colour", nearest="color"):
        Score({**fractions("ours"), "colour": 0.5})


def test_results_of_many_files(tmp_path: Path) -> None:
    scores = fractions("ours")
    for i, (name, value) in enumerate(scores.items()):
        key = name.replace("_", " ") if i % 2 else name
        written(tmp_path / name / f"run_{i}_eval_results.json", {key: value})
    (tmp_path / "run_full_info.json").write_text("[]")
    assert read_results(tmp_path) == scores


def test_the_same_dimension_twice(tmp_path: Path) -> None:
    written(tmp_path / "a_eval_results.json", {"color": 0.5, "scene": 0.3})
    written(tmp_path / "b_eval_results.json", {"scene": 0.3})
    assert read_results(tmp_path) == {"color": 0.5, "scene": 0.3}
    written(tmp_path / "c_eval_results.json", {"color": 0.25})
    with refused(VBenchError, key="color", got=(0.5, 0.25), line="a_eval.*c_eval"):
        read_results(tmp_path)


@pytest.mark.parametrize(
    ("text", "key", "got"),
    [
        ("[1]", "a_eval_results.json$", "list"),
        ("not json", "a_eval_results.json$", None),
        ('{"color": []}', "^color$", []),
        ('{"color": [true, []]}', "^color$", True),
        ('{"color": ["0.5", []]}', "^color$", "0.5"),
    ],
)
def test_files_that_are_not_vbenchs(tmp_path: Path, text: str, key: str, got: object) -> None:
    (tmp_path / "a_eval_results.json").write_text(text)
    with refused(VBenchError, key=re.compile(key), got=got):
        read_results(tmp_path)


def test_results_that_are_not_there(tmp_path: Path) -> None:
    with refused(VBenchError, key=tmp_path):
        read_results(tmp_path)
    with refused(VBenchError, key=tmp_path / "a.json", line="No such file"):
        read_results(tmp_path / "a.json")


# The suite


def test_prompts_of_both_files(tmp_path: Path) -> None:
    info = [
        {"prompt_en": "In a still frame, a stop sign", "dimension": ["temporal_flickering"]},
        {
            "prompt_en": "a bird",
            "dimension": ["object_class"],
            "auxiliary_info": {"object_class": {"object": "bird"}},
        },
        {"prompt_en": "a bird", "dimension": ["color"]},
    ]
    (tmp_path / "full_info.json").write_text(json.dumps(info))
    (tmp_path / "all_dimension.txt").write_text("In a still frame, a stop sign\na bird\na bird\n")
    expected = ["In a still frame, a stop sign", "a bird"]
    assert read_suite(tmp_path / "full_info.json") == read_suite(tmp_path / "all_dimension.txt") == expected


@pytest.mark.parametrize(
    "text", ["[]", '{"prompt_en": "a"}', '[{"prompt": "a"}]', '[{"prompt_en": " "}]', "[1]"]
)
def test_another_json_is_no_suite(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with refused(VBenchError, key=tmp_path / "a.json", expected=["prompt_en", "dimension"]):
        read_suite(tmp_path / "a.json")


def test_a_text_file_that_is_not_there(tmp_path: Path) -> None:
    with refused(PromptFileError, key=tmp_path / "all_dimension.txt", line="No such file"):
        read_suite(tmp_path / "all_dimension.txt")


# The command


def test_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("Hb-25", "ours"):
        written(tmp_path / f"{name}_eval_results.json", fractions(name))
    arguments = [f"Hybrid={tmp_path / 'Hb-25_eval_results.json'}", str(tmp_path / "ours_eval_results.json")]
    assert vbench.main(["score", *arguments, "--out", str(tmp_path / "table")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| method | quality | semantic | total |"
    assert [(line.split(" | ")[0], line.split(" | ")[-1]) for line in lines[2:4]] == [
        ("| Hybrid", "80.57 |"),
        ("| ours", "81.54 |"),
    ]
    rows = (tmp_path / "table" / "vbench.md").read_text().splitlines()
    assert rows[-1].startswith(f"| ours | {' | '.join(PAPER['ours'].split())} | ")
    assert (tmp_path / "table" / "vbench.csv").read_text().startswith("method,subject_consistency,")


def test_what_is_missing_is_told_with_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    left = fractions("ours")
    del left["scene"]
    path = written(tmp_path / "ours_eval_results.json", left)
    assert vbench.main(["score", str(path), "--out", str(tmp_path / "table")]) == 2
    assert capsys.readouterr().err == (
        f"error: {path}: The total needs all 16 VBench dimensions, missing: scene. "
        "Let VBench evaluate those too.\n"
    )
    assert not (tmp_path / "table").exists()


def test_two_of_one_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert vbench.main(["score", "a=x", "a=y"]) == 2
    assert "Two results are named 'a'" in capsys.readouterr().err
