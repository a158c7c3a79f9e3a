"""Prompts of a file (text, csv, tsv, json, jsonl, parquet), and which of its rows have none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ecdiff_core.io.text import counted
from ecdiff_tune.data.prompt_tables import PromptFileError, column_name, is_text, read_table

_SHOWN = 3
"""Rows of a kind that are named."""


@dataclass(frozen=True)
class Rows:
    """What a file of prompts holds.

    Args:
        prompts: the different ones, in their order.
        missing, empty, repeated, unreadable: rows that are left out, by their number from 1 on: the key or
            cell is not there, it is blank, its prompt came before, or it is no text.
        unit: what a row is: a line of a text file, else a row.
    """

    prompts: list[str]
    missing: tuple[int, ...] = ()
    empty: tuple[int, ...] = ()
    repeated: tuple[int, ...] = ()
    unreadable: tuple[int, ...] = ()
    unit: str = "row"

    def left_out(self) -> str:
        """How many rows are left out and which, a line without its end; empty where none is.

        >>> Rows(["a"], empty=(2, 3), repeated=(4,)).left_out()
        '3 rows left out: 2 empty (2, 3), 1 repeated (4)'
        """
        kinds = {
            "without a prompt": self.missing,
            "empty": self.empty,
            "repeated": self.repeated,
            "not text": self.unreadable,
        }
        parts = [f"{len(rows):,} {kind} ({_numbers(rows)})" for kind, rows in kinds.items() if rows]
        total = sum(map(len, kinds.values()))
        return f"{counted(total, self.unit)} left out: {', '.join(parts)}" if parts else ""


def _numbers(rows: Sequence[int]) -> str:
    return ", ".join(map(str, rows[:_SHOWN])) + (", …" if len(rows) > _SHOWN else "")


def read_rows(path: Path, column: str | None = None) -> Rows:
    """The different prompts of a file, and which rows are left out; blank lines of a text file are none.

    Raises:
        PromptFileError: the file cannot be read or parsed, lacks the column, or holds no prompt.
    """
    table, text = read_table(path), is_text(path)
    values = table["prompt" if text else column_name(table, column, path)]
    seen: dict[str, None] = {}
    left: dict[str, list[int]] = {"missing": [], "empty": [], "repeated": [], "unreadable": []}
    for number, value in enumerate(values, start=1):
        prompt, why = _prompt(value)
        if why is None and prompt in seen:
            why = "repeated"
        if why is None:
            seen[prompt] = None
        elif not (text and why == "empty"):
            left[why].append(number)
    rows = Rows(
        list(seen), **{why: tuple(numbers) for why, numbers in left.items()}, unit=("row", "line")[text]
    )
    if not rows.prompts:
        why_none = f": {rows.left_out()}" if rows.left_out() else ""
        raise PromptFileError(f"The prompts file {path} holds no prompt{why_none}.", key=str(path), got=0)
    return rows


def _prompt(value: Any) -> tuple[str, str | None]:
    """A cell's prompt, and why it has none."""
    if not isinstance(value, str):
        missing = pd.api.types.is_scalar(value) and pd.isna(value)
        return "", "missing" if missing else "unreadable"
    prompt = value.strip()
    if any(character == "\0" or "\ud800" <= character <= "\udfff" for character in prompt):
        return "", "unreadable"
    return prompt, None if prompt else "empty"
