"""What the gateway counts, as Prometheus reads it.

Requests are counted in plain lists and rendered on demand: an observation costs less than a
microsecond. Labels are route templates, never names that users choose, so their number is bounded.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class RequestMetrics(Collector):
    """Counts of requests by method, route and status; durations by method and route."""

    def __init__(self, gauges: dict[str, tuple[str, Callable[[], float]]]) -> None:
        self._gauges = gauges
        self._counts: dict[tuple[str, str, int], int] = {}
        self._durations: dict[tuple[str, str], list[int]] = {}
        self._sums_s: dict[tuple[str, str], float] = {}
        self.messages_in = 0
        self.messages_out = 0
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def observe(self, method: str, route: str, status: int, duration_s: float) -> None:
        """Count one request that was answered."""
        key = (method, route, status)
        self._counts[key] = self._counts.get(key, 0) + 1
        pair = (method, route)
        buckets = self._durations.get(pair)
        if buckets is None:
            buckets = self._durations[pair] = [0] * (len(_BUCKETS_S) + 1)
        buckets[bisect_left(_BUCKETS_S, duration_s)] += 1
        self._sums_s[pair] = self._sums_s.get(pair, 0.0) + duration_s

    def describe(self) -> list[Metric]:
        """Nothing to compare with at registration."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The families, rendered now."""
        requests = CounterMetricFamily(
            "mom_gateway_requests", "Requests answered.", labels=["method", "route", "status"]
        )
        for (method, route, status), count in self._counts.items():
            requests.add_metric([method, route, str(status)], count)
        yield requests
        yield self._durations_family()
        yield CounterMetricFamily(
            "mom_gateway_messages_in", "Messages accepted from clients.", value=self.messages_in
        )
        yield CounterMetricFamily(
            "mom_gateway_messages_out", "Messages and records sent to clients.",
            value=self.messages_out,
        )  # fmt: skip
        for name, (documentation, value) in self._gauges.items():
            yield GaugeMetricFamily(name, documentation, value=value())

    def _durations_family(self) -> Metric:
        family = HistogramMetricFamily(
            "mom_gateway_request_duration_seconds",
            "Time from a request's head to the end of its answer, long polls included.",
            labels=["method", "route"],
        )
        for (method, route), buckets in self._durations.items():
            total = 0
            cumulative: list[tuple[str, float]] = []
            for bound, count in zip((*map(str, _BUCKETS_S), "+Inf"), buckets, strict=True):
                total += count
                cumulative.append((bound, total))
            family.add_metric([method, route], cumulative, self._sums_s[method, route])
        return family
