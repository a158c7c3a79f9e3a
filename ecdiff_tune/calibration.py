"""Prompts to tune on and prompts to check on: where they come from, their seeds, their digest."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from ecdiff_core.shapes.grammar import scenes
from ecdiff_tune.prompt_files import PromptFileError, read_rows
from ecdiff_tune.settings import Settings


class CalibrationError(PromptFileError):
    """The prompts are too few."""


@dataclass(frozen=True)
class CalibrationSet:
    """Prompts, each with the seed of its initial noise."""

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def keys(self) -> tuple[str, ...]:
        """One key a prompt, from its text and seed."""
        return tuple(_digest(f"{s}\n{p}") for p, s in zip(self.prompts, self.seeds, strict=True))

    @property
    def digest(self) -> str:
        """16 hex digits that change with any prompt, seed or the order."""
        return _digest("\n".join(self.keys))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def load(
    settings: Settings, say: Callable[[str], None] = lambda _: None
) -> tuple[CalibrationSet, CalibrationSet]:
    """The calibration set and a held-out set that shares no prompt with it.

    A file's prompts are sampled without repetition by ``seed``. Without a file both sets are captions of
    the embedded pair's grammar that its training never saw.

    Args:
        say: hears how many rows of the file are left out, and why.

    Raises:
        PromptFileError: the file cannot be read, or has no such column.
        CalibrationError: it holds too few distinct prompts.
    """
    count, spare = settings.calibration.num_prompts, settings.heldout.num_prompts
    if settings.calibration.file is None:
        drawn = [scene.caption() for scene in islice(scenes(settings.seed, held_out=True), count + spare)]
    else:
        path = Path(settings.calibration.file).expanduser()
        rows = read_rows(path, settings.calibration.column)
        known, left_out = rows.prompts, rows.left_out()
        found = f"{len(known)} ({left_out})" if left_out else str(len(known))
        if len(known) < count + spare:
            raise CalibrationError(
                f"Expected at least {count + spare} distinct prompts in {path} "
                f"({count} to tune on, {spare} held out), got {found}. "
                "Lower calibration.num_prompts or heldout.num_prompts."
            )
        if left_out:
            say(f"{path}: {left_out}")
        drawn = random.Random(settings.seed).sample(known, count + spare)
    seeds = range(settings.seed, settings.seed + count + spare)
    return _take(drawn[:count], seeds[:count]), _take(drawn[count:], seeds[count:])


def _take(prompts: Sequence[str], seeds: Sequence[int]) -> CalibrationSet:
    return CalibrationSet(tuple(prompts), tuple(seeds))
