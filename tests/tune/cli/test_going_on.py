"""Going on with a study: the same command again, the stages apart, other settings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import pytest
from torch import Tensor

from ecdiff_tune.evaluation import evaluator, reference_runs
from ecdiff_tune.evaluation import latency as latency_module
from ecdiff_tune.report import image_grid

from ..studies import WRITTEN, Study, refuses, told


def forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on, whatever measures or makes a reference fails the test."""

    def generated(*_: object) -> NoReturn:
        raise AssertionError("generated again")

    monkeypatch.setattr(evaluator.Evaluator, "_generate", generated)
    monkeypatch.setattr(reference_runs, "_generate", generated)
    monkeypatch.setattr(latency_module, "measure", generated)


def test_the_same_command_again_generates_nothing(
    done: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = done.copy(tmp_path / "outputs")
    grids: list[tuple[Path, Sequence[tuple[str, Tensor]], Sequence[str]]] = []
    monkeypatch.setattr(image_grid, "samples", lambda *grid: grids.append(grid))
    forbid(monkeypatch)
    before, rows = again.bytes(), again.rows()
    outcome = again("tune")  # whose own search is another one than the study's
    assert outcome.status == 0, outcome
    assert (
        f"note: the study in {again.folder} was begun with search=greedy and goes on with it; "
        "for search=joint, this command's own, give another study=NAME."
    ) in outcome.out
    assert again.bytes() == before
    assert again.rows() == rows
    assert "this run: 0 cloud calls, 0 edge calls, 0 decodes" in outcome.out
    assert grids == []  # the winner is shown already

    (again.folder / "samples" / "samples.csv").unlink()
    assert again("tune").status == 0
    assert again.bytes() == before
    # samples.png: four rows, the prompt with the worst SSIM first.
    ((path, lines, headings),) = grids
    assert path == again.folder / "samples.png"
    assert [label.split("\n")[0] for label, _ in lines] == ["cloud", "edge", "HybridSD", "EC-Diff"]
    assert {tuple(images.shape) for _, images in lines} == {(3, 3, 32, 32)}
    ssims = [float(heading.split()[1]) for heading in headings]
    assert ssims == sorted(ssims)
    assert len({heading.partition("\n")[2] for heading in headings}) == 3


@pytest.mark.usefixtures("unshown")
def test_stage1_and_stage2_are_tune(done: Study, tmp_path: Path) -> None:
    # study.json carries the date of the study, which its YAML files tell.
    parts = done.copy(tmp_path / "outputs", "study.json", "latency.json")
    first = parts("stage1")
    assert first.status == 0, first
    assert parts.bytes("stage1.yaml") == done.bytes("stage1.yaml")
    assert set(parts.trials()["stage"]) == {1}
    assert not (parts.folder / "ecdiff.yaml").exists()
    second = parts("stage2")
    assert second.status == 0, second
    assert parts.bytes() == done.bytes()


def test_other_settings_are_refused(done: Study, tmp_path: Path) -> None:
    again = done.copy(tmp_path / "outputs")
    before = again.bytes(*WRITTEN, "study.json", "ledger.sqlite")
    refuses(again("tune", "search=joint"), got=['search.name "greedy" -> "joint"'])
    got = ["objective.w1 0.3 -> 0.5", "search.k [1, 2] -> [1, 2, 3]"]
    outcome = again("tune", "objective.w1=0.5", "search.k=[1,2,3]")
    refuses(outcome, key=again.folder, got=got, advice=re.compile("study=NAME, or resume=false"))
    assert again.bytes(*WRITTEN, "study.json", "ledger.sqlite") == before


def test_resume_false_starts_anew(done: Study, tmp_path: Path) -> None:
    again = done.copy(tmp_path / "outputs")
    outcome = again("reference", "objective.w1=0.5", "resume=false")
    assert outcome.status == 0, outcome
    (old,) = again.folder.glob("old-*")
    assert str(old) in outcome.out
    assert {name: told(old / name) for name in WRITTEN} == done.bytes()
    assert not (again.folder / "ecdiff.yaml").exists()
    assert (again.folder / "noise_profile.csv").is_file()


def test_one_process_a_study(study: Study) -> None:
    from filelock import FileLock

    with FileLock(study.folder / ".lock"):
        refuses(study("reference"), key=study.folder)
