"""What crosses from cloud to edge at the handoff, and how long that takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ecdiff_core.errors import ParamsError
from ecdiff_core.serving.link_meter import Spread
from ecdiff_core.validation import NotNegative, Positive, check_fields

BYTES_PER_VALUE = 2
"""Latents and embeddings travel in half precision, as in the paper (A.6.1)."""


@dataclass(frozen=True)
class Link:
    """A network link.

    Args:
        mbps: bandwidth in 10^6 bits a second; None is one machine, where nothing is sent.
        round_trip_seconds: fixed cost of a transfer.
        url: of the server at its other end, where both are to be measured; they are not given then.
        token_file: with that server's token.

    Raises:
        ParamsError: a value is out of range, the URL is none, or what is measured there is given beside it.

    The paper's SD-v1.4, 0.11 s:

    >>> round(Link(mbps=18.88).transfer_seconds(4 * 64 * 64 + 2 * 77 * 768), 2)
    0.11
    """

    mbps: Positive | None = None
    round_trip_seconds: NotNegative = 0.0
    url: str | None = None
    token_file: Path | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        check_fields(self, ParamsError, "link.")
        if self.url is not None and not self.url.startswith(("http://", "https://")):
            raise ParamsError(key="link.url", got=self.url, expected="to begin with http:// or https://")
        if self.url is not None and (self.mbps is not None or self.round_trip_seconds):
            raise ParamsError(
                key="link.url",
                got={"url": self.url, "mbps": self.mbps, "round_trip_seconds": self.round_trip_seconds},
                expected="alone, for the other two are measured",
                advice="Give link=URL, or link=none with link.mbps and link.round_trip_seconds.",
            )

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


@dataclass(frozen=True)
class MeasuredLink:
    """The link to a server: 10^6 bits a second downwards, and seconds of a small request with its answer."""

    url: str
    mbps: Spread
    round_trip_seconds: Spread

    @property
    def link(self) -> Link:
        """Of the medians."""
        return Link(self.mbps.median, self.round_trip_seconds.median)

    def __str__(self) -> str:
        mbps, trip = self.mbps, self.round_trip_seconds
        low, middle, high = (1e3 * seconds for seconds in (trip.low, trip.median, trip.high))
        return (
            f"{mbps.median:.2f} Mbps ({mbps.low:.2f} … {mbps.high:.2f}), round trip {middle:.2f} ms "
            f"({low:.2f} … {high:.2f}) to {self.url}"
        )
