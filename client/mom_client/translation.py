"""Settings between their wire form and the core's."""

from __future__ import annotations

from typing import Final

from mom_core import limits
from mom_core.topics import (
    QueueSettings,
    SubscriptionConfig,
    SubscriptionMode,
    TopicConfig,
    TopicKind,
)
from mom_proto.v1 import types_pb2

KINDS: Final = {
    types_pb2.TOPIC_KIND_TOPIC: TopicKind.TOPIC,
    types_pb2.TOPIC_KIND_QUEUE: TopicKind.QUEUE,
}
KINDS_ON_WIRE: Final = {kind: number for number, kind in KINDS.items()}
MODES: Final = {
    types_pb2.SUBSCRIPTION_MODE_STREAM: SubscriptionMode.STREAM,
    types_pb2.SUBSCRIPTION_MODE_QUEUE: SubscriptionMode.QUEUE,
}
MODES_ON_WIRE: Final = {mode: number for number, mode in MODES.items()}
DURABILITIES: Final = {
    types_pb2.DURABILITY_UNSPECIFIED: "",
    types_pb2.DURABILITY_MEMORY: "memory",
    types_pb2.DURABILITY_OS: "os",
    types_pb2.DURABILITY_FSYNC: "fsync",
    types_pb2.DURABILITY_REPLICATED: "replicated",
    types_pb2.DURABILITY_PROVIDER: "provider",
}


def topic_of_wire(topic: types_pb2.Topic) -> TopicConfig:
    """A topic's settings as they came."""
    kind = KINDS.get(topic.kind, TopicKind.TOPIC)
    queue = None
    if kind is TopicKind.QUEUE:
        queue = QueueSettings(lease_ms=topic.lease_ms or limits.LEASE_MS_DEFAULT)
    return TopicConfig(
        name=topic.name,
        kind=kind,
        topic_id=topic.topic_id.hex(),
        partitions=topic.partitions,
        retention_ms=topic.retention_ms,
        retention_bytes=topic.retention_bytes,
        message_bytes_max=topic.message_bytes_max,
        created_at_ms=topic.created_at_ms,
        queue=queue,
    )


def topic_to_wire(config: TopicConfig) -> types_pb2.Topic:
    """A topic's settings as they travel, without what the master gives."""
    return types_pb2.Topic(
        name=config.name,
        kind=KINDS_ON_WIRE[config.kind],
        partitions=config.partitions,
        retention_ms=config.retention_ms,
        retention_bytes=config.retention_bytes,
        message_bytes_max=config.message_bytes_max,
        lease_ms=config.queue.lease_ms if config.queue is not None else 0,
    )


def subscription_of_wire(subscription: types_pb2.Subscription) -> SubscriptionConfig:
    """A subscription's settings as they came; its secret stays with the cluster."""
    return SubscriptionConfig(
        name=subscription.name,
        topic=subscription.topic,
        mode=MODES.get(subscription.mode, SubscriptionMode.STREAM),
        start=subscription.start,
        session_ms=subscription.session_ms,
        queue=QueueSettings(lease_ms=subscription.lease_ms or limits.LEASE_MS_DEFAULT),
        created_at_ms=subscription.created_at_ms,
        secret=b"",
    )


def subscription_to_wire(config: SubscriptionConfig) -> types_pb2.Subscription:
    """A subscription's settings as they travel."""
    return types_pb2.Subscription(
        topic=config.topic,
        name=config.name,
        mode=MODES_ON_WIRE[config.mode],
        start=config.start,
        lease_ms=config.queue.lease_ms if config.mode is SubscriptionMode.QUEUE else 0,
        session_ms=config.session_ms if config.mode is SubscriptionMode.STREAM else 0,
    )
