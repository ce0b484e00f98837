"""Settings between their wire form and the core's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from mom_core import limits
from mom_core.topics import (
    SECRET_BYTES,
    QueueSettings,
    SubscriptionConfig,
    SubscriptionMode,
    TopicConfig,
    TopicKind,
    new_subscription,
    new_topic,
    show_subscription,
    show_topic,
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
# What names a thing and does not set it up; it travels in any case.
_IDENTITY: Final = frozenset({"name", "kind", "topic", "mode"})
QUEUE_FIELDS: Final = QueueSettings.__struct_fields__
# The master gives the real ones.
_NO_TOPIC_ID: Final = "0" * 32
_NO_SECRET: Final = bytes(SECRET_BYTES)
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
        queue = queue_of_wire(topic.queue)
    return TopicConfig(
        name=topic.name,
        kind=kind,
        topic_id=topic.topic_id.hex(),
        partitions=topic.partitions,
        retention_ms=topic.retention_ms,
        retention_bytes=topic.retention_bytes,
        message_bytes_max=topic.message_bytes_max,
        dedup_window_ms=topic.dedup_window_ms,
        created_at_ms=topic.created_at_ms,
        queue=queue,
        messages_max=topic.messages_max,
        retain_until_acked=topic.retain_until_acked,
    )


def new_topic_to_wire(
    name: str, kind: TopicKind, settings: Mapping[str, object]
) -> types_pb2.Topic:
    """A topic to create, with the settings that are named. Raises InvalidArgumentError."""
    config = new_topic(name, kind, settings, topic_id=_NO_TOPIC_ID, created_at_ms=0)
    named, queue = _named(show_topic(config), settings)
    return types_pb2.Topic(name=name, kind=KINDS_ON_WIRE[kind], queue=queue, **named)


def subscription_of_wire(subscription: types_pb2.Subscription) -> SubscriptionConfig:
    """A subscription's settings as they came; its secret stays with the cluster."""
    return SubscriptionConfig(
        name=subscription.name,
        topic=subscription.topic,
        mode=MODES.get(subscription.mode, SubscriptionMode.STREAM),
        start=subscription.start,
        session_ms=subscription.session_ms or limits.SESSION_MS_DEFAULT,
        queue=queue_of_wire(subscription.queue),
        created_at_ms=subscription.created_at_ms,
        secret=b"",
    )


def new_subscription_to_wire(
    topic: str, name: str, settings: Mapping[str, object]
) -> types_pb2.Subscription:
    """A subscription to create, with the settings that are named. Raises InvalidArgumentError."""
    config = new_subscription(name, topic, settings, created_at_ms=0, secret=_NO_SECRET)
    named, queue = _named(show_subscription(config), settings)
    return types_pb2.Subscription(
        topic=topic, name=name, mode=MODES_ON_WIRE[config.mode], queue=queue, **named
    )


def _named(
    shown: Mapping[str, Any], settings: Mapping[str, object]
) -> tuple[dict[str, Any], types_pb2.QueueSettings | None]:
    """Of the shown form, in numbers, the settings that were given in whatever form; and those of
    a queue."""
    named = {field: shown[field] for field in settings if field not in _IDENTITY}
    queue = {field: named.pop(field) for field in QUEUE_FIELDS if field in named}
    return named, types_pb2.QueueSettings(**queue) if queue else None


def queue_of_wire(settings: types_pb2.QueueSettings) -> QueueSettings:
    """A queue's settings as they came; those that an older server does not send have defaults."""
    sent = {field.name: value for field, value in settings.ListFields()}
    return msgspec.convert(sent, QueueSettings)
