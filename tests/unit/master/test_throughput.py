"""When the store will be full."""

from __future__ import annotations

import pytest

from mom_broker.master.throughput import SAMPLE_INTERVAL_MS, SAMPLES_MAX, FillEstimate
from mom_core.ports import StoreUsage

LIMIT = 1_000_000


def _estimate(*used_bytes: int, limit_bytes: int | None = LIMIT) -> int | None:
    estimate = FillEstimate()
    for number, used in enumerate(used_bytes):
        estimate.add(StoreUsage(used, limit_bytes), number * SAMPLE_INTERVAL_MS)
    return estimate.full_in_ms()


def test_at_a_steady_rate_it_is_the_time_left_to_the_high_water_mark() -> None:
    # 100,000 bytes in 20 s, and 700,000 left to 900,000.
    assert _estimate(100_000, 150_000, 200_000) == 140_000


@pytest.mark.parametrize(
    "used_bytes",
    [(), (5,), (5, 900), (100, 100, 100), (300, 200, 100), (0, 0, 1)],
    ids=["nothing", "one", "too short", "steady", "shrinking", "beyond the horizon"],
)
def test_not_in_sight(used_bytes: tuple[int, ...]) -> None:
    limit_bytes = 1 << 50 if used_bytes == (0, 0, 1) else LIMIT
    assert _estimate(*used_bytes, limit_bytes=limit_bytes) is None


def test_without_a_limit_it_is_never_full() -> None:
    assert _estimate(1, 2, 3, limit_bytes=None) is None


def test_a_full_store_is_full_now() -> None:
    assert _estimate(899_000, 900_000) == 1


def test_only_the_last_minutes_count() -> None:
    calm = [100_000] * SAMPLES_MAX
    assert _estimate(*range(0, 100_000, 10_000), *calm) is None
