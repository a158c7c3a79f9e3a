"""The commands end to end on the tiny pair: what they write, print, refuse, and go on with after a kill."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import NoReturn

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from torch import Tensor

from ecdiff_core import noise
from ecdiff_core.__main__ import main as ecdiff
from ecdiff_core.noise import Alpha, NoiseState
from ecdiff_core.params import ECDiffParams
from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_core.plan import plan
from ecdiff_core.tuned_config import TunedConfig
from ecdiff_tune import evaluator, reference
from ecdiff_tune import latency as latency_module
from ecdiff_tune.__main__ import COMMANDS
from ecdiff_tune.candidate import Candidate, ConfigKey
from ecdiff_tune.latency import LatencyProfile
from ecdiff_tune.ledger import Ledger
from ecdiff_tune.report import pictures
from ecdiff_tune.search import SEARCHES
from ecdiff_tune.search.base import Context, Result, Stage1Space

from .conftest import Command, Outcome

STEPS = 12
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
    "seconds",
    "state",
    "estimator",
    "schedule",
]
WRITTEN = ("stage1.yaml", "ecdiff.yaml", "trials.csv", "table5.md")


@dataclass(frozen=True)
class Study:
    """A folder of outputs and the settings that go with it."""

    outputs: Path
    pair: Path
    run: Command

    @property
    def folder(self) -> Path:
        return self.outputs / "tiny" / "default"

    @property
    def settings(self) -> list[str]:
        """Twelve steps, three prompts in batches of two and one, six configs in stage 1."""
        return [
            "pair.name=tiny",
            f"pair.cloud={self.pair / 'cloud'}",
            f"pair.edge={self.pair / 'edge'}",
            f"sampling.num_inference_steps={STEPS}",
            "sampling.guidance_scale=3.0",
            "calibration.num_prompts=3",
            "heldout.num_prompts=2",
            "search.k=[1,2]",
            "search.alpha=[0.3,0.5,0.7]",
            "batch_size=2",
            "device=cpu",
            f"output_dir={self.outputs}",
        ]

    def __call__(self, command: str, *more: str) -> Outcome:
        options = [one for one in more if one.startswith("-")]  # argparse wants them before the overrides
        return self.run(command, *options, *self.settings, *(one for one in more if one not in options))

    def with_latency(self, profile: LatencyProfile, name: str = "default") -> Study:
        """Give a study its latency profile, which otherwise is measured and so never the same twice."""
        profile.save(self.outputs / "tiny" / name / "latency.json")
        return self

    def copy(self, outputs: Path, *names: str) -> Study:
        """The same study in another place: all of it, or some of its files and the references."""
        if names:
            shutil.copytree(self.outputs / "tiny" / "reference", outputs / "tiny" / "reference")
        else:
            shutil.copytree(self.outputs, outputs)
        other = replace(self, outputs=outputs)
        other.folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            shutil.copy(self.folder / name, other.folder / name)
        return other

    def bytes(self, *names: str) -> dict[str, bytes]:
        return {name: (self.folder / name).read_bytes() for name in names or WRITTEN}

    def trials(self) -> pd.DataFrame:
        return pd.read_csv(self.folder / "trials.csv")

    def config(self, name: str = "ecdiff.yaml") -> TunedConfig:
        return TunedConfig.load(self.folder / name)

    def rows(self) -> int:
        """How many rows the ledger has."""
        try:
            with sqlite3.connect(f"file:{self.folder / 'ledger.sqlite'}?mode=ro", uri=True) as database:
                return database.execute("SELECT COUNT(*) FROM measurements").fetchone()[0]
        except sqlite3.OperationalError:  # not there yet, or being written
            return 0


@pytest.fixture
def study(tiny_pair: Path, tmp_path: Path, command: Command, latency: LatencyProfile) -> Study:
    """Nothing but a latency profile."""
    return Study(tmp_path / "outputs", tiny_pair, command).with_latency(latency)


@pytest.fixture(scope="module")
def tuned(
    tiny_pair: Path, tmp_path_factory: pytest.TempPathFactory, command: Command, latency: LatencyProfile
) -> tuple[Study, Outcome]:
    """An undisturbed ``tune``, not to be written to, and what it printed."""
    whole = Study(tmp_path_factory.mktemp("tuned"), tiny_pair, command).with_latency(latency)
    return whole, whole("tune")


@pytest.fixture
def done(tuned: tuple[Study, Outcome]) -> Study:
    """The undisturbed study."""
    return tuned[0]


def forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on, whatever measures or makes a reference fails the test."""

    def generated(*_: object) -> NoReturn:
        raise AssertionError("generated again")

    monkeypatch.setattr(evaluator.Evaluator, "_generate", generated)
    monkeypatch.setattr(reference, "_generate", generated)
    monkeypatch.setattr(latency_module, "measure", generated)


