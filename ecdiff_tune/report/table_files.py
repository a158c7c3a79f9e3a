"""Tables as files that people take along, csv, markdown and LaTeX, and as lines of a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ecdiff_core.io.atomic_files import write_text
from ecdiff_tune.data.spreadsheets import csv_text

_LATEX = str.maketrans({"–": "--", "…": r"\dots{}", "×": r"$\times$", "∞": r"$\infty$"})
_LATEX |= str.maketrans({"↑": r"$\uparrow$", "↓": r"$\downarrow$"})
"""What LaTeX has no letters for, beside the signs that pandas escapes."""


def write_table(
    folder: Path, name: str, table: pd.DataFrame, shown: pd.DataFrame | None = None, caption: str = ""
) -> list[Path]:
    """``name.csv``, ``name.md`` and ``name.tex``.

    Args:
        table: what the csv holds, in full precision.
        shown: the texts of the other two; ``**bold**`` marks the best and ``_second_`` the second best. None
            is the table itself.
        caption: a line over them.

    Returns:
        The files' paths.
    """
    readable = table if shown is None else shown
    texts = {"csv": csv_text(table), "md": markdown(readable, caption), "tex": latex(readable, caption)}
    paths = [folder / f"{name}.{kind}" for kind in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        write_text(path, text)
    return paths


def markdown(shown: pd.DataFrame, caption: str = "") -> str:
    r"""A markdown table. pandas would want tabulate for it, which leaves bars in texts as they are.

    >>> print(markdown(pd.DataFrame({"edge_calls": ["a|b", 2]})), end="")
    | edge calls |
    |---|
    | a\|b |
    | 2 |
    """
    rows = [_headings(shown), *shown.astype(str).to_numpy().tolist()]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    lines.insert(1, "|" + "---|" * len(shown.columns))
    return "\n".join([*([caption, ""] if caption else []), *lines]) + "\n"


def latex(shown: pd.DataFrame, caption: str = "") -> str:
    r"""A LaTeX table for the booktabs package.

    >>> print(latex(pd.DataFrame({"method": ["cloud", "k_1"], "SSIM": ["**1.000**", "_0.9_"]})), end="")
    \begin{tabular}{ll}
    \toprule
    method & SSIM \\
    \midrule
    cloud & \textbf{1.000} \\
    k\_1 & \underline{0.9} \\
    \bottomrule
    \end{tabular}
    """
    named = shown.astype(str).set_axis(_headings(shown), axis=1)
    style = named.style.hide(axis="index").format(_latex_cell, escape="latex")
    style = style.format_index(_latex_cell, escape="latex", axis=1)
    text = style.to_latex(hrules=True, column_format="l" * len(named.columns))
    return (f"% {caption}\n" if caption else "") + text


def _headings(shown: pd.DataFrame) -> list[str]:
    return [str(name).replace("_", " ") for name in shown.columns]


def _latex_cell(value: object) -> str:
    r"""An escaped text with its mark as a command, and without signs that LaTeX lacks."""
    text = str(value)
    for mark, command in (("**", "textbf"), (r"\_", "underline")):
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
