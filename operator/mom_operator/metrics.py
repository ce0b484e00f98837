"""The operator's own metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

# From a turn that finds all in order, under a millisecond, to one that waits for a master.
_SECONDS: Final = (0.001, 0.005, 0.02, 0.1, 0.5, 2, 5, 15, 60)


class Metrics:
    """Counts of turns and calls; gauges read what they show when they are asked."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._turns = Histogram(
            "mom_operator_reconcile_seconds",
            "Duration of one turn of one object.",
            ["lane"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._errors = Counter(
            "mom_operator_reconcile_errors",
            "Turns that failed and are repeated.",
            ["lane"],
            registry=self.registry,
        )
        self._calls = Counter(
            "mom_operator_api_calls",
            "Calls to the API server, by status; status error: no answer.",
            ["verb", "kind", "status"],
            registry=self.registry,
        )
        self.missed = Counter(
            "mom_operator_watch_events_missed",
            "Changes that a listing found and no watch had told.",
            registry=self.registry,
        )

    def ran(self, lane: str, seconds: float, error: Exception | None) -> None:
        """A turn ended."""
        self._turns.labels(lane).observe(seconds)
        if error is not None:
            self._errors.labels(lane).inc()

    def called(self, verb: str, kind: str, status: str) -> None:
        """A call to the API server ended."""
        self._calls.labels(verb, kind, status).inc()

    def show(self, name: str, text: str, read: Callable[[], float]) -> None:
        """A gauge ``mom_operator_NAME``."""
        Gauge(f"mom_operator_{name}", text, registry=self.registry).set_function(read)
