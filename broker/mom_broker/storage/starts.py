"""Where start positions lie in partitions, as the store has them.

The store is read and no owner asked, so that a place is known also of a partition that nobody owns
at the moment. What was acknowledged lies in the store, so ``latest`` is past all of it.
"""

from __future__ import annotations

import asyncio
from typing import Final, NamedTuple

from mom_core.names import PartitionId
from mom_core.ports import NEVER_MS, Store
from mom_core.topics import Start, StartKind, TopicConfig

# Reads under way at a time for one topic. They are small, and the store has others to serve.
READS_AT_ONCE: Final = 32


class StartOffsets(NamedTuple):
    """A start position, found in each partition that a topic had."""

    topic_id: str
    offsets: tuple[int, ...]

    def cover(self, topic: TopicConfig) -> bool:
        """Whether they are of this topic, and of all partitions that it has."""
        return self.topic_id == topic.topic_id and len(self.offsets) == topic.partitions


async def end_of(store: Store, partition: PartitionId) -> int:
    """The offset after the last message, of any partition. Raises StoreError."""
    return await store.offset_at(partition, NEVER_MS)


async def offset_of(store: Store, partition: PartitionId, start: Start) -> int:
    """Where a start position lies in a partition, within what is kept of it. Raises StoreError."""
    match start.kind:
        case StartKind.EARLIEST:
            return await store.offset_at(partition, 0)
        case StartKind.LATEST:
            return await end_of(store, partition)
        case StartKind.TIMESTAMP:
            return await store.offset_at(partition, start.value)
        case StartKind.OFFSET:
            end = await end_of(store, partition)
            return max(await store.offset_at(partition, 0), min(start.value, end))


async def find_starts(store: Store, topic: TopicConfig, start: Start) -> StartOffsets:
    """Where a start position lies in all partitions of a topic. Raises StoreError."""
    partitions = [PartitionId(topic.topic_id, index) for index in range(topic.partitions)]
    offsets: list[int] = []
    for first in range(0, len(partitions), READS_AT_ONCE):
        some = partitions[first : first + READS_AT_ONCE]
        offsets += await asyncio.gather(*(offset_of(store, one, start) for one in some))
    return StartOffsets(topic.topic_id, tuple(offsets))
