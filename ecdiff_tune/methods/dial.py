"""The search along one parameter: bisected between changes of what is skipped, not swept on a grid.

It knows of no model: ``measure`` gives what became of a value on the first so many prompts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from ecdiff_core.methods.method import Parameter
from ecdiff_tune.search.paired import TIE, significantly_worse

RUNGS = (0.1, 0.25, 0.5)
"""Shares of the prompts after which a value that misses a floor is pruned."""
ERROR_RATE = 0.01
"""Of giving up one that keeps the floor, at each rung."""
NARROW = 0.02
"""A bracket this narrow, relative to its upper end, is searched no further."""
MOST = 24
"""Values that are measured at most."""
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


@dataclass(frozen=True)
class Floor:
    """The quality that a value must keep: mean and worst SSIM over prompts, -1 … 1."""

    mean: float
    worst: float


@dataclass(frozen=True)
class DialResult:
    """A value, and what is known of it.

    Args:
        kept: whether it keeps the floor on all prompts.
        reason: why not; empty where it does.
    """

    value: float
    seen: tuple[Seen, ...]
    kept: bool
    reason: str = ""

    @property
    def quality(self) -> float:
        """Mean SSIM; -1 where an image could not be made."""
        return fmean(_qualities(self.seen))

    @property
    def worst(self) -> float:
        """The lowest SSIM of a prompt."""
        return min(_qualities(self.seen))

    @property
    def work(self) -> float:
        """Mean share of the weights that a call applied."""
        return fmean(one.work for one in self.seen)

    @property
    def reused(self) -> float:
        """Mean share of the calls in which something was reused."""
        return fmean(one.reused / max(1, one.calls) for one in self.seen)


@dataclass(frozen=True)
class DialSearch:
    """What a search along a dial found.

    Args:
        results: all values, in the order in which they were measured.
        best: the one that skips most and keeps the floor; None where none does.
        beyond: the nearest one that skips more, and does not keep it.
        good, bad: up to which value the best one's images are known to stay the same, and from which on those
            of ``beyond`` do; of a dial of whole numbers the two values themselves.
        exact: whether nothing lies between these two.
    """

    results: tuple[DialResult, ...]
    best: DialResult | None
    beyond: DialResult | None
    good: float
    bad: float
    exact: bool


Measure = Callable[[float, int], Sequence[Seen]]


def does_nothing(dial: Parameter, result: DialResult) -> bool:
    """Whether a value leaves the images as they are: no call reuses anything, and where the pattern does not
    tell all that the dial does, no image differs."""
    return all(one.reused == 0 for one in result.seen) and (dial.shows or result.worst >= 1 - SAME)


def _qualities(seen: Sequence[Seen]) -> list[float]:
    return [-1.0 if one.quality is None else one.quality for one in seen]


def judge(
    value: float, measure: Measure, prompts: int, floor: Floor, whole: bool = False, glance: bool = False
) -> DialResult:
    """Measure a value on more and more prompts, until it cannot keep the floor any more or all are measured.

    Args:
        whole: measure all prompts whatever comes of it.
        glance: stop after the first rung.
    """
    rungs = [] if whole else sorted({max(2, math.ceil(share * prompts)) for share in RUNGS})
    counts = [*(one for one in rungs if one < prompts), prompts]
    for count in counts[: 1 if glance else None]:
        seen = tuple(measure(value, count))
        if reason := missed(_qualities(seen), prompts, floor):
            return DialResult(value, seen, False, reason)
    return DialResult(value, seen, True)


def missed(qualities: Sequence[float], prompts: int, floor: Floor) -> str:
    """Why the floor is missed, whatever the prompts are like that were not measured; empty where it may be
    kept."""
    if min(qualities) < floor.worst - TIE:
        return f"worst SSIM {min(qualities):.4f} is below {floor.worst:g}"
    most = (sum(qualities) + prompts - len(qualities)) / prompts  # SSIM is at most 1
    mean = f"mean SSIM {fmean(qualities):.4f} is below {floor.mean:g}"
    if most < floor.mean - TIE:
        return mean
    if len(qualities) < prompts:
        aim = [floor.mean] * len(qualities)
        return mean * significantly_worse(qualities, aim, prompts, ERROR_RATE)
    return ""


def search(
    dial: Parameter,
    start: float,
    measure: Measure,
    prompts: int,
    floor: Floor,
    first: DialResult | None = None,
) -> DialSearch:
    """The greatest value of a dial that keeps the floor; a greater value skips no less.

    Upwards a look at a part of the prompts is enough to go on; the value that this ends at is measured on
    all. What lies between the best value and the first that fails is halved until nothing does, or the
    bracket is narrow. Values that skip the same calls are not measured again.

    Args:
        start: where it begins.
        first: what is known of ``start``.
    """
    results: dict[float, DialResult] = {}
    best: DialResult | None = None
    beyond: DialResult | None = None
    value: float | None = start
    for _ in range(MOST):
        if value is None and (best is None or len(best.seen) == prompts):
            break
        known = first if first is not None and first.value == value else None
        going_up = value is not None and beyond is None
        value = value if value is not None or best is None else best.value
        assert value is not None
        result = known or judge(value, measure, prompts, floor, glance=going_up)
        results[value] = result
        if result.kept:
            best = result
        else:
            beyond = result
            lower = [one for one in results.values() if one.kept and one.value < result.value]
            best = max(lower, key=lambda one: one.value, default=None)
        value = _next(dial, best, beyond)
    if best is not None and len(best.seen) < prompts:
        whole = [one for one in results.values() if one.kept and len(one.seen) == prompts]
        best = max(whole, key=lambda one: one.value, default=None)
    end = -math.inf if best is None else _end(dial, best)
    begin = math.inf if beyond is None else _begin(beyond)
    good = best.value if best is not None and dial.kind == "int" else end
    return DialSearch(
        tuple(results.values()), best, beyond, good, begin, exact=math.isfinite(begin) and end >= begin
    )


def _end(dial: Parameter, result: DialResult) -> float:
    """The first greater value that may do something else."""
    if dial.kind == "int":
        return result.value + 1
    return max(result.value, min(one.high for one in result.seen))


def _begin(result: DialResult) -> float:
    """The least value that fails in the same way."""
    return min(result.value, max(one.low for one in result.seen))


def _next(dial: Parameter, best: DialResult | None, beyond: DialResult | None) -> float | None:
    if best is None:
        assert beyond is not None
        least = dial.low
        if beyond.value <= least or all(math.isinf(one.low) for one in beyond.seen):
            return None
        low = _begin(beyond)
        return _rounded(dial, max(least, (low if math.isfinite(low) else beyond.value) / 2))
    end = _end(dial, best)
    if beyond is None:
        if math.isinf(end) or best.value >= dial.high:
            return None
        return _rounded(dial, min(dial.high, max(2 * best.value, end)))
    begin = _begin(beyond)
    if end >= begin or begin - end < NARROW * begin * (dial.kind == "float"):
        return None
    if dial.kind == "int":
        return int(end + begin - 1) // 2
    return math.sqrt(end * begin) if end > 0 else (end + begin) / 2


def _rounded(dial: Parameter, value: float) -> float:
    return round(value) if dial.kind == "int" else value
