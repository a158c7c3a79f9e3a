"""Seconds side by side: rounds in which all take turns, so that the machine's load is the same for all."""

from __future__ import annotations

import hashlib
import math
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple
from typing import TypeVar

import torch

from ecdiff_core.models.devices import device_name
from ecdiff_tune.evaluation.candidate import ConfigKey
from ecdiff_tune.evaluation.ledger import Ledger

One = TypeVar("One")


def machine(device: torch.device) -> str:
    """What seconds depend on beside the models: those of another machine say nothing here."""
    return f"{device_name(device)}, {os.cpu_count()} cores, torch {torch.__version__}"


def side_by_side(
    ledger: Ledger,
    keys: Mapping[One, ConfigKey],
    where: str,
    prompts: Sequence[str],
    take: Callable[[One, int], float],
    again: bool = False,
) -> dict[One, float]:
    """Median seconds of a generation of each, a round a prompt, after one that warms up.

    The latest rounds of these same ones on this machine that the ledger holds are not taken again where they
    are of all the prompts; else all are taken anew, since the machine may have another load by now.

    Args:
        keys: what each is.
        where: the machine.
        prompts: their keys.
        take: gives the seconds of one for the prompt of that place; infinite where there is no image.
        again: takes all rounds anew.
    """
    words = sorted(f"{astuple(key)}" for key in keys.values())
    beside = hashlib.sha256("\n".join([where, *words]).encode()).hexdigest()[:12]

    def key(one: One, attempt: int) -> ConfigKey:
        return ConfigKey("", 0.0, "", "", f"{astuple(keys[one])} beside {beside}, {attempt}")

    def read(attempt: int) -> dict[One, dict[str, float]]:
        return {one: ledger.read_timings(key(one, attempt)) for one in keys}

    attempt, known = 0, {one: dict[str, float]() for one in keys}
    while any((rounds := read(attempt)).values()):
        attempt, known = attempt + 1, rounds
    if again or any(not set(prompts) <= found.keys() for found in known.values()):
        known = {one: {} for one in keys}
        for turn in range(-1, len(prompts)):
            seconds = {one: take(one, max(0, turn)) for one in keys}
            if turn < 0:
                continue
            ledger.append_timings((key(one, attempt), prompts[turn], taken) for one, taken in seconds.items())
            for one, taken in seconds.items():
                known[one][prompts[turn]] = taken
    return {one: statistics.median(found[name] for name in prompts) for one, found in known.items()}


def finite(seconds: float) -> float | None:
    """None where there was no image."""
    return seconds if math.isfinite(seconds) else None
