"""What a server counts, for Prometheus."""

from collections.abc import Callable
from time import perf_counter

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from core.types import Sample

PREFIX = "budget_forcing_"
disable_created_metrics()  # a line more for each line, of when it was first counted
SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class Metrics:
    """Called on the event loop alone. gauges: name -> (what it is, its value now; None where nobody knows)."""

    def __init__(self, gauges: dict[str, tuple[str, Callable[[], float | None]]]):
        self._registry = CollectorRegistry()
        self._requests = self._make(Counter, "requests", "Requests answered", ["endpoint", "status"])
        self._tokens = self._make(Counter, "tokens", "Tokens written", ["phase", "source"])
        self._ended = self._make(Counter, "thinking_ended", "Samples by why thinking ended", ["reason"])
        self._first = self._make(
            Histogram, "time_to_first_token_seconds", "From request to first text", buckets=SECONDS
        )
        self._between = self._timed("inter_token_seconds", "Between two texts of a request")
        self._whole = self._timed("request_seconds", "From request to its end", ["endpoint"])
        for name, (text, value) in gauges.items():
            gauge = self._make(Gauge, name, text)
            gauge.set_function(lambda value=value: float("nan") if value() is None else value())

    def _make(self, kind: type, name: str, text: str, labels: list[str] | None = None, **options):
        return kind(PREFIX + name, text, labels or [], registry=self._registry, **options)

    def _timed(self, name: str, text: str, labels: list[str] | None = None) -> Histogram:
        return self._make(Histogram, name, text, labels, buckets=SECONDS)

    def request(self, endpoint: str, status: int, seconds: float) -> None:
        self._requests.labels(endpoint, str(status)).inc()
        self._whole.labels(endpoint).observe(seconds)

    def sample(self, ended: str | None, sample: Sample) -> None:
        """ended: why thinking did; None where there was none."""
        self._ended.labels(ended or "none").inc()
        for segment in sample.segments:
            self._tokens.labels(segment.phase, segment.source).inc(len(segment.token_ids))

    def clock(self) -> "Clock":
        return Clock(self._first, self._between)

    def text(self) -> bytes:
        return generate_latest(self._registry)


class Clock:
    """Times the texts of one request, from when it is made."""

    def __init__(self, first: Histogram, between: Histogram):
        self._first, self._between, self._is_first = first, between, True
        self._last = perf_counter()

    def tick(self) -> None:
        now = perf_counter()
        (self._first if self._is_first else self._between).observe(now - self._last)
        self._last, self._is_first = now, False
