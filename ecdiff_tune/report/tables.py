"""trials.csv, table5.md, and the table of configs that rerank and pareto print."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple

import pandas as pd

from ecdiff_core.config import TunedConfig
from ecdiff_tune.evaluation.model_calls import PlanCalls
from ecdiff_tune.metrics.score_format import shown
from ecdiff_tune.objective import Trial

COLUMNS = (
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
)

WHOLE_OR_EMPTY = ("p", "k", "s")
"""Columns of whole numbers that may be left empty."""


_MORE: dict[str, Callable[[Trial], object]] = {
    "schedule": lambda trial: trial.plan.schedule,
    "estimator": lambda trial: trial.candidate.estimator,
    "handoff_adapter": lambda trial: trial.candidate.handoff_adapter,
    "suggested_s": lambda trial: trial.suggested_s,
    "prompts": lambda trial: len(trial.measurements),
    "pruned": lambda trial: trial.pruned,
}
"""What every step does, run-length encoded; what else is searched, and the s that Optuna suggested; on how
many prompts, why not on all."""


def trials_table(trials: Iterable[Trial], more: Sequence[str] = ()) -> pd.DataFrame:
    """One row a trial in the order of evaluation.

    Empty are the scores of infeasible trials, s and burden in stage 1, p and k where real steps are listed.

    Args:
        trials: evaluated so far.
        more: columns beyond those, names of ``_MORE``, which most studies have no use for.
    """
    rows = []
    for trial in trials:
        params, plan, score = trial.candidate.params, trial.plan, trial.score
        scores = (score.quality, score.efficiency, score.burden, score.objective) if score else (None,) * 4
        s = params.s if trial.stage != 1 else None
        head = (trial.stage, trial.number, params.p, params.k, params.alpha, s)
        added = (_MORE[name](trial) for name in more)
        rows.append((*head, *scores, *astuple(PlanCalls.of(plan)), trial.seconds, trial.state, *added))
    columns = [*COLUMNS, *more]
    return whole_numbers(pd.DataFrame(rows, columns=columns))


def present_names(trials: pd.DataFrame) -> pd.DataFrame:
    """A trials.csv with the names of now: older ones say ``discarded`` of what was pruned."""
    states = {"state": trials["state"].replace("discarded", "pruned")} if "state" in trials else {}
    return trials.rename(columns={"discarded": "pruned"}).assign(**states)


def whole_numbers(trials: pd.DataFrame) -> pd.DataFrame:
    """The table with its whole numbers as such, of which some may be empty."""
    names = [name for name in (*WHOLE_OR_EMPTY, "suggested_s") if name in trials.columns]
    return trials.astype(dict.fromkeys(names, "Int64"))


TABLE5_HEADINGS = (
    *("pair", "p", "k", "alpha", "s", "cloud calls", "approximated", "edge calls"),
    *("quality", "efficiency", "burden", "objective"),
)


def table5_cells(config: TunedConfig) -> list[str]:
    """One row in the manner of the paper's Table 5, with the calls and scores behind it."""
    params, plan, score = config.params, config.plan(), config.score or {}
    cells: Sequence[object] = (
        config.pair.name,
        "–" if params.p is None else params.p,
        "–" if params.k is None else params.k,
        f"{params.alpha:g}",
        params.s,
        plan.cloud_calls,
        plan.approximated,
        plan.edge_calls,
        *(_number(score.get(name)) for name in ("quality", "efficiency", "burden", "objective")),
    )
    return list(map(str, cells))


def listed_steps(configs: Iterable[tuple[str, TunedConfig]]) -> list[str]:
    """A line a config whose real steps are listed in place of p and k, with its name."""
    return [
        f"real steps of {name}: {', '.join(map(str, config.params.schedule))}"
        for name, config in configs
        if config.params.schedule is not None
    ]


def table5(configs: Iterable[TunedConfig]) -> str:
    """A markdown table, a row a config; real steps that are listed stand below it."""
    configs = list(configs)
    listed = listed_steps((config.pair.name, config) for config in configs)
    below = ["", *listed] if listed else []
    rows = [f"| {' | '.join(cells)} |" for cells in (TABLE5_HEADINGS, *map(table5_cells, configs))]
    return "\n".join([rows[0], "|" + "---|" * len(TABLE5_HEADINGS), *rows[1:], *below]) + "\n"


RANKING = (
    "number",
    "p",
    "k",
    "alpha",
    "s",
    "estimator",
    "handoff_adapter",
    "cloud_calls",
    "approximated",
    "edge_calls",
    "quality",
    "efficiency",
    "burden",
    "objective",
    "seconds",
    "schedule",
)


def ranking_table(trials: Iterable[Trial]) -> pd.DataFrame:
    """One row a scored trial in their order; alpha is empty where it changes no picture, p and k where the
    real steps are listed in their place. ``schedule`` is every step's action, run-length encoded."""
    rows = []
    for trial in trials:
        candidate, plan, score = trial.candidate, trial.plan, trial.score
        assert score is not None
        alpha = trial.key.alpha or None
        head = (trial.number, candidate.params.p, candidate.params.k, alpha, candidate.params.s)
        ways = (candidate.estimator, candidate.handoff_adapter)
        calls = astuple(PlanCalls.of(plan))
        scores = (score.quality, score.efficiency, score.burden, score.objective, trial.seconds)
        rows.append((*head, *ways, *calls, *scores, plan.schedule))
    return pd.DataFrame(rows, columns=list(RANKING)).astype({"p": "Int64", "k": "Int64"})


def ranking(trials: Sequence[Trial]) -> list[str]:
    """The same as lines of a markdown table; estimators and adapters where they differ, and no schedules."""
    table = ranking_table(trials).drop(columns="schedule")
    for name in ("estimator", "handoff_adapter"):
        if table[name].nunique() == 1:
            table = table.drop(columns=name)
    names = ["#" if name == "number" else str(name).replace("_", " ") for name in table.columns]
    lines = [names, ["---"] * len(names)]
    for row in table.itertuples(index=False):
        lines.append([_cell(name, value) for name, value in zip(table.columns, row, strict=True)])
    return [f"| {' | '.join(line)} |" for line in lines]


def _cell(name: str, value: object) -> str:
    if pd.isna(value):  # type: ignore[call-overload]
        return "–"
    if name == "alpha":
        return f"{value:g}"
    return shown(value) if isinstance(value, float) else str(value)


def _number(value: float | None) -> str:
    return "–" if value is None else shown(value)
