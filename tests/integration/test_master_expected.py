"""What whoever runs the nodes tells the master: which there should be, and what it drains."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest

from integration.test_master import Cluster, failure, topic
from mom_broker.master.intents import INTENTS_PREFIX
from mom_broker.storage.memory import MemoryStore
from mom_core.catalog import NodeState
from mom_core.errors import InvalidArgumentError, NotFoundError
from mom_process.system import SystemClock
from mom_proto.v1 import master_pb2, types_pb2


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    store = MemoryStore(SystemClock())
    async with Cluster(store) as one:
        yield one
    await store.close()


def expect(**racks: str) -> master_pb2.ExpectNodesRequest:
    return master_pb2.ExpectNodesRequest(
        nodes=[
            master_pb2.ExpectedNode(node_id=node_id, rack=rack) for node_id, rack in racks.items()
        ]
    )


async def test_expected_nodes_that_are_not_there_are_named(cluster: Cluster) -> None:
    stub = cluster.stub((master := await cluster.leader()).address)
    node = await cluster.node("a", master)
    assert (await stub.ExpectNodes(expect(a="", b=""))).missing == ["b"]
    await cluster.node("b", master)
    await cluster.until(lambda: cluster.state_of("b") is NodeState.ACTIVE)
    assert (await stub.ExpectNodes(expect(a="", b=""))).missing == []
    await node.break_off()
    await cluster.until(lambda: cluster.state_of("a") is NodeState.LOST)
    shown = await stub.GetCluster(master_pb2.GetClusterRequest())
    assert shown.nodes_missing == ["a"]
    assert (await stub.ExpectNodes(expect())).missing == []


async def test_a_rack_that_the_node_does_not_know_comes_from_outside(cluster: Cluster) -> None:
    stub = cluster.stub((master := await cluster.leader()).address)
    await cluster.node("a", master)
    await cluster.node("b", master, rack="own")
    await stub.ExpectNodes(expect(a="east", b="west", c="east"))
    assert cluster.view.nodes["a"].rack == "east"
    assert cluster.view.nodes["b"].rack == "own"
    await cluster.node("c", master)
    await cluster.until(lambda: "c" in cluster.view.nodes)
    assert cluster.view.nodes["c"].rack == "east"


@pytest.mark.parametrize("told_first", [True, False])
async def test_a_drained_node_that_is_expected_no_more_is_forgotten(
    cluster: Cluster, told_first: bool
) -> None:
    stub = cluster.stub((master := await cluster.leader()).address)
    node = await cluster.node("a", master)
    await cluster.node("b", master)
    await stub.CreateTopic(topic("orders", partitions=4))
    await stub.ExpectNodes(expect(a="", b=""))
    drain = master_pb2.SetNodeStateRequest(node_id="a", state="draining", by="operator")
    assert (await stub.SetNodeState(drain)).node.state_by == "operator"
    await cluster.until(lambda: cluster.owner_ids("orders") == {"b"})
    await node.leave()
    if told_first:
        await stub.ExpectNodes(expect(b=""))
    await node.break_off()
    if not told_first:
        await cluster.until(lambda: cluster.state_of("a") is NodeState.LOST)
        await stub.ExpectNodes(expect(b=""))
    await cluster.until(lambda: cluster.state_of("a") is None)
    assert not await cluster.store.list(INTENTS_PREFIX)
    await cluster.node("a", master, incarnation=2)
    await cluster.until(lambda: cluster.state_of("a") is NodeState.ACTIVE)


async def test_who_drained_a_node_is_known_after_its_restart_and_the_leaders(
    cluster: Cluster,
) -> None:
    first = await cluster.leader()
    node = await cluster.node("a", first)
    drain = master_pb2.SetNodeStateRequest(node_id="a", state="draining", by="operator")
    await cluster.stub(first.address).SetNodeState(drain)
    await node.break_off()
    await first.stop()
    second = await cluster.leader()
    await cluster.node("a", second, incarnation=2)
    await cluster.until(lambda: cluster.state_of("a") is NodeState.DRAINING)
    shown = await cluster.stub(second.address).ListNodes(master_pb2.ListNodesRequest())
    assert [one.state_by for one in shown.nodes] == ["operator"]


async def test_who_drained_a_node_is_known_while_it_restarts_in_good_order(
    cluster: Cluster,
) -> None:
    """So that the operator knows which of the nodes that are away it is renewing."""
    master = await cluster.leader()
    stub = cluster.stub(master.address)
    nodes = [await cluster.node(node_id, master) for node_id in "ab"]
    await stub.ExpectNodes(expect(a="", b=""))
    drain = master_pb2.SetNodeStateRequest(node_id="a", state="draining", by="operator")
    await stub.SetNodeState(drain)
    await nodes[0].leave()
    await nodes[0].break_off()
    await cluster.until(lambda: cluster.state_of("a") is NodeState.LOST)
    shown = (await stub.ListNodes(master_pb2.ListNodesRequest())).nodes
    assert {one.node_id: one.state_by for one in shown} == {"a": "operator", "b": ""}


async def test_expected_nodes_outlive_the_leader(cluster: Cluster) -> None:
    first = await cluster.leader()
    await cluster.stub(first.address).ExpectNodes(expect(a="east"))
    await first.stop()
    second = await cluster.leader()
    shown = await cluster.stub(second.address).GetCluster(master_pb2.GetClusterRequest())
    assert shown.nodes_missing == ["a"]


async def test_subscriptions_are_altered_and_listed_with_their_topics(cluster: Cluster) -> None:
    stub = cluster.stub((await cluster.leader()).address)
    await stub.CreateTopic(topic("orders"))
    wanted = types_pb2.Subscription(
        topic="orders", name="mail", mode=types_pb2.SUBSCRIPTION_MODE_QUEUE
    )
    await stub.CreateSubscription(master_pb2.CreateSubscriptionRequest(subscription=wanted))
    patch = json.dumps({"lease_ms": "45s"}).encode()
    request = master_pb2.AlterSubscriptionRequest(topic="orders", name="mail", merge_patch=patch)
    assert (await stub.AlterSubscription(request)).subscription.queue.lease_ms == 45_000
    listed = await stub.ListTopics(master_pb2.ListTopicsRequest(with_subscriptions=True))
    assert [(one.topic, one.name, one.queue.lease_ms) for one in listed.subscriptions] == [
        ("orders", "mail", 45_000)
    ]
    assert not (await stub.ListTopics(master_pb2.ListTopicsRequest())).subscriptions
    request.merge_patch = b'{"mode": "stream"}'
    assert isinstance(await failure(stub.AlterSubscription(request)), InvalidArgumentError)
    request.name = "none"
    assert isinstance(await failure(stub.AlterSubscription(request)), NotFoundError)
