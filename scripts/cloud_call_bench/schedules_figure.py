"""The table and the figure of ``scripts/bench_schedules.py``: quality against the number of cloud calls."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ecdiff_tune.report.figure_files import write_figure
from ecdiff_tune.report.figures import drawing, series, whole_ticks
from ecdiff_tune.report.table_files import write_table

LABELS = {
    "ours": "placed calls",
    "paper": "(p, k, alpha)",
    "DDIM": "fewer DDIM steps",
    "DPM++ 2M": "fewer DPM++ 2M steps",
}
_STYLES = {"ours": "o-", "paper": "s-", "DDIM": "^--", "DPM++ 2M": "v--"}


def write(folder: Path, table: pd.DataFrame) -> list[Path]:
    """``schedules.csv``, ``.md``, ``.tex``, ``.png`` and ``.svg``.

    Args:
        table: a row a (cloud_calls, method), with psnr_median, psnr_mean and ssim.

    Returns:
        The files' paths.
    """
    return [*_write_table(folder, table), *_write_figure(folder, table)]


def _write_table(folder: Path, table: pd.DataFrame) -> list[Path]:
    """A row a number of calls; of every method the median PSNR, the mean and SSIM, the best median bold."""
    shown = []
    for calls, part in table.groupby("cloud_calls"):
        rows = part.set_index("method")
        best = rows["psnr_median"].idxmax()
        cells = [str(calls)]
        for method in LABELS:
            one = rows.loc[method]
            text = f"{one['psnr_median']:.1f} / {one['psnr_mean']:.1f} / {one['ssim']:.4f}"
            cells.append(f"**{text}**" if method == best else text)
        shown.append([*cells, *(str(rows.loc[method, "config"]) for method in ("ours", "paper"))])
    headings = ["cloud calls", *LABELS.values(), "placed calls: config", "(p, k, alpha): config"]
    caption = (
        "PSNR median, mean (dB) and SSIM to the cloud's 50-step image, "
        f"{int(table['prompts'].max())} held-out prompts"
    )
    return write_table(folder, "schedules", table, pd.DataFrame(shown, columns=headings), caption)


def _write_figure(folder: Path, table: pd.DataFrame) -> list[Path]:
    with drawing("Quality against cloud calls", width=7, height=4.5) as (figure, (axis,)):
        whole_ticks(axis)
        for number, (method, style) in enumerate(_STYLES.items()):
            part = table[table["method"] == method].sort_values("cloud_calls")
            colour = series(number)["color"]
            axis.plot(part["cloud_calls"], part["psnr_median"], style, color=colour, label=LABELS[method])
        axis.set(xlabel="cloud calls", ylabel="median PSNR to the 50-step image, dB")
    return write_figure(folder, "schedules", figure)
