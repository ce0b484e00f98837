"""Where start positions lie in partitions, over every engine."""

from __future__ import annotations

import pytest

from conformance.conftest import new_partition
from mom_broker.storage.starts import READS_AT_ONCE, find_starts, offset_of
from mom_core.names import PartitionId
from mom_core.ports import Commit, NewBatch, Store, TrimRule
from mom_core.topics import TopicKind, new_topic, parse_start


async def fill(store: Store, partition: PartitionId, batches: int) -> None:
    """Batches of 3 records, appended at 10, 20, ... ms."""
    await store.claim(partition, 1)
    added = [NewBatch(b"x", 3, 10 * number) for number in range(1, batches + 1)]
    await store.commit(Commit(partition, 1, 1, added))


@pytest.mark.parametrize(
    ("start", "offset"),
    [
        ("earliest", 4),
        ("latest", 9),
        ("offset:0", 4),
        ("offset:7", 7),
        ("offset:9", 9),
        ("offset:10", 9),
        ("timestamp:0", 4),
        ("timestamp:20", 4),
        ("timestamp:21", 6),
        ("timestamp:30", 6),
        ("timestamp:31", 9),
    ],
)
async def test_a_start_lies_within_what_is_kept(
    store: Store, partition: PartitionId, start: str, offset: int
) -> None:
    """Of three batches the second was trimmed up to its second record."""
    await fill(store, partition, 3)
    await store.trim(partition, 1, TrimRule(before_offset=4))
    assert await offset_of(store, partition, parse_start(start)) == offset


@pytest.mark.parametrize("start", ["earliest", "latest", "offset:7", "timestamp:7"])
async def test_what_was_never_written_to_begins_at_zero(
    store: Store, partition: PartitionId, start: str
) -> None:
    assert await offset_of(store, partition, parse_start(start)) == 0
    await store.claim(partition, 1)
    assert await offset_of(store, partition, parse_start(start)) == 0


@pytest.mark.parametrize("start", ["earliest", "latest", "offset:0", "timestamp:7"])
async def test_where_all_was_trimmed_it_begins_at_the_end(
    store: Store, partition: PartitionId, start: str
) -> None:
    await fill(store, partition, 2)
    await store.trim(partition, 1, TrimRule(before_offset=6))
    assert await offset_of(store, partition, parse_start(start)) == 6


async def test_each_partition_has_a_place_of_its_own(store: Store) -> None:
    """Of more partitions than are looked at together; every other one was never written to."""
    topic_id = new_partition().topic_id
    settings = {"partitions": 2 * READS_AT_ONCE + 3}
    topic = new_topic("t", TopicKind.TOPIC, settings, topic_id=topic_id, created_at_ms=1)
    for index in range(0, topic.partitions, 2):
        await fill(store, PartitionId(topic_id, index), index % 5)
    found = await find_starts(store, topic, parse_start("latest"))
    expected = [0 if index % 2 else 3 * (index % 5) for index in range(topic.partitions)]
    assert found.offsets == tuple(expected)
    assert found.cover(topic)
