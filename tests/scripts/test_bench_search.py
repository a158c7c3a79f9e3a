"""The benchmark of the searches at its smallest: what it runs, counts, compares, and says when it cannot."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

import bench_search
from ecdiff_tune.evaluation.latency import LatencyProfile, Timing
from ecdiff_tune.evaluation.ledger import Measurement
from search_bench import runs, table

from ..refusals import refused
from ..tune.studies import show_nothing

STEPS, PROMPTS = 12, 3
WEIGHT = 0.4


@pytest.fixture(scope="module")
def arguments(tiny_pair: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("bench")
    cloud, short = 0.02, Timing(0.005, 0.005, 0.005)
    calls = [Timing(one, 0.9 * one, 1.1 * one) for one in (cloud, WEIGHT * cloud)]
    LatencyProfile(*calls, short, short, transfer_seconds=0.01).save(folder / "latency.json")
    return [
        *("--num-prompts", f"{PROMPTS}", "--heldout", "2", "--steps", f"{STEPS}", "--trials", "4"),
        *("--outputs", str(folder / "out"), "--latency", str(folder / "latency.json")),
        *("pair.name=tiny", f"pair.cloud={tiny_pair / 'cloud'}", f"pair.edge={tiny_pair / 'edge'}"),
        *("sampling.guidance_scale=3.0", "params.p=3", "search.k=[1,2]", "search.alpha=[0.3,0.7]"),
        *("search.s=[6,9]", "device=cpu", "batch_size=3"),
    ]


@pytest.fixture(scope="module")
def setup(arguments: list[str]) -> runs.Setup:
    args = bench_search.parse_args(arguments)
    return runs.Setup(
        args.outputs, args.num_prompts, args.heldout, args.steps, args.trials, args.latency, args.settings
    )


@pytest.fixture(scope="module")
def found(arguments: list[str], setup: runs.Setup) -> list[runs.Finished]:
    """Of all searches, run once."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        show_nothing(patch)
        assert bench_search.main(arguments) == 0
    return runs.finished(setup, list(runs.STUDIES))


