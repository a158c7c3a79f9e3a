"""Tables and figures as files that people take along: csv, markdown, LaTeX; PNG, SVG."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from ecdiff_core.io.files import replacing, write_text
from ecdiff_tune.data.spreadsheets import csv_text

_LATEX = str.maketrans(
    {mark: f"\\{mark}" for mark in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "–": "--", "…": r"\dots{}", "×": r"$\times$", "∞": r"$\infty$"}
    | {"^": r"\textasciicircum{}", "~": r"\textasciitilde{}"}
    | {"↑": r"$\uparrow$", "↓": r"$\downarrow$"}
)


def write_table(
    folder: Path,
    name: str,
    table: pd.DataFrame,
    shown: Sequence[Sequence[str]] | None = None,
    headings: Sequence[str] | None = None,
    caption: str = "",
) -> list[Path]:
    """``name.csv``, ``name.md`` and ``name.tex``.

    Args:
        table: what the csv holds, in full precision.
        shown: the cells of the other two, a list a row; ``**bold**`` marks the best and ``_second_`` the
            second best. None is the table itself.
        headings: of the columns that are shown; None is the table's own names.
        caption: a line over them.

    Returns:
        The files' paths.
    """
    cells = [list(map(str, row)) for row in (table.to_numpy() if shown is None else shown)]
    heads = [str(one).replace("_", " ") for one in (table.columns if headings is None else headings)]
    texts = {
        "csv": csv_text(table),
        "md": markdown(heads, cells, caption),
        "tex": latex(heads, cells, caption),
    }
    paths = [folder / f"{name}.{kind}" for kind in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        write_text(path, text)
    return paths


def markdown(headings: Sequence[str], cells: Sequence[Sequence[str]], caption: str = "") -> str:
    """A markdown table.

    >>> print(markdown(["method", "SSIM"], [["cloud", "**1.000**"]]), end="")
    | method | SSIM |
    |---|---|
    | cloud | **1.000** |
    """
    lines = [caption, ""] if caption else []
    rows = [" | ".join(cell.replace("|", "\\|") for cell in row) for row in (headings, *cells)]
    lines += [f"| {rows[0]} |", "|" + "---|" * len(headings), *(f"| {row} |" for row in rows[1:])]
    return "\n".join(lines) + "\n"


def latex(headings: Sequence[str], cells: Sequence[Sequence[str]], caption: str = "") -> str:
    r"""A LaTeX table for the booktabs package.

    >>> print(latex(["method", "SSIM"], [["cloud", "**1.000**"], ["k_1", "_0.9_"]]), end="")
    \begin{tabular}{ll}
    \toprule
    method & SSIM \\
    \midrule
    cloud & \textbf{1.000} \\
    k\_1 & \underline{0.9} \\
    \bottomrule
    \end{tabular}
    """
    rows = [f"{' & '.join(map(_latex_cell, row))} \\\\" for row in cells]
    lines = [
        *([f"% {caption}"] if caption else []),
        rf"\begin{{tabular}}{{{'l' * len(headings)}}}",
        r"\toprule",
        f"{' & '.join(map(_latex_cell, headings))} \\\\",
        r"\midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _latex_cell(text: str) -> str:
    for mark, command in (("**", "textbf"), ("_", "underline")):
        inner = text.removeprefix(mark).removesuffix(mark)
        if len(text) > 2 * len(mark) and len(inner) == len(text) - 2 * len(mark):
            return rf"\{command}{{{inner.translate(_LATEX)}}}"
    return text.translate(_LATEX)


def wrote(paths: Sequence[Path]) -> str:
    """The line that says where files of one folder were written.

    >>> wrote([Path("outputs/shapes/a.csv"), Path("outputs/shapes/a.md")])
    'wrote outputs/shapes/: a.csv, a.md'
    """
    return f"wrote {paths[0].parent}/: {', '.join(path.name for path in paths)}"


def write_figure(folder: Path, name: str, figure: Figure, dpi: int = 150) -> list[Path]:
    """``name.png`` and ``name.svg``; the figure is closed.

    Args:
        dpi: of the PNG.

    Returns:
        The files' paths.
    """
    paths = [folder / f"{name}.{kind}" for kind in ("png", "svg")]
    for path in paths:
        save_figure(figure, path, dpi)
    plt.close(figure)
    return paths


def save_figure(figure: Figure, path: Path, dpi: int = 150) -> None:
    """One file of the kind that its name ends with; the figure stays open."""
    with replacing(path) as part, warnings.catch_warnings():
        # Prompts are in any script; signs that the font lacks are drawn as boxes.
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        figure.savefig(part, dpi=dpi, format=path.suffix[1:], bbox_inches="tight", facecolor="white")
