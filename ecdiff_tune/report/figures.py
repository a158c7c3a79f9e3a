"""The one way to draw: matplotlib figures, in the page as SVG that follows its theme, or saved as files.

matplotlib and not a charting library in the page: the same functions draw the files that people put into
papers, and a point's hint needs no more than an SVG title, where such a library would add one to four
megabytes to every page.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import matplotlib
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.layout_engine import LayoutEngine
from matplotlib.text import Annotation, Text
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator
from matplotlib.transforms import Bbox, Transform
from numpy.typing import ArrayLike

from ecdiff_core.io.text import visible

STATIC = Path(__file__).parent / "static"
MARKERS = "os^Dv*PXd"
"""Which tell series apart without colour."""
SERIES = 6
"""Colours s0 … s5 of the style sheet."""
LEGEND_WIDTH = 95
"""Characters that a legend under an axis of the usual width has room for in a line."""
LABEL = "label"
"""The ``gid`` of texts that make way for each other."""
RISES = (3, -10, 13, -20, 23, -30, 33, -40, 43, -50, 53, -60, 63)
"""How far beside its point a label may stand, in points, the best first."""
FAR = 10
"""Points between the middles of a mark and its label beyond which a line leads from one to the other."""


@cache
def colours() -> dict[str, str]:
    """The style sheet's light colours by name; in the page they become its variables, dark ones included."""
    light = (STATIC / "page.css").read_text(encoding="utf-8").partition("}")[0]
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", light))


def series(number: int) -> dict[str, str]:
    """Colour and marker of a series."""
    return {"color": colours()[f"s{number % SERIES}"], "marker": MARKERS[number % len(MARKERS)]}


@contextmanager
def styled(**more: Any) -> Iterator[None]:
    """matplotlib's settings as figures are drawn and saved with; ``more`` are its own."""
    ink, soft, line = (colours()[name] for name in ("ink", "soft", "line"))
    style: dict[Any, Any] = {
        "text.parse_math": False,  # prompts and names may hold dollars
        "font.size": 8,
        "font.sans-serif": ["DejaVu Sans"],
        "text.color": ink,
        "axes.labelcolor": ink,
        "axes.edgecolor": line,
        "axes.titlesize": 9,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": line,
        "grid.linewidth": 0.6,
        "lines.linewidth": 1.3,
        "lines.markersize": 4,
        "legend.frameon": False,
        "legend.fontsize": 8,
        **{f"axes.spines.{side}": False for side in ("top", "right")},
        **{f"{axis}tick.labelcolor": soft for axis in "xy"},
        **{f"{axis}tick.{side}": False for axis, side in (("x", "bottom"), ("y", "left"))},
    }
    with matplotlib.rc_context(style | more), warnings.catch_warnings():
        # Prompts are in any script; signs that the font lacks are drawn as boxes.
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        yield


