"""Tables as csv in which no text is a formula to a spreadsheet that opens them."""

from __future__ import annotations

import re
from typing import Any

import pandas as pd

_FORMULA = re.compile(r"[=+\-@\t\r]")
"""How a cell begins that spreadsheets compute or obey."""
_NUMBER = re.compile(r"[+-]?[\d.]+([eE][+-]?\d+)?")


def csv_text(table: pd.DataFrame) -> str:
    """A table as csv without its index; texts that begin as formulas do get an apostrophe before them.

    >>> print(csv_text(pd.DataFrame({"prompt": ["=1+1", "a"], "x": [-1, 2]})), end="")
    prompt,x
    '=1+1,-1
    a,2
    """
    texts = table.select_dtypes(exclude="number").columns
    return table.assign(**{str(name): table[name].map(_guarded) for name in texts}).to_csv(index=False)


def unguarded(text: str) -> str:
    """A text of ``csv_text`` as it was.

    >>> unguarded("'=1+1"), unguarded("'tis"), unguarded("-1")
    ('=1+1', "'tis", '-1')
    """
    return text[1:] if text[:1] == "'" and _FORMULA.match(text[1:]) else text


def _guarded(value: Any) -> Any:
    if isinstance(value, str) and _FORMULA.match(value) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value
