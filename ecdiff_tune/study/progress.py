"""What a person sees while a command runs: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from ecdiff_core.text import counted, visible
from ecdiff_tune.candidate import Candidate
from ecdiff_tune.search.base import Ask
from ecdiff_tune.search.spaces import Stage, stage_name

if TYPE_CHECKING:
    from ecdiff_tune.study.loop import Trial

LINE_SECONDS = 15.0
"""The least time between two lines about one task where there is no terminal."""


def describe(candidate: Candidate, stage: Stage) -> str:
    """The part of a candidate that its stage varies; of the rest what is not the paper's."""
    params = candidate.params
    when = f"p={params.p} k={params.k}" if params.schedule is None else f"{len(params.schedule)} listed steps"
    words = {
        1: [f"k={params.k} alpha={params.alpha:g}"],
        2: [f"s={params.s}"],
        "joint": [f"{when} alpha={params.alpha:g} s={params.s}"],
    }[stage]
    if stage != 2 and candidate.estimator != "gradient":
        words.append(candidate.estimator)
    if stage != 1 and candidate.handoff_adapter != "identity":
        words.append(candidate.handoff_adapter)
    return " ".join(words)


def duration(seconds: float) -> str:
    """In the unit that one thinks in.

    >>> duration(0.31), duration(42), duration(240), duration(9000)
    ('0.3 s', '42 s', '4.0 min', '2.5 h')
    """
    if seconds < 1:
        return f"{max(seconds, 0.1):.1f} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


class _Console(Console):
    """rich's console, which would end the process with status 1 when nobody reads on."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


class Progress:
    """Progress of one command; a context manager."""

    def __init__(self) -> None:
        self._console = _Console(highlight=False, soft_wrap=True, emoji=False)
        self._live = self._console.is_terminal
        columns = (
            "{task.description}",
            BarColumn(30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self._bars = Bars(*columns, TimeRemainingColumn(), console=self._console, transient=True)
        self._prompts = self._bars.add_task("", visible=False, total=1, note="")
        self._trials = self._bars.add_task("", visible=False, total=1, note="")
        self._best: Trial | None = None
        self._may_win: Callable[[Trial], bool] = lambda _: True
        self._one_by_one = True
        self._done = self._total = 0
        self._label = ""
        self._said = 0.0
        self._started = 0.0
        self._most_trials = self._prompts_in_all = 1

    def __enter__(self) -> Progress:
        if self._live:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._bars.stop()  # without bars it would print an empty line

    def say(self, line: str) -> None:
        """One line that stays; what a terminal would obey in it is written as escapes."""
        self._console.print(visible(line, "\n"), markup=False)

    def start_task(self, label: str, prompts: int) -> None:
        """Begin something that is done prompt by prompt."""
        self._label, self._done, self._total, self._said = label, 0, prompts, time.monotonic()
        self._bars.reset(self._prompts, total=prompts, description=label, visible=True, note="prompts")

    def prompts_done(self, count: int) -> None:
        """That many more prompts are done."""
        self._done += count
        self._bars.advance(self._prompts, count)
        now = time.monotonic()
        if not self._live and self._done < self._total and now - self._said > LINE_SECONDS:
            self.say(f"  {self._label}: {self._done} of {self._total} prompts")
            self._said = now

    def start_stage(
        self,
        stage: Stage,
        most_trials: int,
        prompts: int,
        may_win: Callable[[Trial], bool] = lambda _: True,
        one_by_one: bool = True,
    ) -> None:
        """Begin a search stage of at most that many trials.

        Args:
            may_win: of a trial with a score, whether it keeps the limits.
            one_by_one: every trial ends before the next begins, so that the time left can be told.
        """
        self._best, self._most_trials, self._prompts_in_all = None, most_trials, prompts
        self._may_win, self._one_by_one = may_win, one_by_one
        self._started = time.monotonic()
        self._bars.reset(
            self._trials,
            total=most_trials,
            description=stage_name(stage),
            visible=True,
            note="trials at most",
        )

    def more_trials(self, most_trials: int) -> None:
        """The stage has grown: at most that many trials in all."""
        self._most_trials = most_trials
        self._bars.update(self._trials, total=most_trials)

    def start_trials(self, stage: Stage, number: int, ask: Ask) -> None:
        """Begin what a search asks for."""
        several, prompts = len(ask.candidates), ask.prompts or self._prompts_in_all
        what = describe(ask.candidates[0], stage) if several == 1 else counted(several, "config")
        self.start_task(f"trial {number}  {what}", prompts)

    def end_trial(self, trial: Trial) -> None:
        """One line about a finished trial, the best so far and the time left at most."""
        wins = trial.score is not None and self._may_win(trial)
        if wins and (self._best is None or trial.value > self._best.value):
            self._best = trial
        self._bars.advance(self._trials)
        passed = time.monotonic() - self._started
        left = passed / trial.number * max(0, self._most_trials - trial.number)
        best = f"best {describe(self._best.candidate, trial.stage)}" if self._best else "no winner yet"
        self._bars.update(self._trials, note=f"trials at most, {best}")
        told = f", up to about {duration(left)} left" if self._one_by_one and left > 0 else ""
        self.say(f"{_trial_line(trial)}   {best}{told}")

    def end_stage(self) -> None:
        """Take the stage's bars away."""
        self._bars.update(self._trials, visible=False)
        self._bars.update(self._prompts, visible=False)


def _trial_line(trial: Trial) -> str:
    head = f"{stage_name(trial.stage)}  trial {trial.number:>2}  {describe(trial.candidate, trial.stage):<13}"
    if trial.score is None:
        return f"{head}  infeasible: latents not finite"
    score = trial.score
    parts = f"quality {score.quality:.4f}  efficiency {score.efficiency:.3f}"
    if score.burden is not None:
        parts += f"  burden {score.burden:.3f}"
    return f"{head}  {parts}  objective {score.objective:.4f}"
