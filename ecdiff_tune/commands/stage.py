"""One stage of a study: its search from the first trial to the winner."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ecdiff_core.files import write_text
from ecdiff_core.text import counted
from ecdiff_tune import files, trackers
from ecdiff_tune.candidate import Candidate
from ecdiff_tune.commands.effort import effort
from ecdiff_tune.report import tables
from ecdiff_tune.search import Context, Search, Space, extend
from ecdiff_tune.search.base import Cost
from ecdiff_tune.search.most import Share
from ecdiff_tune.search.schedule_space import ScheduleSpace
from ecdiff_tune.search.spaces import GridSpace, Stage, stage_name
from ecdiff_tune.settings import SettingsError
from ecdiff_tune.study.folder import flat
from ecdiff_tune.study.loop import Trial, run
from ecdiff_tune.study.optuna_setup import search_options
from ecdiff_tune.study.workbench import Workbench


@dataclass(frozen=True)
class Found:
    """What a stage found, among which trials that keep the limits, in which space (extended, if it was)."""

    winner: Trial
    trials: tuple[Trial, ...]
    space: Space


def run_stage(bench: Workbench, space: Space) -> Found:
    """Run one stage; trials.csv grows with every trial and keeps the stages before."""
    stage = space.stage
    most = most_asked(bench, space)
    bench.progress.say(effort(bench, stage_name(stage), space.p, [most]))
    limits, kind = bench.settings.search, bench.settings.kind

    def keeps(trial: Trial) -> bool:
        return trial.keeps(limits.min_quality, limits.max_seconds)

    bench.progress.start_stage(stage, most[0].count, len(bench.prompts), keeps, not kind.gives_up)
    path = bench.path / files.TRIALS
    earlier = _earlier_trials(path) if stage == 2 else pd.DataFrame()
    trials: list[Trial] = []

    def keep(trial: Trial) -> None:
        trials.append(trial)
        tracked.trial(trial)
        table = tables.trials_table(trials, bench.settings.more_columns)
        write_text(path, (pd.concat([earlier, table]) if len(earlier) else table).to_csv(index=False))
        bench.spending.save()

    spaces = [space]
    search = _make_search(bench, spaces)
    with _tracked(bench, stage) as tracked, bench.spending.part(stage_name(stage)):
        winner = run(stage, search, bench.evaluator, bench.scorer(), bench.progress, keep)
        tracked.winner(winner)
    bench.progress.end_stage()
    space = spaces[-1]
    if bench.settings.kind.walks and len(trials) < len(space.grid):
        left = len(space.grid) - len(trials)
        bench.progress.say(
            f"{stage_name(stage)}: the walk left {counted(left, 'config')} untried; "
            "search=exhaustive tries all"
        )
    return Found(winner, tuple(filter(keeps, trials)), space)


def _tracked(bench: Workbench, stage: Stage) -> AbstractContextManager[trackers.Run]:
    settings = bench.settings
    name = f"{settings.pair.name}/{settings.study}/{stage_name(stage)}"
    return trackers.run(settings.tracking, name, bench.path, flat(asdict(settings)))


def _make_search(bench: Workbench, spaces: list[Space]) -> Search:
    """The search over the last of ``spaces``; with search.extend a larger space is added to them."""
    settings, first = bench.settings, spaces[-1]

    def make(space: Space) -> Search:
        return settings.kind.make(space, _context(bench, space))

    if not settings.search.extend or isinstance(first, ScheduleSpace):
        return make(first)

    def grow(space: GridSpace, best: Candidate) -> GridSpace | None:
        return extend.extended(space, best, settings.num_steps, settings.core_sampling().handoff)

    def on_growth(old: GridSpace, new: GridSpace) -> None:
        spaces.append(new)
        bench.progress.more_trials(len(new.grid))
        bench.progress.say(
            f"the best so far lies on the edge of the grid: it goes on with {extend.told(old, new)}"
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

    options = search_options(bench.settings, space)
    seed, records = bench.settings.seed, bench.records()
    return Context(len(bench.prompts), objective, bench.predict, seed, cost, options, records)


def _earlier_trials(path: Path) -> pd.DataFrame:
    """Those of stage 1."""
    if not path.is_file():
        return pd.DataFrame()
    try:
        table = pd.read_csv(path).astype(dict.fromkeys(tables.WHOLE_OR_EMPTY, "Int64"))
        return table[table["stage"] == 1]
    except (ValueError, KeyError) as error:
        raise SettingsError(f"{path} is damaged. Delete it; stage1 writes it again.") from error


def most_asked(bench: Workbench, space: Space) -> list[Share]:
    """What the search asks for at most."""
    return bench.settings.kind.most(space, _context(bench, space))


def point_out_edge(bench: Workbench, name: str, value: float | None, grid: Any) -> None:
    """Say so where the winner lies on the edge of what was searched, if there is anything beyond."""
    settings, values = bench.settings, sorted(grid)
    last = {"k": (0, settings.num_steps - 1), "alpha": (None, 1.0), "s": (bench.p(), settings.num_steps)}
    if settings.search.extend or len(values) < 2 or value in last[name]:
        return
    if value in (values[0], values[-1]):
        how = " (search.extend=true)" if settings.kind.extends else ""
        bench.progress.say(
            f"note: the best {name} = {value:g} lies on the edge of search.{name}; "
            f"a wider grid may hold a better one{how}."
        )
