"""Masters serve the routing table as nodes do: a master's address is enough to begin with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from typing import Any

import grpc
import pytest

import mom_client
from mom_broker.master.app import Master
from mom_broker.master.settings import MasterSettings
from mom_broker.node.app import Node
from mom_broker.node.settings import NodeSettings
from mom_broker.rpc.errors import from_rpc_error
from mom_broker.storage.memory import MemoryStore
from mom_core.errors import ErrorCode, MomError
from mom_process.system import SystemClock, SystemRandom
from mom_proto.v1 import broker_pb2, broker_pb2_grpc, master_pb2, master_pb2_grpc, types_pb2

WAIT_S_MAX = 15.0
CLUSTER_TOKEN = "the-cluster-token-of-the-tests"
ADMIN = (("authorization", f"Bearer {CLUSTER_TOKEN}"),)


class Cluster:
    """Masters and nodes over one store in memory. The first master leads."""

    def __init__(self, **access: Any) -> None:
        self._access = access or {"open_to_all": True}
        self._store = MemoryStore(SystemClock())
        self._stack = AsyncExitStack()
        self.masters: list[Master] = []

    async def __aenter__(self) -> Cluster:
        self._stack.push_async_callback(self._store.close)
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self._stack.aclose()

    async def add_master(self) -> Master:
        """Start a master; the first one leads when this returns."""
        settings = MasterSettings(listen="127.0.0.1:0", **self._access)
        master = Master(settings, self._store, SystemClock(), SystemRandom())
        await master.start()
        self._stack.push_async_callback(master.stop)
        if not self.masters:
            async with asyncio.timeout(WAIT_S_MAX):
                await master.until_leading()
        self.masters.append(master)
        return master

    async def add_node(self, node_id: str) -> Node:
        """Start a node that registers with all masters there are."""
        settings = NodeSettings(
            node_id=node_id,
            listen="127.0.0.1:0",
            masters=tuple(master.address for master in self.masters),
            **self._access,
        )
        node = Node(settings, self._store, SystemClock(), SystemRandom())
        await node.start()
        self._stack.push_async_callback(node.stop, drain=False)
        return node

    async def channel(self, address: str) -> grpc.aio.Channel:
        """A connection of a client."""
        channel = grpc.aio.insecure_channel(address)
        self._stack.push_async_callback(channel.close)
        return channel

    async def broker(self, address: str) -> broker_pb2_grpc.BrokerAsyncStub:
        """The Broker service at an address."""
        return broker_pb2_grpc.BrokerStub(await self.channel(address))


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with Cluster() as one:
        yield one


async def table(
    broker: broker_pb2_grpc.BrokerAsyncStub, metadata: Any = None
) -> broker_pb2.RoutingUpdate:
    """The first update of a stream."""
    call = broker.WatchRouting(broker_pb2.WatchRoutingRequest(), metadata=metadata)
    try:
        async with asyncio.timeout(WAIT_S_MAX):
            update = await call.read()
        assert isinstance(update, broker_pb2.RoutingUpdate)
        return update
    finally:
        call.cancel()


async def failure(call: Any) -> MomError:
    """The error that a call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


@pytest.mark.parametrize("index", [0, 1], ids=["leader", "standby"])
async def test_a_master_alone_is_enough_to_begin_with(cluster: Cluster, index: int) -> None:
    for _ in range(2):
        await cluster.add_master()
    for node_id in ("n0", "n1"):
        await cluster.add_node(node_id)
    async with mom_client.connect(cluster.masters[index].address) as client:
        await client.create_topic("orders", partitions=4)
        await client.publish_many("orders", [f"{number}" for number in range(100)])
        read = sorted([int(one.text()) async for one in client.read("orders")])
        assert read == list(range(100))
        # The stream's process goes: another one is found in the table.
        await cluster.masters[index].stop()
        await client.publish("orders", "100")
        assert len([one async for one in client.read("orders")]) == 101


