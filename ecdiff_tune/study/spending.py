"""What a run of a command spends, part by part: model calls, decoded images, seconds.

A call is one of one prompt, with guidance. ``calls.csv`` in the study's folder has a row a run and part; it
is written after every trial, so that of a run that was killed no more than a trial is missing.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from ecdiff_core.io.atomic_files import write_text
from ecdiff_tune.evaluation.model_calls import KINDS

LATENCY = "latency"
REFERENCE, HELDOUT_REFERENCE, HELDOUT = "reference", "held-out reference", "held-out"
FEWER_STEPS = "fewer steps"
SAMPLES = "samples"
FRONT = "front"
"""Parts that are no search; those that are have the names of ``search.spaces.SEARCHING``."""


class Spending:
    """The spending of one run; ``calls`` is what everything that calls a model counts in.

    ``ended`` are the parts that are over.

    Args:
        path: of the table, which keeps the rows of earlier runs; one that cannot be read is begun anew.
    """

    def __init__(self, path: Path) -> None:
        self.calls: Counter[str] = Counter(dict.fromkeys(KINDS, 0))
        self._path, self._earlier = path, _read(path)
        self._run = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._parts: dict[str, Counter[str]] = {}
        self._seconds: dict[str, float] = {}
        self._inside: list[str] = []
        self.ended: set[str] = set()
        self._settled, self._since = Counter(self.calls), time.perf_counter()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What is spent inside belongs to this part, and not to the one around it."""
        self._settle()
        self._inside.append(name)
        self.ended.discard(name)
        try:
            yield
        finally:
            self.save()
            self._inside.pop()
            self.ended.add(name)

    @property
    def under_way(self) -> str:
        """The part that is; empty between parts."""
        return self._inside[-1] if self._inside else ""

    def of(self, name: str) -> tuple[Mapping[str, int], float]:
        """Calls and seconds of a part in this run, up to now."""
        self._settle()
        return self._parts.get(name, Counter(dict.fromkeys(KINDS, 0))), self._seconds.get(name, 0.0)

    def save(self) -> None:
        """Write what was spent so far."""
        self._settle()
        rows = [
            {"run": self._run, "part": name, **calls, "seconds": round(self._seconds[name], 3)}
            for name, calls in self._parts.items()
        ]
        table = pd.concat([one for one in (self._earlier, pd.DataFrame(rows)) if len(one)] or [self._earlier])
        write_text(self._path, table.to_csv(index=False))

    def describe(self) -> str:
        """What was spent, in one line."""
        cloud, edge, decodes = (f"{self.calls[kind]:,}" for kind in KINDS)
        parts = [
            f"{name} {made['cloud']:,} + {made['edge']:,}"
            for name in (LATENCY, REFERENCE)
            if (made := self._parts.get(name, Counter())).total()
        ]
        named = ", ".join([*parts, f"every part in {self._path.name}"])
        return f"this run: {cloud} cloud calls, {edge} edge calls, {decodes} decodes ({named})"

    def _settle(self) -> None:
        """Put down to the part under way what was spent since the last time."""
        now = time.perf_counter()
        if self._inside:
            name = self._inside[-1]
            part = self._parts.setdefault(name, Counter(dict.fromkeys(KINDS, 0)))
            for kind in KINDS:
                part[kind] += self.calls[kind] - self._settled[kind]
            self._seconds[name] = self._seconds.get(name, 0.0) + now - self._since
        self._settled, self._since = Counter(self.calls), now


def _read(path: Path) -> pd.DataFrame:
    """The rows that are there."""
    columns = ["run", "part", *KINDS, "seconds"]
    try:
        return pd.read_csv(path)[columns]
    except (OSError, ValueError, KeyError):
        return pd.DataFrame(columns=columns)
