"""A study of the tiny pair as the tests see it: its settings, its folder and what lies in it."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest

from ecdiff_core.config import TunedConfig
from ecdiff_core.errors import ECDiffError
from ecdiff_tune.cli import finish, samples
from ecdiff_tune.evaluation.latency import LatencyProfile
from ecdiff_tune.report import image_grid, page
from ecdiff_tune.study.config_sections import DIGITS

from ..refusals import check_refusal

STEPS = 12
ROUNDED = 0.51 * 10**-DIGITS
"""How far a score in a YAML may be from what it was rounded from."""
WRITTEN = ("stage1.yaml", "ecdiff.yaml", "trials.csv", "table5.md")


def told(path: Path) -> bytes:
    """What a file says. Images that were made in other batches round apart in the last digits, which
    trials.csv has and the YAML files have not."""
    if path.name == "trials.csv":
        return pd.read_csv(path).round(5).to_csv(index=False).encode()
    return path.read_bytes()


class Outcome(NamedTuple):
    """What a command left."""

    status: int
    out: str
    err: str
    error: ECDiffError | None = None
    """What it ended with, in the place of a line."""


Command = Callable[..., Outcome]


@dataclass(frozen=True)
class Study:
    """A folder of outputs and the settings that go with it."""

    outputs: Path
    pair: Path
    run: Command

    @property
    def folder(self) -> Path:
        return self.outputs / "tiny" / "default"

    @property
    def settings(self) -> list[str]:
        """Twelve steps, three prompts in batches of two and one, six configs in stage 1."""
        return [
            "pair.name=tiny",
            f"pair.cloud={self.pair / 'cloud'}",
            f"pair.edge={self.pair / 'edge'}",
            f"sampling.num_inference_steps={STEPS}",
            "sampling.guidance_scale=3.0",
            "calibration.num_prompts=3",
            "heldout.num_prompts=2",
            "search.k=[1,2]",
            "search.alpha=[0.3,0.5,0.7]",
            "batch_size=2",
            "device=cpu",
            f"output_dir={self.outputs}",
        ]

    def __call__(self, command: str, *more: str) -> Outcome:
        options = [one for one in more if one.startswith("-")]  # argparse wants them before the overrides
        return self.run(command, *options, *self.settings, *(one for one in more if one not in options))

    def with_latency(self, profile: LatencyProfile, name: str = "default") -> Study:
        """Give a study its latency profile, which otherwise is measured and so never the same twice."""
        profile.save(self.outputs / "tiny" / name / "latency.json")
        return self

    def copy(self, outputs: Path, *names: str) -> Study:
        """The same study in another place: all of it, or some of its files and the references."""
        if names:
            shutil.copytree(self.outputs / "tiny" / "reference", outputs / "tiny" / "reference")
        else:
            shutil.copytree(self.outputs, outputs)
        other = replace(self, outputs=outputs)
        other.folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            shutil.copy(self.folder / name, other.folder / name)
        return other

    def bytes(self, *names: str) -> dict[str, bytes]:
        return {name: told(self.folder / name) for name in names or WRITTEN}

    def trials(self) -> pd.DataFrame:
        return pd.read_csv(self.folder / "trials.csv")

    def config(self, name: str = "ecdiff.yaml") -> TunedConfig:
        return TunedConfig.load(self.folder / name)

    def rows(self) -> int:
        """How many rows the ledger has."""
        try:
            source = f"file:{self.folder / 'ledger.sqlite'}?mode=ro"
            with closing(sqlite3.connect(source, uri=True)) as database:
                return database.execute("SELECT COUNT(*) FROM measurements").fetchone()[0]
        except sqlite3.OperationalError:  # not there yet, or being written
            return 0


def show_nothing(patch: pytest.MonkeyPatch) -> None:
    """Commands make no images, figures and pages: for tests of what is measured, not of how it is shown."""
    patch.setattr(samples, "write", lambda *_: None)
    draw_nothing(patch)


def draw_nothing(patch: pytest.MonkeyPatch) -> None:
    """The images of the winner are made, and no figure or page of them."""
    patch.setattr(image_grid, "samples", lambda *_: None)
    draw_samples_alone(patch)


def draw_samples_alone(patch: pytest.MonkeyPatch) -> None:
    """No figure but samples.png, and no page."""
    patch.setattr(finish, "noise_change", lambda *_: None)
    patch.setattr(finish, "save_figure", lambda *_: None)
    patch.setattr(page, "write", lambda *_: Path())


def one_line(outcome: Outcome) -> str:
    """The error that a command ended with, which must be a single line on stderr."""
    assert outcome.status == 2, outcome
    (line,) = outcome.err.splitlines()
    assert line.startswith("error: ")
    assert "Traceback" not in outcome.out
    return line


def refuses(outcome: Outcome, **attributes: Any) -> None:
    """See that a command ended with an error of these attributes, as ``refused`` has them, in one line."""
    line = one_line(outcome)
    assert outcome.error is not None
    assert line == f"error: {outcome.error}"
    check_refusal(outcome.error, **attributes)


def best_row(trials: pd.DataFrame, stage: int) -> pd.Series:
    part = trials[trials["stage"] == stage]
    return part.loc[part["objective"].idxmax()]


def loaded_by(commands: Sequence[tuple[Sequence[str], set[str]]]) -> list[list[str]]:
    """Which of the libraries named beside each command it or one before it imports, in one new process."""
    lines = ["import sys", "from ecdiff_tune.__main__ import main"]
    for arguments, libraries in commands:
        lines.append(f"assert main({list(arguments)!r}) == 0")
        lines.append(f"print(*sorted({libraries!r} & set(sys.modules)), file=sys.stderr)")
    script = "\n".join(lines)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return [line.split() for line in done.stderr.splitlines() if not line.startswith("ecdiff: ")]
