"""The paper's Tables 1, 2 and 6 of what was measured: columns, headings, captions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

from ecdiff_core.config import Sampling
from ecdiff_core.models.devices import device_name
from ecdiff_tune.metrics.metric import Metric
from ecdiff_tune.report.comparison import Shown, better, cells, value
from ecdiff_tune.report.table_files import markdown, write_table
from ecdiff_tune.study.spec import StudySpec


@dataclass(frozen=True)
class Column:
    """One column."""

    name: str
    heading: str
    show: Shown


QUALITY = (
    Column("ssim", "SSIM ↑", value("ssim")),
    Column("psnr", "PSNR ↑, dB", value("psnr", "{:.2f}")),
)
COUNTS = (
    Column("cloud_calls", "cloud calls", value("cloud_calls", "{:d}")),
    Column("approximated", "approximated", value("approximated", "{:d}")),
    Column("edge_calls", "edge calls", value("edge_calls", "{:d}")),
)
SECONDS = Column("seconds", "seconds ↓", value("seconds"))
SPEEDUP = Column("speedup", "speedup ↑", value("speedup", "{:.2f}×"))
MEASURED = (
    Column("measured_seconds", "by the clock ↓", value("measured_seconds")),
    Column("measured_speedup", "its speedup ↑", value("measured_speedup", "{:.2f}×")),
)


@dataclass(frozen=True)
class PaperTable:
    """A table with what is shown of it.

    Args:
        rows: all that the csv holds; columns of ``columns`` that it lacks are not shown.
        caption: a sentence of its own.
    """

    rows: pd.DataFrame
    columns: tuple[Column, ...]
    caption: str


def _of(extra: Sequence[Metric]) -> tuple[Column, ...]:
    """Columns of metrics beside SSIM and PSNR."""
    arrows = {1: "↑", -1: "↓"}
    return tuple(
        Column(one.name, f"{one.heading} {arrows[better(one.name)]}", value(one.name)) for one in extra
    )


def table1(quality: pd.DataFrame, costs: pd.DataFrame, extra: Sequence[Metric] = ()) -> PaperTable:
    """Quality, seconds and speedup, as the paper's PaperTable 1."""
    rows = quality.merge(costs[["method", "seconds", "speedup"]], on="method", validate="1:1")
    return PaperTable(
        rows,
        (*QUALITY, *_of(extra), SECONDS, SPEEDUP),
        "Quality against the cloud's images, mean and bootstrap 95% interval",
    )


def table6(costs: pd.DataFrame, medium: str, budget: float | None = None) -> PaperTable:
    """Where the seconds of an image or video come from, as the paper's PaperTable 6.

    Args:
        budget: seconds by the clock that accelerations may take; None where there is none.
    """
    columns = (
        *(SECONDS, SPEEDUP, *MEASURED),
        Column("within_budget", "within budget", value("within_budget", "{}")),
        *(*COUNTS, Column("bytes", "bytes sent", value("bytes", "{:,d}"))),
    )
    caption = f"Seconds per {medium} by the latency profile and by the clock at batch 1"
    if budget is not None:
        caption += f", where accelerations have a budget of {budget:.3f} s"
    return PaperTable(costs, columns, caption)


def table2(quality: pd.DataFrame, costs: pd.DataFrame, extra: Sequence[Metric] = ()) -> PaperTable:
    """What parts of the method are worth, as the paper's PaperTable 2."""
    names = ["method", "seconds", *(one.name for one in COUNTS)]
    rows = quality.merge(costs[names], on="method", validate="1:1")
    caption = (
        "Ablation, mean and bootstrap 95% interval; other schedulers against the cloud with the same one"
    )
    return PaperTable(rows, (*QUALITY, *_of(extra), *COUNTS, SECONDS), caption)


def conditions(spec: StudySpec, device: torch.device, sampling: Sampling, prompts: int) -> str:
    """What all numbers of a table have in common; ``prompts`` is how many were measured."""
    link = spec.link.mbps
    return (
        f"pair {spec.pair.name}, study {spec.name}, "
        f"{prompts} held-out prompts, "
        f"{sampling.num_inference_steps} {sampling.scheduler} steps, guidance {sampling.guidance_scale:g}, "
        f"{device_name(device)}, {'one machine' if link is None else f'link {link:g} Mbps'}; "
        "best bold, second best underlined or italic"
    )


def write(
    folder: Path, name: str, table: PaperTable, conditions: str, log: Callable[[str], None]
) -> list[Path]:
    """A table's files; it is logged too.

    Returns:
        Their paths.
    """
    columns = [one for one in table.columns if one.name in table.rows]
    shown = cells(table.rows, [(one.name, one.heading, one.show) for one in columns])
    caption = f"{table.caption}: {conditions}."
    paths = write_table(folder, name, table.rows, shown, caption)
    for line in ("", *markdown(shown, caption).splitlines(), ""):
        log(line)
    return paths
