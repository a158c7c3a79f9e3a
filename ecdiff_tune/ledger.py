"""Every measurement ever paid for: one row a (schedule, alpha, estimator, prompt), in SQLite, append-only."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ecdiff_core.errors import ECDiffError
from ecdiff_core.noise import get_estimator
from ecdiff_core.params import ECDiffParams
from ecdiff_core.plan import Plan

SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS measurements (
    schedule  TEXT NOT NULL,     -- actions, run-length encoded: Plan.schedule
    alpha     REAL NOT NULL,     -- 0 where the schedule or the estimator does not use it
    estimator TEXT NOT NULL,
    prompt    TEXT NOT NULL,     -- CalibrationSet.keys
    ssim      REAL,              -- to the cloud's picture; NULL where the latents were not finite
    psnr      REAL,              -- dB
    seconds   REAL NOT NULL,     -- of the generation, as far as it was not shared
    PRIMARY KEY (schedule, alpha, estimator, prompt)
) WITHOUT ROWID
"""


class LedgerError(ECDiffError):
    """The ledger's file cannot be used."""


@dataclass(frozen=True)
class Measurement:
    """One prompt's picture against the cloud's; ssim and psnr are None where it could not be made."""

    ssim: float | None
    psnr: float | None
    seconds: float


@dataclass(frozen=True)
class ConfigKey:
    """What decides a picture besides the prompt: configs with equal keys give equal pictures."""

    schedule: str
    alpha: float
    estimator: str

    @classmethod
    def of(cls, params: ECDiffParams, plan: Plan, estimator: str) -> ConfigKey:
        """The key of a config: alpha is left out where it changes nothing."""
        matters = plan.uses_alpha and get_estimator(estimator).uses_alpha
        return cls(plan.schedule, params.alpha if matters else 0.0, estimator)


def _unusable(path: Path, error: Exception) -> str:
    return f"Cannot use the ledger {path}: {error}. Move it away to start anew."


class Ledger:
    """The measurements of one study.

    A batch of rows is written in one transaction, so that a process killed at any moment leaves whole
    batches only.

    Raises:
        LedgerError: the file is no ledger, or of a newer version.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._database = sqlite3.connect(path)
            version = self._database.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, SCHEMA_VERSION):
                raise LedgerError(
                    f"{path} has version {version}, expected {SCHEMA_VERSION}: use a newer ecdiff."
                )
            with self._database:
                self._database.execute(_SCHEMA)
                self._database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        except sqlite3.DatabaseError as error:
            raise LedgerError(_unusable(path, error)) from error

    def read(self, key: ConfigKey) -> dict[str, Measurement]:
        """The config's measurements by prompt key."""
        try:
            rows = self._database.execute(
                "SELECT prompt, ssim, psnr, seconds FROM measurements "
                "WHERE schedule = ? AND alpha = ? AND estimator = ?",
                (key.schedule, key.alpha, key.estimator),
            ).fetchall()
        except sqlite3.DatabaseError as error:
            raise LedgerError(_unusable(self._path, error)) from error
        return {prompt: Measurement(ssim, psnr, seconds) for prompt, ssim, psnr, seconds in rows}

    def append(self, key: ConfigKey, rows: Iterable[tuple[str, Measurement]]) -> None:
        """Add measurements by prompt key; one that is there already stays as it is."""
        values = [(key.schedule, key.alpha, key.estimator, p, m.ssim, m.psnr, m.seconds) for p, m in rows]
        try:
            with self._database:
                self._database.executemany(
                    "INSERT OR IGNORE INTO measurements VALUES (?, ?, ?, ?, ?, ?, ?)", values
                )
        except sqlite3.OperationalError as error:  # a full disk, a read-only one
            raise LedgerError(f"Cannot write to the ledger {self._path}: {error}.") from error

    def close(self) -> None:
        """Close the file."""
        self._database.close()
