"""Every measurement ever paid for: one row a (config key, prompt), in SQLite, append-only."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path

from ecdiff_core.errors import ECDiffError
from ecdiff_tune.candidate import ConfigKey

SCHEMA_VERSION = 2
_SCHEMA = """
CREATE TABLE IF NOT EXISTS measurements (
    schedule  TEXT NOT NULL,     -- actions, run-length encoded: Plan.schedule
    alpha     REAL NOT NULL,     -- 0 where the schedule or the estimator does not use it
    estimator TEXT NOT NULL,     -- empty where no step is approximated
    handoff_adapter TEXT NOT NULL,  -- empty where the edge makes no step
    prompt    TEXT NOT NULL,     -- CalibrationSet.keys
    ssim      REAL,              -- to the cloud's picture; NULL where the latents were not finite
    psnr      REAL,              -- dB
    seconds   REAL NOT NULL,     -- of the generation, as far as it was not shared
    PRIMARY KEY (schedule, alpha, estimator, handoff_adapter, prompt)
) WITHOUT ROWID
"""
_FROM_VERSION_1 = (
    "ALTER TABLE measurements RENAME TO version_1",
    _SCHEMA,
    """
    INSERT INTO measurements
    SELECT schedule, alpha, CASE WHEN instr(schedule, 'A') THEN estimator ELSE '' END,
           CASE WHEN instr(schedule, 'E') THEN :handoff_adapter ELSE '' END,
           prompt, ssim, psnr, seconds
    FROM version_1
    """,
    "DROP TABLE version_1",
)
_KEY = " AND ".join(f"{field.name} = :{field.name}" for field in fields(ConfigKey))


class LedgerError(ECDiffError):
    """The ledger's file cannot be used."""


@dataclass(frozen=True)
class Measurement:
    """One prompt's picture against the cloud's; ssim and psnr are None where it could not be made."""

    ssim: float | None
    psnr: float | None
    seconds: float


def _unusable(path: Path, error: Exception) -> str:
    return f"Cannot use the ledger {path}: {error}. Move it away to start anew."


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
                    f"{path} has version {version}, expected {SCHEMA_VERSION}: use a newer ecdiff."
                )
            with self._database:
                self._database.execute("BEGIN")
                for statement in _FROM_VERSION_1 if version == 1 else (_SCHEMA,):
                    self._database.execute(statement, {"handoff_adapter": handoff_adapter})
                self._database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        except sqlite3.DatabaseError as error:
            raise LedgerError(_unusable(path, error)) from error

    @classmethod
    def in_memory(cls) -> Ledger:
        """One that no file keeps."""
        return cls(Path(":memory:"))

    def read(self, key: ConfigKey) -> dict[str, Measurement]:
        """The config's measurements by prompt key."""
        try:
            rows = self._database.execute(
                f"SELECT prompt, ssim, psnr, seconds FROM measurements WHERE {_KEY}", asdict(key)
            ).fetchall()
        except sqlite3.DatabaseError as error:
            raise LedgerError(_unusable(self._path, error)) from error
        return {prompt: Measurement(ssim, psnr, seconds) for prompt, ssim, psnr, seconds in rows}

    def configs(self) -> list[ConfigKey]:
        """The keys of all configs that have a measurement, in order."""
        names = ", ".join(field.name for field in fields(ConfigKey))
        try:
            found = self._database.execute(f"SELECT DISTINCT {names} FROM measurements ORDER BY {names}")
            return [ConfigKey(*row) for row in found]
        except sqlite3.DatabaseError as error:
            raise LedgerError(_unusable(self._path, error)) from error

    def append(self, key: ConfigKey, rows: Iterable[tuple[str, Measurement]]) -> None:
        """Add a config's measurements by prompt key; one that is there already stays as it is."""
        self.append_all({key: rows})

    def append_all(self, rows: Mapping[ConfigKey, Iterable[tuple[str, Measurement]]]) -> None:
        """The same of several configs, all or nothing: what was generated together is generated together
        again after a stop, and so rounds the same."""
        values = [
            (*astuple(key), prompt, *astuple(one)) for key, some in rows.items() for prompt, one in some
        ]
        try:
            with self._database:
                self._database.executemany(
                    "INSERT OR IGNORE INTO measurements VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values
                )
        except sqlite3.DatabaseError as error:  # a full disk, a read-only one, a damaged page
            raise LedgerError(f"Cannot write to the ledger {self._path}: {error}.") from error

    def close(self) -> None:
        """Close the file."""
        self._database.close()
