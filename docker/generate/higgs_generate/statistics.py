"""What the service has done: for GET /stats, and as metrics for Prometheus."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from higgs_generate.places import Places

_FIRST_BYTE = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30, 60, 100)


@dataclass
class Statistics:
    """Counts of requests.

    Attributes:
        places: running and waiting requests are counted there.
        concurrent: requests to speak that are being answered.
        succeeded: requests that ended well.
        failed: requests that ended with an error.
        audio_seconds: sound that was sent.
    """

    places: Places
    concurrent: int = 0
    succeeded: int = 0
    failed: int = 0
    audio_seconds: float = 0.0
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "higgs_generate_requests", "Requests by outcome", ["outcome"], registry=self._registry
        )
        self._audio = Counter(
            "higgs_generate_audio_seconds", "Sound that was sent", registry=self._registry
        )
        self._first = Histogram(
            "higgs_generate_first_byte_seconds", "Time to the first sound",
            registry=self._registry, buckets=_FIRST_BYTE,
        )  # fmt: skip
        for name, text, value in (
            ("running", "Requests at the server", lambda: self.places.taken),
            ("waiting", "Requests that wait for a place", lambda: self.places.waiting),
            ("concurrent", "Requests that are being answered", lambda: self.concurrent),
        ):
            gauge = Gauge(f"higgs_generate_{name}", text, registry=self._registry)
            gauge.set_function(value)

    def first_byte(self, began: float) -> None:
        """Record that the first sound is there; `began` is by time.perf_counter."""
        self._first.observe(time.perf_counter() - began)

    def ended(self, *, well: bool, samples: int = 0) -> None:
        """Record the end of a request."""
        self.succeeded += well
        self.failed += not well
        self.audio_seconds += samples / 24_000
        self._audio.inc(samples / 24_000)
        self._requests.labels("succeeded" if well else "failed").inc()

    def as_json(self) -> dict[str, float]:
        """Return them for GET /stats."""
        return {
            "total_requests": self.succeeded + self.failed,
            "successful_requests": self.succeeded,
            "failed_requests": self.failed,
            "concurrent_requests": self.concurrent,
            "running": self.places.taken,
            "waiting": self.places.waiting,
            "audio_seconds": round(self.audio_seconds, 3),
            "uptime_seconds": round(time.monotonic() - self.started, 1),
        }

    def metrics(self) -> bytes:
        """Return them in Prometheus' text format."""
        return generate_latest(self._registry)
