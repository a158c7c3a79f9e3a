"""trials.csv, table5.md, and the table of configs that rerank and pareto print."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import pandas as pd

from ecdiff_core.config import TunedConfig
from ecdiff_tune.evaluation.candidate import PlannedCandidate
from ecdiff_tune.metrics.intervals import interval95
from ecdiff_tune.metrics.score_format import shown
from ecdiff_tune.objective import Trial
from ecdiff_tune.report.table_files import markdown
from ecdiff_tune.study.config_sections import ssims_of

_WHOLE_OR_EMPTY = ("p", "k", "s", "suggested_s")
"""Columns of whole numbers that may be left empty."""
_WAYS = ("edge_k", "residual", "estimator", "handoff_adapter", "handoff")
"""How approximated and edge steps are made, which many studies do not vary."""
_COLUMNS: dict[str, Callable[[Trial], object]] = {
    "stage": lambda trial: trial.stage,
    "trial": lambda trial: trial.number,
    "p": lambda trial: trial.candidate.params.p,
    "k": lambda trial: trial.candidate.params.k,
    "alpha": lambda trial: trial.candidate.params.alpha,
    "s": lambda trial: None if trial.stage == 1 else trial.candidate.params.s,
    "quality": lambda trial: trial.score and trial.score.quality,
    "efficiency": lambda trial: trial.score and trial.score.efficiency,
    "burden": lambda trial: trial.score and trial.score.burden,
    "objective": lambda trial: trial.score and trial.score.objective,
    "cloud_calls": lambda trial: trial.plan.cloud_calls,
    "approximated": lambda trial: trial.plan.approximated,
    "edge_calls": lambda trial: trial.plan.edge_calls,
    "cloud_share": lambda trial: trial.plan.cloud_share,
    "seconds": lambda trial: trial.seconds,
    "state": lambda trial: trial.state,
}
"""Of every trials.csv."""
_MORE: dict[str, Callable[[Trial], object]] = {
    "schedule": lambda trial: trial.plan.schedule,
    "crossings": lambda trial: trial.plan.crossings,
    "edge_k": lambda trial: trial.candidate.params.edge_k,
    "residual": lambda trial: trial.candidate.params.residual,
    "estimator": lambda trial: trial.candidate.estimator,
    "handoff_adapter": lambda trial: trial.candidate.handoff_adapter,
    "handoff": lambda trial: trial.candidate.handoff or "",
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
    columns = _COLUMNS | {name: _MORE[name] for name in more}
    rows = [[value(trial) for value in columns.values()] for trial in trials]
    return whole_numbers(pd.DataFrame(rows, columns=list(columns)))


def present_names(trials: pd.DataFrame) -> pd.DataFrame:
    """A trials.csv with the names of now: older ones say ``discarded`` of what was pruned."""
    states = {"state": trials["state"].replace("discarded", "pruned")} if "state" in trials else {}
    return trials.rename(columns={"discarded": "pruned"}).assign(**states)


def whole_numbers(table: pd.DataFrame) -> pd.DataFrame:
    """The table with its whole numbers as such, of which some may be empty."""
    return table.astype(dict.fromkeys([name for name in _WHOLE_OR_EMPTY if name in table.columns], "Int64"))


TABLE5_HEADINGS = (
    *("pair", "p", "k", "alpha", "s", "cloud calls", "approximated", "edge calls"),
    *("quality", "efficiency", "burden", "objective"),
)


def table5_cells(config: TunedConfig) -> list[str]:
    """One row in the manner of the paper's Table 5, with the calls and scores behind it; a dash for alpha
    where it changes no image."""
    params, plan, score = config.params, config.plan(), config.score or {}
    alpha = PlannedCandidate.of_config(config).key.alpha
    cells: Sequence[object] = (
        config.pair.name,
        "–" if params.p is None else params.p,
        "–" if params.k is None else params.k,
        f"{alpha:g}" if alpha else "–",
        params.s,
        plan.cloud_calls,
        plan.approximated,
        plan.edge_calls,
        *(_number(score.get(name)) for name in ("quality", "efficiency", "burden", "objective")),
    )
    return list(map(str, cells))


def beyond_the_row(configs: Iterable[tuple[str, TunedConfig]]) -> list[str]:
    """Lines of what the row of a config does not say: listed real steps, and what is not the paper's."""
    lines = []
    for name, config in configs:
        tree = config.params.tree()
        for key, whose in (("schedule", "real"), ("edge_schedule", "real edge")):
            if steps := tree.pop(key, None):
                lines.append(f"{whose} steps of {name}: {', '.join(map(str, steps))}")
        more = [f"{key}={value:g}" for key, value in tree.items() if key not in ("p", "k", "alpha", "s")]
        if more:
            lines.append(f"{name} has {', '.join(more)}")
    return lines


