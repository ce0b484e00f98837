"""How far readers are behind: in messages, and in time by the age of the first one not handled."""

from __future__ import annotations

from mom_broker.node.partition import Partition
from mom_broker.node.queue import QueueReader
from mom_broker.storage.starts import end_of
from mom_core.names import PartitionId
from mom_core.ports import BatchHead, Store
from mom_proto.v1 import broker_pb2


async def age_ms(log: Partition, offset: int | None, now_ms: int) -> int | None:
    """How long ago a message was appended, or the next one; None at the end of the log."""
    appended_ms = await log.append_time_ms(offset) if offset is not None else None
    return max(0, now_ms - appended_ms) if appended_ms is not None else None


async def _head(store: Store, partition: PartitionId, offset: int) -> BatchHead | None:
    heads = await store.read_heads(partition, offset, 1, bytes_each=1)
    return heads[0] if heads else None


async def lag_of(store: Store, partition: PartitionId, offset: int) -> broker_pb2.Lag:
    """How far a stream reader at ``offset`` is behind. What retention removed does not count."""
    head = await _head(store, partition, offset)
    if head is None:
        return broker_pb2.Lag()
    messages = await end_of(store, partition) - max(offset, head.base_offset)
    behind_ms = max(0, store.now_ms() - head.append_time_ms)
    return broker_pb2.Lag(messages=messages, behind_ms=behind_ms)


async def add_ages(
    log: Partition,
    reader: QueueReader,
    now_ms: int,
    description: broker_pb2.SubscriptionDescription,
) -> None:
    """Tell how old the oldest messages of a queue are."""
    unacked_ms = await age_ms(log, reader.delivery.oldest_unsettled(), now_ms)
    if unacked_ms is not None:
        description.oldest_unacked_ms = unacked_ms
    ready_ms = await age_ms(log, reader.delivery.oldest_ready(now_ms), now_ms)
    if ready_ms is not None:
        description.oldest_ready_ms = ready_ms
