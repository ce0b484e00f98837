"""The routing table that clients see, from the control plane as this process sees it."""

from __future__ import annotations

from collections.abc import Iterable

from mom_broker.rpc import messages
from mom_broker.storage.catalog_view import CatalogView
from mom_core.catalog import (
    ASSIGNMENTS_PREFIX,
    NODES_PREFIX,
    SUBSCRIPTIONS_PREFIX,
    TOPICS_PREFIX,
)
from mom_core.topics import TopicConfig
from mom_proto.v1 import broker_pb2


def topic_routing(view: CatalogView, config: TopicConfig) -> broker_pb2.TopicRouting:
    """A topic with its owners and subscriptions."""
    found = view.assignments.get(config.topic_id)
    return broker_pb2.TopicRouting(
        topic=messages.topic_message(config),
        owners=messages.owner_messages(config, found.assignment if found is not None else None),
        subscriptions=[
            messages.subscription_message(one)
            for _, one in sorted(view.subscriptions.get(config.topic_id, {}).items())
        ],
    )


def node_messages(view: CatalogView) -> list[broker_pb2.NodeInfo]:
    """All nodes with the number of partitions placed on each."""
    placed = messages.partitions_by_node(one.assignment for one in view.assignments.values())
    return messages.node_messages(view.nodes, placed)


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
