"""samples.png, and other grids of images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap

from matplotlib.figure import Figure
from torch import Tensor

from ecdiff_core.io.text import visible
from ecdiff_tune.report.figure_files import save_figure

HEADING_WIDTH = 23
"""Characters a line over a column of samples.png."""
HEADING_LINES = 7


def samples(path: Path, rows: Sequence[tuple[str, Tensor]], columns: Sequence[str]) -> None:
    """A grid of images as a PNG; rows and columns as ``grid``."""
    save_figure(grid(rows, columns), path)


def grid(rows: Sequence[tuple[str, Tensor]], columns: Sequence[str]) -> Figure:
    """A grid of images.

    Args:
        rows: a label and images, RGB in 0 … 1, shape (columns, 3, height, width), a row of the grid; of
            videos, shape (columns, frames, 3, height, width), the middle frame is shown.
        columns: a heading a column.
    """
    figure = Figure(figsize=(1.5 * len(columns) + 0.8, 1.55 * len(rows) + 0.8))
    axes = figure.subplots(len(rows), len(columns), squeeze=False)
    for line, (label, images) in zip(axes, rows, strict=True):
        for axis, image in zip(line, images, strict=True):
            still = image[len(image) // 2] if image.ndim == 4 else image
            axis.imshow(still.float().clamp(0, 1).permute(1, 2, 0).numpy(), interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_visible(False)
        line[0].set_ylabel(visible(label, "\n"), fontsize=9, parse_math=False)
    for axis, heading in zip(axes[0], columns, strict=True):
        lines = [line for part in heading.splitlines() for line in wrap(visible(part), HEADING_WIDTH)]
        shown = "\n".join(lines[:HEADING_LINES])
        axis.set_title(shown, fontsize=6, verticalalignment="bottom", parse_math=False)  # $ is a dollar
    figure.subplots_adjust(wspace=0.04, hspace=0.04)
    return figure
