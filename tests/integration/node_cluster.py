"""Nodes over one store without a master: the test itself writes the assignments."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc

from mom_broker.node.app import Node
from mom_broker.node.settings import NodeSettings
from mom_core import batch, catalog, topics
from mom_core.catalog import Assignment, NodeRecord, Owner
from mom_core.message import Message
from mom_core.ports import KeyWrite, Store
from mom_process.system import SystemClock, SystemRandom
from mom_proto.v1 import broker_pb2, broker_pb2_grpc, types_pb2

TOPIC_ID = "0a" * 16
TOPIC = bytes.fromhex(TOPIC_ID)


class NodeCluster:
    """Nodes n1, n2, … that serve for real on loopback."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.nodes: dict[str, Node] = {}
        self._channels: list[grpc.aio.Channel] = []
        self._epoch = 0
        self._owners: list[Owner] = []

    async def add_node(self, node_id: str) -> Node:
        """Start a node and make it known."""
        settings = NodeSettings(node_id=node_id, listen="127.0.0.1:0", open_to_all=True)
        node = Node(settings, self.store, SystemClock(), SystemRandom())
        await node.start()
        self.nodes[node_id] = node
        record = NodeRecord(node_id=node_id, address=node.address)
        await self.store.write([KeyWrite(catalog.node_key(node_id), catalog.encode(record))])
        return node

    async def create(
        self,
        kind: topics.TopicKind = topics.TopicKind.TOPIC,
        *,
        owners: Sequence[str],
        name: str = "orders",
        subscriptions: Sequence[topics.SubscriptionConfig] = (),
        **wanted: Any,
    ) -> topics.TopicConfig:
        """Create a topic or queue with a partition on each of ``owners``."""
        config = topics.new_topic(
            name, kind, wanted | {"partitions": len(owners)}, topic_id=TOPIC_ID, created_at_ms=1
        )
        configs = list(subscriptions)
        if kind is topics.TopicKind.QUEUE:
            configs.append(topics.queue_subscription(config, bytes(32)))
        writes = [KeyWrite(catalog.topic_key(name), topics.encode_topic(config))]
        writes += [
            KeyWrite(catalog.subscription_key(TOPIC_ID, one.name), topics.encode_subscription(one))
            for one in configs
        ]
        await self.store.write(writes)
        await self.assign(owners)
        return config

    async def assign(self, owners: Sequence[str]) -> None:
        """Give the partitions to these nodes under a new epoch, as a master does."""
        self._epoch += 100
        await self._write_owners([Owner(one, self._epoch) for one in owners])

    async def move(self, index: int, node_id: str) -> None:
        """Give one partition to another node, and leave the others where they are."""
        self._epoch += 100
        self._owners[index] = Owner(node_id, self._epoch)
        await self._write_owners(self._owners)

    async def _write_owners(self, owners: list[Owner]) -> None:
        self._owners = owners
        assignment = Assignment(topic_id=TOPIC_ID, owners=tuple(owners))
        key = catalog.assignment_key(TOPIC_ID)
        await self.store.write([KeyWrite(key, catalog.encode(assignment))])

    def stub(self, node_id: str) -> broker_pb2_grpc.BrokerAsyncStub:
        """A client of one node."""
        channel = grpc.aio.insecure_channel(self.nodes[node_id].address)
        self._channels.append(channel)
        return broker_pb2_grpc.BrokerStub(channel)

    async def close(self) -> None:
        """End clients and nodes."""
        for channel in self._channels:
            await channel.close()
        for node in self.nodes.values():
            await node.stop(drain=False)


@asynccontextmanager
async def node_cluster(store: Store, node_ids: Sequence[str]) -> AsyncIterator[NodeCluster]:
    """A cluster of these nodes over an open store."""
    cluster = NodeCluster(store)
    try:
        for node_id in node_ids:
            await cluster.add_node(node_id)
        yield cluster
    finally:
        await cluster.close()


def encoded(values: Sequence[bytes], **options: Any) -> bytes:
    """A batch of these values."""
    builder = batch.BatchBuilder()
    for value in values:
        builder.add(Message(value), None)
    return builder.build(base_id=bytes(16), timestamp_ms=1, **options)


def partition(index: int) -> types_pb2.Partition:
    """A partition of the one topic."""
    return types_pb2.Partition(topic_id=TOPIC, index=index)


def produce_request(*batches: tuple[int, bytes]) -> broker_pb2.ProduceRequest:
    """Batches for partitions."""
    return broker_pb2.ProduceRequest(
        batches=[
            broker_pb2.ProduceBatch(partition=partition(index), batch=data)
            for index, data in batches
        ]
    )


def fetch_request(index: int, offset: int, **options: Any) -> broker_pb2.FetchRequest:
    """Read one partition from an offset."""
    return broker_pb2.FetchRequest(
        partitions=[broker_pb2.FetchPartition(partition=partition(index), offset=offset)], **options
    )


def receive_request(messages_max: int, name: str = "orders", **options: Any) -> Any:
    """Receive from the queue of the same name as the topic."""
    return broker_pb2.ReceiveRequest(
        topic_id=TOPIC, subscription=name, max_messages=messages_max, **options
    )


def settle_request(
    leased: Sequence[broker_pb2.LeasedBatch], action: int, name: str = "orders", delay_ms: int = 0
) -> broker_pb2.SettleRequest:
    """Settle everything that was leased."""
    return broker_pb2.SettleRequest(
        topic_id=TOPIC,
        subscription=name,
        ranges=[
            broker_pb2.SettleRange(
                partition=one.partition.index,
                first_offset=one.base_offset,
                count=batch.parse_header(one.batch).count,
                lease_id=one.lease_id,
                action=action,  # type: ignore[arg-type]
                delay_ms=delay_ms,
            )
            for one in leased
        ],
    )


def values(batches: Sequence[Any]) -> list[bytes]:
    """The values in read or leased batches."""
    return [message.value for one in batches for message in batch.decode(one.batch)]