async def test_leaders_standbys_and_nodes_tell_the_same(cluster: Cluster) -> None:
    leader = await cluster.add_master()
    standby = await cluster.add_master()
    node = await cluster.add_node("n0")
    async with mom_client.connect(node.address) as client:
        await client.create_topic("orders", partitions=4)
    updates = [
        await table(await cluster.broker(address))
        for address in (leader.address, standby.address, node.address)
    ]
    assert [update.from_master for update in updates] == [True, True, False]
    for update in updates:
        update.from_master = False
    assert updates[0] == updates[1] == updates[2]
    assert updates[0].master_address == leader.address
    assert [one.topic.name for one in updates[0].topics] == ["orders"]


async def test_changes_are_told_by_a_master(cluster: Cluster) -> None:
    leader = await cluster.add_master()
    await cluster.add_master()
    broker = await cluster.broker(cluster.masters[1].address)
    master = master_pb2_grpc.MasterStub(await cluster.channel(leader.address))
    async with asyncio.timeout(WAIT_S_MAX):
        call = broker.WatchRouting(broker_pb2.WatchRoutingRequest())
        assert (await call.read()).full
        topic = types_pb2.Topic(name="orders", partitions=2)
        await master.CreateTopic(master_pb2.CreateTopicRequest(topic=topic))
        update = await call.read()
        assert not update.full
        assert [one.topic.name for one in update.topics] == ["orders"]
        call.cancel()


async def test_a_master_shows_only_what_the_caller_may_see() -> None:
    async with Cluster(cluster_token=CLUSTER_TOKEN) as cluster:
        master = await cluster.add_master()
        channel = await cluster.channel(master.address)
        admin = master_pb2_grpc.MasterStub(channel)
        for name in ("orders", "private"):
            topic = types_pb2.Topic(name=name, partitions=1)
            await admin.CreateTopic(master_pb2.CreateTopicRequest(topic=topic), metadata=ADMIN)
        made = await admin.CreateToken(
            master_pb2.CreateTokenRequest(name="reader", scopes=["read:orders"]), metadata=ADMIN
        )
        reader = (("authorization", f"Bearer {made.secret}"),)
        broker = broker_pb2_grpc.BrokerStub(channel)
        assert (await failure(table(broker))).code is ErrorCode.UNAUTHENTICATED
        shown = await table(broker, reader)
        assert [one.topic.name for one in shown.topics] == ["orders"]
        shown = await table(broker, ADMIN)
        assert [one.topic.name for one in shown.topics] == ["orders", "private"]
        # Nor are the names told of what was deleted and could not be seen.
        call = broker.WatchRouting(broker_pb2.WatchRoutingRequest(), metadata=reader)
        assert (await call.read()).full
        for name in ("private", "orders"):
            request = master_pb2.DeleteTopicRequest(name=name)
            await admin.DeleteTopic(request, metadata=ADMIN)
        removed: list[str] = []
        async with asyncio.timeout(WAIT_S_MAX):
            while "orders" not in removed:
                removed += (await call.read()).removed
        assert removed == ["orders"]
        call.cancel()


@pytest.mark.parametrize(
    "method",
    [
        m.name
        for m in broker_pb2.DESCRIPTOR.services_by_name["Broker"].methods
        if m.name != "WatchRouting"
    ],
)
async def test_a_master_says_where_the_other_calls_go(cluster: Cluster, method: str) -> None:
    master = await cluster.add_master()
    channel = await cluster.channel(master.address)
    error = await failure(sent(channel, method))
    assert error.code is ErrorCode.NOT_OWNER
    assert "no node is registered" in error.message
    assert error.retry_after_ms
    node = await cluster.add_node("n0")
    broker = broker_pb2_grpc.BrokerStub(channel)
    async with asyncio.timeout(WAIT_S_MAX):
        call = broker.WatchRouting(broker_pb2.WatchRoutingRequest())
        while not (await call.read()).nodes:
            pass
        call.cancel()
    error = await failure(sent(channel, method))
    assert method in error.message
    assert node.address in error.message
    assert error.details["nodes"] == node.address


async def sent(channel: grpc.aio.Channel, method: str) -> object:
    """Call a Broker method with an empty request and wait for its end."""
    path = f"/mom.v1.Broker/{method}"
    if method != "Subscribe":
        return await channel.unary_unary(path)(b"")

    async def requests() -> AsyncIterator[bytes]:
        yield b""

    async with aclosing(aiter(channel.stream_stream(path)(requests()))) as replies:
        return [reply async for reply in replies]
