"""What the commands ``compare`` and ``errors`` left in a study's folder, for the page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from ecdiff_tune.report.charts import style
from ecdiff_tune.report.ranking import places
from ecdiff_tune.report.sortable import INTERVAL, Row, Table, of_frame
from ecdiff_tune.report.study_data import table
from ecdiff_tune.report.svg import Axis, Plot
from ecdiff_tune.report.tradeoff import Spot
from ecdiff_tune.study import files

TUNED = "tuned"
"""The name of the winner among methods."""
MOST_ROWS = 1000
"""Of a table in the page."""


@dataclass(frozen=True)
class Compared:
    """Tables of methods side by side, and those that have both seconds and quality."""

    tables: tuple[Table, ...]
    points: tuple[Spot, ...]


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
        yield Spot(str(label), "other", float(seconds), float(quality), title)


def _methods(table_name: str, frame: pd.DataFrame) -> Table:
    """A row a method, the best and second best of a column marked."""
    shown = _with_intervals(frame.drop(columns="method"))
    styles = ["winner" if method == TUNED else "" for method in frame["method"]]
    made = of_frame(table_name, shown, styles)
    marks: dict[tuple[int, int], str] = {}
    for column, name in enumerate(shown.columns):
        if name in frame:
            marks |= {
                (row, column): {1.0: "best", 2.0: "second"}[place]
                for row, place in enumerate(places(frame, str(name)))
                if place in (1.0, 2.0)
            }
    rows = tuple(
        Row(
            tuple(replace(one, style=marks.get((place, i), "")) for i, one in enumerate(row.cells)), row.style
        )
        for place, row in enumerate(made.rows)
    )
    return replace(made, rows=rows)


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
class Errors:
    """The latent error over steps where it is known, and the other tables.

    Args:
        too_long: files, and their rows, that are not shown.
    """

    plot: Plot | None
    tables: tuple[Table, ...]
    too_long: tuple[tuple[str, int], ...]


def latent_errors(path: Path) -> Errors:
    """What ``errors`` measured of a study; nothing if it has not run.

    Raises:
        StudyError: a file is damaged.
    """
    plot, tables, too_long = None, [], []
    for name, frame in _frames(path / files.ERRORS, ()).items():
        if {"method", "step", "error"} <= set(frame.columns):
            plot = _over_steps(frame)
        elif len(frame) <= MOST_ROWS:
            tables.append(of_frame(f"errors-{name}", _with_intervals(frame)))
        else:
            too_long.append((f"{files.ERRORS}/{name}.csv", len(frame)))
    return Errors(plot, tuple(tables), tuple(too_long))


def _over_steps(frame: pd.DataFrame) -> Plot:
    """A line a method, the mean over prompts; the first latents are the same, so that step 0 is left out."""
    means = frame.groupby(["method", "step"], sort=False)["error"].mean().reset_index()
    means = means[means["error"] > 0]
    plot = Plot(
        "Latent error to the cloud's own run over steps",
        Axis.around("step i", means["step"], whole=True, room=0.02),
        Axis.around("latent error, mean over prompts", means["error"], log=True),
    )
    for number, (name, rows) in enumerate(means.groupby("method", sort=False)):
        points = [(float(a), float(b)) for a, b in zip(rows["step"], rows["error"], strict=True)]
        plot.line(points, style(number))
        plot.legend.append((style(number), str(name)))
    return plot


def _frames(folder: Path, columns: tuple[str, ...]) -> dict[str, pd.DataFrame]:
    """The csv files of a folder by name, which all have these columns."""
    return {path.stem: table(path, columns) for path in sorted(folder.glob("*.csv"))}
