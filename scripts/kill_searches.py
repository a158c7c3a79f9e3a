"""Kill a tuning run at random moments (SIGKILL), go on with it, and compare its YAML with an undisturbed one.

    python scripts/kill_searches.py [--searches greedy …] [--kills 10] [--seed 0] [--keep DIR] [KEY=VALUE …]

Every search of the registry, and a race that may end before all prompts (`until`), is run on the embedded
pair with few prompts and steps, and with bounds so loose that those that predict go by placed reference
images of most prompts all the same. KEY=VALUE are settings of `tune` in place of those. A run that ends
before its kill is compared and begun anew. A run is a fork of this process, which has imported everything,
so that the moments fall into the work and not into imports. All runs of a search go by one latency profile
and one date, which otherwise are never the same twice.

Prints a row a search, with the moments of its kills in percent of an undisturbed run's time, and how far
apart at most the SSIM of equal rows of both ledgers and the numbers under `score` and `provenance` of both
YAMLs are: what is left of a batch is a smaller batch, which on some processors other kernels compute, to the
last digits. Ends with status 1 where a YAML differs in anything but such a number, or in one by more than
that.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ecdiff_core.io.console import quiet_libraries
from ecdiff_tune.study import files

SETTINGS = [
    "pair=shapes",
    "calibration.num_prompts=6",
    "heldout.num_prompts=2",
    "batch_size=4",
    "sampling.num_inference_steps=8",
    "sampling.height=32",
    "sampling.width=32",
    "search.k=[1,2]",
    "search.alpha=[0.3,0.7]",
    "device=cpu",
]
UNTIL = "until"
MORE = {"optuna": ["search.trials=12"], UNTIL: ["search=joint", "calibration.until=1"]}
"""Settings of single searches."""
FULL_RUNS, BOUND = 3, 1.0
"""Prompts with the models' own runs, and the error of placed images; the tuner's are 12 and 0.0005."""
COMPARED = (files.CONFIG, files.STAGE1)
BATCHES = 2e-5
"""By how much another batch may move a number."""
MEASURED = ("score", "provenance")
"""What of a YAML holds such numbers."""
GIVEN = (files.STATE, files.LATENCY)
"""The date and the latency profile."""


class KillError(Exception):
    """A run that nobody killed did not end well."""


@dataclass(frozen=True)
class Run:
    """A search's ``tune`` in a folder of outputs."""

    outputs: Path
    settings: tuple[str, ...]

    @property
    def study(self) -> Path:
        """Its folder; the pair's name is a setting."""
        (found,) = [path.parent for path in self.outputs.glob("*/*/study.json")]
        return found

    def start(self) -> multiprocessing.context.ForkProcess:
        """Begin, or go on."""
        process = multiprocessing.get_context("fork").Process(target=self._work)
        process.start()
        return process

    def _work(self) -> None:
        import torch

        from ecdiff_tune.__main__ import main
        from ecdiff_tune.forecast import reference_placement
        from ecdiff_tune.study import references

        references.FULL_RUNS, reference_placement.BOUND = FULL_RUNS, BOUND
        self.outputs.mkdir(parents=True, exist_ok=True)
        log = os.open(self.outputs / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        torch.set_num_threads(1)
        status = main(["tune", *self.settings, f"output_dir={self.outputs}"])
        sys.stdout.flush()
        os._exit(status)

    def to_the_end(self) -> float:
        """Run undisturbed; its seconds."""
        started = time.monotonic()
        process = self.start()
        process.join()
        if process.exitcode:
            raise KillError(f"status {process.exitcode}: {(self.outputs / 'log.txt').read_text()[-2000:]}")
        return time.monotonic() - started

    def until(self, seconds: float) -> bool:
        """Run for so long, then kill; whether it was still running."""
        process = self.start()
        process.join(seconds)
        if process.exitcode is None and process.pid is not None:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
        if process.exitcode not in (0, -signal.SIGKILL):
            raise KillError(f"status {process.exitcode}: {(self.outputs / 'log.txt').read_text()[-2000:]}")
        return process.exitcode != 0

    def written(self) -> dict[str, Any]:
        """The YAML files."""
        paths = {name: self.study / name for name in COMPARED}
        return {name: yaml.safe_load(path.read_text()) for name, path in paths.items() if path.is_file()}

    def ssims(self) -> dict[tuple[object, ...], float]:
        """Of the ledger, by config and prompt."""
        if not (self.study / files.LEDGER).is_file():
            return {}
        with closing(sqlite3.connect(self.study / files.LEDGER)) as ledger:
            rows = ledger.execute(
                "SELECT schedule, alpha, estimator, handoff_adapter, prompt, reference, ssim "
                "FROM measurements"
            )
            return {tuple(key): ssim for *key, ssim in rows if ssim is not None}

    def begin_like(self, other: Run) -> None:
        """Nothing but another's date and latency profile."""
        shutil.rmtree(self.outputs, ignore_errors=True)
        target = self.outputs / other.study.relative_to(other.outputs)
        target.mkdir(parents=True)
        for name in GIVEN:
            shutil.copy(other.study / name, target / name)


@dataclass
class Outcome:
    """What came of a search: kills, runs that were compared, and what differed."""

    search: str
    seconds: float
    kills: int = 0
    compared: int = 0
    moments: list[float] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    apart: float = 0.0
    numbers_apart: float = 0.0

    @property
    def verdict(self) -> str:
        """How the YAMLs compare."""
        if self.differing:
            return f"differs: {', '.join(self.differing)}"
        return f"numbers {self.numbers_apart:.0e} apart" if self.numbers_apart else "same"


def kill_search(folder: Path, search: str, kills: int, settings: Sequence[str], seed: int = 0) -> Outcome:
    """Kill a search so many times.

    Args:
        folder: for all runs; a differing one is kept beside the undisturbed one.
    """
    own = MORE.get(search, [])
    given = (*settings, *([] if search == UNTIL else [f"search={search}"]), *own)
    undisturbed, killed = Run(folder / "undisturbed", given), Run(folder / "killed", given)
    outcome, random_moments = Outcome(search, undisturbed.to_the_end()), random.Random(f"{seed} {search}")
    killed.begin_like(undisturbed)
    while outcome.kills < kills:
        moment = random_moments.uniform(0, outcome.seconds)
        if killed.until(moment):
            outcome.kills += 1
            outcome.moments.append(moment)
        else:
            compare(undisturbed, killed, outcome)
            killed.begin_like(undisturbed)
    killed.to_the_end()
    compare(undisturbed, killed, outcome)
    return outcome


def compare(undisturbed: Run, killed: Run, outcome: Outcome) -> None:
    """Note what differs; the killed run's files are kept then."""
    outcome.compared += 1
    expected, found = undisturbed.written(), killed.written()
    ledger, other = undisturbed.ssims(), killed.ssims()
    apart = [abs(ssim - other[key]) for key, ssim in ledger.items() if key in other]
    outcome.apart = max(outcome.apart, *apart, 0.0)
    numbers = {name: how_far_apart(expected.get(name), found.get(name)) for name in {*expected, *found}}
    differing = [name for name, most in numbers.items() if most > BATCHES]
    outcome.numbers_apart = max([outcome.numbers_apart, *numbers.values()])
    if differing:
        outcome.differing += differing
        shutil.copytree(killed.outputs, killed.outputs.with_name(f"differs{outcome.compared}"))


def how_far_apart(one: Any, other: Any, measured: bool = False) -> float:
    """The greatest difference of two trees' measured floats; infinite where anything else differs."""
    if isinstance(one, float) and isinstance(other, float):
        if one == other or (math.isnan(one) and math.isnan(other)):
            return 0.0
        return abs(one - other) if measured and math.isfinite(one - other) else math.inf
    if isinstance(one, dict) and isinstance(other, dict) and [*one] == [*other]:
        return max(
            (how_far_apart(one[key], other[key], measured or key in MEASURED) for key in one), default=0.0
        )
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return max((how_far_apart(*both, measured) for both in zip(one, other, strict=True)), default=0.0)
    return 0.0 if one == other else math.inf


def settings(given: Sequence[str]) -> list[str]:
    """``SETTINGS``, but for those that are given."""
    names = {one.partition("=")[0] for one in given}
    return [*(one for one in SETTINGS if one.partition("=")[0] not in names), *given]


def searches() -> Iterator[str]:
    """All of the registry, and the race that may end before all prompts."""
    from ecdiff_tune.search import SEARCHES

    yield from (*SEARCHES, UNTIL)


def main() -> int:
    """Print a row a search."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--searches", nargs="*", help="names; all of the registry")
    parser.add_argument("--kills", type=int, default=10, help="of every search")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--keep", type=Path, help="folder for what the runs write, else a temporary one")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    given = parser.parse_intermixed_args()
    quiet_libraries()
    # All that a run imports, so that its fork need not.
    import ecdiff_tune.cli.tune  # noqa: F401

    print(
        "| search | kills | after, % of its time | runs compared | undisturbed, s | SSIM apart | YAML |",
        flush=True,
    )
    print("|---|---|---|---|---|---|---|", flush=True)
    failed = False
    with tempfile.TemporaryDirectory() as temporary:
        for name in given.searches or searches():
            folder = (given.keep or Path(temporary)) / name
            outcome = kill_search(folder, name, given.kills, settings(given.settings), given.seed)
            failed = failed or bool(outcome.differing)
            row = (
                name,
                outcome.kills,
                " ".join(f"{100 * one / outcome.seconds:.0f}" for one in outcome.moments),
                outcome.compared,
                f"{outcome.seconds:.1f}",
                f"{outcome.apart:.0e}",
                outcome.verdict,
            )
            print("| " + " | ".join(map(str, row)) + " |", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
