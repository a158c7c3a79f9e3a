"""Prompts to tune on and prompts to check on: where they come from, their seeds, their digest, and
what text encoders do not read of them."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ecdiff_core.io.text import counted, visible
from ecdiff_core.shapes import grammar as images
from ecdiff_core.shapes_video import grammar as clips
from ecdiff_tune.data.prompt_files import read_rows
from ecdiff_tune.data.prompt_tables import PromptFileError

if TYPE_CHECKING:
    from ecdiff_core.models.families import Family

_SHOWN = 3
"""Prompts that are named."""
_BEGINNING = 40
"""Characters of each."""


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

    def first(self, count: int) -> CalibrationSet:
        """The first so many of the set."""
        return CalibrationSet(self.prompts[:count], self.seeds[:count])

    def without(self, rows: Collection[int]) -> CalibrationSet:
        """The set without the prompts of these indices."""
        kept = [i for i in range(len(self)) if i not in rows]
        return CalibrationSet(tuple(self.prompts[i] for i in kept), tuple(self.seeds[i] for i in kept))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class PromptSource:
    """Where prompts come from.

    Args:
        count, heldout: how many to tune on, and how many more to check on.
        file: of prompts; None takes captions of the embedded pair's grammar that its training never saw.
        column: of the file; None takes the first of ``prompt_tables.COLUMNS`` that is there.
        seed: of the sample, and of the first prompt's noise.
        moving: without a file, captions are of clips, as the embedded video pair knows them.
    """

    count: int = 100
    heldout: int = 50
    file: str | None = None
    column: str | None = None
    seed: int = 0
    moving: bool = False


def load(
    source: PromptSource, log: Callable[[str], None] = lambda _: None
) -> tuple[CalibrationSet, CalibrationSet]:
    """The calibration set and a held-out set that shares no prompt with it.

    A file's prompts are sampled without repetition by the seed.

    Args:
        log: called with how many rows of the file are left out, and why.

    Raises:
        PromptFileError: the file cannot be read, or has no such column.
        CalibrationError: it holds too few distinct prompts.
    """
    count, spare = source.count, source.heldout
    if source.file is None:
        scenes = (clips if source.moving else images).scenes
        drawn = [scene.caption() for scene in islice(scenes(source.seed, held_out=True), count + spare)]
    else:
        path = Path(source.file).expanduser()
        rows = read_rows(path, source.column)
        known, left_out = rows.prompts, rows.left_out()
        found = f"{len(known)} ({left_out})" if left_out else str(len(known))
        if len(known) < count + spare:
            raise CalibrationError(
                f"Expected at least {count + spare} distinct prompts in {path} "
                f"({count} to tune on, {spare} held out), got {found}. "
                "Lower calibration.num_prompts or heldout.num_prompts.",
                key="calibration.file",
                got=path,
                expected=f"to hold at least {count + spare} distinct prompts",
            )
        if left_out:
            log(f"{path}: {left_out}")
        drawn = random.Random(source.seed).sample(known, count + spare)
    seeds = range(source.seed, source.seed + count + spare)
    return _take(drawn[:count], seeds[:count]), _take(drawn[count:], seeds[count:])


def _take(prompts: Sequence[str], seeds: Sequence[int]) -> CalibrationSet:
    return CalibrationSet(tuple(prompts), tuple(seeds))


def note_cut(family: Family, prompts: Sequence[str]) -> str:
    """A line about the prompts of which not all is read, for diffusers cuts them without a word; else empty.

    Args:
        family: whose pipeline has ``tokenizer``, and ``tokenizer_2`` and so on if it has more.
    """
    limits = _limits(family)
    if not limits:
        return ""
    most, tokenizer = max(limits, key=lambda pair: pair[0])
    counts = [len(ids) for ids in tokenizer(list(prompts))["input_ids"]]
    long = [i for i, count in enumerate(counts) if count > most]
    if not long:
        return ""
    shown = [f"'{visible(prompts[i][:_BEGINNING])}…' ({counts[i]})" for i in long[:_SHOWN]]
    shown += ["…"] * (len(long) > _SHOWN)
    return (
        f"the text encoder reads {most} tokens, so the end is left out of {len(long)} of "
        f"{counted(len(prompts), 'prompt')}: {', '.join(shown)}"
    )


def _limits(family: Family) -> list[tuple[int, Any]]:
    """Tokens that are read of a prompt by each tokenizer's encoder, and the tokenizer."""
    parts = family.pipeline.components.items()
    return [(family.read_tokens(name), part) for name, part in parts if name.startswith("tokenizer") and part]
