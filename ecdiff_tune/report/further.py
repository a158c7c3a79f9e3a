"""What the commands ``compare`` and ``errors`` left in a study's folder, for the page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ecdiff_tune.report.charts import style
from ecdiff_tune.report.sortable import Table, of_frame
from ecdiff_tune.report.study_data import table
from ecdiff_tune.report.svg import Axis, Plot

COMPARE, ERRORS = "compare", "errors"
METHODS = ("method", "name")
QUALITIES = ("ssim", "quality")
SECONDS = ("seconds", "latency")
"""Names that a column may have, the first one that is there."""


@dataclass(frozen=True)
class Compared:
    """Tables of methods side by side, and (name, seconds, quality) of those that have both."""

    tables: tuple[Table, ...]
    points: tuple[tuple[str, float, float], ...]


def compared(path: Path) -> Compared:
    """What ``compare`` measured of a study; nothing if it has not run.

    Raises:
        StudyError: a file is damaged.
    """
    frames = _frames(path / COMPARE)
    tables = tuple(of_frame(f"compare-{name}", frame) for name, frame in frames.items())
    for frame in frames.values():
        columns = [_first(frame, names) for names in (METHODS, SECONDS, QUALITIES)]
        if None not in columns:
            known = frame[columns].dropna()
            rows = known.itertuples(index=False)
            return Compared(tables, tuple((str(one[0]), float(one[1]), float(one[2])) for one in rows))
    return Compared(tables, ())


@dataclass(frozen=True)
class Errors:
    """A plot of latent errors over steps where there is one, and all tables."""

    plot: Plot | None
    tables: tuple[Table, ...]


def latent_errors(path: Path) -> Errors:
    """What ``errors`` measured of a study; nothing if it has not run.

    Raises:
        StudyError: a file is damaged.
    """
    frames = _frames(path / ERRORS)
    tables = tuple(of_frame(f"errors-{name}", frame) for name, frame in frames.items())
    plots = (_over_steps(frame) for frame in frames.values())
    return Errors(next((plot for plot in plots if plot is not None), None), tables)


def _over_steps(frame: pd.DataFrame) -> Plot | None:
    """A line a method, of a table with the columns step, method and error."""
    method, error = _first(frame, METHODS), _first(frame, ("error", "latent_error", "mean"))
    if method is None or error is None or "step" not in frame:
        return None
    plot = Plot(
        "Latent error over steps",
        Axis.around("step i", frame["step"], whole=True, room=0.02),
        Axis.around("latent error to the cloud's trajectory", frame[error], log=True),
    )
    for number, (name, rows) in enumerate(frame[frame[error] > 0].groupby(method, sort=False)):
        points = [(float(a), float(b)) for a, b in zip(rows["step"], rows[error], strict=True)]
        plot.line(points, style(number))
        plot.legend.append((style(number), str(name)))
    return plot


def _frames(folder: Path) -> dict[str, pd.DataFrame]:
    """The csv files of a folder by name."""
    return {path.stem: table(path) for path in sorted(folder.glob("*.csv"))}


def _first(frame: pd.DataFrame, names: tuple[str, ...]) -> str | None:
    return next((name for name in names if name in frame.columns), None)
