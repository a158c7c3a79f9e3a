"""``calibration.until``: a race that ends on fewer prompts, and what is not made for the others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from ecdiff_tune.evaluation.latency import LatencyProfile
from ecdiff_tune.forecast import reference_placement
from ecdiff_tune.report import headline, page, study_data
from ecdiff_tune.study import files, left_out, references

from ..studies import STEPS, Command, Study, one_line, show_nothing
from .test_search_commands import die_after

PROMPTS, RUNG, FULL = 12, 6, 3
TUNE = (
    *("tune", f"calibration.num_prompts={PROMPTS}", "heldout.num_prompts=0", "batch_size=4", "params.p=3"),
    *(
        "search.s=[6,9]",
        "search.edge_k=[0]",
        "search.residual=[0]",
        "search.rungs=[0.5]",
        "search.finalists=3",
    ),
)
SETTLED, OPEN = "calibration.until=10", "calibration.until=1e-9"
UNSURE = "search.error_rate=1e-12"
"""No test is sure of anything."""


@pytest.fixture(autouse=True, scope="module")
def few_own_runs() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(references, "FULL_RUNS", FULL)
        patch.setattr(references, "FIRST_PROMPTS", FULL)
        patch.setattr(reference_placement, "BOUND", 1.0)  # the models are random
        show_nothing(patch)
        yield


@pytest.fixture(scope="module")
def settled(
    tiny_pair: Path, tmp_path_factory: pytest.TempPathFactory, command: Command, latency: LatencyProfile
) -> tuple[Study, str]:
    """A study whose race has ended early, and what was printed; not to be changed."""
    study = Study(tmp_path_factory.mktemp("settled"), tiny_pair, command).with_latency(latency)
    outcome = study(*TUNE, SETTLED)
    assert outcome.status == 0, outcome
    return study, outcome.out


def calls(study: Study) -> pd.DataFrame:
    return pd.read_csv(study.folder / files.CALLS).groupby("part")[["cloud", "edge", "decode"]].sum()


def test_a_settled_race_makes_no_reference_of_other_prompts(settled: tuple[Study, str]) -> None:
    study, out = settled
    config = study.config()
    provenance = config.provenance or {}
    placed = provenance["reference"]["placed_cloud_calls"]
    made = calls(study).loc["reference"]
    assert [*made] == [FULL * STEPS + RUNG * placed, 2 * FULL * STEPS, 2 * FULL + RUNG]
    assert calls(study).loc["joint search", "decode"] == 3 * RUNG
    assert {*study.trials()["prompts"]} == {RUNG}
    # It is said of the study, the YAML, and the sentence that one repeats.
    assert left_out.raced(study.folder) == RUNG
    assert (config.score or {})["num_prompts"] == FULL  # the cloud's own runs
    section = provenance["calibration"]
    assert (section["num_prompts"], section["drawn"], section["until"]) == (RUNG, PROMPTS, 10.0)
    assert f"; the race ended after {RUNG} of {PROMPTS} prompts." in out


def test_with_own_runs_alone(settled: tuple[Study, str], tmp_path: Path) -> None:
    study = settled[0].copy(tmp_path / "full", files.LATENCY)
    assert study(*TUNE, SETTLED, "reference=full").status == 0
    assert [*calls(study).loc["reference"]] == [
        (RUNG - FULL) * STEPS,
        (RUNG - FULL) * STEPS,
        2 * (RUNG - FULL),
    ]
    assert (study.config().score or {})["num_prompts"] == RUNG
    assert left_out.raced(study.folder) == RUNG


def test_what_reads_the_study_goes_by_its_prompts(
    settled: tuple[Study, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, shown = settled[0].copy(tmp_path / "read"), list[str]()
    monkeypatch.setattr(page, "write", lambda record: shown.append(headline.sentence(study_data.of(record))))
    assert study("report", *TUNE[1:], SETTLED).status == 0
    assert f"The race ended after {RUNG} of {PROMPTS} prompts." in shown[0]
    assert study("rerank", *TUNE[1:], SETTLED).status == 0
    own, chosen = study.config(), study.config("rerank.yaml")
    assert chosen.score == own.score
    assert (chosen.provenance or {})["calibration"] == (own.provenance or {})["calibration"]


def test_killed_and_gone_on_with(
    settled: tuple[Study, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = settled[0]
    written, rows = study.bytes("ecdiff.yaml", "trials.csv"), study.rows()
    fresh = study.copy(tmp_path / "other", files.LATENCY, files.STATE)
    for path in fresh.outputs.rglob("*placed*"):
        path.unlink()
    with monkeypatch.context() as dying:
        die_after(dying, 1)
        assert fresh(*TUNE, SETTLED).status == 130
    assert fresh(*TUNE, SETTLED).status == 0
    assert (fresh.bytes(*written), fresh.rows()) == (written, rows)
    again = fresh(*TUNE, SETTLED)
    assert "this run: 0 cloud calls, 0 edge calls" in again.out
    assert fresh.bytes(*written) == written


def test_a_race_that_is_not_settled_ends_as_without(settled: tuple[Study, str], tmp_path: Path) -> None:
    study = settled[0].copy(tmp_path / "open", files.LATENCY)
    assert study(*TUNE, UNSURE).status == 0
    own = study.config()
    (study.folder / files.STATE).unlink()
    for name in (files.CONFIG, files.LEDGER, files.REFERENCE_PLAN):
        (study.folder / name).unlink()
    left_out.end_race(study.folder, RUNG)  # as of a race over fewer configs, which was settled
    assert study(*TUNE, OPEN, UNSURE).status == 0
    other = study.config()
    assert (other.params, other.score) == (own.params, own.score)
    assert (other.provenance or {})["calibration"] == (own.provenance or {})["calibration"]
    assert left_out.raced(study.folder) is None


@pytest.mark.parametrize("name", ["stage1", "stage2", "transfer"])
def test_commands_without_such_a_race(settled: tuple[Study, str], name: str) -> None:
    study = settled[0]
    config = f"transfer.config={study.folder / files.CONFIG}"
    line = one_line(study(name, *TUNE[1:], SETTLED, "search=joint", config))
    assert f"Expected calibration.until null with {name}, got 10.0." in line
