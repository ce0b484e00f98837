"""Records of the control plane as they travel, for masters and nodes alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

from mom_core.catalog import Assignment, NodeRecord, Owner
from mom_core.dead_letters import DeadLetterFilter
from mom_core.operations import OperationRecord
from mom_core.partitioner import hash_range
from mom_core.ports import Durability
from mom_core.topics import (
    QueueSettings,
    SubscriptionConfig,
    SubscriptionMode,
    TopicConfig,
    TopicKind,
    show_queue,
)
from mom_proto.v1 import broker_pb2, types_pb2

KINDS: Final = {
    TopicKind.TOPIC: types_pb2.TOPIC_KIND_TOPIC,
    TopicKind.QUEUE: types_pb2.TOPIC_KIND_QUEUE,
}
MODES: Final = {
    SubscriptionMode.STREAM: types_pb2.SUBSCRIPTION_MODE_STREAM,
    SubscriptionMode.QUEUE: types_pb2.SUBSCRIPTION_MODE_QUEUE,
}
DURABILITIES: Final = {
    Durability.MEMORY: types_pb2.DURABILITY_MEMORY,
    Durability.OS: types_pb2.DURABILITY_OS,
    Durability.FSYNC: types_pb2.DURABILITY_FSYNC,
    Durability.REPLICATED: types_pb2.DURABILITY_REPLICATED,
    Durability.PROVIDER: types_pb2.DURABILITY_PROVIDER,
}
NOBODY: Final = Owner("", 0)


def topic_message(config: TopicConfig) -> types_pb2.Topic:
    """A topic's settings."""
    return types_pb2.Topic(
        name=config.name,
        kind=KINDS[config.kind],
        topic_id=bytes.fromhex(config.topic_id),
        partitions=config.partitions,
        retention_ms=config.retention_ms,
        retention_bytes=config.retention_bytes,
        message_bytes_max=config.message_bytes_max,
        dedup_window_ms=config.dedup_window_ms,
        created_at_ms=config.created_at_ms,
        queue=queue_message(config.queue) if config.queue is not None else None,
        messages_max=config.messages_max if config.kind is TopicKind.QUEUE else None,
        retain_until_acked=config.retain_until_acked if config.kind is TopicKind.TOPIC else None,
    )


def queue_message(settings: QueueSettings) -> types_pb2.QueueSettings:
    """How messages are delivered."""
    return types_pb2.QueueSettings(**show_queue(settings))


def subscription_message(config: SubscriptionConfig) -> types_pb2.Subscription:
    """A subscription's settings, without its secret."""
    return types_pb2.Subscription(
        topic=config.topic,
        name=config.name,
        mode=MODES[config.mode],
        start=config.start,
        queue=queue_message(config.queue) if config.mode is SubscriptionMode.QUEUE else None,
        session_ms=config.session_ms if config.mode is SubscriptionMode.STREAM else None,
        created_at_ms=config.created_at_ms,
    )


def owner_messages(
    config: TopicConfig, assignment: Assignment | None
) -> list[broker_pb2.PartitionOwner]:
    """The owner and the key range of each partition of a topic."""
    owners = assignment.owners if assignment is not None else ()
    messages = []
    for index in range(config.partitions):
        owner = owners[index] if index < len(owners) else NOBODY
        hashes = hash_range(index, config.partitions)
        messages.append(
            broker_pb2.PartitionOwner(
                node_id=owner.node_id,
                epoch=owner.epoch,
                hash_first=hashes.first,
                hash_last=hashes.end - 1,
            )
        )
    return messages


def partitions_by_node(assignments: Iterable[Assignment]) -> Counter[str]:
    """How many partitions are placed on each node; those of nobody under the empty id."""
    return Counter(owner.node_id for one in assignments for owner in one.owners)


def node_messages(
    nodes: Mapping[str, NodeRecord], partitions: Mapping[str, int]
) -> list[broker_pb2.NodeInfo]:
    """All nodes in the order of their ids, with the number of partitions placed on each."""
    return [
        broker_pb2.NodeInfo(
            node_id=one.node_id,
            address=one.address,
            rack=one.rack,
            state=one.state.value,
            partitions=partitions.get(one.node_id, 0),
            state_by=one.state_by,
        )
        for _, one in sorted(nodes.items())
    ]


def filter_of_message(message: broker_pb2.DeadLetterFilter) -> DeadLetterFilter:
    """Which dead letters are meant, as it came."""
    return DeadLetterFilter(
        reason=message.reason,
        topic=message.topic,
        subscription=message.subscription,
        offsets=tuple(message.offsets),
        ids=tuple(one.hex() for one in message.ids),
    )


def operation_message(record: OperationRecord) -> broker_pb2.Operation:
    """An operation, as it is told."""
    return broker_pb2.Operation(
        operation_id=record.operation_id,
        kind=record.kind,
        queue=record.queue,
        state=record.state.value,
        total=record.total,
        done=record.done,
        left=record.left,
        error=record.error,
        created_at_ms=record.created_at_ms,
        ended_at_ms=record.ended_at_ms,
        filter=broker_pb2.DeadLetterFilter(
            reason=record.filter.reason,
            topic=record.filter.topic,
            subscription=record.filter.subscription,
            offsets=record.filter.offsets,
            ids=[bytes.fromhex(one) for one in record.filter.ids],
        ),
        to=record.to,
        rate_per_s=record.rate_per_s,
    )
