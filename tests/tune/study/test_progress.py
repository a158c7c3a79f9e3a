"""What a person sees while a command runs."""

from __future__ import annotations

import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from ecdiff_tune.evaluation.latency import LatencyProfile
from ecdiff_tune.search.base import Ask
from ecdiff_tune.study import progress as progress_module
from ecdiff_tune.study import recorded
from ecdiff_tune.study.progress import Progress

from ..recorded_study import RecordedStudy


def test_a_reader_who_stops_ends_it_quietly() -> None:
    script = (
        "import sys; from ecdiff_core.io.console import run_command\n"
        "from ecdiff_tune.study.progress import Progress\n"
        "def command():\n"
        "    with Progress() as progress:\n"
        "        for i in range(100000): progress.log(f'{i} :star: [bold]')\n"
        "sys.exit(run_command(command))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "0 :star: [bold]\n"  # neither emoji nor markup
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=600) == 141


def test_the_best_so_far_keeps_the_limits(
    tmp_path: Path, latency: LatencyProfile, capsys: pytest.CaptureFixture[str]
) -> None:
    study = RecordedStudy(tmp_path, latency).write()
    trials = recorded.load(study.spec).trials
    best, second = (replace(one, number=i) for i, one in enumerate(trials[:2], start=1))
    with Progress() as progress:
        progress.start_stage("joint search", 3, 10, lambda trial: trial is not best, one_by_one=False)
        for trial in (best, second):
            progress.end_trial(trial)
    first, last = capsys.readouterr().out.splitlines()
    assert first.endswith("no winner yet")
    assert f"best p={second.candidate.params.p} k={second.candidate.params.k}" in last
    assert "left" not in first + last


def test_the_time_left_goes_by_what_was_measured_now(
    tmp_path: Path,
    latency: LatencyProfile,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    study = RecordedStudy(tmp_path, latency).write()
    trials = recorded.load(study.spec).trials
    now = [0.0]
    # The module's own: under a false time.monotonic the loops of servers in other threads sleep for days.
    monkeypatch.setattr(progress_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    # Two trials come from the ledger, one lacks half of its prompts, one all of them.
    takes = [(0, 0.0), (0, 0.0), (2, 30.0), (4, 60.0)]
    with Progress() as progress:
        progress.start_stage("joint search", 10, 4)
        for number, (trial, (missing, seconds)) in enumerate(zip(trials, takes, strict=False), start=1):
            progress.start_trials("joint", number, Ask((trial.candidate,)), missing)
            now[0] += seconds
            progress.end_trial(replace(trial, number=number))
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(", up to about ")[2] for line in lines] == ["", "", "7.0 min left", "6.0 min left"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_bars_on_a_terminal(tmp_path: Path, latency: LatencyProfile, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = recorded.load(RecordedStudy(tmp_path, latency).write().spec).trials[0]
    monkeypatch.setattr(sys, "stdout", screen := Terminal())
    with Progress() as progress:
        progress.start_stage("joint search", 3, 10)
        progress.start_trials("joint", 1, Ask((trial.candidate,)), 10)
        progress.prompts_done(10)
        progress.end_trial(replace(trial, number=1))
        progress.end_stage()
        shown = screen.getvalue()
        progress.log("a line")
    assert "0/3 trials at most" in shown
    assert "10/10 prompts" in shown
    assert "1/3 trials at most, best p=" in shown
    assert screen.getvalue() == shown + "a line\n"  # no bar comes back


def test_the_time_left_begins_with_the_estimate(
    tmp_path: Path,
    latency: LatencyProfile,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Which counts as five trials: a first one of 8 s among such of 2 s says 27 s of 9, not 72."""
    study = RecordedStudy(tmp_path, latency).write()
    trials = recorded.load(study.spec).trials
    now = [0.0]
    monkeypatch.setattr(progress_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    with Progress() as progress:
        progress.start_stage("joint search", 10, 4, seconds=20.0)
        progress.start_trials("joint", 1, Ask((trials[0].candidate,)), 4)
        now[0] += 8.0
        progress.end_trial(replace(trials[0], number=1))
    assert capsys.readouterr().out.strip().endswith(", up to about 27 s left")


def test_nothing_in_a_line_is_obeyed_by_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress() as progress:
        progress.log("a\x1b[31m\u202eb\rc\nd")
    assert capsys.readouterr().out == "a\\x1b[31m\\u202eb\\rc\nd\n"


def test_the_last_trial_leaves_no_time(
    tmp_path: Path,
    latency: LatencyProfile,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    study = RecordedStudy(tmp_path, latency).write()
    trials = recorded.load(study.spec).trials
    now = [0.0]
    monkeypatch.setattr(progress_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    with Progress() as progress:
        progress.start_stage("joint search", 2, 10)
        for number, trial in enumerate(trials[:2], start=1):
            progress.start_trials("joint", number, Ask((trial.candidate,)), 10)
            now[0] += 0.1
            progress.end_trial(replace(trial, number=number))
    first, last = capsys.readouterr().out.splitlines()
    assert first.endswith("up to about 0.1 s left")
    assert "left" not in last
