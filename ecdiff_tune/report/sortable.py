"""Tables of the page, whose rows a click on a heading sorts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ecdiff_tune.evaluation.ledger import Measurement
from ecdiff_tune.metrics.score_format import shown
from ecdiff_tune.report.sensitivity import Sweep
from ecdiff_tune.report.study_data import StudyData
from ecdiff_tune.report.tables import ranking_table
from ecdiff_tune.study.pareto import front, quality_and_speed
from ecdiff_tune.study.progress import describe

SHORT = {"alpha", "from", "to"}
"""Columns that show three digits at most."""
SHOWN = [
    *("p", "k", "alpha", "s", "estimator", "handoff_adapter", "objective", "quality", "seconds"),
    *("efficiency", "burden", "cloud_calls", "approximated", "edge_calls"),
]
"""Of ranking_table, what people look for first."""
WORDS = {
    "handoff_adapter": "adapter",
    "label": "method",
    "ssim": "SSIM",
    "psnr": "PSNR",
}
FURTHER = {"lpips": "LPIPS", "clip": "CLIP score"}
"""Metrics whose columns also say by which network: ``extra_metrics``."""
INTERVAL = " 95%"
"""What ends the name of a column of intervals."""


@dataclass(frozen=True)
class Cell:
    """What is shown, what is sorted by (None comes last), and ``best`` or ``second`` of its column."""

    text: str
    key: float | str | None
    style: str = ""


@dataclass(frozen=True)
class Row:
    """Cells, and a style of the row."""

    cells: tuple[Cell, ...]
    style: str = ""


@dataclass(frozen=True)
class Table:
    """``name`` is its id in the page; the columns that are ``words`` are set left."""

    name: str
    headings: tuple[str, ...]
    rows: tuple[Row, ...]
    words: frozenset[int] = frozenset()


def cell(value: Any) -> Cell:
    """A value as people read it.

    >>> cell(0.88427), cell(3), cell(None).text
    (Cell(text='0.8843', key=0.88427, style=''), Cell(text='3', key=3.0, style=''), '–')
    """
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return Cell("–", None)
    if isinstance(value, str):
        return Cell(value, value)
    if isinstance(value, float) and math.isinf(value):
        return Cell("∞" if value > 0 else "−∞", math.copysign(1e308, value))
    if isinstance(value, float):
        return Cell(shown(value) if abs(value) < 10 else f"{value:.2f}", value)
    return Cell(str(value), float(value))


def of_frame(name: str, frame: pd.DataFrame, styles: Sequence[str] = ()) -> Table:
    """Every column and row of a frame."""
    headings = tuple(heading(str(one)) for one in frame.columns)
    words = frozenset(
        i for i, one in enumerate(frame.columns) if not pd.api.types.is_numeric_dtype(frame[one])
    )
    rows = []
    for i, values in enumerate(frame.astype(object).itertuples(index=False)):
        cells = (_cell(*one) for one in zip(frame.columns, values, strict=True))
        rows.append(Row(tuple(cells), styles[i] if styles else ""))
    return Table(name, headings, tuple(rows), words)


def heading(column: str) -> str:
    """A column's name as people read it.

    >>> heading("handoff_adapter"), heading("ssim 95%"), heading("lpips_alex"), heading("clip_vit_b 95%")
    ('adapter', 'SSIM 95%', 'LPIPS (alex)', 'CLIP score (vit_b) 95%')
    """
    if column.endswith(INTERVAL):
        return heading(column.removesuffix(INTERVAL)) + INTERVAL
    metric, _, network = column.partition("_")
    if metric in FURTHER:
        return f"{FURTHER[metric]} ({network})" if network else FURTHER[metric]
    return WORDS.get(column, column.replace("_", " "))


def _cell(column: str, value: Any) -> Cell:
    """A value of a frame; what a person has chosen from a grid has as many digits as it was given."""
    found = cell(value.item() if hasattr(value, "item") else value)
    chosen = column in SHORT and isinstance(found.key, float)
    return Cell(f"{found.key:.3g}", found.key) if chosen else found


def configs(data: StudyData) -> Table:
    """Every config of the ledger that was measured on all prompts, the winner marked."""
    trials = data.record.trials
    found = ranking_table(trials)[SHOWN]
    for name in ("estimator", "handoff_adapter"):
        if found[name].nunique() == 1:
            found = found.drop(columns=name)
    fastest = {one.candidate for one in front(trials, quality_and_speed)}
    found["front"] = ["yes" if one.candidate in fastest else "" for one in trials]
    tied = {_config_of(one) for one in (data.config.provenance or {}).get("tied", ())}
    found["tied"] = ["yes" if _config_of(_named(one.candidate)) in tied else "" for one in trials]
    styles = ["winner" if one.candidate == data.winner.candidate else "" for one in trials]
    return of_frame("configs", found, styles)


def _named(candidate: Any) -> dict[str, Any]:
    params = vars(candidate.params)
    return {**params, "estimator": candidate.estimator, "handoff_adapter": candidate.handoff_adapter}


def _config_of(told: dict[str, Any]) -> tuple[Any, ...]:
    names = ("p", "k", "alpha", "s", "schedule", "estimator", "handoff_adapter")
    return tuple(tuple(one) if isinstance(one := told[name], list) else one for name in names)


def prompts(data: StudyData) -> Table:
    """The winner's SSIM and PSNR on every prompt."""
    record = data.record
    rows: list[Row] = []
    for what, asked, found in (
        ("tuned on", record.prompts, data.winner.measurements),
        ("held out", record.heldout, data.heldout),
    ):
        rows += _measured(what, asked.prompts, asked.seeds, found)
    headings = ("prompt", "set", "seed", "SSIM", "PSNR, dB")
    return Table("prompts", headings, tuple(rows), frozenset({0, 1}))


def _measured(
    what: str, texts: Iterable[str], seeds: Iterable[int], found: Sequence[Measurement]
) -> list[Row]:
    return [
        Row((cell(text), cell(what), cell(seed), cell(one.ssim), _decibels(one.psnr)))
        for text, seed, one in zip(texts, seeds, found, strict=False)
    ]


def _decibels(value: float | None) -> Cell:
    return cell(value) if value is None or math.isinf(value) else Cell(f"{value:.2f}", value)


def sensitivity(sweeps: Iterable[Sweep]) -> Table:
    """A row a range in which one config is best."""
    rows = [
        {
            "setting": sweep.setting,
            "from": one.low,
            "to": one.high,
            "best config": describe(one.best.candidate, "joint"),
            "quality": one.best.score.quality if one.best.score else None,
            "seconds from": one.seconds[0],
            "seconds to": one.seconds[1],
            "objective from": one.objective[0],
            "objective to": one.objective[1],
        }
        for sweep in sweeps
        for one in sweep.segments
    ]
    return of_frame("sensitivity-table", pd.DataFrame(rows))


def heldout(data: StudyData) -> Table | None:
    """Quality and objective with their intervals on both prompt sets; None without held-out prompts."""
    held = data.score.get("heldout") or {}
    if held.get("quality") is None:
        return None
    rows = []
    for name, score, count in (
        ("tuned on", data.score, len(data.record.prompts)),
        ("held out", held, held["num_prompts"]),
    ):
        row: dict[str, Any] = {"set": name, "prompts": count}
        for what in ("quality", "objective"):
            low, high = score[f"{what}_ci95"]
            row |= {what: score[what], f"{what} 95%": f"{shown(low, 3)} … {shown(high, 3)}"}
        rows.append(row)
    return of_frame("heldout-table", pd.DataFrame(rows))
