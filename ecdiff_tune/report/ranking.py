"""Which methods a table ranks, and by which columns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

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
