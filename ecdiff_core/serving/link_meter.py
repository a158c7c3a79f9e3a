"""The link as answers show it: round trip and bandwidth, each with its spread."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from statistics import median, quantiles

_KEPT = 64
"""Answers that are remembered."""
_LARGE = 2**16
"""Bytes below which a body comes with its headers, and its seconds say nothing."""


@dataclass(frozen=True)
class Spread:
    """Of a few measurements: the middle one, and the quartiles beside it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """Of at least one value.

        >>> Spread.of([3.0, 1.0, 2.0])
        Spread(median=2.0, low=1.5, high=2.5)
        """
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, _, high = quantiles(values, n=4, method="inclusive")
        return cls(median(values), low, high)


class LinkMeter:
    """What is known of a link from the answers so far."""

    def __init__(self) -> None:
        self._trips: deque[float] = deque(maxlen=_KEPT)
        self._rates: deque[float] = deque(maxlen=_KEPT)

    def trip(self, seconds: float) -> None:
        """A small request and its answer."""
        self._trips.append(seconds)

    def transfer(self, size_bytes: int, seconds: float) -> None:
        """An answer's body, from its first byte to its last."""
        if seconds > 0 and size_bytes >= _LARGE:
            self._rates.append(8e-6 * size_bytes / seconds)

    @property
    def round_trip_seconds(self) -> Spread | None:
        """None before the first."""
        return Spread.of(list(self._trips)) if self._trips else None

    @property
    def mbps(self) -> Spread | None:
        """Megabits a second downwards; None before the first."""
        return Spread.of(list(self._rates)) if self._rates else None
