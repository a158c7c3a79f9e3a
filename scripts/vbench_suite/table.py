"""VBench's results as the paper's Tables 3 and 4, with the totals of its Table 1."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ecdiff_tune.report.table_files import markdown, write_table
from vbench_suite.scores import VBenchError, in_order, load_score, read_results


def write(results: Sequence[str], folder: Path | None, partial: bool = False) -> list[str]:
    """A row a set of results, in percent.

    Args:
        results: ``NAME=PATH``, or a path whose name names the row.
        folder: for ``vbench.csv``, ``.md`` and ``.tex``; None writes none.
        partial: the dimensions that all of them have, without the totals, which need all 16.

    Returns:
        The lines to print: the scores, and which files were written.

    Raises:
        VBenchError: results cannot be read, lack a dimension, or two have one name.
    """
    paths: dict[str, Path] = {}
    for one in results:
        name, given, path = one.rpartition("=")
        name = name if given else Path(path).name.removesuffix(".json").removesuffix("_eval_results")
        if name in paths:
            advice = f"Name them: {name}=PATH other={path}."
            raise VBenchError(f"Two results are named {name!r}.", key=name, advice=advice)
        paths[name] = Path(path)
    rows = {name: _part(path) if partial else load_score(path).row() for name, path in paths.items()}
    table = pd.DataFrame([{"method": name, **row} for name, row in rows.items()]).dropna(axis="columns")
    shown = table.map(lambda value: value if isinstance(value, str) else f"{value:.2f}")
    written = [] if folder is None else write_table(folder, "vbench", table, shown)
    printed = shown if partial else shown[["method", "quality", "semantic", "total"]]
    lines = markdown(printed).splitlines()
    return lines + ([f"wrote {', '.join(map(str, written))}"] if written else [])


def _part(path: Path) -> dict[str, float]:
    """The dimensions that are there, in the paper's order; percent."""
    found = read_results(path)
    try:
        return {name: 100 * found[name] for name in in_order(found)}
    except VBenchError as error:
        raise error.of(str(path)) from None
