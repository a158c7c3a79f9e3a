"""What crosses from cloud to edge at the handoff, and how long that takes."""

from __future__ import annotations

from dataclasses import dataclass

from ecdiff_core.errors import ParamsError
from ecdiff_core.validation import NotNegative, Positive, check_fields

BYTES_PER_VALUE = 2
"""Latents and embeddings travel in half precision, as in the paper (A.6.1)."""


@dataclass(frozen=True)
class Link:
    """A network link.

    Args:
        mbps: bandwidth in 10^6 bits a second; None is one machine, where nothing is sent.
        round_trip_seconds: fixed cost of a transfer.

    The paper's SD-v1.4, 0.11 s:

    >>> round(Link(mbps=18.88).transfer_seconds(4 * 64 * 64 + 2 * 77 * 768), 2)
    0.11
    """

    mbps: Positive | None = None
    round_trip_seconds: NotNegative = 0.0

    def __post_init__(self) -> None:
        check_fields(self, ParamsError, "link.")

    def transfer_seconds(self, values: int, crossings: int = 1) -> float:
        """Seconds to send that many half-precision numbers, at so many times."""
        if self.mbps is None:
            return 0.0
        return values * BYTES_PER_VALUE * 8 / (self.mbps * 1e6) + crossings * self.round_trip_seconds

    def values_sent(self, seconds: float) -> int | None:
        """How many numbers take that long; None on one machine, where no time passes.

        >>> Link(mbps=18.88).values_sent(Link(mbps=18.88).transfer_seconds(134_656))
        134656
        """
        if self.mbps is None:
            return None
        return round((seconds - self.round_trip_seconds) * self.mbps * 1e6 / (BYTES_PER_VALUE * 8))
