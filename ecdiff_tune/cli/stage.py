"""One stage of a study: its search from the first trial to the winner."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from ecdiff_core.io.files import write_text
from ecdiff_core.io.text import counted
from ecdiff_tune.cli.effort import effort
from ecdiff_tune.config import Settings, SettingsError
from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.metrics.intervals import is_tied
from ecdiff_tune.metrics.score_format import shown
from ecdiff_tune.objective import Stage, Trial, stage_name
from ecdiff_tune.report import tables
from ecdiff_tune.search import Context, Search, Space, extend
from ecdiff_tune.search.base import Cost
from ecdiff_tune.search.in_step import Predict, in_step
from ecdiff_tune.search.schedule_space import ScheduleSpace
from ecdiff_tune.search.spaces import GridSpace
from ecdiff_tune.search.upper_bound import CallBound
from ecdiff_tune.study import files, trackers
from ecdiff_tune.study.config_sections import objectives, ssims_of
from ecdiff_tune.study.loop import run
from ecdiff_tune.study.optuna_setup import search_options
from ecdiff_tune.study.workbench import Workbench


@dataclass(frozen=True)
class Found:
    """What a stage found, among which trials that keep the limits, in which space (extended, if it was)."""

    winner: Trial
    trials: tuple[Trial, ...]
    space: Space


def run_stage(settings: Settings, bench: Workbench, space: Space) -> Found:
    """Run one stage; trials.csv grows with every trial and keeps the stages before."""
    stage = space.stage
    most = most_asked(bench, space)
    bench.progress.say(effort(bench, stage_name(stage), space.p, [most]))
    limits, kind = settings.search, settings.kind

    def keeps(trial: Trial) -> bool:
        return trial.keeps(limits.min_quality, limits.max_seconds)

    bench.progress.start_stage(stage, most[0].count, len(bench.prompts), keeps, not kind.prunes)
    path = bench.path / files.TRIALS
    earlier = _earlier_trials(path) if stage == 2 else pd.DataFrame()
    trials: list[Trial] = []

    def keep(trial: Trial) -> None:
        trials.append(trial)
        tracked.trial(trial)
        table = tables.trials_table(trials, settings.more_columns)
        write_text(path, (pd.concat([earlier, table]) if len(earlier) else table).to_csv(index=False))
        bench.spending.save()

    spaces = [space]
    search = _make_search(bench, spaces)
    with _tracked(settings.tracking, bench, stage) as tracked, bench.spending.part(stage_name(stage)):
        winner = run(stage, search, bench.evaluator, bench.scorer(), bench.progress, keep)
        tracked.winner(winner)
    bench.progress.end_stage()
    space = spaces[-1]
    if settings.kind.walks and len(trials) < len(space.grid):
        left = len(space.grid) - len(trials)
        bench.progress.say(
            f"{stage_name(stage)}: the walk left {counted(left, 'config')} untried; "
            "search=exhaustive tries all"
        )
    return Found(winner, tuple(filter(keeps, trials)), space)


def _tracked(tracking: str, bench: Workbench, stage: Stage) -> AbstractContextManager[trackers.Run]:
    name = f"{bench.spec.pair.name}/{bench.spec.name}/{stage_name(stage)}"
    return trackers.run(tracking, name, bench.path, bench.spec.settings)


def _make_search(bench: Workbench, spaces: list[Space]) -> Search:
    """The search over the last of ``spaces``; with search.extend a larger space is added to them."""
    return in_step(bench.batches.ranks, bench.predict, lambda predict: _own_search(bench, spaces, predict))


def _own_search(bench: Workbench, spaces: list[Space], predict: Predict) -> Search:
    spec, first = bench.spec, spaces[-1]

    def make(space: Space) -> Search:
        return spec.kind.make(space, replace(_context(bench, space), predict=predict))

    if not spec.extend or isinstance(first, ScheduleSpace):
        return make(first)

    def grow(space: GridSpace, best: Candidate) -> GridSpace | None:
        return extend.extended(space, best, spec.num_steps, spec.sampling.handoff)

    def on_growth(old: GridSpace, new: GridSpace) -> None:
        spaces.append(new)
        bench.progress.more_trials(len(new.grid))
        bench.progress.say(
            f"the best so far lies on the boundary of the grid: it goes on with {extend.told(old, new)}"
        )

    return extend.Extending(make, first, grow, on_growth)


def _context(bench: Workbench, space: Space) -> Context:
    """What the search may know without asking."""
    evaluator, scorer = bench.evaluator, bench.scorer()

    def objective(candidate: Candidate, quality: float) -> float:
        return scorer.if_quality(evaluator.plan(candidate), quality, with_burden=space.stage != 1)

    def cost(candidate: Candidate) -> Cost:
        plan = evaluator.plan(candidate)
        return Cost(bench.latency.seconds(plan), plan.cloud_calls, plan.approximated, plan.edge_calls)

    options = search_options(bench.spec, space)
    seed, records = bench.spec.seed, bench.records()
    return Context(len(bench.prompts), objective, bench.predict, seed, cost, options, records)


def _earlier_trials(path: Path) -> pd.DataFrame:
    """Those of stage 1."""
    if not path.is_file():
        return pd.DataFrame()
    try:
        table = tables.whole_numbers(pd.read_csv(path))
        return table[table["stage"] == 1]
    except (ValueError, KeyError) as error:
        raise SettingsError(f"{path} is damaged. Delete it; stage1 writes it again.") from error


def most_asked(bench: Workbench, space: Space) -> list[CallBound]:
    """What the search asks for at most."""
    return bench.spec.kind.most(space, _context(bench, space))


def point_out_boundary(bench: Workbench, name: str, grid: Sequence[float], found: Found) -> None:
    """Say so where the winner lies at an end of what was searched and values beyond it may be better.

    They may where the objective still rises towards that end by more than these prompts leave open. A grid
    that begins at s' goes as far as eq. 11 wants an edge to take over: before it the burden pulls on.
    """
    spec, values = bench.spec, sorted(grid)
    value = getattr(found.winner.candidate.params, name)
    last = {"k": (0, spec.num_steps - 1), "alpha": (None, 1.0), "s": (bench.p(), spec.num_steps)}
    if spec.extend or len(values) < 2 or value in last[name]:
        return
    if value not in (values[0], values[-1]):
        return
    if name == "s" and value == values[0] and min(spec.s_values) <= spec.earliest_s:
        return
    neighbours = [
        one
        for one in found.trials
        if one.state == "complete" and getattr(one.candidate.params, name) == _neighbour(values, value)
    ]
    best = max(neighbours, key=lambda one: one.value, default=None)
    if best is None or not _surely_better(bench, found.winner, best):
        return
    how = " (search.extend=true)" if spec.kind.extends else ""
    end = "smallest" if value == values[0] else "largest"
    bench.progress.say(
        f"note: {name} = {value:g} is the {end} of search.{name}, and the objective still rises towards it: "
        f"{shown(best.value)} at {name} = {_neighbour(values, value):g}, {shown(found.winner.value)} here. "
        f"A wider grid may hold a better one{how}."
    )


def _neighbour(values: Sequence[float], end: float) -> float:
    return values[1] if end == values[0] else values[-2]


def _surely_better(bench: Workbench, winner: Trial, other: Trial) -> bool:
    """Whether these prompts tell the two objectives apart."""
    w1, seed = bench.spec.weights.w1, bench.spec.seed
    best, beaten = (
        objectives(one.score, ssims_of(one.measurements), w1) for one in (winner, other) if one.score
    )
    return not is_tied(best, beaten, seed)
