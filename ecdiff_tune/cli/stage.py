"""The stages of a study: a search from its first trial to its winner."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pandas as pd

from ecdiff_core.errors import ECDiffError
from ecdiff_core.io.atomic_files import write_text
from ecdiff_core.io.text import counted
from ecdiff_tune.config import SettingsError
from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.evaluation.evaluator import Evaluator
from ecdiff_tune.evaluation.ledger import Measurement
from ecdiff_tune.evaluation.model_calls import Calls
from ecdiff_tune.evaluation.ranks import ALONE, Ranks
from ecdiff_tune.evaluation.thumbnails import FIRST
from ecdiff_tune.metrics.score_format import shown
from ecdiff_tune.objective import Scorer, Stage, Trial, stage_name
from ecdiff_tune.report import tables
from ecdiff_tune.search import Context, Search, Space, extend
from ecdiff_tune.search.base import Ask, Cost, Records
from ecdiff_tune.search.climb import FAR, misleads
from ecdiff_tune.search.in_step import Predict, in_step
from ecdiff_tune.search.spaces import GridSpace, ScheduleSpace
from ecdiff_tune.search.upper_bound import CallBound
from ecdiff_tune.study import files, left_out, trackers
from ecdiff_tune.study.early import EarlyAnswers
from ecdiff_tune.study.loop import run
from ecdiff_tune.study.open_study import OpenStudy
from ecdiff_tune.study.optuna_setup import search_options
from ecdiff_tune.study.planned_parts import plan_rest, plan_search
from ecdiff_tune.study.process_setup import thumbnails
from ecdiff_tune.study.progress import describe, duration
from ecdiff_tune.study.references import References


@dataclass(frozen=True)
class Found:
    """What a stage found, among which trials that keep the limits, in which space (extended, if it was)."""

    winner: Trial
    trials: tuple[Trial, ...]
    space: Space


@dataclass(frozen=True)
class Stages:
    """Runs the stages of one study, which measure, score and predict candidates alike.

    Args:
        early: where the best config so far goes.
        ranks: that run them together.
        tracking: where trials are tracked too.
        columns: of trials.csv, beyond those of every study.
    """

    study: OpenStudy
    references: References
    evaluator: Evaluator
    scorer: Scorer
    early: EarlyAnswers
    ranks: Ranks = ALONE
    tracking: str = trackers.NONE
    columns: tuple[str, ...] = ()

    def run(self, space: Space) -> Found:
        """Run one stage; trials.csv grows with every trial and keeps the stages before."""
        stage, spec, progress = space.stage, self.study.spec, self.study.progress
        most = self.call_bounds(space)
        alone = "; its objective leaves the burden out: stage 2's is another" if stage == 1 else ""
        title = "placed calls" if spec.kind.places else stage_name(stage)
        progress.log(self.effort(title, space.p, [most]) + alone)
        num_prompts = len(self.references.most_prompts)
        seconds = self.total_seconds(most)
        progress.start_stage(title, most[0].count, num_prompts, self._keeps, not spec.kind.prunes, seconds)
        each, time_left = (0.0, 0.0), progress.time_left
        if time_left is not None:
            calls = self.total_calls(most)
            each = plan_search(time_left, self.study, self.references, stage_name(stage), *calls)
        path = self.study.path / files.TRIALS
        earlier = _earlier_trials(path) if stage == 2 else pd.DataFrame()
        trials: list[Trial] = []

        def record(trial: Trial) -> None:
            trials.append(trial)
            tracked.trial(trial)
            table = tables.trials_table(trials, self.columns)
            write_text(path, (pd.concat([earlier, table]) if len(earlier) else table).to_csv(index=False))
            self.study.spending.save()
            complete = [one for one in trials if one.state == "complete"]
            if stage != 1 and trial.state == "complete" and trial.value >= max(one.value for one in complete):
                self.early.measured([trial], self._keeps)

        def on_rung(part: Sequence[Trial]) -> None:
            if stage != 1 and not any(one.state == "complete" for one in trials):
                self.early.measured(part, self._keeps)

        def on_ask(ask: Ask) -> None:
            if spec.options.until is not None:  # the references of the prompts that a race comes to
                self.evaluator.grow(self.references.grow(ask.prompts))
            if time_left is not None:
                missing = self.evaluator.missing(map(self.evaluator.resolve, ask.candidates), ask.prompts)
                plan_rest(time_left, spec, stage_name(stage), each, ask, missing, num_prompts)

        spaces = [space]
        search = self._make_search(spaces)
        self._answer_early(stage, search)
        name = f"{spec.pair.name}/{spec.name}/{stage_name(stage)}"
        with (
            trackers.run(self.tracking, name, self.study.path, spec.settings) as tracked,
            self.study.spending.part(stage_name(stage)),
        ):
            winner = run(stage, search, self.evaluator, self.scorer, progress, record, on_rung, on_ask)
            tracked.winner(winner)
        progress.end_stage()
        self._end_race(len(winner.measurements))
        self._doubt_forecast(winner, trials)
        space = spaces[-1]
        if spec.kind.walks and len(trials) < len(space.grid):
            left = len(space.grid) - len(trials)
            progress.log(
                f"{stage_name(stage)}: the walk left {counted(left, 'config')} untried; "
                "search=exhaustive tries all"
            )
        return Found(winner, tuple(filter(self._keeps, trials)), space)

    def _answer_early(self, stage: Stage, search: Search) -> None:
        """Write what is predicted to be the best, before anything is measured."""
        if stage == 1 or search.done or not self.study.spec.kind.predicts:
            return
        first = search.ask().candidates[0]
        try:
            (quality,) = self._predict([first])
        except ECDiffError:  # a search that goes on without a forecast
            return
        if answer := self.early.predicted(stage, self.evaluator.resolve(first), quality):
            plan = answer.plan
            self.study.progress.log(
                f"early answer: {describe(first, stage)}, predicted quality {shown(quality)} with "
                f"{plan.cloud_calls} cloud and {plan.edge_calls} edge calls; {self.early.path} has it, and "
                "then whatever is measured to be better"
            )

    def _doubt_forecast(self, winner: Trial, trials: Sequence[Trial]) -> None:
        """Say where the forecast misleads: what was measured beside, or that a better config may not have
        been."""
        if winner.stage == 1 or not self.study.spec.kind.predicts:
            return
        try:
            first = next((one for one in trials if one.state == "complete"), winner)  # what is looked beyond
            expected, quality = self._predict([first.candidate, winner.candidate])
        except ECDiffError:
            return
        more = len(trials) - self.study.spec.options.finalists
        if self.study.spec.kind.climbs and more > 0 and misleads(expected, first.quality):
            self.study.progress.log(
                f"the forecast misleads here, by more than {FAR:g} SSIM: {counted(more, 'more config')} were "
                "measured, the best of every kind and the neighbours of the best"
            )
            return
        if math.isfinite(quality) and abs(quality - winner.quality) > FAR:
            more_race = "search.finalists=N lets more race; " * ("finalists" in self.study.spec.kind.own)
            self.study.progress.log(
                f"note: the winner's quality was predicted as {shown(quality)} and is "
                f"{shown(winner.quality)}: the forecast misleads here, and a better config may not "
                f"be among those measured. {more_race}search=race search.joint=true goes without one"
            )

    def _end_race(self, prompts: int) -> None:
        """Say and keep on how many prompts a race has ended that may end before all."""
        until, references = self.study.spec.options.until, self.references
        early = until is not None and not references.has_all
        left_out.end_race(self.study.path, prompts if early else None)
        if early:
            self.study.progress.log(
                f"the race ended after {prompts} of {counted(len(references.drawn), 'prompt')}: no other "
                f"config can be better by {until:g} of the objective (calibration.until)"
            )

    def _keeps(self, trial: Trial) -> bool:
        """Whether it keeps the limits of the search."""
        limits = self.study.spec.options.optuna
        return trial.keeps(limits.min_quality, limits.max_seconds)

    def call_bounds(self, space: Space) -> list[CallBound]:
        """What the search asks for at most."""
        return self.study.spec.kind.call_bounds(space, self.context(space))

    def effort(self, what: str, p: int, stages: Sequence[Sequence[CallBound]]) -> str:
        """How many trials and calls at most, and about how long.

        Args:
            stages: what the search of each asks for at most.
        """
        spec, bounds = self.study.spec, [bound for stage in stages for bound in stage]
        trials = sum(stage[0].count for stage in stages)
        cloud, edge = self.total_calls(bounds)
        seconds = "" if self.study.progress.time_left else f", about {duration(self.total_seconds(bounds))}"
        return (
            f"{what}: up to {counted(trials, 'trial')}, {cloud:,} cloud and {edge:,} edge calls{seconds} "
            + ("while the forecast holds" if spec.kind.climbs else "if all are needed")
            + ("" if spec.kind.places else f" (p = {p})")
        )

    def total_seconds(self, bounds: Sequence[CallBound]) -> float:
        """Of the calls at the reference's pace, and of decoding what they make."""
        alone, (cloud, edge) = self.references.own_runs.seconds(), self.total_calls(bounds)
        cloud_pace, edge_pace = (seconds / self.study.spec.num_steps for seconds in alone)
        if math.isnan(edge_pace):  # it was not run
            edge_pace = self.scorer.latency.edge_call.median
        images = sum(bound.count * bound.prompts for bound in bounds)
        return cloud * cloud_pace + edge * edge_pace + images * self.scorer.latency.decode.median

    def total_calls(self, bounds: Sequence[CallBound]) -> Calls:
        """Of the cloud and of the edge, at most."""
        found = [bound.calls(self.evaluator.most_calls) for bound in bounds]
        cloud, edge = (sum(side) for side in zip(*found, strict=True))
        return cloud, edge

    def _make_search(self, spaces: list[Space]) -> Search:
        """The search over the last of ``spaces``; with search.extend a larger space is added to them."""
        return in_step(self.ranks, self._predict, lambda predict: self._own_search(spaces, predict))

    def _own_search(self, spaces: list[Space], predict: Predict) -> Search:
        spec, progress, first = self.study.spec, self.study.progress, spaces[-1]

        def make(space: Space) -> Search:
            return spec.kind.make(space, replace(self.context(space), predict=predict))

        if not spec.extend or isinstance(first, ScheduleSpace):
            return make(first)

        def grow(space: GridSpace, best: Candidate) -> GridSpace | None:
            return extend.extended(space, best, spec.num_steps, spec.sampling.handoff)

        def on_growth(old: GridSpace, new: GridSpace) -> None:
            spaces.append(new)
            progress.more_trials(len(new.grid))
            added = extend.describe_growth(old, new)
            progress.log(f"the best so far lies on the boundary of the grid: it goes on with {added}")

        return extend.extending(make, first, grow, on_growth)

    def context(self, space: Space) -> Context:
        """What the search over a space may know without asking."""
        evaluator, scorer, spec = self.evaluator, self.scorer, self.study.spec

        def objective(candidate: Candidate, quality: float) -> float:
            plan = evaluator.resolve(candidate).plan
            return scorer.if_quality(plan, quality, with_burden=space.stage != 1)

        def cost(candidate: Candidate) -> Cost:
            return Cost.of(evaluator.resolve(candidate).plan, scorer.latency)

        num_prompts = len(self.references.most_prompts)
        options = search_options(spec, space)
        return Context(num_prompts, objective, self._predict, spec.seed, cost, options, self._records())

    def _predict(self, candidates: Sequence[Candidate]) -> list[float]:
        return self.references.predict(candidates)

    def _records(self) -> Records:
        """For an Optuna study."""
        evaluator, kept = self.evaluator, thumbnails(self.study.spec)
        clouds = cache(lambda: [one.cloud for one in self.references.own_runs.prompts[:FIRST]])

        def add(candidate: Candidate, measured: Sequence[Measurement]) -> None:
            evaluator.keep(evaluator.resolve(candidate), measured)

        def image(candidate: Candidate) -> Path | None:
            return None if kept is None else kept.sheet(evaluator.resolve(candidate).key, clouds())

        return Records(add, image)


def _earlier_trials(path: Path) -> pd.DataFrame:
    """Those of stage 1."""
    if not path.is_file():
        return pd.DataFrame()
    try:
        table = tables.whole_numbers(tables.present_names(pd.read_csv(path)))
        return table[table["stage"] == 1]
    except (ValueError, KeyError) as error:
        advice = "Delete it; stage1 writes it again."
        raise SettingsError(f"{path} is damaged.", key=str(path), advice=advice) from error