def one_line(outcome: Outcome) -> str:
    """The error that a command ended with, which must be a single line on stderr."""
    assert outcome.status == 2, outcome
    (line,) = outcome.err.splitlines()
    assert line.startswith("error: ")
    assert "Traceback" not in outcome.out
    return line


# What tune writes.


def test_tune_writes_everything(tuned: tuple[Study, Outcome]) -> None:
    done, outcome = tuned
    assert outcome.status == 0, outcome
    assert outcome.err == ""
    names = {path.name for path in done.folder.iterdir()}
    assert {*WRITTEN, "samples.png", "study.json", "latency.json", "ledger.sqlite"} <= names
    assert {"noise_profile.csv", "noise_profile.png"} <= names
    assert not list(done.outputs.rglob("*.part"))
    with Image.open(done.folder / "samples.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 300


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
    search, values = (
        SEARCHES["greedy"](space, Context(3, lambda _, q: q, lambda cs: [0.5] * len(cs))),
        iter(first["objective"]),
    )
    walked = []
    while not search.done:
        (asked,) = search.ask().candidates
        walked.append((asked.params.k, asked.params.alpha))
        search.tell([Result(next(values))])
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
    assert done.rows() == rows_of(trials) + 2  # two held-out prompts of the winner


def rows_of(trials: pd.DataFrame) -> int:
    """Ledger rows of these trials: three prompts a different key."""
    keys = set()
    for row in trials.itertuples():
        params = ECDiffParams(row.p, row.k, row.alpha, STEPS if row.stage == 1 else int(row.s))
        keys.add(ConfigKey.of(Candidate(params), plan(params, STEPS)))
    return 3 * len(keys)


def best_row(trials: pd.DataFrame, stage: int) -> pd.Series:
    part = trials[trials["stage"] == stage]
    return part.loc[part["objective"].idxmax()]


def test_stage1_yaml_is_the_best_of_stage_1(done: Study) -> None:
    best, config = best_row(done.trials(), 1), done.config("stage1.yaml")
    assert config.params == ECDiffParams(int(best["p"]), int(best["k"]), float(best["alpha"]), STEPS)
    assert config.score is not None
    assert config.score["burden"] is None
    assert config.score["objective"] == pytest.approx(best["objective"], abs=1e-6)


def test_ecdiff_yaml_is_the_best_of_stage_2(done: Study) -> None:
    best, config = best_row(done.trials(), 2), done.config()
    winner = done.config("stage1.yaml").params
    assert config.params == replace(winner, s=int(best["s"]))
    assert config.sampling.num_inference_steps == STEPS
    score = config.score
    assert score is not None
    for name in ("quality", "efficiency", "burden", "objective", "seconds"):
        assert score[name] == pytest.approx(best[name], abs=1e-6)
    assert score["calls"] == {
        "cloud": best["cloud_calls"],
        "approximated": best["approximated"],
        "edge": best["edge_calls"],
    }
    low, high = score["quality_ci95"]
    assert low <= score["quality"] <= high
    assert config.pair.cloud.fingerprint
    assert config.pair.edge.fingerprint
    assert config.provenance is not None
    assert config.provenance["calibration"]["num_prompts"] == 3


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
    assert heldout["quality"] == pytest.approx((total - 3 * config.score["quality"]) / 2, abs=1e-5)
    difference = 0.3 * (heldout["quality"] - config.score["quality"])
    assert heldout["objective"] - config.score["objective"] == pytest.approx(difference, abs=1e-5)
    assert heldout["digest"] != config.provenance["calibration"]["digest"]


def test_table_5(done: Study) -> None:
    header, _, row = (done.folder / "table5.md").read_text().splitlines()
    cells = dict(zip(split(header), split(row), strict=True))
    params, best = done.config().params, best_row(done.trials(), 2)
    assert cells["pair"] == "tiny"
    assert [cells[name] for name in ("p", "k", "s")] == [str(params.p), str(params.k), str(params.s)]
    assert float(cells["alpha"]) == params.alpha
    assert [cells[name] for name in ("cloud calls", "approximated", "edge calls")] == [
        str(best[name]) for name in ("cloud_calls", "approximated", "edge_calls")
    ]
    for name in ("quality", "efficiency", "burden", "objective"):
        assert float(cells[name]) == pytest.approx(best[name], abs=5e-5)


def split(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip("| ").split("|")]


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
    assert any(re.search(r"quality 0\.\d{4} .*, 0\.\d{4} on 2 held-out ones", line) for line in lines)


def test_tune_says_beforehand_what_it_may_cost(tuned: tuple[Study, Outcome]) -> None:
    done, outcome = tuned
    p = done.config().params.p
    plans = [plan(ECDiffParams(p, k, 0.5, STEPS), STEPS) for k in (1, 2) for _ in range(3)]
    cloud = 3 * (p + sum(steps.cloud_calls - p for steps in plans))  # the warm-up is shared
    assert re.search(r"tune: at most \d+ trials, .* about \d+\.\d min at most", outcome.out)
    assert f"stage 1: at most 6 trials, {cloud} cloud and 0 edge calls, about " in outcome.out
    assert "reference: 36 cloud and 36 edge calls, about " in outcome.out
    assert f"(p = {p})" in outcome.out


def test_a_winner_on_the_edge_of_the_grid_is_pointed_out(tuned: tuple[Study, Outcome]) -> None:
    done, outcome = tuned
    params = done.config("stage1.yaml").params
    notes = re.findall(r"note: the best (\w+) = (\S+) lies on the edge of search\.\w+", outcome.out)
    expected = [("k", f"{params.k}")]  # one of two
    expected += [("alpha", f"{params.alpha:g}")] if params.alpha in (0.3, 0.7) else []
    assert [note for note in notes if note[0] != "s"] == expected


def test_the_command_that_is_printed_works(
    tuned: tuple[Study, Outcome], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done, outcome = tuned
    last = outcome.out.splitlines()[-1]
    assert last.startswith("next: python -m ecdiff_core generate --config ")
    arguments = shlex.split(last.removeprefix("next: python -m ecdiff_core "))
    assert ecdiff([*arguments, "--out", str(tmp_path / "new"), "--device", "cpu"]) == 0
    (written,) = (tmp_path / "new").glob("*.png")
    with Image.open(written) as picture:
        assert picture.size == (32, 32)
        schedule = picture.text["ecdiff:plan"]  # type: ignore[attr-defined]
    assert schedule == done.config().plan().schedule
    assert f"{STEPS} steps = " in capsys.readouterr().out.splitlines()[-1]


def test_inference_loads_the_yaml(done: Study) -> None:
    pipe = ECDiffPipeline.from_config(done.folder / "ecdiff.yaml", device="cpu")
    output = pipe("a red circle")
    assert output.images[0].size == (32, 32)
    assert output.plan.handoff_step == done.config().params.s


# Going on with a study.


def test_the_same_command_again_generates_nothing(
    done: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = done.copy(tmp_path / "outputs")
    grids: list[tuple[Path, Sequence[tuple[str, Tensor]], Sequence[str]]] = []
    monkeypatch.setattr(pictures, "samples", lambda *grid: grids.append(grid))
    forbid(monkeypatch)
    before, rows = again.bytes(), again.rows()
    outcome = again("tune")
    assert outcome.status == 0, outcome
    assert again.bytes() == before
    assert again.rows() == rows

    # samples.png: four rows, the prompt with the worst SSIM first.
    ((path, lines, headings),) = grids
    assert path == again.folder / "samples.png"
    assert [label.split("\n")[0] for label, _ in lines] == ["cloud", "edge", "HybridSD", "EC-Diff"]
    assert {tuple(images.shape) for _, images in lines} == {(3, 3, 32, 32)}
    ssims = [float(heading.split()[1]) for heading in headings]
    assert ssims == sorted(ssims)
    assert len({heading.partition("\n")[2] for heading in headings}) == 3


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


def test_stage2_with_parameters_by_hand(done: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "samples", lambda *_: None)
    again = done.copy(tmp_path / "outputs")
    outcome = again("stage2", "params.k=3", "params.alpha=0.4")
    assert outcome.status == 0, outcome
    params = again.config().params
    assert (params.k, params.alpha) == (3, 0.4)
    assert params.p == done.config().params.p
    before, after = done.trials(), again.trials()
    pd.testing.assert_frame_equal(after[after["stage"] == 1], before[before["stage"] == 1])
    assert set(after.loc[after["stage"] == 2, "k"]) == {3}
    assert again.bytes("stage1.yaml") == done.bytes("stage1.yaml")


def test_stage2_alone_cuts_at_s(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "samples", lambda *_: None)
    by_hand = ("params.p=3", "params.k=2", "params.alpha=0.3", "heldout.num_prompts=0")
    outcome = study("stage2", *by_hand, "sampling.handoff=exact", "search.name=exhaustive")
    assert outcome.status == 0, outcome
    assert study.trials()["s"].tolist() == [7, 8, 9, 10]
    config = study.config()
    assert config.sampling.handoff == "exact"
    assert config.plan().handoff_step == config.params.s == best_row(study.trials(), 2)["s"]
    assert config.score is not None
    assert "heldout" not in config.score
    assert "held-out" not in outcome.out


def test_stage2_needs_a_stage_1(study: Study) -> None:
    assert "run stage1 with the same settings first, or give params.k and params.alpha" in one_line(
        study("stage2")
    )
    assert "Expected both params.k and params.alpha, or neither" in one_line(study("stage2", "params.k=2"))


def test_other_settings_are_refused(done: Study, tmp_path: Path) -> None:
    again = done.copy(tmp_path / "outputs")
    before = again.bytes(*WRITTEN, "study.json", "ledger.sqlite")
    line = one_line(again("tune", "objective.w1=0.5", "search.k=[1,2,3]"))
    assert "(objective.w1 0.3 -> 0.5; search.k [1, 2] -> [1, 2, 3])" in line
    assert "study=NAME, or resume=false" in line
    assert again.bytes(*WRITTEN, "study.json", "ledger.sqlite") == before


def test_resume_false_starts_anew(done: Study, tmp_path: Path) -> None:
    again = done.copy(tmp_path / "outputs")
    outcome = again("reference", "objective.w1=0.5", "resume=false")
    assert outcome.status == 0, outcome
    (old,) = again.folder.glob("old-*")
    assert {name: (old / name).read_bytes() for name in WRITTEN} == done.bytes()
    assert not (again.folder / "ecdiff.yaml").exists()
    assert (again.folder / "noise_profile.csv").is_file()


def test_one_process_a_study(study: Study) -> None:
    from filelock import FileLock

    with FileLock(study.folder / ".lock"):
        assert "Another process works on" in one_line(study("reference"))


# Stopped at any moment.

needs_fork = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")


def kill_before_rename(name: str, number: int = 1) -> None:
    """Let this process be killed when it has written, but not yet renamed, its n-th file of that name."""
    rename, left = Path.replace, [number]

    def replace_or_die(part: Path, target: Path) -> Path:
        left[0] -= Path(target).match(name)
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(part, target)

    Path.replace = replace_or_die  # type: ignore[method-assign, assignment]


def kill_after_append(number: int) -> None:
    """Let this process be killed when the ledger has n more batches."""
    append, left = Ledger.append, [number]

    def append_or_die(ledger: Ledger, *rows: object) -> None:
        append(ledger, *rows)  # type: ignore[arg-type]
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)

    Ledger.append = append_or_die  # type: ignore[method-assign, assignment]


MOMENTS: list[tuple[Callable[..., None], tuple[object, ...]]] = [
    (kill_before_rename, ("*.safetensors", 2)),  # in the middle of the reference's first batch
    (kill_before_rename, ("*.safetensors", 2)),  # and of what was left
    (kill_after_append, (3,)),  # in the middle of the second trial
    (kill_before_rename, ("trials.csv", 3)),
    (kill_before_rename, ("stage1.yaml",)),
    (kill_after_append, (4,)),
    (kill_before_rename, ("ecdiff.yaml",)),
    (kill_before_rename, ("samples.png",)),
]


def tune_until(study: Study, doom: Callable[..., None], details: tuple[object, ...]) -> None:
    doom(*details)
    study("tune")


@needs_fork
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_killed_again_and_again(done: Study, study: Study) -> None:
    shutil.copy(done.folder / "study.json", study.folder)  # the same date in the YAML files
    for doom, details in MOMENTS:
        process = multiprocessing.get_context("fork").Process(target=tune_until, args=(study, doom, details))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL, (doom, details)
    outcome = study("tune")
    assert outcome.status == 0, outcome
    assert study.bytes() == done.bytes()
    assert study.rows() == done.rows()


@needs_fork
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_killed_from_outside(done: Study, tmp_path: Path) -> None:
    study = done.copy(tmp_path / "outputs", "study.json", "latency.json")
    process = multiprocessing.get_context("fork").Process(target=study, args=("tune",))
    process.start()
    wait_for(lambda: study.rows() > 0)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert study.rows() < done.rows()
    outcome = study("tune")
    assert outcome.status == 0, outcome
    assert study.bytes() == done.bytes()


def wait_for(happened: Callable[[], bool], seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_interrupted(done: Study, tmp_path: Path) -> None:
    study = done.copy(tmp_path / "outputs", "study.json", "latency.json")
    process = subprocess.Popen(
        [sys.executable, "-m", "ecdiff_tune", "tune", *study.settings],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where tests run behind a &
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    wait_for(lambda: study.rows() > 0 or process.poll() is not None)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 130, out + err
    assert err.strip() == "stopped; run the same command again to go on from here"
    assert 0 < study.rows() < done.rows()
    assert "stage 1" in out


# Variants.


def test_searches_in_one_go(study: Study, latency: LatencyProfile) -> None:
    for name in ("greedy", "exhaustive"):
        study.with_latency(latency, name)
    small = ("search.k=[1,2,3]", "heldout.num_prompts=0", "study=${search.name}")
    outcome = study("stage1", "-m", "search=greedy,exhaustive", *small, "search.alpha=[0.3,0.5,0.7,0.9]")
    assert outcome.status == 0, outcome
    trials, best = {}, {}
    for name in ("greedy", "exhaustive"):
        folder = study.outputs / "tiny" / name
        trials[name] = pd.read_csv(folder / "trials.csv").drop(columns="trial").set_index(["k", "alpha"])
        score = TunedConfig.load(folder / "stage1.yaml").score
        assert score is not None
        best[name] = score["objective"]
    assert len(trials["exhaustive"]) == 12
    assert len(trials["greedy"]) < 12
    assert best["exhaustive"] >= best["greedy"]
    assert best["exhaustive"] == pytest.approx(trials["exhaustive"]["objective"].max(), abs=1e-6)
    # The same configs have the same scores, and the second study found the references of the first.
    shared = trials["exhaustive"].loc[trials["greedy"].index]
    pd.testing.assert_frame_equal(shared, trials["greedy"])
    assert outcome.out.count("reference: ") == 1


def test_by_the_clock(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "samples", lambda *_: None)
    small = ("params.p=3", "search.k=[2]", "search.alpha=[0.3]", "search.s=[9]", "heldout.num_prompts=1")
    outcome = study("tune", "latency=wallclock", *small)
    assert outcome.status == 0, outcome
    with sqlite3.connect(study.folder / "ledger.sqlite") as database:
        measured = [seconds for (seconds,) in database.execute("SELECT seconds FROM measurements")]
    trials = study.trials()
    profile = LatencyProfile.load(study.folder / "latency.json")
    alone = np.array(measured) + profile.encode.median  # the median of an odd number is one of them
    assert min(np.abs(alone - trials["seconds"][0])) < 1e-9
    assert min(np.abs(alone + profile.transfer_seconds - trials["seconds"][1])) < 1e-9
    config = study.config()
    assert config.provenance is not None
    assert config.provenance["latency"]["source"] == "wallclock"


def test_a_config_that_is_not_finite_loses(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    gradient = noise.ESTIMATORS["gradient"]

    def estimate(state: NoiseState, alpha: Alpha) -> NoiseState:
        found = gradient.estimate(state, alpha)
        spoilt = alpha == 0.5 and state.scaled and found.eps is not None
        return replace(found, eps=found.eps * float("nan")) if spoilt else found

    monkeypatch.setitem(noise.ESTIMATORS, "gradient", replace(gradient, estimate=estimate))
    outcome = study("stage1", "heldout.num_prompts=0")
    assert outcome.status == 0, outcome
    trials = study.trials()
    infeasible = trials[trials["alpha"] == 0.5]
    assert set(infeasible["state"]) == {"infeasible"}
    assert infeasible[["quality", "efficiency", "burden", "objective"]].isna().all(axis=None)
    assert set(trials.loc[trials["alpha"] != 0.5, "state"]) == {"complete"}
    assert study.config("stage1.yaml").params.alpha != 0.5
    assert "infeasible: latents not finite" in outcome.out


def test_a_file_of_prompts(study: Study, tmp_path: Path) -> None:
    file = tmp_path / "prompts.csv"
    file.write_text('id,words\n1,"a ring, red"\n2,a star\n3,a cross\n4,a square\n')
    outcome = study(
        "reference", f"calibration.file={file}", "calibration.column=words", "heldout.num_prompts=1"
    )
    assert outcome.status == 0, outcome
    assert len(list((study.outputs / "tiny" / "reference").rglob("*.safetensors"))) == 3


# The command line itself.


@pytest.mark.parametrize("arguments", [["--help"], ["-h"]])
def test_help(command: Command, arguments: list[str]) -> None:
    outcome = command(*arguments)
    assert outcome.status == 0
    for name, what in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(what)}$", outcome.out, re.MULTILINE)


def test_no_command(command: Command) -> None:
    outcome = command()
    assert outcome.status == 2
    assert outcome.out.startswith("usage: ")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command(command: Command, name: str) -> None:
    outcome = command(name, "--help")
    assert outcome.status == 0
    assert outcome.out.startswith(f"ecdiff-tune {name}: ")
    for text in ("search: exhaustive, greedy", "num_prompts: 100", "resume: true", "earliest_s: null"):
        assert text in outcome.out


def test_cfg_job(command: Command, tmp_path: Path) -> None:
    outcome = command("tune", "--cfg", "job", "seed=3", f"output_dir={tmp_path / 'new'}")
    assert outcome.status == 0
    assert "seed: 3" in outcome.out.splitlines()
    assert "hydra" not in outcome.out
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["tun"], "Unknown command 'tun': choose from .*tune.* \\(did you mean tune\\?\\)"),
        (
            ["tune", "pair=shapse"],
            "Unknown pair 'shapse': .* \\(did you mean shapes\\?\\)",
        ),
        (["stage1", "search=greddy"], "Unknown search 'greddy': .* \\(did you mean greedy\\?\\)"),
        (["tune", "seeed=1"], "Unknown setting seeed: .* \\(did you mean seed\\?\\)"),
        (
            ["tune", "calibration.num_promts=3"],
            "Unknown setting calibration.num_promts: .* \\(did you mean calibration.num_prompts\\?\\)",
        ),
        (["tune", "serach.k=[1]"], "Unknown setting serach"),
        (["tune", "seed=many"], "'many'.* Integer"),
        (["tune", "search.k=[1"], "no viable alternative|mismatched|extraneous"),
        (["tune", "search.k=3"], "search.k|list|ListConfig"),
    ],
)
def test_mistyped(command: Command, tmp_path: Path, arguments: list[str], told: str) -> None:
    outcome = command(*arguments, *([] if arguments == ["tun"] else [f"output_dir={tmp_path}"]))
    assert re.search(told, one_line(outcome))


# Bad input: one line, exit status 2, nothing that looks like a result.


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["pair.cloud=/no/such/folder"], "No model folder at /no/such/folder"),
        (["params.p=9"], "Expected params.p <= every s, got p=9"),
        (["search.k=[12]"], "Expected search.k within 0 … 11"),
        (["search.alpha=[0]"], "Expected search.alpha within 0 < alpha <= 1"),
        (["search.s=[13]"], "Expected search.s within 0 … 12"),
        (["calibration.file=/no/such/file.csv"], "Cannot read the prompts file /no/such/file.csv: No such"),
        (["sampling.scheduler=DDIMSchedular"], "no scheduler 'DDIMSchedular'.*did you mean DDIMScheduler"),
        (["sampling.scheduler=EulerAncestralDiscreteScheduler"], "draws fresh noise at every step"),
        (["sampling.height=33"], "Expected height and width to be multiples of"),
        (["device=abacus"], "Cannot use the device 'abacus' here"),
    ],
)
def test_bad_input(study: Study, overrides: list[str], told: str) -> None:
    assert re.search(told, one_line(study("tune", *overrides)))
    assert not list(study.outputs.rglob("*.yaml")) or not list(study.folder.glob("*.yaml"))
    assert not (study.folder / "study.json").exists()


