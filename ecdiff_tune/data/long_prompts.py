"""Prompts whose ends no text encoder reads, for diffusers cuts them without a word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ecdiff_core.io.text import counted, visible
from ecdiff_core.models.families import Family

_SHOWN = 3
"""Prompts that are named."""
_BEGINNING = 40
"""Characters of each."""


def note(family: Family, prompts: Sequence[str]) -> str:
    """A line about the prompts of which not all is read; empty where all are.

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