def table5(configs: Iterable[TunedConfig]) -> str:
    """A markdown table, a row a config; real steps that are listed stand below it."""
    configs = list(configs)
    listed = beyond_the_row((config.pair.name, config) for config in configs)
    shown = pd.DataFrame([table5_cells(one) for one in configs], columns=list(TABLE5_HEADINGS))
    return markdown(shown) + "".join(f"{line}\n" for line in (["", *listed] if listed else []))


def ranking_table(trials: Iterable[Trial]) -> pd.DataFrame:
    """One row a scored trial in their order; alpha is empty where it changes no image, p and k where the
    real steps are listed in their place. ``schedule`` is every step's action, run-length encoded."""
    rows = []
    for trial in trials:
        candidate, plan, score = trial.candidate, trial.plan, trial.score
        assert score is not None
        rows.append(
            {
                "number": trial.number,
                "p": candidate.params.p,
                "k": candidate.params.k,
                "alpha": trial.key.alpha or None,
                "s": candidate.params.s,
                "edge_k": candidate.params.edge_k,
                "residual": candidate.params.residual,
                "estimator": candidate.estimator,
                "handoff_adapter": candidate.handoff_adapter,
                "handoff": candidate.handoff or "",
                "cloud_calls": plan.cloud_calls,
                "approximated": plan.approximated,
                "edge_calls": plan.edge_calls,
                "crossings": plan.crossings,
                "cloud_share": plan.cloud_share,
                **vars(score),
                "seconds": trial.seconds,
                "prompts": len(trial.measurements),
                "schedule": plan.schedule,
            }
        )
    return whole_numbers(pd.DataFrame(rows))


def front_table(trials: Sequence[Trial], seed: int) -> pd.DataFrame:
    """The same with the bootstrap 95% intervals of the quality, over as many prompts as each was measured on.

    Args:
        seed: of the bootstrap.
    """
    intervals = [interval95(ssims_of(one.measurements), seed) for one in trials]
    low, high = zip(*intervals, strict=True)
    return ranking_table(trials).assign(quality_low=low, quality_high=high)


def without_usual(table: pd.DataFrame) -> pd.DataFrame:
    """The table without what stands in all rows alike of how steps are made and on how many prompts."""
    return table.drop(columns=[name for name in (*_WAYS, "prompts") if table[name].nunique() == 1])


def ranking(table: pd.DataFrame) -> list[str]:
    """Either as lines of a markdown table; estimators and adapters where they differ, and no schedules."""
    table = without_usual(table).drop(columns="schedule").rename(columns={"number": "#"})
    if "quality_low" in table:
        ends = zip(table.pop("quality_low"), table.pop("quality_high"), strict=True)
        both = [f"{shown(low, 3)} … {shown(high, 3)}" for low, high in ends]
        table.insert(list(table).index("quality") + 1, "quality 95%", both)
    cells = pd.DataFrame({name: [_cell(str(name), one) for one in table[name]] for name in table.columns})
    return markdown(cells).splitlines()


def _cell(name: str, value: object) -> str:
    if pd.isna(value):  # type: ignore[call-overload]
        return "–"
    if name == "alpha":
        return f"{value:g}"
    return shown(value) if isinstance(value, float) else str(value)


def _number(value: float | None) -> str:
    return "–" if value is None else shown(value)