@pytest.mark.parametrize(
    ("text", "more", "told"),
    [
        ("words\n", [], "none of the columns"),
        ("prompt\n", [], "holds no prompt"),
        ("words\na cat\n", [], "none of the columns .*name it with calibration.column"),
        ("words\na cat\n", ["calibration.column=word"], "no column 'word': .*did you mean words"),
        (
            "words\na cat\na dog\n",
            ["calibration.column=words"],
            "Expected at least 5 distinct prompts .* got 2",
        ),
    ],
)
def test_bad_prompt_files(study: Study, tmp_path: Path, text: str, more: list[str], told: str) -> None:
    (tmp_path / "prompts.csv").write_text(text)
    assert re.search(told, one_line(study("tune", f"calibration.file={tmp_path / 'prompts.csv'}", *more)))


def test_corrupt_weights(study: Study, tmp_path: Path) -> None:
    cloud = shutil.copytree(study.pair / "cloud", tmp_path / "cloud")
    weights = cloud / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert f"Cannot load the model in {cloud}" in one_line(study("tune", f"pair.cloud={cloud}"))
    weights.unlink()
    assert f"No weights in {cloud / 'unet'}" in one_line(study("tune", f"pair.cloud={cloud}"))


def test_a_cloud_that_is_not_slower(study: Study, latency: LatencyProfile) -> None:
    study.with_latency(replace(latency, cloud_call=latency.edge_call))
    line = one_line(study("tune"))
    assert "Efficiency has no meaning" in line
    assert not list((study.outputs / "tiny").rglob("*.safetensors"))  # told before the work begins


