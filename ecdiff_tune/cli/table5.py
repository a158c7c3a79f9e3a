"""``table5``: every tuned pair below a folder, beside the rows of the paper's Table 5."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ecdiff_core.config import TunedConfig
from ecdiff_core.errors import ConfigError, ECDiffError
from ecdiff_core.io.text import visible
from ecdiff_tune.config import Settings
from ecdiff_tune.data.paper import paper_files
from ecdiff_tune.evaluation.candidate import PlannedCandidate
from ecdiff_tune.evaluation.model_calls import PlanCalls
from ecdiff_tune.report import tables
from ecdiff_tune.report.table_files import markdown, write_table
from ecdiff_tune.study import files

NAME = "table5"
FOUND = f"*/*/{files.CONFIG}"
"""Of a folder of outputs: <pair>/<study>/ecdiff.yaml."""
PAPER = "paper"
"""In place of a study."""
_LATENCY = ("cloud_call_seconds", "edge_call_seconds", "encode_seconds", "decode_seconds", "transfer_seconds")
"""What tells latency profiles apart."""
_OBJECTIVE = ("w1", "w2", "w3", "earliest_s")
_BURDEN = "burden"
"""What it is, in a file's objective; the paper's goes without saying."""
CAPTION = "Tuned here, and by the paper (Table 5; its scores are not in it)."


@dataclass(frozen=True)
class Table5Row:
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
    headings = ["study", "T", *tables.TABLE5_HEADINGS, "estimator"]
    shown = pd.DataFrame([row.cells for row in rows], columns=headings)
    print(markdown(shown), end="")
    for line in tables.beyond_the_row((f"{row.config.pair.name}, {row.study}", row.config) for row in rows):
        print(line)
    for line in scored_apart(tuned):
        print(f"note: {line}")
    paths = write_table(outputs, NAME, table(rows), shown, CAPTION)
    print(f"wrote {', '.join(map(str, paths))}")


def rows_in(
    paths: Iterable[Path], study_of: Callable[[Path], str], log: Callable[[str], None]
) -> list[Table5Row]:
    """A row a file that can be read; ``log`` is called with a line for each of the others."""
    found = []
    for path in sorted(paths):
        try:
            found.append(_row(path, study_of(path)))
        except ECDiffError as error:
            log(f"note: left out: {visible(str(error))}")
        except (AttributeError, TypeError, ValueError):  # scores are not checked when a config is loaded
            log(f"note: left out: {path}: its score does not hold numbers.")
    return found


def _row(path: Path, study: str) -> Table5Row:
    config = TunedConfig.load(path)
    if config.basis:
        raise ConfigError(f"{path} is an early answer ({config.basis}).", key=str(path), got=config.basis)
    params, plan, score = config.params, config.plan(), config.score or {}
    heldout, latency = score.get("heldout") or {}, _section(config, "latency")
    record = {
        "pair": config.pair.name,
        "study": study,
        "p": params.p,
        "k": params.k,
        "alpha": PlannedCandidate.of_config(config).key.alpha or None,
        "s": params.s,
        "estimator": config.sampling.estimator,
        "handoff_adapter": config.sampling.handoff_adapter,
        "steps": plan.num_steps,
        **asdict(PlanCalls.of(plan)),
        **{name: score.get(name) for name in ("quality", "efficiency", "burden", "objective", "seconds")},
        "heldout_quality": heldout.get("quality"),
        "heldout_objective": heldout.get("objective"),
        **{name: latency.get(name) for name in _LATENCY},
        "schedule": plan.schedule,
        "file": str(path),
    }
    cells = [study, str(plan.num_steps), *tables.table5_cells(config), config.sampling.estimator]
    return Table5Row(study, config, cells, record)


def table(rows: Sequence[Table5Row]) -> pd.DataFrame:
    """The records; p and k are empty where the real steps are listed in their place."""
    return pd.DataFrame([row.record for row in rows]).astype({"p": "Int64", "k": "Int64"})


def _section(config: TunedConfig, name: str) -> Mapping[str, Any]:
    """A section of the provenance, empty where the file has none."""
    found = (config.provenance or {}).get(name)
    return found if isinstance(found, Mapping) else {}


def scored_apart(rows: Sequence[Table5Row]) -> list[str]:
    """Says of each pair whose rows were scored by several latency profiles or objectives that they were.

    Rows whose file does not tell are left out.
    """
    lines = []
    for pair in dict.fromkeys(row.config.pair.name for row in rows):
        mine = [row for row in rows if row.config.pair.name == pair]
        profiles = _by_section(mine, "latency", _LATENCY)
        if len(profiles) > 1:
            listed = "; ".join(
                f"{', '.join(studies)}: cloud call {1e3 * cloud:.1f} ms, edge call {1e3 * edge:.1f} ms"
                for (cloud, edge, *_), studies in profiles.items()
            )
            lines.append(
                f"{pair} was scored by {len(profiles)} latency profiles ({listed}): efficiency, objective "
                "and seconds do not compare between them. rerank.latency=FILE scores a study by another's."
            )
        objectives = _by_section(mine, "objective", _OBJECTIVE, _BURDEN)
        if len(objectives) > 1:
            listed = "; ".join(
                f"{', '.join(studies)}: w1={w1:g} w2={w2:g} w3={w3:g} s'={earliest:g}"
                + (f" burden={burden}" if burden else "")
                for (w1, w2, w3, earliest, burden), studies in objectives.items()
            )
            lines.append(
                f"{pair} was scored by {len(objectives)} objectives ({listed}), which do not compare. rerank "
                "scores a study by another one."
            )
    return lines


def _by_section(
    rows: Sequence[Table5Row], section: str, names: Sequence[str], *words: str
) -> dict[tuple[Any, ...], list[str]]:
    """The studies by the numbers that their section holds under ``names`` and what it says under ``words``,
    empty for nothing."""
    found: dict[tuple[Any, ...], list[str]] = {}
    for row in rows:
        scores = _section(row.config, section)
        if all(isinstance(scores.get(name), int | float) for name in names):
            key = (*(float(scores[name]) for name in names), *(str(scores.get(word, "")) for word in words))
            found.setdefault(key, []).append(row.study)
    return found
