"""``table5``: every tuned pair below a folder, beside the rows of the paper's Table 5."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ecdiff_core.errors import ECDiffError
from ecdiff_core.text import visible
from ecdiff_core.tuned_config import TunedConfig
from ecdiff_tune import files
from ecdiff_tune.paper import paper_files
from ecdiff_tune.report import tables
from ecdiff_tune.report.export import markdown, write_table
from ecdiff_tune.settings import Settings

NAME = "table5"
FOUND = f"*/*/{files.CONFIG}"
"""Of a folder of outputs: <pair>/<study>/ecdiff.yaml."""
PAPER = "paper"
"""In place of a study."""
CAPTION = "Tuned here, and by the paper (Table 5; its scores are not in it)."


@dataclass(frozen=True)
class Row:
    """A config and the study that found it.

    Args:
        cells: for a reader.
        record: all that one may want to sort by, in full precision; None is what the file does not tell.
    """

    study: str
    config: TunedConfig
    cells: list[str]
    record: dict[str, object]


def table5(settings: Settings) -> None:
    """Read, print and write the rows; no model is loaded, and of all settings ``output_dir`` alone counts.

    Raises:
        OutputError: the tables cannot be written.
    """
    outputs = Path(settings.output_dir)
    tuned = rows_in(outputs.glob(FOUND), lambda path: visible(path.parent.name), print)
    if not tuned:
        print(
            f"note: no {outputs / FOUND} that can be read: run tune first; these are the paper's rows alone."
        )
    paper = rows_in(paper_files(), lambda _: PAPER, print)
    rows = sorted([*paper, *tuned], key=lambda row: (row.config.pair.name, row.study != PAPER, row.study))
    headings, shown = ["study", "T", *tables.TABLE5_HEADINGS, "estimator"], [row.cells for row in rows]
    print(markdown(headings, shown), end="")
    for line in tables.listed_steps((f"{row.config.pair.name}, {row.study}", row.config) for row in rows):
        print(line)
    paths = write_table(outputs, NAME, table(rows), shown, headings, CAPTION)
    print(f"wrote {', '.join(map(str, paths))}")


def rows_in(paths: Iterable[Path], study_of: Callable[[Path], str], say: Callable[[str], None]) -> list[Row]:
    """A row a file that can be read; ``say`` hears of the others."""
    found = []
    for path in sorted(paths):
        try:
            found.append(_row(path, study_of(path)))
        except ECDiffError as error:
            say(f"note: left out: {visible(str(error))}")
        except (AttributeError, TypeError, ValueError):  # scores are not checked when a config is loaded
            say(f"note: left out: {path}: its score does not hold numbers.")
    return found


def _row(path: Path, study: str) -> Row:
    config = TunedConfig.load(path)
    params, plan, score = config.params, config.plan(), config.score or {}
    heldout = score.get("heldout") or {}
    record = {
        "pair": config.pair.name,
        "study": study,
        "p": params.p,
        "k": params.k,
        "alpha": params.alpha,
        "s": params.s,
        "estimator": config.sampling.estimator,
        "handoff_adapter": config.sampling.handoff_adapter,
        "steps": plan.num_steps,
        "cloud_calls": plan.cloud_calls,
        "approximated": plan.approximated,
        "edge_calls": plan.edge_calls,
        **{name: score.get(name) for name in ("quality", "efficiency", "burden", "objective", "seconds")},
        "heldout_quality": heldout.get("quality"),
        "heldout_objective": heldout.get("objective"),
        "schedule": plan.schedule,
        "file": str(path),
    }
    cells = [study, str(plan.num_steps), *tables.table5_cells(config), config.sampling.estimator]
    return Row(study, config, cells, record)


def table(rows: Sequence[Row]) -> pd.DataFrame:
    """The records; p and k are empty where the real steps are listed in their place."""
    return pd.DataFrame([row.record for row in rows]).astype({"p": "Int64", "k": "Int64"})
