"""The control plane's keys: what the store knows besides messages.

======================================  ============================================  ============
key                                     value                                         written by
======================================  ============================================  ============
``cluster``                             :class:`ClusterRecord`                        first master
``leader``                              :class:`LeaderRecord`                         the leader
``nodes/<node_id>``                     :class:`NodeRecord`                           the leader
``topics/<name>``                       ``TopicConfig``                               the leader
``assignments/<topic_id>``              :class:`Assignment`                           leader, owners
``subscriptions/<topic_id>/<name>``     ``SubscriptionConfig``                        the leader
``intents/<node_id>``                   what an administrator wants of a node         the leader
``expected``                            which nodes there should be                   the leader
``operations/<topic_id>/<id>``          ``OperationRecord``                           nodes
``tokens/<token_id>``                   ``TokenRecord``                               the leader
======================================  ============================================  ============

An assignment is written under the revision it was read at. The leader moves partitions by it; an
owner may raise the epoch of its own partition, to claim it again after its own restart or the
store's, so nothing waits on a master.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, TypeVar

import msgspec

RecordT = TypeVar("RecordT")

CLUSTER_KEY: Final = "cluster"
LEADER_KEY: Final = "leader"
LEADER_LEASE: Final = "leader"
NODES_PREFIX: Final = "nodes/"
TOPICS_PREFIX: Final = "topics/"
ASSIGNMENTS_PREFIX: Final = "assignments/"
SUBSCRIPTIONS_PREFIX: Final = "subscriptions/"
TOKENS_PREFIX: Final = "tokens/"
OPERATIONS_PREFIX: Final = "operations/"


class NodeState(StrEnum):
    """Whether a node may hold partitions."""

    ACTIVE = "active"
    CORDONED = "cordoned"
    """Keeps what it has and gets nothing new."""
    DRAINING = "draining"
    """Is to have none."""
    LOST = "lost"
    """Silent or gone: its partitions went elsewhere."""


class ClusterRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Made once for each store."""

    cluster_id: str
    """32 hex digits."""
    created_at_ms: int
    version: str


class LeaderRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The leading master. Holding the lease named LEADER_LEASE is what makes it so."""

    master_id: str
    address: str
    token: int
    """The lease's fencing token."""


class NodeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A node as the leader knows it."""

    node_id: str
    address: str
    rack: str = ""
    state: NodeState = NodeState.ACTIVE
    state_by: str = ""
    """The program that brought it into this state; empty: a person, or nobody."""
    incarnation: int = 0
    registered_at_ms: int = 0


class Owner(msgspec.Struct, frozen=True, array_like=True):
    """Who owns a partition; an empty node id is nobody."""

    node_id: str
    epoch: int


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """The owners of a topic's partitions, in the order of the partition index."""

    topic_id: str
    owners: tuple[Owner, ...]


def encode(record: msgspec.Struct) -> bytes:
    """A record as the store keeps it: JSON, so that a person can read a store."""
    return msgspec.json.encode(record)


def decode(data: bytes, kind: type[RecordT]) -> RecordT:
    """The record that :func:`encode` wrote."""
    return msgspec.json.decode(data, type=kind)


def node_key(node_id: str) -> str:
    """Where a node's record stands."""
    return NODES_PREFIX + node_id


def topic_key(name: str) -> str:
    """Where a topic's or queue's settings stand."""
    return TOPICS_PREFIX + name


def assignment_key(topic_id: str) -> str:
    """Where a topic's owners stand."""
    return ASSIGNMENTS_PREFIX + topic_id


def subscription_key(topic_id: str, name: str) -> str:
    """Where a subscription's settings stand."""
    return f"{SUBSCRIPTIONS_PREFIX}{topic_id}/{name}"


def token_key(token_id: str) -> str:
    """Where a token's record stands."""
    return TOKENS_PREFIX + token_id


def operation_key(topic_id: str, operation_id: str) -> str:
    """Where an operation's record stands."""
    return f"{OPERATIONS_PREFIX}{topic_id}/{operation_id}"
