"""What is known of a value of a method's parameter, and whether it keeps the quality that is asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from ecdiff_core.methods.method import Parameter
from ecdiff_tune.search.paired import TIE, significantly_worse

RUNGS = (0.1, 0.25, 0.5)
"""Shares of the prompts after which a value that misses a floor is pruned."""
ERROR_RATE = 0.01
"""Of giving up one that keeps the floor, at each rung."""
SAME = 1e-4
"""SSIM that an image may lose by being made in another batch."""


@dataclass(frozen=True)
class Seen:
    """A value on one prompt.

    Args:
        quality: SSIM to the image without the method; None where there is no image.
        work: share of the model's weights that a call applied, 0 … 1.
        calls, reused: of the model, and those in which something was reused.
        pattern: of what was skipped.
        low, high: values of the dial, from the first up to the second, that do the same.
    """

    quality: float | None
    work: float
    calls: int
    reused: int
    pattern: str
    low: float
    high: float

    @property
    def counted(self) -> float:
        """SSIM; -1 where an image could not be made."""
        return -1.0 if self.quality is None else self.quality


@dataclass(frozen=True)
class Floor:
    """The quality that a value must keep: mean and worst SSIM over prompts, -1 … 1."""

    mean: float
    worst: float

    def __str__(self) -> str:
        return f"mean SSIM {self.mean:.4g} and worst {self.worst:.4g}"


NO_FLOOR = Floor(-1.0, -1.0)


@dataclass(frozen=True)
class DialResult:
    """A value, and what is known of it.

    Args:
        seen: on the first so many prompts.
        kept: whether it keeps the floor; of some of the prompts, whether it is expected to on all.
        reason: why not; empty where it does.
    """

    value: float
    seen: tuple[Seen, ...]
    kept: bool
    reason: str = ""

    @property
    def quality(self) -> float:
        """Mean SSIM; -1 where an image could not be made."""
        return fmean(self.qualities)

    @property
    def worst(self) -> float:
        """The lowest SSIM of a prompt."""
        return min(self.qualities)

    @property
    def qualities(self) -> list[float]:
        """SSIM prompt by prompt; -1 where an image could not be made."""
        return [one.counted for one in self.seen]

    @property
    def patterns(self) -> list[str]:
        """Of what was skipped, prompt by prompt."""
        return [one.pattern for one in self.seen]

    @property
    def work(self) -> float:
        """Mean share of the weights that a call applied."""
        return fmean(one.work for one in self.seen)

    @property
    def reused(self) -> float:
        """Mean share of the calls in which something was reused."""
        return fmean(one.reused / max(1, one.calls) for one in self.seen)

    def on(self, first: int) -> DialResult:
        """The same on the first so many prompts."""
        return DialResult(self.value, self.seen[:first], self.kept, self.reason)


Measure = Callable[[float, int], Sequence[Seen]]
"""What became of a value on the first so many prompts."""


def does_nothing(dial: Parameter, result: DialResult) -> bool:
    """Whether a value leaves the images as they are: no call reuses anything, and where the pattern does not
    tell all that the dial does, no image differs."""
    return all(one.reused == 0 for one in result.seen) and (dial.shows or result.worst >= 1 - SAME)


def judge(value: float, measure: Measure, prompts: int, floor: Floor, whole: bool = False) -> DialResult:
    """Measure a value on more and more prompts, until it cannot keep the floor any more or all are measured.

    Args:
        whole: measure all prompts whatever comes of it.
    """
    rungs = [] if whole else sorted({max(2, math.ceil(share * prompts)) for share in RUNGS})
    for count in [*(one for one in rungs if one < prompts), prompts]:
        result = judged(value, measure(value, count), prompts, floor)
        if not result.kept:
            break
    return result


def judged(value: float, seen: Sequence[Seen], prompts: int, floor: Floor) -> DialResult:
    """A value by what was measured of it, on some of the prompts or on all."""
    found = DialResult(value, tuple(seen), True)
    reason = missed(found.qualities, prompts, floor)
    return replace(found, kept=not reason, reason=reason)


def missed(qualities: Sequence[float], prompts: int, floor: Floor) -> str:
    """Why the floor is missed, certainly or by a test; empty where it may be kept."""
    reason = surely_missed(qualities, prompts, floor)
    if reason or len(qualities) == prompts:
        return reason
    aim = [floor.mean] * len(qualities)
    return _of_mean(qualities, floor) * significantly_worse(qualities, aim, prompts, ERROR_RATE)


def surely_missed(qualities: Sequence[float], prompts: int, floor: Floor) -> str:
    """Why the floor is missed, whatever the prompts are like that were not measured; empty where it may be
    kept."""
    if min(qualities) < floor.worst - TIE:
        return f"worst SSIM {min(qualities):.4f} is below {floor.worst:g}"
    most = (sum(qualities) + prompts - len(qualities)) / prompts  # SSIM is at most 1
    return _of_mean(qualities, floor) if most < floor.mean - TIE else ""


def _of_mean(qualities: Sequence[float], floor: Floor) -> str:
    return f"mean SSIM {fmean(qualities):.4f} is below {floor.mean:g}"
