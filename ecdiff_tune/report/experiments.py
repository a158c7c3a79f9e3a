"""What the commands ``compare`` and ``errors`` left in a study's folder, for the page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from ecdiff_tune.report.comparison import TUNED, places
from ecdiff_tune.report.paper_figures import latent_error
from ecdiff_tune.report.quality_seconds import Spot
from ecdiff_tune.report.sortable import INTERVAL, Table
from ecdiff_tune.report.study_data import table
from ecdiff_tune.study import files

MOST_ROWS = 1000
"""Of a table in the page."""


@dataclass(frozen=True)
class Compared:
    """Tables of methods side by side, and those that have both seconds and quality."""

    tables: tuple[Table, ...]
    spots: tuple[Spot, ...]


def methods_compared(path: Path) -> Compared:
    """What ``compare`` measured of a study; nothing if it has not run.

    Raises:
        StudyError: a file is damaged.
    """
    frames = _frames(path / files.COMPARE, ("method", "label"))
    tables = tuple(_methods(f"compare-{name}", frame) for name, frame in frames.items())
    for frame in frames.values():
        if {"ssim", "seconds"} <= set(frame.columns):
            known = frame.dropna(subset=["ssim", "seconds"])
            return Compared(tables, tuple(_spots(known[known["method"] != "cloud"])))
    return Compared(tables, ())


def _spots(frame: pd.DataFrame) -> Iterator[Spot]:
    for label, seconds, quality in frame[["label", "seconds", "ssim"]].itertuples(index=False):
        title = f"{label}, on held-out prompts\nquality {quality:.4f}, {seconds:.3g} s"
        yield Spot(str(label), "s4", float(seconds), float(quality), title, hollow=True)


def _methods(name: str, frame: pd.DataFrame) -> Table:
    """A row a method, the best and second best of a column marked."""
    marks = {
        str(column): places(frame, str(column)).map({1.0: "best", 2.0: "second"}).fillna("").tolist()
        for column in frame.columns
    }
    winner = ["winner" if method == TUNED else "" for method in frame["method"]]
    return Table(name, _with_intervals(frame.drop(columns="method")), winner, marks)


def _with_intervals(frame: pd.DataFrame) -> pd.DataFrame:
    """The columns NAME_low and NAME_high as one that reads ``low … high``."""
    frame = frame.copy()
    for name in [one.removesuffix("_low") for one in frame.columns if one.endswith("_low")]:
        if f"{name}_high" in frame:
            low, high = frame.pop(f"{name}_low"), frame.pop(f"{name}_high")
            text = [
                None if pd.isna(a) or pd.isna(b) else f"{a:.3f} … {b:.3f}"
                for a, b in zip(low, high, strict=True)
            ]
            place = list(frame.columns).index(name) + 1 if name in frame else len(frame.columns)
            frame.insert(
                place, f"{name.removesuffix('_ci95')}{INTERVAL}", pd.Series(text, frame.index, dtype=object)
            )
    return frame


@dataclass(frozen=True)
class Accelerated:
    """What ``tune`` found of accelerations.

    Args:
        table: a row a setting; None where none was tuned.
        findings: sentences.
    """

    table: Table | None = None
    findings: tuple[str, ...] = ()


def accelerations(path: Path) -> Accelerated:
    """What ``tune method=…`` left in a study's folder.

    Raises:
        StudyError: a file is damaged.
    """
    folder = path / files.METHODS
    if not (folder / files.METHODS_TABLE).is_file():
        return Accelerated()
    settings = table(folder / files.METHODS_TABLE, ("method", "quality", "work", "kept"))
    written = folder / files.METHODS_FINDINGS
    lines = written.read_text(encoding="utf-8").splitlines() if written.is_file() else []
    return Accelerated(Table("methods", settings), tuple(lines))


@dataclass(frozen=True)
class ErrorTables:
    """The latent error over steps where it is known, and the other tables.

    Args:
        too_long: files, and their rows, that are not shown.
    """

    figure: Figure | None
    tables: tuple[Table, ...]
    too_long: tuple[tuple[str, int], ...]


def latent_errors(path: Path) -> ErrorTables:
    """What ``errors`` measured of a study; nothing if it has not run.

    Raises:
        StudyError: a file is damaged.
    """
    figure, tables, too_long = None, [], []
    for name, frame in _frames(path / files.ERRORS, ()).items():
        if {"method", "prompt", "step", "error"} <= set(frame.columns):
            by_method = frame.groupby("method", sort=False)
            curves = {
                str(method): rows.pivot(index="prompt", columns="step", values="error").to_numpy()
                for method, rows in by_method
            }
            figure = latent_error(curves)
        elif len(frame) <= MOST_ROWS:
            tables.append(Table(f"errors-{name}", _with_intervals(frame)))
        else:
            too_long.append((f"{files.ERRORS}/{name}.csv", len(frame)))
    return ErrorTables(figure, tuple(tables), tuple(too_long))


def _frames(folder: Path, columns: tuple[str, ...]) -> dict[str, pd.DataFrame]:
    """The csv files of a folder by name, which all have these columns."""
    return {path.stem: table(path, columns) for path in sorted(folder.glob("*.csv"))}