@contextmanager
def drawing(
    name: str, width: float = 5.2, height: float = 3.4, widths: Sequence[float] = (1,)
) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure of axes side by side, to be drawn on; then its labels make way and its legend stands below.

    Args:
        name: what it shows, for the page.
        width, height: inches.
        widths: of the axes, in proportion.
    """
    with styled():
        figure = Figure(figsize=(width, height), layout="constrained")
        figure.set_label(name)
        axes = figure.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0]
        yield figure, list(axes)
        _legend(figure)
        _make_way(figure)


def _legend(figure: Figure) -> None:
    found: dict[str, Any] = {}
    for axis in figure.axes:
        handles, labels = axis.get_legend_handles_labels()
        found |= {visible(text): handle for handle, text in zip(handles, labels, strict=True)}
    if found:
        room = LEGEND_WIDTH * figure.get_figwidth() / 5.2
        columns = max(1, int(room / (max(map(len, found)) + 8)))
        place: dict[str, Any] = {"loc": "outside lower left", "ncols": min(columns, len(found))}
        figure.legend(list(found.values()), list(found), labelcolor=colours()["soft"], **place)


def points(
    axis: Axes,
    x: ArrayLike,
    y: ArrayLike,
    titles: Sequence[str] = (),
    *,
    color: str,
    size: float = 30,
    hollow: bool = False,
    **style: Any,
) -> None:
    """Marks, of which each tells its title where it is pointed at in the page.

    Args:
        size: square points; ``hollow`` marks show their outline alone.
        style: of ``Axes.scatter``.
    """
    paper = colours()["paper"]
    inside, outline, width = (paper, color, 1.2) if hollow else (color, paper, 0.7)
    looks: dict[str, Any] = {"facecolors": inside, "edgecolors": outline, "linewidths": width, "zorder": 3}
    marks = axis.scatter(x, y, s=size, clip_on=False, **{**looks, **style})
    if titles:
        marks.set_urls([quote(visible(title, "\n")) for title in titles])


def label(axis: Axes, x: float, y: float, text: str, colour: str, **style: Any) -> None:
    """A text beside a point, where it covers no other and no mark.

    Args:
        colour: a name of ``colours``.
        style: of ``Axes.annotate``.
    """
    ink = colours()[colour]
    leader = {"arrowstyle": "-", "linewidth": 0.5, "color": ink, "shrinkA": 0, "shrinkB": 2}
    looks: dict[str, Any] = {"color": ink, "weight": "bold", "zorder": 5, "annotation_clip": False}
    place: dict[str, Any] = {"xytext": (5, 5), "textcoords": "offset points", "arrowprops": leader}
    looks["bbox"] = {"facecolor": colours()["paper"], "edgecolor": "none", "alpha": 0.7, "pad": 0.5}
    looks["xycoords"] = axis.transData
    note = axis.annotate(visible(text), (x, y), gid=LABEL, **{**looks, **place, **style})
    note.set_in_layout(False)


def rule(axis: Axes, x: float, text: str, colour: str, **style: Any) -> None:
    """A line over the whole height, its label at the top."""
    axis.axvline(x, **{"color": colours()[colour], "linewidth": 1.2, **style})
    label(axis, x, 1, text, colour, xycoords=axis.get_xaxis_transform())


def whole_ticks(axis: Axes) -> None:
    """Ticks of x at whole numbers alone."""
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins="auto"))


def logarithmic(axis: Axes) -> None:
    """A logarithmic y whose ticks read as numbers."""
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_locator(LogLocator(subs=()))


def _make_way(figure: Figure) -> None:
    """Place the labels one by one, each where it covers least: labels before it, marks, what is outside."""
    found = [(axis, text) for axis in figure.axes for text in axis.texts if text.get_gid() == LABEL]
    if not found:
        return
    cast(LayoutEngine, figure.get_layout_engine()).execute(figure)  # now the axes stand where they will
    figure.set_layout_engine("none")
    point = figure.dpi / 72
    marks = [
        Bbox.from_bounds(x - 3 * point, y - 3 * point, 6 * point, 6 * point)
        for axis in figure.axes
        for some in axis.collections
        if isinstance(some, PathCollection)
        for x, y in axis.transData.transform(some.get_offsets())
    ]
    labels: list[Bbox] = []
    for axis, text in found:
        note = cast(Annotation, text)
        x, y = cast(Transform, note.xycoords).transform(note.xy)
        size, inside = Text.get_window_extent(note), axis.bbox
        room = Bbox.from_extents(inside.x0, inside.y0, figure.bbox.x1, inside.y1)

        def box(side: int, rise: int, x: float = x, y: float = y, size: Bbox = size) -> Bbox:
            left = x + 5 * side * point - (size.width if side < 0 else 0)
            return Bbox.from_bounds(left, y + rise * point, size.width, size.height)

        def cost(way: tuple[int, int], room: Bbox = room) -> float:
            mine = box(*way)
            within = room.x0 <= mine.x0 and mine.x1 <= room.x1 and room.y0 <= mine.y0 and mine.y1 <= room.y1
            covers = 10 * mine.count_overlaps(labels) + mine.count_overlaps(marks)
            return covers + 40 * (not within) + 0.03 * abs(way[1]) + 0.2 * (way[0] < 0)

        side, rise = min(product((1, -1), RISES), key=cost)
        note.set(position=(5 * side, rise), horizontalalignment="left" if side > 0 else "right")
        cast(Any, note.arrow_patch).set_visible(not -FAR <= rise + 3 <= FAR)
        labels.append(box(side, rise))
