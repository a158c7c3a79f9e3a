"""What a person sees while a command runs: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bars

from ecdiff_core.io.text import counted, visible
from ecdiff_core.sampling.plan import Plan
from ecdiff_tune.evaluation.candidate import Candidate, alpha_in_use
from ecdiff_tune.metrics.score_format import shown
from ecdiff_tune.objective import Stage, stage_name
from ecdiff_tune.search.base import Ask

if TYPE_CHECKING:
    from ecdiff_tune.objective import Trial

ESTIMATE_COUNTS = 5
"""Trials that the estimate of before a stage weighs as much as."""
LINE_SECONDS = 15.0
"""The least time between two lines about one task where there is no terminal."""


def describe(candidate: Candidate, stage: Stage, plan: Plan | None = None) -> str:
    """The part of a candidate that its stage varies; of the rest what is not the paper's.

    Args:
        plan: its own; then an alpha that changes no picture is left out.
    """
    params = candidate.params
    unused = plan is not None and alpha_in_use(params, plan, candidate.estimator) is None
    alpha = "" if unused else f" alpha={params.alpha:g}"
    when = f"p={params.p} k={params.k}" if params.schedule is None else f"{len(params.schedule)} listed steps"
    words = {
        1: [f"k={params.k} alpha={params.alpha:g}"],
        2: [f"s={params.s}"],
        "joint": [f"{when}{alpha} s={params.s}"],
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
            TextColumn("{task.fields[note]}{task.fields[left]}"),
        )
        self._bars = Bars(*columns, console=self._console, transient=True)
        self._prompts = self._bars.add_task("", visible=False, total=1, note="", left="")
        self._trials = self._bars.add_task("", visible=False, total=1, note="", left="")
        self._best: Trial | None = None
        self._may_win: Callable[[Trial], bool] = lambda _: True
        self._one_by_one = True
        self._done = self._total = self._known = 0
        self._label = ""
        self._said = self._begun = 0.0
        self._most_trials = self._prompts_in_all = 1
        self._fresh = self._fresh_seconds = self._asked = self._estimate = 0.0

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

    def start_task(self, label: str, prompts: int, known: int = 0) -> None:
        """Begin something that is done prompt by prompt, so many of which take no time."""
        self._label, self._done, self._total, self._known = label, 0, prompts, known
        self._said = self._begun = time.monotonic()
        self._bars.reset(
            self._prompts, total=prompts, description=label, visible=True, note="prompts", left=""
        )

    def prompts_done(self, count: int) -> None:
        """That many more prompts are done."""
        self._done += count
        now = time.monotonic()
        left = _left("about", now - self._begun, self._done - self._known, self._total - self._done)
        self._bars.update(self._prompts, advance=count, left=left)
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
        seconds: float = 0.0,
    ) -> None:
        """Begin a search stage of at most that many trials.

        Args:
            may_win: of a trial with a score, whether it keeps the limits.
            one_by_one: every trial ends before the next begins, so that the time left can be told.
            seconds: that it may take at most, as estimated before.
        """
        self._estimate = seconds / most_trials if most_trials else 0.0
        self._best, self._most_trials, self._prompts_in_all = None, most_trials, prompts
        self._may_win, self._one_by_one = may_win, one_by_one
        self._fresh = self._fresh_seconds = self._asked = 0.0
        self._bars.reset(
            self._trials,
            total=most_trials,
            description=stage_name(stage),
            visible=True,
            note="trials at most",
            left="",
        )

    def more_trials(self, most_trials: int) -> None:
        """The stage has grown: at most that many trials in all."""
        self._most_trials = most_trials
        self._bars.update(self._trials, total=most_trials)

    def start_trials(self, stage: Stage, number: int, ask: Ask, missing: int) -> None:
        """Begin what a search asks for, of which so many prompts were not measured yet."""
        several, prompts = len(ask.candidates), ask.prompts or self._prompts_in_all
        what = describe(ask.candidates[0], stage) if several == 1 else counted(several, "config")
        self._asked = several * missing / prompts
        self.start_task(f"trial {number}  {what}", prompts, known=prompts - missing)

    def end_trial(self, trial: Trial) -> None:
        """One line about a finished trial, the best so far and the time left at most."""
        wins = trial.score is not None and self._may_win(trial)
        if wins and (self._best is None or trial.value > self._best.value):
            self._best = trial
        self._fresh += self._asked
        self._fresh_seconds += (time.monotonic() - self._begun) if self._asked else 0.0
        self._asked = 0.0  # the others that were asked for with it are counted
        remaining = max(0, self._most_trials - trial.number) if self._one_by_one else None
        left = ""
        if self._fresh:  # of the first trials alone the pace is too slow, for they make what others share
            prior = ESTIMATE_COUNTS if self._estimate else 0
            seconds = self._fresh_seconds + prior * self._estimate
            left = _left("up to about", seconds, self._fresh + prior, remaining)
        best = f"best {describe(self._best.candidate, trial.stage)}" if self._best else "no winner yet"
        self._bars.update(self._trials, advance=1, note=f"trials at most, {best}", left=left)
        self.say(f"{_trial_line(trial)}   {best}{left}")

    def end_stage(self) -> None:
        """Take the stage's bars away."""
        self._bars.update(self._trials, visible=False)
        self._bars.update(self._prompts, visible=False)


def _left(about: str, seconds: float, done: float, remaining: float | None) -> str:
    """How long the rest takes by what was done anew in so many seconds; empty where that cannot be told."""
    return "" if not remaining or done <= 0 else f", {about} {duration(seconds / done * remaining)} left"


def _trial_line(trial: Trial) -> str:
    head = f"{stage_name(trial.stage)}  trial {trial.number:>2}  {describe(trial.candidate, trial.stage):<13}"
    if trial.score is None:
        return f"{head}  infeasible: latents not finite"
    score = trial.score
    parts = f"quality {shown(score.quality)}  efficiency {shown(score.efficiency, 3)}"
    if score.burden is not None:
        parts += f"  burden {shown(score.burden, 3)}"
    asked = trial.suggested_s
    told = "" if asked in (None, trial.candidate.params.s) else f"  (s={asked} was suggested)"
    return f"{head}  {parts}  objective {shown(score.objective)}{told}"
