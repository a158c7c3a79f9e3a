"""Methods side by side: cells of their tables, and quality against seconds as a figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from ecdiff_tune.report.ranking import ALONE, places

Shown = Callable[[pd.Series], str]
"""A row's cell."""


def value(column: str, form: str = "{:.3f}") -> Shown:
    """A number, with its interval where the table has one; a dash where there is none."""

    def show(row: pd.Series) -> str:
        if pd.isna(row[column]):
            return "–"
        text = form.format(row[column]).replace("inf", "∞")
        low, high = (row.get(f"{column}_{end}") for end in ("low", "high"))
        if low is None or pd.isna(low):
            return text
        return f"{text} ({form.format(low)} … {form.format(high)})"

    return show


def cells(
    table: pd.DataFrame, columns: Sequence[tuple[str, Shown]], unranked: Sequence[str] = ALONE
) -> list[list[str]]:
    """What markdown and LaTeX show of a table: the label, then the columns.

    The best value of a column is ``**bold**``, the second best ``_underlined_``.

    Args:
        columns: a name, and how it is shown.
        unranked: methods that are shown, but not ranked.
    """
    rows = [[str(label)] for label in table["label"]]
    for name, show in columns:
        found = places(table, name, unranked)
        for cell, (_, row), place in zip(rows, table.iterrows(), found, strict=True):
            text = show(row)
            mark = {1.0: "**", 2.0: "_"}.get(place, "") if text != "–" else ""
            cell.append(f"{mark}{text}{mark}")
    return rows


MARKERS = "osD^vP*Xh<>d"


def quality_against_seconds(
    table: pd.DataFrame, thing: str, metric: str = "ssim", name: str = "SSIM"
) -> Figure:
    """A point a method with the bootstrap 95% interval of its quality; the cloud alone is a line.

    Of methods that take the same seconds the later ones are drawn a little to the right, to be told apart.

    Args:
        table: columns method, label, seconds, and ``metric`` with its ``_low`` and ``_high``.
        thing: that a generation makes, picture or video.
    """
    figure, axis = plt.subplots(figsize=(7.5, 4.2))
    table = table[table["seconds"].notna() & table[metric].notna()]
    aside = table.groupby(table["seconds"].round(6)).cumcount() * 0.012 * table["seconds"].max()
    for number, (at, row) in enumerate(table.iterrows()):
        colour = f"C{number % 10}"
        if row["method"] == "cloud":
            axis.axvline(row["seconds"], color="0.6", lw=1, ls="--", label=f"{row['label']} alone")
            continue
        error = [[row[metric] - row[f"{metric}_low"]], [row[f"{metric}_high"] - row[metric]]]
        own = row["method"] == "tuned"
        axis.errorbar(
            row["seconds"] + aside[at],
            row[metric],
            yerr=error,
            fmt=MARKERS[number % len(MARKERS)],
            color="black" if own else colour,
            ms=9 if own else 6,
            capsize=3,
            lw=1,
            label=row["label"],
        )
    axis.set_xlabel(f"seconds a {thing}")
    axis.set_ylabel(f"{name} to the cloud's {thing}")
    axis.set_xlim(left=0)
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25)
    return figure
