"""The table and the figure of ``scripts/bench_split.py``: quality against the number of cloud calls."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path

import pandas as pd

from ecdiff_tune.report.figure_files import write_figure
from ecdiff_tune.report.figures import drawing, series, whole_ticks
from ecdiff_tune.report.table_files import write_table

COLUMNS = {
    "budget": "cloud calls",
    "method": "method",
    "edge_calls": "edge calls",
    "crossings": "crossings",
    "ssim": "SSIM (95%)",
    "psnr": "PSNR, dB",
    "seconds": "seconds",
    "seconds_over_link": "over the link",
}
_STYLES = ("o-", "s-", "D-", "^--", "o:", "v--", "<--")


def write(folder: Path, table: pd.DataFrame) -> list[Path]:
    """``split.csv``, ``.md``, ``.tex``, ``.png`` and ``.svg``; returns their paths.

    Args:
        table: the rows of ``bench_split``.
    """
    table = table.sort_values("budget", kind="stable")
    shown = pd.DataFrame([_cells(row) for _, row in table.iterrows()], columns=list(COLUMNS.values()))
    caption = f"SSIM and median PSNR to the cloud's 50-step image, {table['prompts'].max()} held-out prompts"
    with drawing("Quality against cloud calls", width=7, height=4.5) as (figure, (axis,)):
        whole_ticks(axis)
        for number, (method, style) in enumerate(zip(table["method"].unique(), cycle(_STYLES), strict=False)):
            part = table[table["method"] == method]
            colour = series(number)["color"]
            axis.plot(part["budget"], part["ssim"], style, color=colour, label=method)
            axis.fill_between(part["budget"], part["ssim_low"], part["ssim_high"], color=colour, alpha=0.12)
        axis.set_xlabel("cloud calls")
        axis.set_ylabel("SSIM to the cloud's image")
    return [*write_table(folder, "split", table, shown, caption), *write_figure(folder, "split", figure)]


def _cells(row: pd.Series) -> list[str]:
    texts = {
        "ssim": f"{row['ssim']:.3f} ({row['ssim_low']:.3f} … {row['ssim_high']:.3f})",
        "psnr": f"{row['psnr']:.1f}",
        "seconds": f"{row['seconds']:.2f}",
        "seconds_over_link": f"{row['seconds_over_link']:.2f}",
    }
    return [texts.get(name, str(row[name])) for name in COLUMNS]
