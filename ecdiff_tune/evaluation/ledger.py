"""Every measurement ever paid for: one row a (config key, prompt, reference), in SQLite, append-only."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import asdict, astuple, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ecdiff_core.errors import ECDiffError
from ecdiff_core.sampling.estimators import get_estimator
from ecdiff_core.sampling.plan import Plan
from ecdiff_tune.evaluation.candidate import ConfigKey, acting_estimator

SCHEMA_VERSION = 5
_KEY_COLUMNS = """
    schedule  TEXT NOT NULL,     -- actions, run-length encoded: Plan.schedule
    alpha     REAL NOT NULL,     -- 0 where the schedule or the estimator does not use it
    estimator TEXT NOT NULL,     -- empty where no step is approximated
    handoff_adapter TEXT NOT NULL,  -- empty where the edge makes no step
    sampler   TEXT NOT NULL,     -- empty for the study's own; else another scheduler, steps or a cache
    residual  REAL NOT NULL,     -- factor of the residual; 0 where no edge step has one
    prompt    TEXT NOT NULL,     -- CalibrationSet.keys
"""
_REFERENCE_COLUMN = """
    reference TEXT NOT NULL,     -- plan of the image compared with; empty for the cloud's own run
"""
_PLACE = "schedule, alpha, estimator, handoff_adapter, sampler, residual, prompt"
_SCHEMA = (
    f"""
CREATE TABLE IF NOT EXISTS measurements ({_KEY_COLUMNS}{_REFERENCE_COLUMN}
    ssim      REAL,              -- to the reference's image; NULL where the latents were not finite
    psnr      REAL,              -- dB
    seconds   REAL NOT NULL,     -- of the generation, as far as it was not shared
    PRIMARY KEY ({_PLACE}, reference)
) WITHOUT ROWID
""",
    f"""
CREATE TABLE IF NOT EXISTS further ({_KEY_COLUMNS}{_REFERENCE_COLUMN}
    metric    TEXT NOT NULL,     -- an extra one, beside ssim and psnr
    value     REAL NOT NULL,
    PRIMARY KEY ({_PLACE}, reference, metric)
) WITHOUT ROWID
""",
    f"""
CREATE TABLE IF NOT EXISTS timings ({_KEY_COLUMNS}
    seconds   REAL NOT NULL,     -- of a whole generation of one image, nothing shared
    PRIMARY KEY ({_PLACE})
) WITHOUT ROWID
""",
)
_OLDER = {
    "estimator": "CASE WHEN estimator = 'edge' THEN '' ELSE estimator END",
    "alpha": "CASE WHEN estimator = 'edge' THEN 0 ELSE alpha END",
    "residual": "CASE WHEN estimator = 'edge' THEN alpha ELSE 0 END",
}
"""Of tables without ``residual``: the estimator ``edge``, whose alpha it was, is none any more."""


def _migration(tables: Iterable[str], columns: Mapping[str, str]) -> tuple[str, ...]:
    """From tables whose rows were all against the cloud's own run.

    Args:
        columns: what each key column is, where it is not the older column of its name.
    """
    values = {
        "measurements": "'', ssim, psnr, seconds",
        "further": "'', metric, value",
        "timings": "seconds",
    }
    place = ", ".join(columns.get(name, name) for name in _PLACE.split(", "))
    return (
        *(f"ALTER TABLE {table} RENAME TO older_{table}" for table in tables),
        *_SCHEMA,
        *(f"INSERT INTO {table} SELECT {place}, {values[table]} FROM older_{table}" for table in tables),
        *(f"DROP TABLE older_{table}" for table in tables),
    )


_ALL = ("measurements", "further", "timings")
_STATEMENTS = {
    0: _SCHEMA,
    1: _migration(
        ["measurements"],
        {
            **_OLDER,
            "estimator": "CASE WHEN instr(schedule, 'A') AND estimator <> 'edge' THEN estimator ELSE '' END",
            "handoff_adapter": "CASE WHEN instr(schedule, 'E') THEN :handoff_adapter ELSE '' END",
            "sampler": "''",
        },
    ),
    2: _migration(["measurements"], {**_OLDER, "sampler": "''"}),
    3: _migration(_ALL, _OLDER),
    4: _migration(_ALL, {}),
    SCHEMA_VERSION: _SCHEMA,
}
"""What makes a ledger of each version one of this version; 0 is an empty file."""
_KEY = " AND ".join(f"{field.name} = :{field.name}" for field in fields(ConfigKey))


class LedgerError(ECDiffError):
    """The ledger's file cannot be used."""


@dataclass(frozen=True)
class Measurement:
    """One prompt's image against the reference's; ssim and psnr are None where it could not be made.

    Args:
        extra: other metrics by name, where they were asked for.
        reference: the plan that made the reference's image; empty for the cloud's own run.
    """

    ssim: float | None
    psnr: float | None
    seconds: float
    extra: Mapping[str, float] = field(default_factory=dict, hash=False)
    reference: str = ""


def added(old: Measurement | None, new: Measurement) -> Measurement:
    """What the ledger holds once ``new`` was added: what is there already stays."""
    return new if old is None else replace(old, extra={**new.extra, **old.extra})


def _unusable(path: Path, error: Exception) -> LedgerError:
    line = f"Cannot use the ledger {path}: {error}."
    return LedgerError(line, key=str(path), advice="Move it away to start anew.")


