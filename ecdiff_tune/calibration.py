"""Prompts to tune on and prompts to check on: where they come from, their seeds, their digest."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pandas as pd

from ecdiff_core.errors import ECDiffError, nearest
from ecdiff_core.shapes import grammar as pictures
from ecdiff_core.shapes_video import grammar as clips
from ecdiff_tune.settings import Settings

VIDEO_PAIR = "embedded:shapes_video/"
"""How the ids of the embedded pair begin whose captions say what moves."""

COLUMNS = ("prompt", "caption", "text")
"""Looked for, in this order, where no column is named."""


class CalibrationError(ECDiffError):
    """The prompts cannot be read, or are too few."""


@dataclass(frozen=True)
class CalibrationSet:
    """Prompts, each with the seed of its initial noise."""

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def keys(self) -> tuple[str, ...]:
        """One key a prompt, from its text and seed."""
        return tuple(_digest(f"{s}\n{p}") for p, s in zip(self.prompts, self.seeds, strict=True))

    @property
    def digest(self) -> str:
        """16 hex digits that change with any prompt, seed or the order."""
        return _digest("\n".join(self.keys))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def load(settings: Settings) -> tuple[CalibrationSet, CalibrationSet]:
    """The calibration set and a held-out set that shares no prompt with it.

    A file's prompts are sampled without repetition by ``seed``. Without a file both sets are captions of
    the embedded pairs' grammar, of clips or of pictures, that their training never saw.

    Raises:
        CalibrationError: the file cannot be read, has no such column, or holds too few distinct prompts.
    """
    count, spare = settings.calibration.num_prompts, settings.heldout.num_prompts
    if settings.calibration.file is None:
        scenes = (clips if settings.pair.cloud.startswith(VIDEO_PAIR) else pictures).scenes
        drawn = [scene.caption() for scene in islice(scenes(settings.seed, held_out=True), count + spare)]
    else:
        path = Path(settings.calibration.file).expanduser()
        known = list(dict.fromkeys(read_prompts(path, settings.calibration.column)))
        if len(known) < count + spare:
            raise CalibrationError(
                f"Expected at least {count + spare} distinct prompts in {path} "
                f"({count} to tune on, {spare} held out), got {len(known)}. "
                "Lower calibration.num_prompts or heldout.num_prompts."
            )
        drawn = random.Random(settings.seed).sample(known, count + spare)
    seeds = range(settings.seed, settings.seed + count + spare)
    return _take(drawn[:count], seeds[:count]), _take(drawn[count:], seeds[count:])


def _take(prompts: Sequence[str], seeds: Sequence[int]) -> CalibrationSet:
    return CalibrationSet(tuple(prompts), tuple(seeds))


def read_prompts(path: Path, column: str | None = None) -> list[str]:
    """The prompts of a txt (one a line), csv or jsonl file, blank ones left out.

    Raises:
        CalibrationError: the file cannot be read or parsed, or lacks the column.
    """
    table = read_table(path)
    values = table["prompt"] if is_text(path) else table[column_name(table, column, path)]
    prompts = [prompt for value in values.dropna() if (prompt := str(value).strip())]
    if not prompts:
        raise CalibrationError(f"The prompts file {path} holds no prompt.")
    return prompts


def is_text(path: Path) -> bool:
    """Whether a file is, by its name, plain text with a prompt a line."""
    return path.suffix.lower() in ("", ".txt", ".text", ".md")


def read_table(path: Path, columns: Sequence[str] = ()) -> pd.DataFrame:
    """A csv or jsonl file as a table; a txt file as one of the column ``prompt``.

    Args:
        columns: of a csv file that has them all, read these alone.

    Raises:
        CalibrationError: the file cannot be read or parsed.
    """
    try:
        kind = path.suffix.lower()
        if kind == ".csv":
            return _read_csv(path, columns)
        if kind in (".jsonl", ".ndjson"):
            return _read_jsonl(path)
        if not is_text(path):
            raise CalibrationError(f"Expected a .txt, .csv or .jsonl file of prompts, got {path}.")
        return pd.DataFrame({"prompt": path.read_text(encoding="utf-8-sig").splitlines()}, dtype=str)
    except OSError as error:
        raise CalibrationError(f"Cannot read the prompts file {path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise CalibrationError(f"Cannot read the prompts file {path}: save it as UTF-8.") from error
    except ValueError as error:  # not csv
        reason = str(error).strip().splitlines()[0]
        raise CalibrationError(f"Cannot read the prompts file {path}: {reason}") from error


def _read_csv(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """A table whose fields are divided by what its first line has most of: comma, semicolon or tab."""
    with path.open(encoding="utf-8-sig") as file:
        header = file.readline()
    delimiter = max(",;\t", key=header.count)
    names = [name.strip(' "\r\n') for name in header.split(delimiter)]
    return pd.read_csv(
        path,
        sep=delimiter,
        usecols=list(columns) if columns and set(columns) <= set(names) else None,
        dtype=str,
        keep_default_na=False,
        na_values=[],
        encoding="utf-8-sig",
    )


def _read_jsonl(path: Path) -> pd.DataFrame:
    """A table of one JSON object a line, blank lines left out."""
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            row = None
        if not isinstance(row, dict):
            raise CalibrationError(
                f'Expected a JSON object such as {{"prompt": "…"}} in line {number} of {path}.'
            )
        rows.append(row)
    return pd.DataFrame(rows)


def column_name(
    table: pd.DataFrame, column: str | None, path: Path, setting: str = "calibration.column"
) -> str:
    """The column that holds the prompts: the named one, or the first of ``COLUMNS`` that is there.

    Args:
        setting: that names it.

    Raises:
        CalibrationError: the table has no such column.
    """
    names = [str(name) for name in table.columns]
    chosen = column or next((name for name in COLUMNS if name in names), None)
    if chosen is None:
        raise CalibrationError(
            f"{path} has none of the columns {', '.join(COLUMNS)}: {nearest('prompt', names)}; "
            f"name it with {setting}."
        )
    if chosen not in names:
        raise CalibrationError(f"{path} has no column {chosen!r}: {nearest(chosen, names)}.")
    return chosen
