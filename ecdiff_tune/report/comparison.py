"""Methods side by side: which are ranked by which columns, and the cells of their tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

Shown = Callable[[pd.Series], str]
"""A row's cell."""
TUNED = "tuned"
"""The name of a study's winner among methods."""
ALONE = ("cloud", "edge")
"""Methods that no other is ranked with."""
BETTER = {
    "ssim": 1,
    "psnr": 1,
    "lpips": -1,
    "clip": 1,
    "seconds": -1,
    "speedup": 1,
    "measured_seconds": -1,
    "measured_speedup": 1,
}
"""1 where more is better, -1 where less is."""


def better(column: str) -> int:
    """1, -1, or 0 where neither more nor less is better; a metric may be followed by its network.

    >>> better("ssim"), better("lpips_alex"), better("cloud_calls")
    (1, -1, 0)
    """
    return BETTER.get(column) or BETTER.get(column.partition("_")[0], 0)


def places(table: pd.DataFrame, column: str, unranked: Sequence[str] = ALONE) -> pd.Series:
    """1 for the best method by a column, 2 for the second best; NaN for those that are not ranked."""
    way = better(column)
    if not way:
        return pd.Series(np.nan, table.index)
    numbers = table[column].astype(float).where(~table["method"].isin(list(unranked)))
    return (way * numbers).rank(ascending=False, method="min")


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
    table: pd.DataFrame, columns: Sequence[tuple[str, str, Shown]], unranked: Sequence[str] = ALONE
) -> pd.DataFrame:
    """What markdown and LaTeX show of a table: the label as ``method``, then the columns.

    The best value of a column is ``**bold**``, the second best ``_underlined_``.

    Args:
        columns: a name, its heading, and how it is shown.
        unranked: methods that are shown, but not ranked.
    """
    found = pd.DataFrame({"method": table["label"].astype(str)})
    for name, heading, show in columns:
        texts = [show(row) for _, row in table.iterrows()]
        marks = places(table, name, unranked).map({1.0: "**", 2.0: "_"}).fillna("")
        found[heading] = [
            text if text == "–" else f"{mark}{text}{mark}" for text, mark in zip(texts, marks, strict=True)
        ]
    return found
