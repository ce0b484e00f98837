"""Recent batches in memory, within one bound for the whole node.

Two kinds share the bound. A **tail** holds the newest batches of a partition without a hole, so
that readers near the end never touch the store. **Chunks** are what was read from the store for
those who take single messages far from the end, one chunk a partition, least recently used out
first.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Sequence

from mom_core.names import PartitionId
from mom_core.ports import StoredBatch

# Of the cache, the share that chunks may take.
_CHUNK_SHARE = 4


class Tail:
    """The newest batches of one partition, contiguous up to the high watermark."""

    __slots__ = ("_batches", "_ends", "_head")

    def __init__(self) -> None:
        self._batches: list[StoredBatch] = []
        self._ends: list[int] = []
        self._head = 0  # evicted batches in front, compacted now and then

    def append(self, batch: StoredBatch) -> None:
        """Add the newest batch."""
        self._batches.append(batch)
        self._ends.append(batch.end_offset)

    def evict_oldest(self) -> int:
        """Let the oldest batch go and return its bytes, 0 when there is none."""
        if self._head == len(self._batches):
            return 0
        batch = self._batches[self._head]
        self._head += 1
        if self._head > 64 and self._head * 2 > len(self._batches):
            del self._batches[: self._head]
            del self._ends[: self._head]
            self._head = 0
        return len(batch.data)

    def find(self, offset: int) -> StoredBatch | None:
        """The batch that holds ``offset``, or the next one when none does and the tail knows."""
        place = bisect_right(self._ends, offset, self._head)
        if place == len(self._batches):
            return None
        batch = self._batches[place]
        # Before the oldest batch lies what was evicted, which only the store knows.
        return None if place == self._head and offset < batch.base_offset else batch

    def read(self, offset: int, bytes_max: int) -> tuple[StoredBatch, ...]:
        """Batches from the one that holds ``offset``; empty when the tail does not reach there."""
        place = bisect_right(self._ends, offset, self._head)
        batches = self._batches
        if place == len(batches):
            return ()
        if place == self._head and offset < batches[place].base_offset:
            return ()
        end = place
        room = bytes_max
        while end < len(batches) and (end == place or len(batches[end].data) <= room):
            room -= len(batches[end].data)
            end += 1
        return tuple(batches[place:end])

    def clear(self) -> int:
        """Forget everything and return its bytes."""
        freed = sum(len(batch.data) for batch in self._batches[self._head :])
        self._batches.clear()
        self._ends.clear()
        self._head = 0
        return freed


class BatchCache:
    """The node's batches in memory."""

    def __init__(self, bytes_max: int) -> None:
        self._chunk_bytes_max = bytes_max // _CHUNK_SHARE
        self._tail_bytes_max = bytes_max - self._chunk_bytes_max
        self._order: deque[Tail] = deque()
        self._chunks: OrderedDict[PartitionId, Sequence[StoredBatch]] = OrderedDict()
        self.tail_bytes = 0
        self.chunk_bytes = 0

    def append(self, tail: Tail, batch: StoredBatch) -> None:
        """Add the newest batch of a partition, evicting the oldest of all beyond the bound."""
        tail.append(batch)
        self._order.append(tail)
        self.tail_bytes += len(batch.data)
        while self.tail_bytes > self._tail_bytes_max and self._order:
            self.tail_bytes -= self._order.popleft().evict_oldest()

    def drop(self, partition: PartitionId, tail: Tail) -> None:
        """Forget a partition. Its places in the order free nothing when their turn comes."""
        self.tail_bytes -= tail.clear()
        self._order = deque(one for one in self._order if one is not tail)
        self._drop_chunk(partition)

    def keep_chunk(self, partition: PartitionId, batches: Sequence[StoredBatch]) -> None:
        """Remember what was read of a partition last."""
        self._drop_chunk(partition)
        size = sum(len(batch.data) for batch in batches)
        if size > self._chunk_bytes_max:
            return
        self._chunks[partition] = batches
        self.chunk_bytes += size
        while self.chunk_bytes > self._chunk_bytes_max:
            self._drop_chunk(next(iter(self._chunks)))

    def find_in_chunk(self, partition: PartitionId, offset: int) -> StoredBatch | None:
        """The batch of the partition's chunk that holds ``offset``."""
        batches = self._chunks.get(partition)
        if batches is None:
            return None
        place = bisect_right(batches, offset, key=lambda batch: batch.end_offset)
        if place == len(batches) or batches[place].base_offset > offset:
            return None
        self._chunks.move_to_end(partition)
        return batches[place]

    def _drop_chunk(self, partition: PartitionId) -> None:
        batches = self._chunks.pop(partition, ())
        self.chunk_bytes -= sum(len(batch.data) for batch in batches)
