"""The routing table that clients see, from the control plane as this node sees it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from mom_broker.storage.catalog_view import CatalogView
from mom_core.catalog import (
    ASSIGNMENTS_PREFIX,
    NODES_PREFIX,
    SUBSCRIPTIONS_PREFIX,
    TOPICS_PREFIX,
)
from mom_core.partitioner import hash_range
from mom_core.topics import SubscriptionConfig, SubscriptionMode, TopicConfig, TopicKind
from mom_proto.v1 import broker_pb2, types_pb2

KINDS = {
    TopicKind.TOPIC: types_pb2.TOPIC_KIND_TOPIC,
    TopicKind.QUEUE: types_pb2.TOPIC_KIND_QUEUE,
}
MODES = {
    SubscriptionMode.STREAM: types_pb2.SUBSCRIPTION_MODE_STREAM,
    SubscriptionMode.QUEUE: types_pb2.SUBSCRIPTION_MODE_QUEUE,
}


def topic_message(config: TopicConfig) -> types_pb2.Topic:
    """A topic's settings as they travel."""
    return types_pb2.Topic(
        name=config.name,
        kind=KINDS[config.kind],
        topic_id=bytes.fromhex(config.topic_id),
        partitions=config.partitions,
        retention_ms=config.retention_ms,
        retention_bytes=config.retention_bytes,
        message_bytes_max=config.message_bytes_max,
        created_at_ms=config.created_at_ms,
        lease_ms=config.queue.lease_ms if config.queue is not None else 0,
    )


def subscription_message(config: SubscriptionConfig) -> types_pb2.Subscription:
    """A subscription's settings as they travel."""
    return types_pb2.Subscription(
        topic=config.topic,
        name=config.name,
        mode=MODES[config.mode],
        start=config.start,
        lease_ms=config.queue.lease_ms,
        session_ms=config.session_ms,
        created_at_ms=config.created_at_ms,
    )


def topic_routing(view: CatalogView, config: TopicConfig) -> broker_pb2.TopicRouting:
    """A topic with its owners and subscriptions."""
    found = view.assignments.get(config.topic_id)
    owners = found.assignment.owners if found is not None else ()
    routing = broker_pb2.TopicRouting(
        topic=topic_message(config),
        subscriptions=[
            subscription_message(one)
            for _, one in sorted(view.subscriptions.get(config.topic_id, {}).items())
        ],
    )
    for index in range(config.partitions):
        range_ = hash_range(index, config.partitions)
        owner = owners[index] if index < len(owners) else None
        routing.owners.add(
            node_id=owner.node_id if owner is not None else "",
            epoch=owner.epoch if owner is not None else 0,
            hash_first=range_.first,
            hash_last=range_.end - 1,
        )
    return routing


def node_messages(view: CatalogView) -> list[broker_pb2.NodeInfo]:
    """All nodes with the number of partitions placed on each."""
    placed = Counter(
        owner.node_id for found in view.assignments.values() for owner in found.assignment.owners
    )
    return [
        broker_pb2.NodeInfo(
            node_id=one.node_id,
            address=one.address,
            rack=one.rack,
            state=one.state.value,
            partitions=placed[one.node_id],
        )
        for _, one in sorted(view.nodes.items())
    ]


def full_update(view: CatalogView, names: frozenset[str]) -> broker_pb2.RoutingUpdate:
    """Everything that a client asked for; no names are all topics."""
    return broker_pb2.RoutingUpdate(
        full=True,
        revision=view.revision,
        nodes=node_messages(view),
        nodes_changed=True,
        topics=[
            topic_routing(view, config)
            for name, config in sorted(view.topics.items())
            if not names or name in names
        ],
        master_address=view.leader.address if view.leader is not None else "",
    )


def changed_update(
    view: CatalogView, keys: Iterable[str], names: frozenset[str]
) -> broker_pb2.RoutingUpdate:
    """What the changed keys mean for a client."""
    changed: set[str] = set()
    update = broker_pb2.RoutingUpdate(
        revision=view.revision,
        master_address=view.leader.address if view.leader is not None else "",
    )
    for key in keys:
        if key.startswith(NODES_PREFIX):
            update.nodes_changed = True
        elif key.startswith(TOPICS_PREFIX):
            changed.add(key.removeprefix(TOPICS_PREFIX))
        elif key.startswith((ASSIGNMENTS_PREFIX, SUBSCRIPTIONS_PREFIX)):
            config = view.topics_by_id.get(key.split("/")[1])
            changed |= {config.name} if config is not None else set()
    if update.nodes_changed:
        update.nodes.extend(node_messages(view))
    for name in sorted(changed if not names else changed & names):
        config = view.topics.get(name)
        if config is None:
            update.removed.append(name)
        else:
            update.topics.append(topic_routing(view, config))
    return update
