"""Files of prompts (text, csv, tsv, json, jsonl, parquet) as tables."""

from __future__ import annotations

import csv
import errno
import json
import os
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from ecdiff_core.errors import ECDiffError, nearest, reason_of
from ecdiff_tune.data.spreadsheets import unguarded

COLUMNS = ("prompt", "caption", "text")
"""Looked for, in this order, where no column is named."""
KINDS = (".txt", ".csv", ".tsv", ".json", ".jsonl", ".parquet")
"""What is read, by the end of a file's name."""
_TWICE = "twice"
"""Of a table's attributes: the columns of which the file has more than one, and the first was taken."""
_END = "end of the file"
"""A last line of one's own: read as another field's text where a quote is never closed."""


class PromptFileError(ECDiffError):
    """A file of prompts cannot be read."""


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
        return pd.DataFrame({"prompt": _lines(path)}, dtype=str)
    except OSError as error:
        reason = error.strerror or "it is no parquet file"
        raise _unreadable(path, reason) from error
    except UnicodeDecodeError as error:
        raise _unreadable(path, "save it as UTF-8") from error
    except (ValueError, csv.Error) as error:  # not csv, not parquet
        raise _unreadable(path, reason_of(error)) from error


def _lines(path: Path) -> list[str]:
    """Those that a newline ends: a prompt may hold the other characters that ``splitlines`` cuts at."""
    lines = path.read_text(encoding="utf-8-sig").split("\n")
    return lines if lines[-1] else lines[:-1]


def _read_csv(path: Path, columns: Sequence[str], tabs: bool) -> pd.DataFrame:
    """A table whose fields are divided by what its first line has most of: comma, semicolon or tab."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        begin = [file.readline()]
        while begin[-1].isspace():
            begin.append(file.readline())
        delimiter = "\t" if tabs else max(",;\t", key=begin[-1].count)
        reader = csv.reader(chain(begin, file, ["\n", _END]), delimiter=delimiter)
        names = next(row for row in reader if row)
        if names == [_END]:
            raise _unreadable(path, "it is empty")
        wanted = list(columns) if columns and set(columns) <= set(names) else list(dict.fromkeys(names))
        rows = _fields(reader, len(names), [names.index(name) for name in wanted], path)
    table = pd.DataFrame(rows, columns=wanted, dtype=object)
    table.attrs[_TWICE] = [name for name in wanted if names.count(name) > 1]
    if "source_sha256" in table.columns and "prompt" in table.columns:  # of scripts/prepare_prompts.py
        table["prompt"] = table["prompt"].map(unguarded, na_action="ignore")
    return table


def _fields(reader: Any, most: int, places: Sequence[int], path: Path) -> list[list[str | None]]:
    """The fields at some places of every row, None where a row ends before; without blank lines at the end.

    Args:
        reader: of the csv module, behind the first line.
        most: fields of a row.
    """
    rows: list[list[str | None]] = []
    blank, row = 0, [""]
    for row in reader:
        if len(row) > most:
            raise _unreadable(
                path,
                f"line {reader.line_num} has {len(row)} fields, the first line {most}",
                got={"line": reader.line_num, "fields": len(row)},
                expected=str(most),
                advice=f"Put a prompt that holds {reader.dialect.delimiter!r} in double quotes.",
            )
        blank = blank + 1 if not row else 0 if row != [_END] else blank
        rows.append([row[place] if place < len(row) else None for place in places])
    if row != [_END]:
        raise _unreadable(path, "a double quote is never closed")
    return rows[: -1 - blank]


def _read_jsonl(path: Path) -> pd.DataFrame:
    """A table of one JSON object a line, blank lines left out."""
    rows = []
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError):
            row = None
        if not isinstance(row, dict):
            line = f'Expected a JSON object such as {{"prompt": "…"}} in line {number} of {path}.'
            raise PromptFileError(line, key=str(path), got=number, expected="a JSON object")
        rows.append(row)
    return pd.DataFrame(rows, dtype=object)


def _read_json(path: Path) -> pd.DataFrame:
    """A table of a list of texts or of objects, or of an object of columns."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, RecursionError) as error:
        raise _unreadable(path, "it is not JSON") from error
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
        "scripts/prepare_prompts.py makes one.",
        key=str(path),
        got=type(tree).__name__,
        expected="a JSON list",
    )


def _captions_of_images(annotations: list[Any], path: Path) -> pd.DataFrame:
    """COCO's captions, the first of every image: two of one image are no two prompts."""
    table = pd.DataFrame([one for one in annotations if isinstance(one, dict)], dtype=object)
    if "caption" not in table.columns:
        raise PromptFileError(
            f"The annotations in {path} have no captions: of COCO, captions_*.json has them, the others have "
            "not.",
            key=str(path),
            got=sorted(map(str, table.columns)),
            expected=["caption"],
        )
    return table.drop_duplicates("image_id") if "image_id" in table.columns else table


def _read_parquet(path: Path) -> pd.DataFrame:
    if not path.exists():  # of which pyarrow does not say so
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    if find_spec("pyarrow") is None:
        line = f"Parquet files need pyarrow: pip install 'ecdiff[parquet]' (to read {path})."
        raise PromptFileError(line, key=str(path), expected=["pyarrow"])
    return pd.read_parquet(path, engine="pyarrow")


def _unreadable(path: Path, reason: str, **about: Any) -> PromptFileError:
    return PromptFileError(f"Cannot read the prompts file {path}: {reason}.", key=str(path), **about)


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
    if names.count(chosen) > 1 or chosen in table.attrs.get(_TWICE, ()):
        raise PromptFileError(f"{path} has two columns {chosen!r}: rename one of them.", key=setting)
    return chosen
