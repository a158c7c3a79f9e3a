"""What a server tells Prometheus; counts and seconds, no prompts."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SIZES = (1, 2, 4, 8, 16, 32, 64)
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_ROUTES = (
    "/v1/handoff",
    "/v1/noise",
    "/v1/images",
    "/v1/config",
    "/v1/bytes",
    "/health/live",
    "/health/ready",
    "/metrics",
)


class Metrics:
    """Of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        here = self.registry
        self._requests = Counter(
            "ecdiff_requests", "answers, by route and status", ["route", "status"], registry=here
        )
        self._waiting = Gauge("ecdiff_queue", "jobs that wait", registry=here)
        self._running = Gauge("ecdiff_running", "generations under way", registry=here)
        self._sizes = Histogram("ecdiff_batch_size", "samples of a model call", buckets=_SIZES, registry=here)
        self._seconds = Histogram(
            "ecdiff_job_seconds", "from a request to its result", ["route"], buckets=_SECONDS, registry=here
        )

    def answered(self, path: str, status: int) -> None:
        """An answer; paths that are not ours count as one, so that nobody can make many of them."""
        self._requests.labels(path if path in _ROUTES else "other", str(status)).inc()

    def called(self, samples: int) -> None:
        """A call of the model; their number is the histogram's count."""
        self._sizes.observe(samples)

    def took(self, path: str, seconds: float) -> None:
        """A job that was done."""
        self._seconds.labels(path).observe(seconds)

    def queue(self, waiting: int, running: int) -> None:
        """Of the worker."""
        self._waiting.set(waiting)
        self._running.set(running)

    def text(self) -> bytes:
        """As Prometheus reads it."""
        return generate_latest(self.registry)