def test_every_search_has_its_row(found: list[runs.Finished], setup: runs.Setup) -> None:
    written = pd.read_csv(setup.outputs / "bench_search.csv")
    assert [*written["search"]] == list(runs.STUDIES)
    assert (written["runs"] == 1).all()
    assert written["heldout_objective"].notna().all()
    lines = (setup.outputs / "bench_search.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2 + len(runs.STUDIES)


def test_the_optimum_is_that_of_the_whole_grid(found: list[runs.Finished]) -> None:
    by_name = {one.name: one for one in found}
    exact, exhaustive = by_name["exact"], by_name["exhaustive"]
    assert exact.objective == pytest.approx(exhaustive.objective, abs=2e-5)
    assert exact.config.params == exhaustive.config.params
    assert exhaustive.trials == (7, 0)
    assert 1 <= sum(exact.trials) <= 7  # some are pruned without an image
    written = table.rows(found)
    assert (written["regret"].dropna() > -2e-5).all()
    assert written.set_index("search")["regret"].isna().sum() == len(runs.CLOUD_ALONE)
    assert written.set_index("search")["regret"]["exhaustive"] == pytest.approx(0, abs=2e-5)


@pytest.mark.parametrize("name", ["joint", "joint-placed", "race"])
def test_the_winner_is_that_of_exhaustive_or_tied_with_it(found: list[runs.Finished], name: str) -> None:
    by_name = {one.name: one for one in found}
    best = by_name["exhaustive"].config
    names = ("p", "k", "alpha", "s")
    alike = [vars(best.params), *(best.provenance or {})["tied"]]  # the winner, and its equals
    own = vars(by_name[name].config.params)
    assert [own[key] for key in names] in [[one[key] for key in names] for one in alike]


def test_calls_are_those_of_the_plans(found: list[runs.Finished], setup: runs.Setup) -> None:
    by_name = {one.name: one for one in found}
    whole = by_name["greedy-off"]
    trials = pd.read_csv(setup.folder("greedy-off") / "trials.csv")
    assert whole.search.cloud == PROMPTS * trials["cloud_calls"].sum()
    assert whole.search.edge == PROMPTS * trials["edge_calls"].sum()
    assert whole.search.decode == PROMPTS * len(trials)
    assert by_name["greedy"].search.cloud < whole.search.cloud
    assert by_name["greedy"].trials == whole.trials
    made = {name: (one.reference.cloud, one.reference.edge) for name, one in by_name.items()}
    assert made["greedy"] == (PROMPTS * STEPS, PROMPTS * STEPS)  # the given latency profile costs nothing
    assert made["joint"] == made["race"] == (PROMPTS * STEPS, 2 * PROMPTS * STEPS)
    joint = by_name["joint"]
    calls = PROMPTS * STEPS * (1 + 2 * WEIGHT) + joint.search.cloud + WEIGHT * joint.search.edge
    assert joint.equivalents == pytest.approx(calls)
    assert table.factor(joint, found) == pytest.approx(whole.equivalents / calls)
    assert table.floor(joint, PROMPTS) <= joint.equivalents


def test_what_is_done_is_not_done_again(
    found: list[runs.Finished], arguments: list[str], setup: runs.Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (setup.outputs / "bench_search.csv").read_bytes()

    def never(*_: object) -> None:
        raise AssertionError("nothing is left to run")

    monkeypatch.setattr(runs, "_tuner", never)
    for more in ([], ["--table-only"], ["--table-only", "--json", str(setup.outputs / "rows.json")]):
        assert bench_search.main([*arguments, *more]) == 0
        assert (setup.outputs / "bench_search.csv").read_bytes() == before
    rows = json.loads((setup.outputs / "rows.json").read_text(encoding="utf-8"))
    assert [row["search"] for row in rows] == list(runs.STUDIES)
    assert [row["equivalents"] for row in rows] == pytest.approx([one.equivalents for one in found])
    assert {(row["num_prompts"], row["num_steps"]) for row in rows} == {(PROMPTS, STEPS), (1, STEPS)}
    assert [row["regret"] for row in rows if row["search"] in runs.CLOUD_ALONE] == [None, None]


def test_what_is_said(found: list[runs.Finished]) -> None:
    lines = table.describe(found, PROMPTS)
    assert "the optimum of the whole grid; an edge call counts as 0.400 cloud calls" in lines[0]
    assert lines[1].startswith("greedy with and without sharing: SSIM within")
    assert lines[2].startswith("joint: regret ")
    assert "(reference and winner alone would be 1/" in lines[2]
    assert "the best found, by no whole grid" in table.describe([found[0]], PROMPTS)[0]


def test_greedy_must_agree_with_itself(found: list[runs.Finished]) -> None:
    greedy = next(one for one in found if one.name == "greedy")
    assert runs.most_apart(greedy, greedy) == 0
    (key, rows), *_ = greedy.rows.items()
    prompt, one = next(iter(rows.items()))
    assert one.ssim is not None
    moved = Measurement(one.ssim + 2 * runs.SAME_SSIM, one.psnr, one.seconds)
    other = replace(greedy, rows={**greedy.rows, key: {**rows, prompt: moved}})
    with refused(runs.BenchmarkError, key="ssim", expected=f"<= {runs.SAME_SSIM:g}"):
        runs.most_apart(greedy, other)
    with refused(runs.BenchmarkError, key="greedy", expected="greedy"):
        runs.most_apart(greedy, replace(greedy, rows={key: rows}))


def test_what_cannot_be_run(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench_search.main([*arguments, "--searches", "joined"]) == 2
    assert "Unknown search 'joined'" in capsys.readouterr().err
    assert bench_search.main(["--outputs", str(tmp_path), "--table-only"]) == 2
    assert "No search in" in capsys.readouterr().err
    assert bench_search.main(["--outputs", str(tmp_path), "pair=nonsense"]) == 2
    assert "ended with status 2" in capsys.readouterr().err
    args = bench_search.parse_args(["seed=1", "--searches", "joint", "exact", "search.k=[1,2]"])
    assert (args.searches, args.settings) == (["joint", "exact"], ["seed=1", "search.k=[1,2]"])
    with pytest.raises(SystemExit):
        bench_search.parse_args(["--num-promts", "3"])
