"""The trials that no other beats in everything that counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ecdiff_tune.objective import Trial

Merits = Callable[[Trial], tuple[float, ...]]
"""What counts of a trial; of each the higher is better."""


def quality_and_speed(trial: Trial) -> tuple[float, ...]:
    """For who asks how good and how fast."""
    return trial.quality, -trial.seconds


def quality_speed_and_burden(trial: Trial) -> tuple[float, ...]:
    """For who also asks how much the edge takes over, which is to be maximised."""
    assert trial.score is not None
    assert trial.score.burden is not None
    return trial.quality, -trial.seconds, trial.score.burden


def dominates(one: Trial, other: Trial, merits: Merits) -> bool:
    """Whether ``one`` is nowhere worse than ``other`` and somewhere better."""
    ours, theirs = merits(one), merits(other)
    return ours != theirs and all(a >= b for a, b in zip(ours, theirs, strict=True))


def front(trials: Iterable[Trial], merits: Merits) -> list[Trial]:
    """The trials that no other dominates, from the fastest to the slowest; equal ones stay together.

    Each must have a score.
    """
    kept: list[Trial] = []
    for trial in sorted(trials, key=merits, reverse=True):  # who is dominated comes after who does it
        if not any(dominates(one, trial, merits) for one in kept):
            kept.append(trial)
    return sorted(kept, key=lambda one: (one.seconds, -one.quality))