class Ledger:
    """The measurements of one study.

    A batch of rows is written in one transaction, so that a process killed at any moment leaves whole
    batches only.

    Args:
        path: of the file.
        handoff_adapter: of the study, which the rows of a version 1 ledger were measured with.

    Raises:
        LedgerError: the file is no ledger, or of a newer version.
    """

    def __init__(self, path: Path, handoff_adapter: str = "identity") -> None:
        self._path = path
        try:
            self._database = sqlite3.connect(path)
            version = self._database.execute("PRAGMA user_version").fetchone()[0]
            if not 0 <= version <= SCHEMA_VERSION:
                raise LedgerError(
                    f"{path} has version {version}, expected {SCHEMA_VERSION}: use a newer ecdiff.",
                    key=str(path),
                    got=version,
                    expected=str(SCHEMA_VERSION),
                )
            with self._database:
                self._database.execute("BEGIN")
                for statement in _STATEMENTS[version]:
                    self._database.execute(statement, {"handoff_adapter": handoff_adapter})
                if 0 < version < SCHEMA_VERSION:
                    self._rename_keys()
                self._database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        except sqlite3.DatabaseError as error:
            raise _unusable(path, error) from error

    def _rename_keys(self) -> None:
        """Give older rows the key that they have now, where another estimator's name or no alpha is in it."""
        found = self._database.execute(
            "SELECT DISTINCT schedule, estimator, alpha FROM measurements WHERE estimator <> ''"
        )
        for schedule, estimator, alpha in found.fetchall():
            plan = Plan.from_schedule(schedule)
            name = acting_estimator(estimator, plan)
            now = (name, alpha if plan.uses_alpha(get_estimator(name)) else 0.0)
            if now == (estimator, alpha):
                continue
            which = (schedule, estimator, alpha)
            for table in _ALL:
                where = "WHERE schedule = ? AND estimator = ? AND alpha = ?"
                self._database.execute(
                    f"UPDATE OR IGNORE {table} SET estimator = ?, alpha = ? {where}", (*now, *which)
                )
                self._database.execute(f"DELETE FROM {table} {where}", which)

    def read(self, key: ConfigKey, reference: str = "") -> dict[str, Measurement]:
        """The config's measurements by prompt key.

        Args:
            reference: the plan of the reference's images that they are against.
        """
        extra: dict[str, dict[str, float]] = {}
        further = f"SELECT prompt, metric, value FROM further WHERE reference = :reference AND {_KEY}"
        for prompt, metric, value in self._rows(further, key, reference):
            extra.setdefault(prompt, {})[metric] = value
        own = f"SELECT prompt, ssim, psnr, seconds FROM measurements WHERE reference = :reference AND {_KEY}"
        return {
            prompt: Measurement(ssim, psnr, seconds, extra.get(prompt, {}), reference)
            for prompt, ssim, psnr, seconds in self._rows(own, key, reference)
        }

    def read_timings(self, key: ConfigKey) -> dict[str, float]:
        """Seconds of whole generations of one image by prompt key."""
        return dict(self._rows(f"SELECT prompt, seconds FROM timings WHERE {_KEY}", key))

    def _rows(self, select: str, key: ConfigKey, reference: str = "") -> list[Any]:
        try:
            return self._database.execute(select, {**asdict(key), "reference": reference}).fetchall()
        except sqlite3.DatabaseError as error:
            raise _unusable(self._path, error) from error

    def configs(self) -> list[ConfigKey]:
        """The keys of all configs that have a measurement, in order."""
        names = ", ".join(field.name for field in fields(ConfigKey))
        try:
            found = self._database.execute(f"SELECT DISTINCT {names} FROM measurements ORDER BY {names}")
            return [ConfigKey(*row) for row in found]
        except sqlite3.DatabaseError as error:
            raise _unusable(self._path, error) from error

    def append(self, key: ConfigKey, rows: Iterable[tuple[str, Measurement]]) -> None:
        """Add a config's measurements by prompt key; what is there already stays."""
        self.append_all({key: rows})

    def append_all(self, rows: Mapping[ConfigKey, Iterable[tuple[str, Measurement]]]) -> None:
        """The same of several configs, all or nothing: what was generated together is generated together
        again after a stop, and so rounds the same."""
        placed = [
            ((*astuple(key), prompt, one.reference), one)
            for key, some in rows.items()
            for prompt, one in some
        ]
        self._write(
            ("measurements", [(*place, one.ssim, one.psnr, one.seconds) for place, one in placed]),
            ("further", [(*place, *pair) for place, one in placed for pair in one.extra.items()]),
        )

    def append_timings(self, rows: Iterable[tuple[ConfigKey, str, float]]) -> None:
        """Add seconds of whole generations by config and prompt key, all or none; known ones stay."""
        self._write(("timings", [(*astuple(key), prompt, seconds) for key, prompt, seconds in rows]))

    def _write(self, *tables: tuple[str, list[tuple[Any, ...]]]) -> None:
        """Add rows to tables in one transaction."""
        try:
            with self._database:
                for table, rows in tables:
                    if not rows:
                        continue
                    places = ", ".join("?" * len(rows[0]))
                    self._database.executemany(f"INSERT OR IGNORE INTO {table} VALUES ({places})", rows)
        except sqlite3.DatabaseError as error:  # a full disk, a read-only one, a damaged page
            line = f"Cannot write to the ledger {self._path}: {error}."
            raise LedgerError(line, key=str(self._path)) from error

    def close(self) -> None:
        """Close the file."""
        self._database.close()
