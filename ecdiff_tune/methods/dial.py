"""The search along one parameter: bisected between changes of what is skipped, not swept on a grid.

It knows of no model: ``measure`` gives what became of a value on the first so many prompts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ecdiff_core.methods.method import Parameter
from ecdiff_tune.methods.seen import DialResult, Floor, Measure, judge, judged, surely_missed
from ecdiff_tune.search.paired import TIE

GLANCE = 0.1
"""Share of the prompts that values are looked at on."""
AGAIN = 2
"""How many times as many tell what is next to a value that was measured on all."""
NARROW = 0.03
"""A bracket this narrow, relative to its upper end, is searched no further."""
MOST = 40
"""Values that are measured at most."""


@dataclass(frozen=True)
class DialSearch:
    """What a search along a dial found.

    Args:
        results: all values, in the order in which they were first looked at.
        best: the one that skips most and keeps the floor; None where none does. Measured on all prompts,
            unless it was not ``wanted``.
        beyond: the nearest one that skips more, and does not keep it, or is not expected to.
        good, bad: up to which value the best one's images are known to stay the same, and from which on those
            of ``beyond`` do; of a dial of whole numbers the two values themselves.
        exact: whether nothing lies between these two.
        high: the greatest value that there is.
    """

    results: tuple[DialResult, ...]
    best: DialResult | None
    beyond: DialResult | None
    good: float
    bad: float
    exact: bool
    high: float


def glance(prompts: int) -> int:
    """How many of the prompts values are looked at on."""
    return math.ceil(GLANCE * prompts)


def search(
    dial: Parameter,
    start: float,
    measure: Measure,
    prompts: int,
    floor: Floor,
    wanted: Callable[[DialResult], bool] = lambda _: True,
    known: Sequence[DialResult] = (),
) -> DialSearch:
    """The greatest value of a dial that keeps the floor; a greater value skips no less.

    Values are looked at on a tenth of the prompts: from ``start`` in steps of two until one is expected to
    keep the floor and one is not, then what lies between is halved, until nothing does or the bracket is
    narrow. The best one is measured on all prompts, which tells how they compare with the tenth: from there
    it goes on, with more of them.

    Args:
        start: where it begins, unless something is known.
        wanted: whether the best value is to be measured on all prompts, told of it on the tenth.
        known: values that were measured on all prompts before.
    """
    raced = {one.value: judged(one.value, one.seen, prompts, floor) for one in known}
    results = dict(raced)
    for _ in range(MOST):
        few = min(prompts, glance(prompts) * (AGAIN if raced else 1))
        best, beyond = _bracket(results, prompts)
        value = _next(dial, best, beyond) if results else start
        if value is None and beyond is not None and beyond.value not in raced:
            is_sure = surely_missed(beyond.qualities, prompts, floor)
            value = None if is_sure or len(beyond.seen) >= few else beyond.value
        if value is not None:
            results[value] = DialResult(value, tuple(measure(value, few)), True)
        elif best is None or not _is_worth_it(dial, best, results, prompts) or not wanted(best):
            break
        else:
            raced[best.value] = judge(best.value, measure, prompts, floor)
        results |= raced
        looks = [one for value, one in results.items() if value not in raced]
        results |= {one.value: _expected(one, results, prompts, floor) for one in looks}
    best, beyond = _bracket(results, prompts)
    if best is not None and wanted(best):
        best = _surest(results, prompts)
    return _found(dial, tuple(results.values()), best, beyond)


def _found(
    dial: Parameter, results: tuple[DialResult, ...], best: DialResult | None, beyond: DialResult | None
) -> DialSearch:
    end = -math.inf if best is None else _end(dial, best)
    begin = math.inf if beyond is None else _begin(beyond)
    good = best.value if best is not None and dial.kind == "int" else end
    is_exact = math.isfinite(begin) and end >= begin
    return DialSearch(results, best, beyond, good, begin, exact=is_exact, high=dial.high)


def _surest(results: Mapping[float, DialResult], prompts: int) -> DialResult | None:
    """The greatest value that keeps the floor on all prompts."""
    whole = [one for one in results.values() if one.kept and len(one.seen) == prompts]
    return max(whole, key=lambda one: one.value, default=None)


def _expected(
    result: DialResult, results: Mapping[float, DialResult], prompts: int, floor: Floor
) -> DialResult:
    """A value, judged by what is known of all: where another lost more on all prompts than on those that
    this one was seen on, so will this. The other is of those that were seen on most prompts one that skipped
    the same calls, else the nearest."""
    mine, reason = len(result.seen), surely_missed(result.qualities, prompts, floor)
    if mine == prompts or reason:
        return DialResult(result.value, result.seen, not reason, reason)
    more = [one for one in results.values() if len(one.seen) > mine]

    def alike(one: DialResult) -> tuple[float, ...]:
        return len(one.seen), one.on(mine).patterns == result.patterns, -abs(one.value - result.value)

    other = max(more, key=alike, default=result)
    part = other.on(mine)
    for name, least in (("mean", floor.mean), ("worst", floor.worst)):
        lost, theirs, of_these = (
            1 - (one.quality if name == "mean" else one.worst) for one in (result, other, part)
        )
        quality = 1 - lost * (theirs / of_these if of_these > TIE else 1)
        if quality < least - TIE:
            reason = f"{name} SSIM {quality:.4f} is expected on all {prompts} prompts, below {least:g}"
            return DialResult(result.value, result.seen, False, reason)
    return DialResult(result.value, result.seen, True)


def _bracket(
    results: Mapping[float, DialResult], prompts: int
) -> tuple[DialResult | None, DialResult | None]:
    """The greatest value that keeps the floor, or is expected to, and the next that is not."""
    sure = _surest(results, prompts)
    above = [one for one in results.values() if sure is None or one.value > sure.value]
    beyond = min((one for one in above if not one.kept), key=lambda one: one.value, default=None)
    below = [one for one in above if one.kept and (beyond is None or one.value < beyond.value)]
    return max(below, key=lambda one: one.value, default=sure), beyond


def _is_worth_it(
    dial: Parameter, best: DialResult, results: Mapping[float, DialResult], prompts: int
) -> bool:
    """Whether a value is to be measured on all prompts: not if it was, or one that was skips as much."""
    sure = _surest(results, prompts)
    if sure is None or sure.value == best.value:
        return sure is None
    return dial.kind == "int" or not _is_narrow(dial, _end(dial, sure), best.value)


def _is_narrow(dial: Parameter, end: float, begin: float) -> bool:
    """Whether nothing that is worth it lies between two values."""
    return end >= begin or (dial.kind == "float" and begin - end < NARROW * begin)


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
        return _rounded(dial, max(least, min(dial.high, low if math.isfinite(low) else beyond.value) / 2))
    end = _end(dial, best)
    if beyond is None:
        if math.isinf(end) or best.value >= dial.high:
            return None
        return _rounded(dial, min(dial.high, max(2 * best.value, end)))
    begin = min(dial.high, _begin(beyond))  # what was given may be beyond
    if _is_narrow(dial, end, begin):
        return None
    if dial.kind == "int":
        return int(end + begin - 1) // 2
    return math.sqrt(end * begin) if end > 0 else (end + begin) / 2


def _rounded(dial: Parameter, value: float) -> float:
    return round(value) if dial.kind == "int" else value
