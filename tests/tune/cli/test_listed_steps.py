"""``stage2`` with a list of real steps: like any other config, from the command line to the YAML."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pandas as pd
import pytest

from ecdiff_core.config import TunedConfig
from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_core.sampling.plan import Handoff
from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.evaluation.latency import LatencyProfile
from ecdiff_tune.report import tables
from ecdiff_tune.study.progress import describe

from ..studies import Command, Outcome

pytestmark = pytest.mark.usefixtures("unshown")
SCHEDULE = "params.schedule=[0,1,2,4,7,9]"


@pytest.fixture
def call(command: Command, tiny_pair: Path, tmp_path: Path, latency: LatencyProfile) -> Command:
    latency.save(tmp_path / "tiny" / "default" / "latency.json")

    def run(name: str, *more: str) -> Outcome:
        return command(
            name,
            "pair.name=tiny",
            f"pair.cloud={tiny_pair / 'cloud'}",
            f"pair.edge={tiny_pair / 'edge'}",
            "sampling.num_inference_steps=12",
            "sampling.guidance_scale=3.0",
            "calibration.num_prompts=2",
            "heldout.num_prompts=1",
            "search=exhaustive",
            "link=none",
            "device=cpu",
            f"output_dir={tmp_path}",
            *more,
        )

    return run


def test_stage2(call: Command, tmp_path: Path, latency: LatencyProfile) -> None:
    outcome = call("stage2", SCHEDULE, "params.alpha=0.5", "search.s=[6,7,8,9,11]", "sampling.estimator=edge")
    assert outcome.status == 0, outcome
    study = tmp_path / "tiny" / "default"
    trials = pd.read_csv(study / "trials.csv")
    assert trials["s"].tolist() == [8, 10, 11]  # aligned; of 11 there is no listed step to wait for
    assert trials["p"].isna().all()
    assert trials["k"].isna().all()
    assert trials["schedule"].tolist() == ["2C1B1M1B2M1C4E", "2C1B1M1B2M1B1M1C2E", "2C1B1M1B2M1B1M1B1M1E"]
    assert trials["cloud_calls"].tolist() == [5, 6, 6]
    assert trials["edge_calls"].tolist() == [4 + 5, 2 + 7, 1 + 9]
    fixed = latency.encode.median + latency.decode.median + latency.transfer_seconds
    seconds = fixed + trials["cloud_calls"] * 0.020 + trials["edge_calls"] * 0.008
    assert trials["seconds"].tolist() == pytest.approx(seconds.tolist())

    config = TunedConfig.load(study / "ecdiff.yaml")
    best = trials.loc[trials["objective"].idxmax()]
    assert config.params == ECDiffParams.scheduled((0, 1, 2, 4, 7, 9), 0.5, int(best["s"]))
    assert config.score is not None
    assert config.score["calls"] == {
        "cloud": best["cloud_calls"],
        "approximated": best["approximated"],
        "edge": best["edge_calls"],
    }
    assert config.score["heldout"]["quality"] is not None
    assert "real steps of tiny: 0, 1, 2, 4, 7, 9" in outcome.out
    assert "| tiny | – | – | – |" in (study / "table5.md").read_text(encoding="utf-8")
    assert "params.schedule" not in json.loads((study / "study.json").read_text())["settings"]

    again = call("stage2", "params.schedule=[0,1,5]", "params.alpha=0.5", "search.s=[6,7,8,9,11]")
    assert again.status == 2  # another estimator is another study …
    assert "sampling.estimator" in again.err
    again = call(
        "stage2",
        "params.schedule=[0,1,5]",
        "params.alpha=0.5",
        "search.s=[6,7,8,9,11]",
        "sampling.estimator=edge",
    )
    assert again.status == 0, again  # … another list is not


def test_both_models_calls_listed_by_hand(call: Command, tmp_path: Path) -> None:
    lists = ("params.schedule=[0,1,6]", "params.edge_schedule=[3,8,9,11]", "params.residual=1")
    outcome = call("stage2", *lists, "params.alpha=0.5", "heldout.num_prompts=0")
    assert outcome.status == 0, outcome
    config = TunedConfig.load(tmp_path / "tiny" / "default" / "ecdiff.yaml")
    assert config.params == ECDiffParams.interleaved([0, 1, 6], [3, 8, 9, 11], 0.5, 1.0)
    trials = pd.read_csv(tmp_path / "tiny" / "default" / "trials.csv")
    assert list(trials["schedule"]) == ["1C1B1A1M2A1B1A2M1A1M"]
    text = (tmp_path / "tiny" / "default" / "ecdiff.yaml").read_text(encoding="utf-8")
    assert re.search(r"\bs: 7 +# the step after the last cloud call$", text, re.MULTILINE)


def test_the_edge_side_by_hand(call: Command, tmp_path: Path) -> None:
    """In place of what search.edge_k has; at s = T the edge makes no step, and there is but one config."""
    edge_side = ("params.edge_k=2", "params.edge_first=1", "params.edge_last=1", "params.residual=0.5")
    outcome = call(
        *(
            "stage2",
            "search=exhaustive",
            "params.p=2",
            "params.k=1",
            "params.alpha=0.3",
            "heldout.num_prompts=0",
        ),
        *("search.s=[6,12]", "search.edge_k=[0,1]", *edge_side),
    )
    assert outcome.status == 0, outcome
    trials = pd.read_csv(tmp_path / "tiny" / "default" / "trials.csv")
    assert list(trials["s"]) == [6, 12]
    assert list(trials["edge_k"]) == [2, 2]
    params = TunedConfig.load(tmp_path / "tiny" / "default" / "ecdiff.yaml").params
    assert (params.edge_k, params.edge_first, params.edge_last, params.residual) == (2, 1, 1, 0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("stage2", SCHEDULE), "Expected params.alpha with params.schedule"),
        (
            ("stage2", SCHEDULE, "params.alpha=0.5", "params.k=2"),
            "in their place, got 'both'",
        ),
        (
            ("stage2", SCHEDULE, "params.alpha=0.5", "params.p=3"),
            "in their place, got 'both'",
        ),
        (("stage2", "params.schedule=[1,2]", "params.alpha=0.5"), "start with step 0, got [1, 2]"),
        (
            ("stage2", "params.schedule=[0,1,12]", "params.alpha=0.5"),
            "schedule within 0 … 11, got step 12",
        ),
        (("stage2", "params.schedule=[0,3]", "params.alpha=0.5"), "real steps at [0, 1], got 1C2A1C"),
        (("stage2", SCHEDULE, "params.alpha=2"), "0 < alpha <= 1"),
        (("stage2", "params.schedule=3", "params.alpha=0.5"), "params.schedule"),
        (("tune", SCHEDULE, "params.alpha=0.5"), "params.alpha and params.schedule are for stage2 alone"),
        (("reference", SCHEDULE, "params.alpha=0.5"), "params.schedule are for stage2 alone"),
        (("tune", "params.residual=1"), "params.residual is for stage2 alone"),
        (("stage1", "params.edge_k=2"), "params.edge_k is for stage2 alone"),
        (("stage2", SCHEDULE, "params.alpha=0.5", "params.edge_k=12"), "params.edge_k within 0 … 11, got 12"),
        (("stage2", SCHEDULE, "params.alpha=0.5", "params.edge_first=0"), "params.edge_first"),
        (("stage2", "params.edge_schedule=[3]"), "Expected params.schedule with params.edge_schedule"),
        (
            ("stage2", SCHEDULE, "params.alpha=0.5", "params.edge_schedule=[3]", "params.edge_k=1"),
            "Expected edge_k or an edge_schedule in its place",
        ),
        (
            ("stage2", SCHEDULE, "params.alpha=0.5", "params.edge_schedule=[3]", "search.s=[8]"),
            "search.s has no effect with params.edge_schedule",
        ),
    ],
)
def test_one_line_for_what_is_wrong(call: Command, arguments: tuple[str, ...], message: str) -> None:
    outcome = call(*arguments)
    assert outcome.status == 2, outcome
    (line,) = outcome.err.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_told_by_its_number_of_listed_steps(tiny_config: TunedConfig) -> None:
    params = ECDiffParams.scheduled((0, 1, 4), 0.5, 8)
    for handoff in get_args(Handoff):  # of a study that has the other one
        assert describe(Candidate(params, handoff=handoff), "joint").endswith(f" {handoff}")
    assert describe(Candidate(params, "secant"), "joint") == "3 listed steps (0-1,4) alpha=0.5 s=8 secant"
    table = tables.table5([tiny_config, TunedConfig(tiny_config.pair, params, tiny_config.sampling)])
    hybrid = TunedConfig(tiny_config.pair, ECDiffParams(3, 0, 0.3, 9), tiny_config.sampling)
    assert tables.table5_cells(hybrid)[1:5] == ["3", "0", "–", "9"]  # its alpha changes no image
    assert table.splitlines()[3:] == [
        "| tiny | – | – | 0.5 | 8 | 3 | 5 | 4 | – | – | – | – |",
        "",
        "real steps of tiny: 0, 1, 4",
    ]


def test_table_5_says_what_its_columns_do_not(tiny_config: TunedConfig) -> None:
    params = [
        tiny_config.params,
        replace(tiny_config.params, edge_k=2, residual=0.5),
        ECDiffParams.interleaved([0, 1, 6], [2, 9], 0.3, 1.0),
    ]
    lines = tables.beyond_the_row(
        (f"row {i}", replace(tiny_config, params=one)) for i, one in enumerate(params)
    )
    assert lines == [
        "row 1 has edge_k=2, edge_first=2, edge_last=2, residual=0.5",
        "real steps of row 2: 0, 1, 6",
        "real edge steps of row 2: 2, 9",
        "row 2 has residual=1",
    ]
