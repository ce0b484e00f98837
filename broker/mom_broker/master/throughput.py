"""How long until the store is full, by how fast it filled in the last minutes."""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

from mom_core.limits import STORE_HIGH_WATER_RATIO
from mom_core.ports import StoreUsage

SAMPLE_INTERVAL_MS: Final = 10_000
SAMPLES_MAX: Final = 30
# Less says more about the moment than about the trend.
SPAN_MS_MIN: Final = 2 * SAMPLE_INTERVAL_MS
# Further away, the figure means nothing.
HORIZON_MS: Final = 366 * 24 * 3600 * 1000


class _Sample(NamedTuple):
    at_ms: int
    used_bytes: int


class FillEstimate:
    """Samples of how full the store is, over SAMPLES_MAX times SAMPLE_INTERVAL_MS (5 minutes)."""

    def __init__(self) -> None:
        self._samples: deque[_Sample] = deque(maxlen=SAMPLES_MAX)
        self._limit_bytes: int | None = None

    def add(self, usage: StoreUsage, now_ms: int) -> None:
        """Take a sample at ``now_ms`` of a monotonic clock."""
        self._samples.append(_Sample(now_ms, usage.used_bytes))
        self._limit_bytes = usage.limit_bytes

    def full_in_ms(self) -> int | None:
        """Until produces are refused at the present rate; None: not in sight."""
        if self._limit_bytes is None or len(self._samples) < 2:
            return None
        first, last = self._samples[0], self._samples[-1]
        left_bytes = int(self._limit_bytes * STORE_HIGH_WATER_RATIO) - last.used_bytes
        if left_bytes <= 0:
            return 1
        span_ms, grown_bytes = last.at_ms - first.at_ms, last.used_bytes - first.used_bytes
        if span_ms < SPAN_MS_MIN or grown_bytes <= 0:
            return None
        wait_ms = max(1, left_bytes * span_ms // grown_bytes)
        return wait_ms if wait_ms <= HORIZON_MS else None
