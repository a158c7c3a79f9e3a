"""What the page is made of: a study's ledger and files, read back without a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ecdiff_core.config import TunedConfig
from ecdiff_tune.data.paper import paper_config
from ecdiff_tune.data.spreadsheets import unguarded
from ecdiff_tune.evaluation.candidate import PlannedCandidate
from ecdiff_tune.evaluation.ledger import Measurement
from ecdiff_tune.objective import Trial
from ecdiff_tune.report import result, tables
from ecdiff_tune.study import files, reranked
from ecdiff_tune.study.folder import StudyError
from ecdiff_tune.study.recorded import Recorded
from ecdiff_tune.study.spec import StudySpec


@dataclass(frozen=True)
class StudyData:
    """A study that can be shown.

    Args:
        record: its ledger, every config scored.
        winner: the config of ecdiff.yaml, while there is none of stage1.yaml, else the best measured one.
        source: the file that names the winner, or empty.
        config: the winner's YAML, its scores made anew from the ledger.
        provenance: what the winner's own file says of where it came from.
        trials: trials.csv, in the order of the search; empty where there is none.
        noise: noise_profile.csv, or None.
        edge_alone: edge_alone.csv, the edge's own images against the cloud's, or None.
        paper: the paper's row for a pair of this name, or None.
        notes: what a reader must know of how the numbers came about.
    """

    record: Recorded
    winner: Trial
    source: str
    config: TunedConfig
    provenance: Mapping[str, Any]
    trials: pd.DataFrame
    noise: pd.DataFrame | None
    edge_alone: pd.DataFrame | None
    paper: TunedConfig | None
    notes: tuple[str, ...]

    @property
    def path(self) -> Path:
        """The study's folder."""
        return self.record.path

    @property
    def spec(self) -> StudySpec:
        """The study's own."""
        return self.record.spec

    @property
    def num_steps(self) -> int:
        """T."""
        return self.spec.num_steps

    @property
    def score(self) -> Mapping[str, Any]:
        """The winner's section ``score``."""
        return self.config.score or {}

    @property
    def heldout(self) -> tuple[Measurement, ...]:
        """The winner's rows on held-out prompts, none if it was not measured on them."""
        return self.record.heldout_rows.get(self.winner.config, ())

    @property
    def medium(self) -> str:
        """What is generated."""
        return result.medium(self.config.sampling)

    def measured(self, config: TunedConfig) -> Trial | None:
        """The config among those that were measured."""
        key = PlannedCandidate.of_config(config).key
        return next((one for one in self.record.trials if one.key == key), None)


def of(record: Recorded) -> StudyData:
    """Of a study's folder, whose ledger has been read.

    Raises:
        ECDiffError: a file is missing or damaged, or the record is scored by other settings than the study's.
    """
    path, spec = record.path, record.spec
    notes = list(record.notes)
    changed = reranked.changed(record)
    if changed:
        raise StudyError(
            f"A report shows a study as it was tuned; leave out {'; '.join(changed)}.",
            key="settings",
            got=changed,
            advice="Its section on sensitivity shows other weights and links, rerank writes their config.",
        )
    winner, source, own = _winner(record, notes.append)
    config = reranked.config_of_choice(record, winner, record.trials, {"by": "report"})
    notes += result.beaten_note(winner, record.trials, spec, result.made_by(config.sampling))
    trials = _if_there(path / files.TRIALS, ("stage", "trial", "objective", "state"))
    return StudyData(
        record,
        winner,
        source,
        config,
        (own.provenance if own else config.provenance) or {},
        pd.DataFrame() if trials is None else tables.present_names(trials),
        _if_there(path / files.NOISE_TABLE, ("step", "mean", "variance")),
        _if_there(path / files.EDGE_ALONE, ("ssim", "psnr")),
        _paper(spec, notes.append),
        tuple(one.removeprefix("note: ") for one in notes if one.startswith("note: ")),
    )


def _winner(record: Recorded, note: Callable[[str], None]) -> tuple[Trial, str, TunedConfig | None]:
    """The study's own winner, the file that says so, and what it says."""
    for name in (files.CONFIG, files.STAGE1):
        if not (record.path / name).is_file():
            continue
        config = TunedConfig.load(record.path / name)
        if config.basis:
            continue
        own = PlannedCandidate.of_config(config)
        found = next((one for one in record.trials if one.config == own), None)
        if found is not None:
            if name == files.STAGE1:
                note("note: stage 2 has not come to an end; shown is the winner of stage 1, without an edge.")
            return found, name, config
        note(f"note: the config of {name} is not in the ledger.")
    note("note: the search has not come to an end; shown is the best config so far.")
    return record.trials[0], "", None


def _paper(spec: StudySpec, note: Callable[[str], None]) -> TunedConfig | None:
    """The paper's config where it is of as many steps."""
    config = paper_config(spec.pair.name)
    if config is not None and config.sampling.num_steps != spec.num_steps:
        note(f"note: the paper's row is of {config.sampling.num_steps} steps and is not shown.")
        return None
    return config


def _if_there(path: Path, columns: tuple[str, ...]) -> pd.DataFrame | None:
    return table(path, columns) if path.is_file() else None


def table(path: Path, columns: tuple[str, ...] = (), texts: tuple[str, ...] = ()) -> pd.DataFrame:
    """A csv file that a command wrote.

    Args:
        columns: that must be there.
        texts: of them, those that stay texts whatever is in them, "NA" and "007" included.

    Raises:
        StudyError: it is damaged.
    """
    again = "Delete it, and run the command that wrote it again."
    try:
        found = pd.read_csv(path)
        as_texts = pd.read_csv(path, dtype=str, keep_default_na=False) if texts else found
    except (ValueError, OSError) as error:  # pandas' own errors are ValueErrors
        raise StudyError(f"{path} is damaged.", key=str(path), advice=again) from error
    missing = [name for name in columns if name not in found.columns]
    if missing:
        line = f"{path} has no column {', '.join(missing)}."
        raise StudyError(line, key=str(path), got=list(found.columns), expected=missing, advice=again)
    for name in texts:
        found[name] = as_texts[name].map(unguarded)
    return found
