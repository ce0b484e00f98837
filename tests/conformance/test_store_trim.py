"""Retention, over every engine."""

from __future__ import annotations

import pytest

from mom_core import limits
from mom_core.names import PartitionId
from mom_core.ports import Commit, NewBatch, Store, Trimmed, TrimRule


@pytest.fixture
async def filled(store: Store, partition: PartitionId) -> Store:
    """Ten batches of 3 records and 100 bytes, appended at 0, 10, ... 90 ms."""
    await store.claim(partition, 1)
    batches = [NewBatch(bytes(100), 3, 10 * index) for index in range(10)]
    await store.commit(Commit(partition, 1, 1, batches))
    return store


@pytest.mark.parametrize(
    ("rule", "log_start", "size_bytes"),
    [
        (TrimRule(), 0, 1000),
        (TrimRule(before_offset=9), 9, 700),
        (TrimRule(before_offset=10), 10, 700),
        (TrimRule(before_offset=11), 11, 700),
        (TrimRule(before_offset=30), 30, 0),
        (TrimRule(before_offset=99), 30, 0),
        (TrimRule(before_time_ms=30), 9, 700),
        (TrimRule(before_time_ms=31), 12, 600),
        (TrimRule(before_time_ms=1000), 30, 0),
        (TrimRule(keep_bytes=250), 24, 200),
        (TrimRule(keep_bytes=200), 24, 200),
        (TrimRule(keep_bytes=0), 27, 100),
        (TrimRule(before_offset=3, before_time_ms=30, keep_bytes=900), 9, 700),
        (TrimRule(before_offset=9, before_time_ms=10, keep_bytes=500), 15, 500),
    ],
)
async def test_rules(
    filled: Store, partition: PartitionId, rule: TrimRule, log_start: int, size_bytes: int
) -> None:
    assert await filled.trim(partition, 1, rule) == Trimmed(log_start, size_bytes, False)
    kept = await filled.read(partition, 0, 10_000)
    assert sum(len(one.data) for one in kept) == size_bytes
    state = await filled.claim(partition, 2)
    assert (state.log_start, state.size_bytes, state.next_offset) == (log_start, size_bytes, 30)


async def test_an_emptied_partition_goes_on_at_its_offset(
    filled: Store, partition: PartitionId
) -> None:
    await filled.trim(partition, 1, TrimRule(before_offset=30))
    result = await filled.commit(Commit(partition, 1, 2, [NewBatch(b"x", 1, 100)]))
    assert result.appended[0].base_offset == 30
    assert (await filled.read(partition, 0, 100))[0].base_offset == 30


async def test_a_long_backlog_goes_in_bounded_steps(store: Store, partition: PartitionId) -> None:
    await store.claim(partition, 1)
    count = limits.TRIM_BATCHES_MAX + 10
    await store.commit(Commit(partition, 1, 1, [NewBatch(b"1234", 2, 5)] * count))
    rule = TrimRule(before_offset=2 * count)
    assert await store.trim(partition, 1, rule) == Trimmed(2 * count, 40, True)
    assert await store.trim(partition, 1, TrimRule()) == Trimmed(2 * count, 0, False)
    assert await store.read(partition, 0, 100) == ()


async def test_log_start_never_falls(filled: Store, partition: PartitionId) -> None:
    await filled.trim(partition, 1, TrimRule(before_offset=10))
    assert (await filled.trim(partition, 1, TrimRule(before_offset=2))).log_start == 10
