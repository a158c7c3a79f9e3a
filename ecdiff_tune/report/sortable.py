"""Tables of the page, whose rows a click on a heading sorts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pandas as pd

from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.metrics.intervals import interval95
from ecdiff_tune.metrics.score_format import shown
from ecdiff_tune.objective import FRONT_MERITS, pareto_front
from ecdiff_tune.report.sensitivity import Sweep
from ecdiff_tune.report.study_data import StudyData
from ecdiff_tune.report.tables import ranking_table, without_usual
from ecdiff_tune.study.config_sections import ssims_of
from ecdiff_tune.study.progress import describe

FORMATS = {"alpha": "{:.3g}", "from": "{:.3g}", "to": "{:.3g}", "PSNR, dB": "{:.2f}"}
"""Of columns whose numbers are not written as scores; what a person chose keeps the digits that it has."""
FIRST = [
    *("p", "k", "alpha", "s", "edge_k", "residual", "estimator", "handoff_adapter", "handoff"),
    *("objective", "quality", "seconds", "efficiency", "burden"),
    *("cloud_calls", "approximated", "edge_calls", "cloud_share", "prompts"),
]
"""Of ranking_table, what people look for first."""
WORDS = {"handoff_adapter": "adapter", "label": "method", "ssim": "SSIM", "psnr": "PSNR"}
FURTHER = {"lpips": "LPIPS", "clip": "CLIP score"}
"""Metrics whose columns also say by which network: ``extra_metrics``."""
INTERVAL = " 95%"
"""What ends the name of a column of intervals."""


class Cell(NamedTuple):
    """What is shown, what is sorted by (None comes last), and ``best`` or ``second`` of its column."""

    text: str
    key: float | str | None
    style: str = ""


@dataclass(frozen=True)
class Table:
    """A table of the page.

    Args:
        name: its id.
        frame: all rows and columns.
        row_styles: a class of the style sheet a row; none where empty.
        cell_styles: of columns, a class a row.
    """

    name: str
    frame: pd.DataFrame
    row_styles: Sequence[str] = ()
    cell_styles: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def headings(self) -> list[str]:
        """Of the columns."""
        return [heading(str(name)) for name in self.frame.columns]

    @property
    def words(self) -> set[int]:
        """Columns that are set left."""
        columns = enumerate(self.frame.columns)
        return {i for i, name in columns if not pd.api.types.is_numeric_dtype(self.frame[name])}

    def rows(self) -> Iterator[tuple[str, list[Cell]]]:
        """Style and cells."""
        for i, values in enumerate(self.frame.astype(object).itertuples(index=False)):
            named = zip(map(str, self.frame.columns), values, strict=True)
            cells = [cell(value, name)._replace(style=self._style(name, i)) for name, value in named]
            yield self.row_styles[i] if self.row_styles else "", cells

    def _style(self, column: str, row: int) -> str:
        return self.cell_styles[column][row] if column in self.cell_styles else ""


def cell(value: Any, column: str = "") -> Cell:
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
    if column in FORMATS:
        return Cell(FORMATS[column].format(value), float(value))
    if isinstance(value, float):
        return Cell(shown(value) if abs(value) < 10 else f"{value:.2f}", float(value))
    return Cell(str(value), float(value))


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


def configs(data: StudyData) -> Table:
    """Every config of the ledger that was measured on all prompts or on enough of them, the winner marked."""
    trials = (*data.record.trials, *data.record.partly)
    front = {one.candidate for one in pareto_front(trials, FRONT_MERITS)}
    tied = {_key(one) for one in (data.config.provenance or {}).get("tied", ())}
    frame = without_usual(ranking_table(trials)[FIRST]).assign(
        front=["yes" if one.candidate in front else "" for one in trials],
        tied=["yes" if _key(_named(one.candidate)) in tied else "" for one in trials],
    )
    if data.record.partly:
        ends = [interval95(ssims_of(one.measurements), data.spec.seed) for one in trials]
        both = [f"{shown(low, 3)} … {shown(high, 3)}" for low, high in ends]
        frame.insert(list(frame).index("quality") + 1, f"quality{INTERVAL}", both)
    return Table("configs", frame, ["winner" * (one.candidate == data.winner.candidate) for one in trials])


def _named(candidate: Candidate) -> dict[str, Any]:
    ways = {"estimator": candidate.estimator, "handoff_adapter": candidate.handoff_adapter}
    return {**vars(candidate.params), **ways}


def _key(named: Mapping[str, Any]) -> tuple[Any, ...]:
    names = ("p", "k", "alpha", "s", "schedule", "estimator", "handoff_adapter")
    return tuple(tuple(one) if isinstance(one := named.get(name), list) else one for name in names)


def prompts(data: StudyData) -> Table:
    """The winner's SSIM and PSNR on every prompt."""
    record = data.record
    rows = [
        (text, name, seed, one.ssim, one.psnr)
        for name, asked, found in (
            ("tuned on", record.prompts, data.winner.measurements),
            ("held out", record.heldout, data.heldout),
        )
        for text, seed, one in zip(asked.prompts, asked.seeds, found, strict=False)
    ]
    return Table("prompts", pd.DataFrame(rows, columns=["prompt", "set", "seed", "SSIM", "PSNR, dB"]))


def sensitivity(sweeps: Iterable[Sweep]) -> Table:
    """A row a range in which one config is best."""
    rows = [
        {
            "setting": sweep.setting,
            "from": one.low,
            "to": one.high,
            "best config": describe(one.best.candidate, "joint", bool(one.best.key.alpha)),
            "quality": one.best.quality,
            "seconds from": one.seconds[0],
            "seconds to": one.seconds[1],
            "objective from": one.objective[0],
            "objective to": one.objective[1],
        }
        for sweep in sweeps
        for one in sweep.segments
    ]
    return Table("sensitivity-table", pd.DataFrame(rows))


def heldout(data: StudyData) -> Table | None:
    """Quality and objective with their intervals on both prompt sets; None without held-out prompts."""
    held = data.score.get("heldout") or {}
    if held.get("quality") is None:
        return None
    rows = []
    for name, score, count in (
        ("tuned on", data.score, data.score.get("num_prompts", len(data.record.prompts))),
        ("held out", held, held["num_prompts"]),
    ):
        row: dict[str, Any] = {"set": name, "prompts": count}
        for what in ("quality", "objective"):
            low, high = score[f"{what}_ci95"]
            row |= {what: score[what], f"{what}{INTERVAL}": f"{shown(low, 3)} … {shown(high, 3)}"}
        rows.append(row)
    return Table("heldout-table", pd.DataFrame(rows))