def test_a_machine_that_was_busy_is_measured_again(
    study: Study, latency: LatencyProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    (study.folder / "latency.json").unlink()
    measured = iter([replace(latency, cloud_call=latency.edge_call), latency])
    monkeypatch.setattr(latency_module, "measure", lambda *_, **__: next(measured))
    assert "is the machine busy?" in one_line(study("reference"))
    for _ in range(2):  # measured, then read
        outcome = study("reference")
        assert outcome.status == 0, outcome
    assert LatencyProfile.load(study.folder / "latency.json") == latency


def test_a_setting_that_cannot_work_leaves_the_study_free(study: Study) -> None:
    assert "Expected one timestep a step" in one_line(
        study("reference", "sampling.scheduler=HeunDiscreteScheduler")
    )
    outcome = study("reference")
    assert outcome.status == 0, outcome


def test_p_and_alpha_by_hand_are_checked_before_the_work(study: Study) -> None:
    line = one_line(study("stage2", "params.k=2", "params.alpha=0"))
    assert "Expected 0 < alpha <= 1, got alpha=0" in line
    line = one_line(study("stage2", "params.k=-1", "params.alpha=0.3"))
    assert "Expected k to be a whole number >= 0, got -1" in line
    assert not list((study.outputs / "tiny").rglob("*.safetensors"))


def test_an_s_below_the_least_p(study: Study) -> None:
    line = one_line(study("tune", "search.s=[1,8]"))
    assert "Expected every s >= 2, the least p that params.p=auto chooses, got s from 1" in line
    assert not (study.folder / "stage1.yaml").exists()


@pytest.mark.parametrize("name", ["reference", "stage1", "tune"])
def test_k_and_alpha_by_hand_are_for_stage2(study: Study, name: str) -> None:
    line = one_line(study(name, "params.k=2", "params.alpha=0.3"))
    assert "params.k and params.alpha are for stage2 alone" in line


@pytest.mark.parametrize("name", ["latency.json", "ledger.sqlite", "stage1.yaml", "study.json", "trials.csv"])
def test_damaged_files_of_a_study(done: Study, tmp_path: Path, name: str) -> None:
    again = done.copy(tmp_path / "outputs")
    (again.folder / name).write_text("nonsense: [")
    assert name in one_line(again("stage2"))


def test_an_output_folder_that_cannot_be_written(study: Study, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    line = one_line(study("tune", f"output_dir={tmp_path / 'file'}"))
    assert "output_dir" in line
    assert (tmp_path / "file").read_text() == "mine"


def test_a_failing_job_of_a_sweep(study: Study) -> None:
    outcome = study("stage1", "-m", "search.k=[12],[13]", "study=sweep-${hydra:job.num}")
    assert outcome.status == 2
    assert outcome.err.splitlines()[-1].startswith("error: Expected search.k within 0 … 11, got [12]")
    assert "Traceback" not in outcome.err
