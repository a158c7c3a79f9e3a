"""Files of prompts (text, csv, tsv, json, jsonl, parquet) as tables and lists, with what is left out."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd

from ecdiff_core.errors import ECDiffError, nearest
from ecdiff_core.io.text import counted
from ecdiff_tune.data.spreadsheets import unguarded

COLUMNS = ("prompt", "caption", "text")
"""Looked for, in this order, where no column is named."""
KINDS = (".txt", ".csv", ".tsv", ".json", ".jsonl", ".parquet")
"""What is read, by the end of a file's name."""
_SHOWN = 3
"""Rows of a kind that are named."""


class PromptFileError(ECDiffError):
    """A file of prompts cannot be read."""


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
        raise PromptFileError(f"The prompts file {path} holds no prompt{why_none}.")
    return rows


def _prompt(value: Any) -> tuple[str, str | None]:
    """A cell's prompt, and why it has none."""
    if not isinstance(value, str):
        missing = pd.api.types.is_scalar(value) and pd.isna(value)
        return "", "missing" if missing else "unreadable"
    prompt = value.strip()
    if not prompt.isascii() and any("\ud800" <= character <= "\udfff" for character in prompt):
        return "", "unreadable"
    return prompt, None if prompt else "empty"


def read_prompts(path: Path, column: str | None = None) -> list[str]:
    """The different prompts of a file, in their order.

    Raises:
        PromptFileError: the file cannot be read or parsed, lacks the column, or holds no prompt.
    """
    return read_rows(path, column).prompts


def is_text(path: Path) -> bool:
    """Whether a file is, by its name, plain text with a prompt a line."""
    return path.suffix.lower() in ("", ".txt", ".text", ".md")


def read_table(path: Path, columns: Sequence[str] = ()) -> pd.DataFrame:
    """A file as a table; a txt file as one of the column ``prompt``.

    Args:
        columns: of a csv or tsv file that has them all, read these alone.

    Raises:
        PromptFileError: the file cannot be read or parsed, or is of no kind that is known.
    """
    kind = path.suffix.lower()
    try:
        if kind in (".csv", ".tsv"):
            return _read_csv(path, columns, tabs=kind == ".tsv")
        if kind in (".jsonl", ".ndjson"):
            return _read_jsonl(path)
        if kind == ".json":
            return _read_json(path)
        if kind in (".parquet", ".pq"):
            return _read_parquet(path)
        if not is_text(path):
            raise PromptFileError(key="a file of prompts,", got=str(path), expected=", ".join(KINDS))
        return pd.DataFrame({"prompt": path.read_text(encoding="utf-8-sig").splitlines()}, dtype=str)
    except OSError as error:
        reason = error.strerror or "it is no parquet file"
        raise PromptFileError(f"Cannot read the prompts file {path}: {reason}.") from error
    except UnicodeDecodeError as error:
        raise PromptFileError(f"Cannot read the prompts file {path}: save it as UTF-8.") from error
    except ValueError as error:  # not csv, not parquet
        reason = (str(error).strip().splitlines() or ["it is empty"])[0]
        raise PromptFileError(f"Cannot read the prompts file {path}: {reason}") from error


def _read_csv(path: Path, columns: Sequence[str], tabs: bool) -> pd.DataFrame:
    """A table whose fields are divided by what its first line has most of: comma, semicolon or tab."""
    with path.open(encoding="utf-8-sig") as file:
        header = file.readline()
    delimiter = "\t" if tabs else max(",;\t", key=header.count)
    names = [name.strip(' "\r\n') for name in header.split(delimiter)]
    table = pd.read_csv(
        path,
        sep=delimiter,
        usecols=list(columns) if columns and set(columns) <= set(names) else None,
        dtype=str,
        keep_default_na=False,
        na_values=[],
        encoding="utf-8-sig",
    )
    if "source_sha256" in table.columns and "prompt" in table.columns:  # of scripts/prepare_prompts.py
        table["prompt"] = table["prompt"].map(unguarded, na_action="ignore")
    return table


def _read_jsonl(path: Path) -> pd.DataFrame:
    """A table of one JSON object a line, blank lines left out."""
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise PromptFileError(
                f'Expected a JSON object such as {{"prompt": "…"}} in line {number} of {path}.'
            )
        rows.append(row)
    return pd.DataFrame(rows, dtype=object)


def _read_json(path: Path) -> pd.DataFrame:
    """A table of a list of texts or of objects, or of an object of columns."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, RecursionError) as error:
        raise PromptFileError(f"Cannot read the prompts file {path}: it is not JSON.") from error
    if isinstance(tree, list) and all(isinstance(one, dict) for one in tree):
        return pd.DataFrame(tree, dtype=object)
    if isinstance(tree, list) and not any(isinstance(one, list | dict) for one in tree):
        return pd.DataFrame({"prompt": tree}, dtype=object)
    if isinstance(tree, dict) and isinstance(tree.get("annotations"), list):
        return _captions_of_images(tree["annotations"], path)
    if isinstance(tree, dict) and tree and all(isinstance(one, list) for one in tree.values()):
        return pd.DataFrame(tree, dtype=object)
    raise PromptFileError(
        f'Expected a JSON list such as ["…"] or [{{"prompt": "…"}}] in {path}; of VBench, '
        "scripts/prepare_prompts.py makes one."
    )


def _captions_of_images(annotations: list[Any], path: Path) -> pd.DataFrame:
    """COCO's captions, the first of every image: two of one image are no two prompts."""
    table = pd.DataFrame([one for one in annotations if isinstance(one, dict)], dtype=object)
    if "caption" not in table.columns:
        raise PromptFileError(
            f"The annotations in {path} have no captions: of COCO, captions_*.json has them, the others have "
            "not."
        )
    return table.drop_duplicates("image_id") if "image_id" in table.columns else table


def _read_parquet(path: Path) -> pd.DataFrame:
    if not path.exists():  # of which pyarrow does not say so
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    if find_spec("pyarrow") is None:
        raise PromptFileError(f"Parquet files need pyarrow: pip install 'ecdiff[parquet]' (to read {path}).")
    return pd.read_parquet(path, engine="pyarrow")


def column_name(
    table: pd.DataFrame, column: str | None, path: Path, setting: str = "calibration.column"
) -> str:
    """The column that holds the prompts: the named one, or the first of ``COLUMNS`` that is there.

    Args:
        setting: that names it.

    Raises:
        PromptFileError: the table has no such column.
    """
    names = [str(name) for name in table.columns]
    chosen = column or next((name for name in COLUMNS if name in names), None)
    if chosen is None:
        raise PromptFileError(
            f"{path} has none of the columns {', '.join(COLUMNS)}: {nearest('prompt', names)}; "
            f"name it with {setting}.",
            key=setting,
            expected=names,
        )
    if chosen not in names:
        line = f"{path} has no column {chosen!r}: {nearest(chosen, names)}."
        raise PromptFileError(line, key=setting, got=chosen, expected=names)
    return chosen
