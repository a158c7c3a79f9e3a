"""``batch_size=auto`` of the tuner and of a server: how many prompts at a time are fastest in the cloud."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ecdiff_core.errors import ECDiffError
from ecdiff_core.io.atomic_files import write_text
from ecdiff_core.models.devices import synchronize
from ecdiff_core.models.memory import free, is_out_of_memory, out_of_memory_as_error

if TYPE_CHECKING:
    from ecdiff_core.tuned_pair import TunedPair

PROMPT = "a photo of a red circle"
"""Stands for any wherever only seconds or memory count: its length could matter, and tokenizers pad."""
TIMED_CALLS = 3
"""After one that warms up; the fastest counts, so that other work on the machine matters little."""
GAIN = 1.05
"""A size must be faster than smaller ones by this factor to be worth its memory."""
PATIENCE = 2
"""Doublings in a row without that gain that end the search."""


class BatchSizeError(ECDiffError):
    """The kept batch size cannot be read."""


def kept(
    path: Path, find: Callable[[], dict[int, float]], log: Callable[[str], None], device: str = ""
) -> int:
    """The batch size that a file holds, or that is found now and written there.

    Args:
        find: prompts a second by batch size (``throughputs``).
        log: called with one line about it.
        device: in words, where the file may come from another one, on which it is found anew.

    Raises:
        BatchSizeError: the file is damaged.
    """
    if path.is_file():
        try:
            tree = json.loads(path.read_text(encoding="utf-8"))
            size, there = int(tree["batch_size"]), tree.get("device", "")
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            advice = "Delete it; the batch size is found again."
            raise BatchSizeError(f"{path} is damaged.", key=str(path), advice=advice) from error
        if there == device:
            log(f"batch_size=auto: {size}, as found before")
            return size
    rates = find()
    size = best(rates)
    tried = ", ".join(f"{one}: {rate:.3g}" for one, rate in rates.items())
    log(f"batch_size=auto: {size} (cloud calls a second by batch size {tried})")
    found = {"batch_size": size, "calls_a_second": rates} | ({"device": device} if device else {})
    write_text(path, json.dumps(found, indent=2) + "\n")
    return size


def best(rates: dict[int, float]) -> int:
    """The smallest size that is nearly the fastest.

    >>> best({1: 10.0, 2: 18.0, 4: 19.5, 8: 20.0})
    4
    """
    return min(size for size, rate in rates.items() if rate * GAIN >= max(rates.values()))


def throughputs(pipe: TunedPair, largest: int, calls: Counter[str]) -> dict[int, float]:
    """Cloud calls of one prompt a second, by batch size: doubled until it brings nothing or memory runs out.

    Args:
        largest: the largest size to try, at least 1.
        calls: counts what it takes.

    Raises:
        OutOfMemoryError: a single prompt does not fit.
    """
    found: dict[int, float] = {}
    size, useless = 1, 0
    while useless < PATIENCE:
        rate = _rate(pipe, size, found)
        if rate is None:
            break
        calls["cloud"] += size * (1 + TIMED_CALLS)
        useless = useless + 1 if found and rate < GAIN * max(found.values()) else 0
        found[size] = rate
        if size == largest:
            break
        size = min(2 * size, largest)
    return found


def _rate(pipe: TunedPair, size: int, smaller: dict[int, float]) -> float | None:
    """Of one size; None where it does not fit and a smaller one did."""
    try:
        if not smaller:
            with out_of_memory_as_error():
                return _timed(pipe, size)
        return _timed(pipe, size)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    free()  # here, not above: the exception holds every tensor of the failed call
    return None


@torch.no_grad()
def _timed(pipe: TunedPair, size: int) -> float:
    family = pipe.pair.family
    conditioning = pipe.encode([PROMPT] * size)
    latents = family.initial_latents(size, pipe.size, family.scheduler, torch.Generator().manual_seed(0))
    timestep = torch.tensor(500, device=latents.device)
    cloud = family.bind(pipe.pair.cloud, conditioning, pipe.guidance)
    seconds = []
    for _ in range(1 + TIMED_CALLS):
        synchronize(latents.device)
        started = time.perf_counter()
        cloud(latents, timestep)
        synchronize(latents.device)
        seconds.append(time.perf_counter() - started)
    return size / min(seconds[1:])
