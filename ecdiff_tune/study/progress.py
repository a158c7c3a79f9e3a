"""What a person sees while a command runs: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import groupby
from typing import TYPE_CHECKING

from tqdm import tqdm

from ecdiff_core.io.text import counted, visible
from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.metrics.score_format import shown
from ecdiff_tune.objective import Stage
from ecdiff_tune.search.base import Ask

if TYPE_CHECKING:
    from ecdiff_tune.objective import Trial
    from ecdiff_tune.study.time_left import TimeLeft

BAR = "{desc} {bar:30} {n_fmt}/{total_fmt} {unit}{postfix}"
ESTIMATE_COUNTS = 5
"""Trials that the estimate of before a stage weighs as much as."""
LINE_SECONDS = 15.0
"""The least time between two lines about one task where there is no terminal."""
SPOKEN_FROM = 0.1
"""Share of the work from which on the time left of the whole command is known well enough to be said."""


def describe(candidate: Candidate, stage: Stage, with_alpha: bool = True) -> str:
    """The part of a candidate that its stage varies; of the rest what is not the paper's.

    Args:
        with_alpha: False where alpha changes no image.
    """
    params = candidate.params
    alpha = f" alpha={params.alpha:g}" if with_alpha else ""
    when = (
        f"p={params.p} k={params.k}" if params.schedule is None else _listed(params.schedule, "listed steps")
    )
    words = {
        1: [f"k={params.k} alpha={params.alpha:g}"],
        2: [f"s={params.s}"],
        "joint": [f"{when}{alpha} s={params.s}"],
    }[stage]
    if stage != 1:
        words += [f"edge_k={params.edge_k}"] * (params.edge_k > 0)
        if stage == "joint" and params.edge_schedule is not None:
            words.append(_listed(params.edge_schedule, "edge steps"))
        words += [f"residual={params.residual:g}"] * (params.residual > 0)
    if stage != 2 and candidate.estimator != "gradient":
        words.append(candidate.estimator)
    if stage != 1 and candidate.handoff_adapter != "identity":
        words.append(candidate.handoff_adapter)
    if stage == "joint" and candidate.handoff is not None:  # another one than the study's
        words.append(candidate.handoff)
    return " ".join(words)


def _listed(steps: Sequence[int], name: str) -> str:
    """How many, and which.

    >>> _listed([0, 1, 2, 5, 9, 10], "listed steps")
    '6 listed steps (0-2,5,9-10)'
    """
    runs = [[step for _, step in run] for _, run in groupby(enumerate(steps), lambda one: one[1] - one[0])]
    shown = ",".join(f"{run[0]}-{run[-1]}" if run[1:] else f"{run[0]}" for run in runs)
    return f"{len(steps)} {name} ({shown})"


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


class Progress:
    """Progress of one command; a context manager.

    ``time_left`` is that of the whole command, where its parts are known; else each part tells its own.

    Args:
        log: called with every line; None prints them, with bars where stdout is a terminal.
    """

    def __init__(self, log: Callable[[str], None] | None = None) -> None:
        self._log, self._live = log, log is None and sys.stdout.isatty()
        self._prompts = self._trials = tqdm(disable=True)
        self._best: Trial | None = None
        self._may_win: Callable[[Trial], bool] = lambda _: True
        self._one_by_one = True
        self._done = self._total = self._known = 0
        self._label = self._title = ""
        self._logged = self._begun = 0.0
        self._most_trials = self._prompts_in_all = 1
        self._fresh = self._fresh_seconds = self._asked = self._estimate = 0.0
        self._spoken = False  # of the time left of the whole command
        self.time_left: TimeLeft | None = None

    def _bar(self, old: tqdm, place: int, total: int, label: str, unit: str) -> tqdm:
        """One in place of an old one; not seen where there is no terminal."""
        old.close()
        how = {"position": place, "bar_format": BAR, "leave": False, "file": sys.stdout}
        return tqdm(total=total, desc=label, unit=unit, disable=not self._live, **how)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.end_stage()

    def log(self, line: str) -> None:
        """One line that stays; what a terminal would obey in it is written as escapes."""
        if self._log is not None:
            self._log(visible(line, "\n"))
            return
        with tqdm.external_write_mode(sys.stdout) if self._live else nullcontext():
            print(visible(line, "\n"), flush=True)

    def start_task(self, label: str, prompts: int, known: int = 0) -> None:
        """Begin something that is done prompt by prompt, so many of which take no time."""
        self._label, self._done, self._total, self._known = label, 0, prompts, known
        self._logged = self._begun = time.monotonic()
        self._prompts = self._bar(self._prompts, 0, prompts, label, "prompts")

    def prompts_done(self, count: int) -> None:
        """That many more prompts are done."""
        self._done += count
        now = time.monotonic()
        left = self._in_all() or _left(
            "about", now - self._begun, self._done - self._known, self._total - self._done
        )
        self._prompts.set_postfix_str(left.removeprefix(", "), refresh=False)
        self._prompts.update(count)
        if not self._live and self._done < self._total and now - self._logged > LINE_SECONDS:
            self._log_task(left)

    def calls_made(self) -> None:
        """Some of a batch's calls were made, which may take longer than a person waits without a word."""
        soon = self.time_left is not None and not self._spoken and self.time_left.share() >= SPOKEN_FROM
        now = time.monotonic()
        if not soon and now - self._logged <= LINE_SECONDS:
            return
        left = self._in_all()
        self._logged = now
        if self._live:
            self._prompts.set_postfix_str(left.removeprefix(", "))
        elif left:
            self._log_task(left)

    def _log_task(self, left: str) -> None:
        done = f": {self._done} of {self._total} prompts" if self._done > self._known else ""
        self.log(f"  {self._label}{done}{left}")
        self._logged = time.monotonic()

    def _in_all(self) -> str:
        """What is left of the whole command; empty where that is not known, or not yet."""
        early = self.time_left is None or self.time_left.share() < SPOKEN_FROM
        seconds = None if self.time_left is None or early else self.time_left.seconds()
        self._spoken |= seconds is not None
        return "" if seconds is None else f", about {duration(seconds)} left in all"

    def start_stage(
        self,
        title: str,
        most_trials: int,
        prompts: int,
        may_win: Callable[[Trial], bool] = lambda _: True,
        one_by_one: bool = True,
        seconds: float = 0.0,
    ) -> None:
        """Begin a search stage of at most that many trials.

        Args:
            title: of the stage, with which the lines of its trials begin.
            may_win: of a trial with a score, whether it keeps the limits.
            one_by_one: every trial ends before the next begins, so that the time left is known.
            seconds: that it may take at most, as estimated before.
        """
        self._title = title
        self._estimate = seconds / most_trials if most_trials else 0.0
        self._best, self._most_trials, self._prompts_in_all = None, most_trials, prompts
        self._may_win, self._one_by_one = may_win, one_by_one
        self._fresh = self._fresh_seconds = self._asked = 0.0
        self._trials = self._bar(self._trials, 1, most_trials, title, "trials at most")

    def more_trials(self, most_trials: int) -> None:
        """The stage has grown: at most that many trials in all."""
        self._most_trials = most_trials
        self._trials.total = most_trials
        self._trials.refresh()

    def start_trials(self, stage: Stage, number: int, ask: Ask, missing: int) -> None:
        """Begin what a search asks for, of which so many prompts were not measured yet."""
        several, prompts = len(ask.candidates), ask.prompts or self._prompts_in_all
        what = describe(ask.candidates[0], stage) if several == 1 else counted(several, "config")
        self._asked = several * missing / prompts
        self.start_task(f"trial {number}  {what}", prompts, known=prompts - missing)

    def end_rung(self, trials: Sequence[Trial]) -> None:
        """One line about trials that were measured on the same first prompts."""
        usable = [one for one in trials if one.score is not None]
        if not usable:
            return
        best = max(usable, key=lambda one: one.value)
        self.log(
            f"  {counted(len(trials), 'config')} on {counted(len(best.measurements), 'prompt')}: best "
            f"{describe(best.candidate, best.stage)}, quality {shown(best.quality)} with "
            f"{best.plan.cloud_calls} cloud calls{self._in_all()}"
        )

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
        left = self._in_all() or left
        best = f"best {describe(self._best.candidate, trial.stage)}" if self._best else "no winner yet"
        if self._best is trial and self.time_left is not None:  # the line begins with it
            best = "the best so far"
        self._trials.set_postfix_str(f"{best}{left}", refresh=False)
        self._trials.update()
        self.log(f"{_trial_line(trial, self._title)}   {best}{left}")

    def end_stage(self) -> None:
        """Take the stage's bars away."""
        self._trials.close()
        self._prompts.close()


def _left(about: str, seconds: float, done: float, remaining: float | None) -> str:
    """How long the rest takes by what was done anew in so many seconds; empty where that is not known."""
    return "" if not remaining or done <= 0 else f", {about} {duration(seconds / done * remaining)} left"


def _trial_line(trial: Trial, title: str) -> str:
    head = f"{title}  trial {trial.number:>2}  {describe(trial.candidate, trial.stage):<13}"
    if trial.score is None:
        return f"{head}  infeasible: latents not finite"
    score = trial.score
    parts = f"quality {shown(score.quality)}  efficiency {shown(score.efficiency, 3)}"
    if score.burden is not None:
        parts += f"  burden {shown(score.burden, 3)}"
    asked = trial.suggested_s
    suggested = "" if asked in (None, trial.candidate.params.s) else f"  (s={asked} was suggested)"
    return f"{head}  {parts}  objective {shown(score.objective)}{suggested}"
