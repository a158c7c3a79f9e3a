"""What an undisturbed ``tune`` of the tiny pair writes and prints."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pandas as pd
import pytest
from diffusers import DDIMScheduler
from PIL import Image

from ecdiff_core import apply_ecdiff, remove_ecdiff
from ecdiff_core.__main__ import main as ecdiff
from ecdiff_core.errors import PairError, ParamsError
from ecdiff_core.sampling.estimators import get_estimator
from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_core.sampling.plan_of_params import plan
from ecdiff_tune.evaluation.candidate import Candidate, ConfigKey
from ecdiff_tune.evaluation.ledger import Ledger
from ecdiff_tune.metrics.score_format import shown
from ecdiff_tune.report import page
from ecdiff_tune.search import SEARCHES
from ecdiff_tune.search.base import Context, Result
from ecdiff_tune.search.options import Options
from ecdiff_tune.search.spaces import Stage1Space
from ecdiff_tune.study import files
from ecdiff_tune.study.folder import StudyError

from ...hooking import load
from ...refusals import refused
from ..studies import ROUNDED, STEPS, WRITTEN, Outcome, Study, best_row, one_line

COLUMNS = [
    "stage",
    "trial",
    "p",
    "k",
    "alpha",
    "s",
    "quality",
    "efficiency",
    "burden",
    "objective",
    "cloud_calls",
    "approximated",
    "edge_calls",
    "cloud_share",
    "seconds",
    "state",
]


# What tune writes.


def test_tune_writes_everything(tuned: tuple[Study, Outcome]) -> None:
    done, outcome = tuned
    assert outcome.status == 0, outcome
    assert outcome.err == ""
    names = {path.name for path in done.folder.iterdir()}
    assert {*WRITTEN, "samples.png", "study.json", "latency.json", "ledger.sqlite"} <= names
    assert {"noise_profile.csv", "noise_profile.png"} <= names
    assert not list(done.outputs.rglob("*.part"))
    with Image.open(done.folder / "samples.png") as image:
        assert image.format == "PNG"
        assert min(image.size) > 300


def test_trials_has_the_promised_columns(done: Study) -> None:
    assert (done.folder / "trials.csv").read_text().splitlines()[0] == ",".join(COLUMNS)


def test_trials_are_in_the_order_of_evaluation(done: Study) -> None:
    trials = done.trials()
    assert trials["stage"].is_monotonic_increasing
    assert set(trials["stage"]) == {1, 2}
    for stage in (1, 2):
        part = trials[trials["stage"] == stage]
        assert part["trial"].tolist() == list(range(1, len(part) + 1))
    first = trials[trials["stage"] == 1]
    space = Stage1Space(int(first["p"].iloc[0]), (1, 2), (0.3, 0.5, 0.7), STEPS)
    whole = Options(error_rate=0.0)
    alone = Context(3, lambda _, quality: quality, lambda ones: [0.5] * len(ones), options=whole)
    search, values = SEARCHES["greedy"].make(space, alone), iter(first["objective"])
    walked = []
    while not search.done:
        (asked,) = search.ask().candidates
        walked.append((asked.params.k, asked.params.alpha))
        value = next(values)
        search.tell([Result(value, (value,) * 3)])
    assert walked == list(zip(first["k"], first["alpha"], strict=True))


def test_stage_1_has_no_s_and_no_burden(done: Study) -> None:
    trials = done.trials()
    first, second = trials[trials["stage"] == 1], trials[trials["stage"] == 2]
    assert first[["s", "burden"]].isna().all(axis=None)
    assert second[["s", "burden"]].notna().all(axis=None)
    assert first["edge_calls"].eq(0).all()
    assert set(trials["state"]) == {"complete"}


def test_trials_recompute_from_the_ledger(done: Study) -> None:
    profile = json.loads((done.folder / "latency.json").read_text())
    cloud, edge, encode, decode = (
        profile[name]["median"] for name in ("cloud_call", "edge_call", "encode", "decode")
    )
    ledger = Ledger(done.folder / "ledger.sqlite")
    trials = done.trials()
    for row in trials.itertuples():
        params = ECDiffParams(row.p, row.k, row.alpha, STEPS if row.stage == 1 else int(row.s))
        steps = plan(params, STEPS)
        found = ledger.read(ConfigKey.of(Candidate(params), steps))
        ssims = [one.ssim for one in found.values()]
        heldout = row.stage == 2 and len(found) == 5  # the winner's rows, on three prompts and two held out
        assert len(found) == 3 or heldout
        if not heldout:
            assert row.quality == pytest.approx(fmean(ssims), abs=1e-12)
        assert (row.cloud_calls, row.approximated, row.edge_calls) == (
            steps.cloud_calls,
            steps.approximated,
            steps.edge_calls,
        )
        seconds = encode + decode + steps.cloud_calls * cloud + steps.edge_calls * edge
        seconds += profile["transfer_seconds"] if steps.edge_calls else 0
        assert row.seconds == pytest.approx(seconds)
        fixed = encode + decode
        gained = (fixed + STEPS * cloud - seconds) / (STEPS * (cloud - edge))
        assert row.efficiency == pytest.approx(gained)
        objective = 0.3 * row.quality + 0.3 * gained
        if row.stage == 2:
            assert row.burden == pytest.approx((STEPS - steps.handoff_step) / (STEPS - 7))
            objective += 0.4 * row.burden
        assert row.objective == pytest.approx(objective)
    ledger.close()
    assert done.rows() == rows_of(trials) + 4  # on two held-out prompts the winner, and fewer steps


def rows_of(trials: pd.DataFrame) -> int:
    """Ledger rows of these trials: three prompts a different key."""
    keys = set()
    for row in trials.itertuples():
        params = ECDiffParams(row.p, row.k, row.alpha, STEPS if row.stage == 1 else int(row.s))
        keys.add(ConfigKey.of(Candidate(params), plan(params, STEPS)))
    return 3 * len(keys)


def test_stage1_yaml_is_the_best_of_stage_1(done: Study) -> None:
    best, config = best_row(done.trials(), 1), done.config("stage1.yaml")
    assert config.params == ECDiffParams(int(best["p"]), int(best["k"]), float(best["alpha"]), STEPS)
    assert config.score is not None
    assert config.score["burden"] is None
    assert config.score["objective"] == pytest.approx(best["objective"], abs=ROUNDED)


def test_ecdiff_yaml_is_the_best_of_stage_2(done: Study) -> None:
    best, config = best_row(done.trials(), 2), done.config()
    winner = done.config("stage1.yaml").params
    assert config.params == replace(winner, s=int(best["s"]))
    assert config.sampling.num_inference_steps == STEPS
    score = config.score
    assert score is not None
    for name in ("quality", "efficiency", "burden", "objective", "seconds"):
        assert score[name] == pytest.approx(best[name], abs=ROUNDED)
    assert score["calls"] == {
        "cloud": best["cloud_calls"],
        "approximated": best["approximated"],
        "edge": best["edge_calls"],
    }
    for name in ("quality", "objective"):
        low, high = score[f"{name}_ci95"]
        assert low <= score[name] <= high
        assert score["heldout"][f"{name}_ci95"] == sorted(score["heldout"][f"{name}_ci95"])
    # Only quality varies with the prompts, by w1 in the objective.
    widths = {name: score[f"{name}_ci95"][1] - score[f"{name}_ci95"][0] for name in ("quality", "objective")}
    assert widths["objective"] == pytest.approx(0.3 * widths["quality"], abs=3 * ROUNDED)
    assert config.pair.cloud.fingerprint
    assert config.pair.edge.fingerprint
    assert config.pair.cloud.tensors != config.pair.edge.tensors
    assert config.scheduler_config is not None
    assert config.scheduler_config["timestep_spacing"] == "leading"
    assert config.provenance is not None
    assert config.provenance["calibration"]["num_prompts"] == 3


def test_the_hook_knows_what_was_tuned(done: Study) -> None:
    config = done.config()
    cloud, edge = load(Path(config.pair.cloud.id)), load(Path(config.pair.edge.id))
    assert apply_ecdiff(cloud, done.folder / files.CONFIG, edge=edge) is cloud
    remove_ecdiff(cloud)
    with refused(PairError, key="cloud", got=config.pair.edge.id, expected=config.pair.cloud.id):
        apply_ecdiff(edge, config, edge=cloud.unet)
    cloud.scheduler = DDIMScheduler.from_config(cloud.scheduler.config, timestep_spacing="trailing")
    with refused(ParamsError, key="scheduler_config", got={"timestep_spacing": "trailing"}):
        apply_ecdiff(cloud, config, edge=edge)


def test_heldout_scores_are_of_other_prompts(done: Study) -> None:
    config = done.config()
    assert config.score is not None
    assert config.provenance is not None
    heldout, ledger = config.score["heldout"], Ledger(done.folder / "ledger.sqlite")
    found = ledger.read(ConfigKey.of(Candidate(config.params), config.plan()))
    ledger.close()
    total = sum(one.ssim for one in found.values() if one.ssim is not None)
    assert len(found) == 5
    assert heldout["num_prompts"] == 2
    assert heldout["quality"] == pytest.approx((total - 3 * config.score["quality"]) / 2, abs=3 * ROUNDED)
    difference = 0.3 * (heldout["quality"] - config.score["quality"])
    assert heldout["objective"] - config.score["objective"] == pytest.approx(difference, abs=3 * ROUNDED)
    assert heldout["digest"] != config.provenance["calibration"]["digest"]


def test_table_5(done: Study) -> None:
    header, _, row = (done.folder / "table5.md").read_text().splitlines()
    cells = dict(zip(split(header), split(row), strict=True))
    params, best = done.config().params, best_row(done.trials(), 2)
    assert cells["pair"] == "tiny"
    assert [cells[name] for name in ("p", "k", "s")] == [str(params.p), str(params.k), str(params.s)]
    acts = done.config().plan().uses_alpha(get_estimator("gradient"))
    assert cells["alpha"] == (f"{params.alpha:g}" if acts else "–")
    assert [cells[name] for name in ("cloud calls", "approximated", "edge calls")] == [
        str(best[name]) for name in ("cloud_calls", "approximated", "edge_calls")
    ]
    for name in ("quality", "efficiency", "burden", "objective"):
        assert cells[name] == shown(best[name])


def split(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip("| ").split("|")]


def test_what_is_tied_with_the_winner_is_named(tuned: tuple[Study, Outcome]) -> None:
    done, outcome = tuned
    for name, stage in (("stage1.yaml", 1), ("ecdiff.yaml", 2)):
        config, trials = done.config(name), done.trials()
        assert config.score is not None
        assert config.provenance is not None
        low, high = config.score["objective_ci95"]
        part = trials[trials["stage"] == stage]
        own = {"p": config.params.p, "k": config.params.k, "alpha": config.params.alpha, "s": config.params.s}
        tied = config.provenance["tied"]
        assert own not in [{key: one[key] for key in own} for one in tied]
        assert {one["k"] for one in tied} <= set(part["k"])
        for one in tied:  # paired differences are smaller than the interval is wide
            assert config.score["objective"] - one["objective"] < high - low + 1e-9
    assert any(line.startswith("tied with the winner") for line in outcome.out.splitlines()) == bool(tied)


def test_the_noise_profile_has_a_row_a_step(done: Study) -> None:
    profile = pd.read_csv(done.folder / "noise_profile.csv")
    assert profile["step"].tolist() == list(range(1, STEPS))
    assert (profile["mean"] > 0).all()


# What tune prints.


def test_tune_prints_plain_lines(tuned: tuple[Study, Outcome]) -> None:
    done, outcome = tuned
    lines = outcome.out.splitlines()
    assert "\x1b" not in outcome.out
    trials = done.trials()
    assert sum(line.startswith(("stage 1  trial", "stage 2  trial")) for line in lines) == len(trials)
    assert any("3 prompts to tune on, 2 held out" in line for line in lines)
    assert (done.folder / "table5.md").read_text().splitlines()[2] in lines
    (wrote,) = [line for line in lines if line.startswith("wrote ")]
    for name in ("ecdiff.yaml", "trials.csv", "table5.md", "samples.png"):
        assert str(done.folder / name) in wrote
    assert lines[-1] == f"page: {done.folder / files.PAGE}"
    assert any(re.search(r"quality 0\.\d{4} .*, 0\.\d{4} on 2 held-out ones", line) for line in lines)


def test_a_page_that_cannot_be_written_keeps_nothing_back(
    tuned: tuple[Study, Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise StudyError("no page", key="report")

    study = tuned[0].copy(tmp_path / "outputs")
    monkeypatch.setattr(page, "write", fail)
    outcome = study("stage2")
    assert one_line(outcome) == "error: no page"
    assert (study.folder / "table5.md").read_text().splitlines()[2] in outcome.out.splitlines()
    assert outcome.out.splitlines()[-2].startswith("next: ")


def test_tune_says_beforehand_what_it_may_cost(tuned: tuple[Study, Outcome]) -> None:
    done, outcome = tuned
    p = done.config().params.p
    plans = [plan(ECDiffParams(p, k, 0.5, STEPS), STEPS) for k in (1, 2)]
    shared = p + 1  # the warm-up, and for each k the first correction
    cloud = 3 * (p + sum(1 + 3 * (steps.cloud_calls - shared) for steps in plans))
    assert re.search(r"tune: up to \d+ trials, .* about [\d.]+ (s|min|h) if all are needed", outcome.out)
    assert f"stage 1: up to 6 trials, {cloud} cloud and 0 edge calls, about " in outcome.out
    assert "reference: 36 cloud and 36 edge calls, at most " in outcome.out
    assert f"(p = {p})" in outcome.out


RISING = r"note: (\w+) = (\S+) is the (\w+) of .*: (\S+) at \w+ = (\S+), (\S+) here"


def test_a_rising_objective_at_a_boundary_is_pointed_out(tuned: tuple[Study, Outcome]) -> None:
    done, outcome = tuned
    trials = done.trials().query("stage == 1")
    best = trials.loc[trials["objective"].idxmax()]
    found = re.findall(RISING, outcome.out)
    for name, value, end, lower, neighbour, higher in found:
        assert name in ("k", "alpha")  # the grid of s begins at s'
        assert float(value) == best[name] == (trials[name].min() if end == "smallest" else trials[name].max())
        others = trials[(trials[name] - float(neighbour)).abs() < 1e-9]
        assert float(lower) == pytest.approx(others["objective"].max(), abs=1e-4)
        assert float(lower) < float(higher) == pytest.approx(best["objective"], abs=1e-4)
    assert len(found) == outcome.out.count("A wider grid may hold a better one")


def test_the_command_that_is_printed_works(
    tuned: tuple[Study, Outcome], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done, outcome = tuned
    last = outcome.out.splitlines()[-3]
    assert last.startswith("next: python -m ecdiff_core generate --config ")
    arguments = shlex.split(last.removeprefix("next: python -m ecdiff_core "))
    assert ecdiff([*arguments, "--out", str(tmp_path / "new"), "--device", "cpu"]) == 0
    (written,) = (tmp_path / "new").glob("*.png")
    with Image.open(written) as image:
        assert image.size == (32, 32)
        schedule = image.text["ecdiff:plan"]  # type: ignore[attr-defined]
    assert schedule == done.config().plan().schedule
    assert f"{STEPS} steps = " in capsys.readouterr().out.splitlines()[-1]
