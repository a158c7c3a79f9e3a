"""``compare``: methods side by side on held-out prompts, from one run, made once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from ecdiff_core import batch_size
from ecdiff_core.config import TunedConfig
from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_tune.cli import compare
from ecdiff_tune.evaluation.ledger import Ledger
from ecdiff_tune.metrics.lpips import NETS

from ..studies import Outcome, Study, refuses, show_nothing

ALL = [
    "cloud",
    "edge",
    "hybrid_10",
    "hybrid_25",
    "tuned",
    "residual",
    "residual_thinned",
    "reuse",
    "secant",
    "fewer_ddim",
    "fewer_dpm",
    "taylorseer",
    "pab",
    "deepcache",
    "tome",
]


@pytest.fixture(scope="module")
def compared(tuned: tuple[Study, Outcome], tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Outcome]:
    """A tuned study with its comparison, not to be written to."""
    study = tuned[0].copy(tmp_path_factory.mktemp("compared") / "outputs")
    outcome = study("compare", "compare.timed_prompts=1")
    assert outcome.status == 0, outcome
    return study, outcome


@pytest.fixture(autouse=True)
def drawn_once(compared: tuple[Study, Outcome], monkeypatch: pytest.MonkeyPatch) -> None:
    """``compared`` has the figure; what is compared after it needs none."""
    show_nothing(monkeypatch)
    monkeypatch.setattr(compare, "write_figure", lambda *_: [])


def table(study: Study, name: str = "table1") -> pd.DataFrame:
    return pd.read_csv(study.folder / "compare" / f"{name}.csv", index_col="method")


def test_all_methods_that_apply(compared: tuple[Study, Outcome]) -> None:
    study, outcome = compared
    found = table(study)
    assert list(found.index) == ALL
    assert (found["prompts"] == 2).all()
    assert "left out: paper (the paper has no row for the pair tiny)" in outcome.out
    blocks = "it needs two transformer blocks or more"
    assert f"left out: first_block_cache ({blocks} whose outputs can be reused)" in outcome.out
    for kind in ("csv", "md", "tex"):
        for name in ("table1", "table6"):
            assert (study.folder / "compare" / f"{name}.{kind}").is_file()
    for kind in ("png", "svg"):
        assert (study.folder / "compare" / f"quality_seconds.{kind}").is_file()


def test_the_numbers(compared: tuple[Study, Outcome]) -> None:
    study, _ = compared
    quality, cost, config = table(study), table(study, "table6"), study.config()
    assert quality.loc["cloud", "ssim"] == 1.0
    assert quality.loc["cloud", "psnr"] == float("inf")
    assert config.score is not None
    assert quality.loc["tuned", "ssim"] == pytest.approx(config.score["heldout"]["quality"], abs=1e-5)
    assert quality.loc["tuned", "seconds"] == pytest.approx(config.score["seconds"], abs=1e-5)
    assert quality.loc["hybrid_10", "ssim"] > quality.loc["hybrid_25", "ssim"]
    assert (quality["ssim_low"] <= quality["ssim"] + 1e-9).all()
    assert (quality["ssim"] <= quality["ssim_high"] + 1e-9).all()
    # 12 steps: the paper's 10 and 25 of 50 edge steps are 2 and 6.
    assert cost.loc["hybrid_10", ["cloud_calls", "edge_calls"]].tolist() == [10, 2]
    assert cost.loc["hybrid_25", ["cloud_calls", "edge_calls"]].tolist() == [6, 6]
    assert cost.loc["cloud", "seconds"] == pytest.approx(0.008 + 12 * 0.020)
    assert cost.loc["hybrid_10", "seconds"] == pytest.approx(0.008 + 10 * 0.020 + 2 * 0.008 + 0.010)
    assert cost.loc["hybrid_10", "speedup"] == pytest.approx(0.248 / 0.234)
    assert (cost["measured_seconds"] > 0).all()
    spent = pd.read_csv(study.folder / "calls.csv").set_index("part").loc["compare"]
    timed = cost[["cloud_calls", "edge_calls"]].sum() * 2  # once to warm up
    known = ["cloud", "edge", "tuned", "fewer_ddim"]  # whose images `tune` made
    assert spent["decode"] == 2 * len(cost) + 2 * len(cost.drop(known))
    assert spent["cloud"] > timed["cloud_calls"]
    assert spent["edge"] > timed["edge_calls"]
    plan = config.plan()
    assert cost.loc["tuned", ["cloud_calls", "approximated", "edge_calls"]].tolist() == [
        plan.cloud_calls,
        plan.approximated,
        plan.edge_calls,
    ]


def test_fewer_steps_take_no_less_than_the_tuned_config_and_one_fewer_would(
    compared: tuple[Study, Outcome],
) -> None:
    cost = table(compared[0], "table6")
    steps, tuned = cost.loc["fewer_ddim", "cloud_calls"], cost.loc["tuned", "seconds"]
    assert cost.loc["fewer_dpm", "cloud_calls"] == steps
    assert 0.008 + (steps - 1) * 0.020 < tuned <= 0.008 + steps * 0.020 + 1e-12
    assert (cost.loc[["fewer_ddim", "fewer_dpm", "deepcache"], "edge_calls"] == 0).all()
    quality = table(compared[0])
    assert quality.loc["fewer_ddim", "ssim"] != quality.loc["fewer_dpm", "ssim"]


def test_best_and_second_best_are_marked(compared: tuple[Study, Outcome]) -> None:
    study, outcome = compared
    found = table(study).drop(["cloud", "edge"]).sort_values("ssim", ascending=False)
    text = (study.folder / "compare" / "table1.md").read_text()
    lines = {line.split(" | ")[0].removeprefix("| "): line for line in text.splitlines()}
    cells = [lines[label].split(" | ")[2] for label in found["label"]]
    assert cells[0].startswith("**")
    assert cells[1].startswith("_")
    assert not any(one.startswith(("*", "_")) for one in cells[2:])
    assert "*" not in lines["cloud"]
    assert lines["cloud"] in outcome.out
    assert rf"\textbf{{{found['ssim'].iloc[0]:.3f}" in (study.folder / "compare" / "table1.tex").read_text()


def test_a_second_time_nothing_is_generated(
    compared: tuple[Study, Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = compared[0].copy(tmp_path / "outputs")
    before = {path.name: path.read_bytes() for path in (study.folder / "compare").glob("*.[cmt]*")}
    calls: list[int] = []
    monkeypatch.setattr(ECDiffPipeline, "bind", lambda *_: calls.append(1))
    outcome = study("compare", "compare.timed_prompts=1")
    assert outcome.status == 0, outcome
    assert not calls
    assert "edge calls on" in compared[1].out
    assert "edge calls on" not in outcome.out
    for name, content in before.items():
        assert (study.folder / "compare" / name).read_bytes() == content


def test_lpips_is_added_to_what_was_measured(
    compared: tuple[Study, Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = compared[0].copy(tmp_path / "outputs")
    layers = NETS["alex"].layers()
    torch.save({f"features.{key}": one for key, one in layers.state_dict().items()}, tmp_path / "alex.pth")
    more = (
        "compare.timed_prompts=1",
        "compare.methods=[cloud,edge,tuned,fewer_dpm]",
        "metrics.names=[ssim,psnr,lpips]",
        f"metrics.lpips_weights={tmp_path / 'alex.pth'}",
    )
    assert study("compare", *more).status == 0
    before, found = table(compared[0]), table(study)
    assert found["ssim"].equals(before.loc[found.index, "ssim"])
    assert found.loc["cloud", "lpips_alex"] == 0
    assert (found.loc[["edge", "tuned", "fewer_dpm"], "lpips_alex"] > 0).all()
    assert "LPIPS ↓" in (study.folder / "compare" / "table1.md").read_text()
    calls: list[int] = []
    monkeypatch.setattr(ECDiffPipeline, "bind", lambda *_: calls.append(1))
    assert study("compare", *more).status == 0
    assert not calls
    assert table(study).equals(found)


def test_the_batch_size_that_is_found(
    compared: tuple[Study, Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = compared[0].copy(tmp_path / "outputs")
    (study.folder / "ledger.sqlite").unlink()
    monkeypatch.setattr(batch_size, "_timed", lambda _, size: float(size))
    more = ("compare.timed_prompts=1", "compare.methods=[reuse,fewer_dpm]")
    outcome = study("compare", *more, "batch_size=auto")
    assert outcome.status == 0, outcome
    assert "batch_size=auto: 3" in outcome.out
    assert table(study)["ssim"].tolist() == pytest.approx(
        table(compared[0]).loc[["reuse", "fewer_dpm"], "ssim"]
    )


def test_chosen_methods_alone(compared: tuple[Study, Outcome], tmp_path: Path) -> None:
    study = compared[0].copy(tmp_path / "outputs")
    outcome = study("compare", "compare.timed_prompts=1", "compare.methods=[tuned,cloud]")
    assert outcome.status == 0, outcome
    assert list(table(study).index) == ["tuned", "cloud"]


def test_other_samplers_have_rows_of_their_own_which_other_commands_leave_alone(
    compared: tuple[Study, Outcome], tmp_path: Path
) -> None:
    study = compared[0].copy(tmp_path / "outputs")
    samplers = {key.sampler for key in Ledger(study.folder / "ledger.sqlite").configs()}
    steps = table(study, "table6").loc["fewer_dpm", "cloud_calls"]
    caches = {one for one in samplers if one.startswith(("TaylorSeer ", "PAB ", "ToMe "))}
    assert len(caches) == 3
    cache = "DeepCache cache_interval=3 cache_branch_id=0"
    assert samplers - caches == {"", f"DDIMScheduler {steps}", f"DPMSolverMultistepScheduler {steps}", cache}
    outcome = study("rerank")
    assert outcome.status == 0, outcome
    assert "left out" not in outcome.out
    assert study.config("rerank.yaml").params == study.config().params


def test_the_best_schedule_of_another_study(compared: tuple[Study, Outcome], tmp_path: Path) -> None:
    study = compared[0].copy(tmp_path / "outputs")
    config = study.config()
    listed = type(config.params).scheduled([0, 1, 2, 4, 8], 0.5, 9)
    TunedConfig(config.pair, listed, config.sampling).save(study.outputs / "tiny" / "listed" / "ecdiff.yaml")
    more = ("compare.methods=[tuned,schedule]", "compare.timed_prompts=1")
    outcome = study("compare", *more, "compare.schedule=listed")
    assert outcome.status == 0, outcome
    assert table(study, "table6").loc["schedule", ["cloud_calls", "approximated"]].tolist() == [5, 4]

    assert "No such study" not in outcome.out
    refuses(study("compare", *more, "compare.schedule=missing"), key="compare.schedule", got="missing")


@pytest.mark.parametrize(
    ("more", "about"),
    [
        (["compare.methods=[tunned]"], {"key": "compare.methods[0]", "got": "tunned", "nearest": "tuned"}),
        (["search.k=[3]"], {"key": "settings", "advice": re.compile("tune another")}),
        (
            ["objective.w1=0.5", "link.mbps=100"],
            {
                "got": ["link.mbps 18.88 -> 100.0", "objective.w1 0.3 -> 0.5"],
                "advice": re.compile("rerank and pareto"),
            },
        ),
    ],
)
def test_refusals(done: Study, more: list[str], about: dict[str, Any]) -> None:
    refuses(done("compare", *more), **about)


@pytest.mark.parametrize("name", ["compare", "ablate"])
def test_it_needs_a_winner_and_held_out_prompts(
    tuned: tuple[Study, Outcome], tmp_path: Path, name: str
) -> None:
    study = tuned[0].copy(tmp_path / "outputs")
    (study.folder / "ecdiff.yaml").unlink()
    refuses(study(name), key=study.folder / "ecdiff.yaml")
    assert not (study.folder / name).exists()
    refuses(study(name, "study=nothing"), key="study", got="nothing")


def test_accelerations_have_the_seconds_of_the_tuned_config(
    compared: tuple[Study, Outcome], tmp_path: Path
) -> None:
    study = compared[0].copy(tmp_path / "outputs")
    floors = ("acceleration.min_quality=0.5", "acceleration.min_worst=0.3", "acceleration.timed_prompts=1")
    assert study("tune", "method=deepcache", *floors).status == 0
    ask = ("compare.timed_prompts=1", "compare.methods=[cloud,tuned,deepcache,taylorseer]")
    rows = {}
    for seconds in (1e-6, 100.0):
        outcome = study("compare", *ask, f"compare.seconds={seconds}")
        assert outcome.status == 0, outcome
        rows[seconds] = table(study, "table6")
    for seconds, within in ((1e-6, "no"), (100.0, "yes")):
        found = rows[seconds]["within_budget"]
        assert found[["deepcache", "taylorseer"]].tolist() == [within] * 2
        assert found[["cloud", "tuned"]].isna().all()  # whom no budget holds
    # With much time the best one that was measured is taken: that which skips least.
    intervals = pd.read_csv(study.folder / "methods/methods.csv")["cache_interval"]
    assert intervals.nunique() > 1
    assert rows[100.0].loc["deepcache", "setting"] == f"cache_interval={intervals.min()} cache_branch_id=0"
    assert study("compare", *ask).status == 0
    found = table(study, "table6")
    assert found["budget_seconds"].tolist() == pytest.approx(
        [found.loc["tuned", "measured_seconds"]] * len(found), abs=1e-6
    )
    # Without a budget it is timed as given, and no other setting is.
    assert study("compare", ask[0], "compare.methods=[cloud,deepcache]").status == 0
    assert table(study, "table6")["measured_seconds"].notna().all()
    spent = pd.read_csv(study.folder / "calls.csv").iloc[-1]
    assert (spent["part"], spent["decode"] <= 2 * 2 + 2) == ("compare", True), spent
