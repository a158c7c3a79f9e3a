"""The link to a server, measured by small requests and by downloads."""

from __future__ import annotations

import time

from ecdiff_core.errors import CloudError
from ecdiff_core.serving.link_meter import Spread
from ecdiff_core.serving.transport import Transport


def measure_link(http: Transport, repeats: int, size_bytes: int) -> tuple[Spread, Spread]:
    """Round trip in seconds, and megabits a second downwards; a first request of each is not counted.

    Args:
        size_bytes: of a download.

    Raises:
        CloudError, CloudUnavailableError: the server refuses, cannot be had, or sends another number of bytes
            than it is asked for.
    """
    http.ask("GET", "/health/live")
    trips, rates = [], []
    for _ in range(repeats):
        began = time.perf_counter()
        http.ask("GET", "/health/live")
        trips.append(time.perf_counter() - began)
    trip = Spread.of(trips)
    for number in range(repeats + 1):
        began = time.perf_counter()
        got = len(http.ask("GET", "/v1/bytes", size_bytes, params={"count": size_bytes}).content)
        took = time.perf_counter() - began - trip.median
        if got != size_bytes:
            line = f"{http.url} sent {got} bytes, not {size_bytes}: it is no server of ecdiff serve."
            raise CloudError(line, key=http.url, got=got, expected=f"{size_bytes} bytes")
        if number:
            rates.append(8e-6 * got / max(took, 1e-6))
    return trip, Spread.of(rates)
