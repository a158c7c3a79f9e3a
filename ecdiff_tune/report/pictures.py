"""samples.png and noise_profile.png."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ecdiff_core.io.text import visible
from ecdiff_tune.report.export import save_figure

HEADING_WIDTH = 23
"""Characters a line over a column of samples.png."""
HEADING_LINES = 7


def _save(figure: Figure, path: Path) -> None:
    save_figure(figure, path)
    plt.close(figure)


def samples(path: Path, rows: Sequence[tuple[str, Tensor]], columns: Sequence[str]) -> None:
    """A grid of pictures as a PNG; rows and columns as ``grid``."""
    _save(grid(rows, columns), path)


def grid(rows: Sequence[tuple[str, Tensor]], columns: Sequence[str]) -> Figure:
    """A grid of pictures.

    Args:
        rows: a label and pictures, RGB in 0 … 1, shape (columns, 3, height, width), a row of the grid; of
            videos, shape (columns, frames, 3, height, width), the middle frame is shown.
        columns: a heading a column.
    """
    figure, axes = plt.subplots(
        len(rows), len(columns), figsize=(1.5 * len(columns) + 0.8, 1.55 * len(rows) + 0.8), squeeze=False
    )
    for line, (label, pictures) in zip(axes, rows, strict=True):
        for axis, picture in zip(line, pictures, strict=True):
            still = picture[len(picture) // 2] if picture.ndim == 4 else picture
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


def noise_profile(path: Path, profile: pd.DataFrame, p: int) -> None:
    """How much the cloud's noise changes from step to step (the paper's Figure 3), with p marked.

    Args:
        path: of the PNG.
        profile: columns step, mean, variance.
        p: warm-up steps.
    """
    figure, axis = plt.subplots(figsize=(6, 3.2))
    draw_noise_change(axis, profile, p)
    axis.set_yscale("log")
    axis.legend(frameon=False, fontsize=8)
    _save(figure, path)


def draw_noise_change(axis: Axes, profile: pd.DataFrame, p: int) -> None:
    """The curve of ``noise_profile`` on an axis."""
    spread = profile["variance"] ** 0.5
    axis.fill_between(profile["step"], profile["mean"] - spread, profile["mean"] + spread, alpha=0.25, lw=0)
    axis.plot(profile["step"], profile["mean"], label="mean over prompts, ± standard deviation")
    axis.axvline(p, color="black", lw=1, ls="--", label=f"p = {p}")
    axis.set_xlabel("step i")
    axis.set_ylabel(r"mean $|\epsilon_i - \epsilon_{i-1}|$")
    axis.spines[["top", "right"]].set_visible(False)
