"""Masters with minimal nodes that speak the real RegisterNode stream, over a store in memory.

Nothing here sleeps to wait for something: each test follows the control plane by a view of its own
and goes on when the view shows what it waits for.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, suppress

import grpc
import pytest

from mom_broker.master.app import Master
from mom_broker.master.deletions import DELETIONS_PREFIX
from mom_broker.master.settings import MasterSettings
from mom_broker.rpc.errors import from_rpc_error
from mom_broker.storage.catalog_view import CatalogView
from mom_broker.storage.memory import MemoryStore
from mom_broker.storage.open import store_from_url
from mom_core import catalog
from mom_core.cadence import Cadence
from mom_core.catalog import LEADER_KEY, LEADER_LEASE, LeaderRecord, NodeState, Owner
from mom_core.errors import (
    ConflictError,
    ErrorCode,
    ForbiddenError,
    InvalidArgumentError,
    MomError,
    NotFoundError,
    RoutingError,
)
from mom_core.limits import HEARTBEAT_INTERVAL_MS, LEADER_LEASE_MS
from mom_core.names import PartitionId
from mom_core.ports import KeyWrite, Store
from mom_process.system import SystemClock, SystemRandom
from mom_proto.v1 import broker_pb2, master_pb2, master_pb2_grpc, types_pb2
from redis_server import RedisServer

# Nothing times out with it: what happens, happens because it was seen or said. How long losses cost
# is tested in virtual time, in tests/simulation/test_takeover_times.py.
PATIENT = Cadence(heartbeat_timeout_ms=600_000, leader_lease_ms=600_000)
WAIT_S_MAX = 15.0
CLUSTER_TOKEN = "the-cluster-token-of-the-tests"


class FakeNode:
    """Registers with a master and sends heartbeats until told otherwise."""

    def __init__(self, node_id: str, address: str, *, rack: str = "", incarnation: int = 1) -> None:
        self.node_id = node_id
        self.registered = asyncio.Event()
        self.drained = asyncio.Event()
        self.error: MomError | None = None
        self._node = broker_pb2.NodeInfo(node_id=node_id, address="127.0.0.1:1", rack=rack)
        self._incarnation = incarnation
        self._leaving = False
        self._silent = False
        self._beat = asyncio.Event()
        self._channel = grpc.aio.insecure_channel(address)
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        call = master_pb2_grpc.MasterStub(self._channel).RegisterNode(self._beats())
        try:
            async for beat in call:
                self.registered.set()
                if self._leaving and beat.partitions_placed == 0:
                    self.drained.set()
        except grpc.aio.AioRpcError as error:
            self.error = from_rpc_error(error)

    async def _beats(self) -> AsyncIterator[master_pb2.NodeBeat]:
        yield master_pb2.NodeBeat(node=self._node, incarnation=self._incarnation)
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._beat.wait(), HEARTBEAT_INTERVAL_MS / 1000)
            self._beat.clear()
            if not self._silent:
                yield master_pb2.NodeBeat(incarnation=self._incarnation, leaving=self._leaving)

    def fall_silent(self) -> None:
        """Keep the stream and send nothing, as a machine that lost its power."""
        self._silent = True

    def speak(self) -> None:
        """Send heartbeats again."""
        self._silent = False
        self._beat.set()

    async def leave(self) -> None:
        """Ask to be drained and wait for it."""
        self._leaving = True
        self._beat.set()
        await self.drained.wait()

    async def ended(self) -> None:
        """Wait for the master to end the stream."""
        await self._task

    async def break_off(self) -> None:
        """End the stream, as a killed process does."""
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        await self._channel.close()


async def leads(master: Master) -> None:
    """Wait until the master leads."""
    async with asyncio.timeout(WAIT_S_MAX):
        await master.until_leading()


class Cluster:
    """Masters and fake nodes over one store."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.view = CatalogView(store, SystemClock())
        self._stack = AsyncExitStack()
        self._stubs: dict[str, master_pb2_grpc.MasterStub] = {}

    async def __aenter__(self) -> Cluster:
        await self.view.start()
        self._stack.push_async_callback(self.view.close)
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self._stack.aclose()

    async def master(self, **settings: object) -> Master:
        return await self.master_over(self.store, **settings)

    async def master_over(self, store: object, **settings: object) -> Master:
        chosen = {"listen": "127.0.0.1:0", "open_to_all": True} | settings
        master = Master(
            MasterSettings(**chosen),  # type: ignore[arg-type]
            store,  # type: ignore[arg-type]
            SystemClock(),
            SystemRandom(),
        )
        await master.start()
        self._stack.push_async_callback(master.stop)
        return master

    async def leader(self, **settings: object) -> Master:
        master = await self.master(**settings)
        await leads(master)
        return master

    async def node(self, node_id: str, master: Master, **settings: object) -> FakeNode:
        node = self.new_node(node_id, master, **settings)
        await node.registered.wait()
        return node

    def new_node(self, node_id: str, master: Master, **settings: object) -> FakeNode:
        node = FakeNode(node_id, master.address, **settings)  # type: ignore[arg-type]
        self._stack.push_async_callback(node.break_off)
        return node

    def stub(self, address: str) -> master_pb2_grpc.MasterStub:
        if address not in self._stubs:
            channel = grpc.aio.insecure_channel(address)
            self._stack.push_async_callback(channel.close)
            self._stubs[address] = master_pb2_grpc.MasterStub(channel)
        return self._stubs[address]

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until the control plane makes it true."""
        async with asyncio.timeout(WAIT_S_MAX):
            while not holds():
                await self.view.changed()

    def owners(self, name: str) -> list[Owner]:
        topic = self.view.topics.get(name)
        found = self.view.assignments.get(topic.topic_id) if topic is not None else None
        return list(found.assignment.owners) if found is not None else []

    def owner_ids(self, name: str) -> set[str]:
        return {owner.node_id for owner in self.owners(name)}

    def state_of(self, node_id: str) -> NodeState | None:
        node = self.view.nodes.get(node_id)
        return node.state if node is not None else None


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    store = MemoryStore(SystemClock())
    async with Cluster(store) as one:
        yield one
    await store.close()


async def failure(call: grpc.aio.UnaryUnaryCall[object, object]) -> MomError:
    """The error that a call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


def topic(name: str, **settings: object) -> master_pb2.CreateTopicRequest:
    return master_pb2.CreateTopicRequest(
        topic=types_pb2.Topic(name=name, **settings)  # type: ignore[arg-type]
    )


# Placement.


async def test_a_topic_is_placed_over_all_nodes_at_its_creation(cluster: Cluster) -> None:
    master = await cluster.leader()
    for node_id in "abc":
        await cluster.node(node_id, master)
    reply = await cluster.stub(master.address).CreateTopic(topic("orders", partitions=6))
    assert reply.created
    shown = await cluster.stub(master.address).GetTopic(master_pb2.GetTopicRequest(name="orders"))
    assert sorted(owner.node_id for owner in shown.owners) == list("aabbcc")
    assert all(owner.epoch == 1 for owner in shown.owners)
    assert shown.owners[0].hash_first == 0
    assert shown.owners[5].hash_last == (1 << 32) - 1


async def test_a_topic_without_nodes_is_placed_when_one_comes(cluster: Cluster) -> None:
    master = await cluster.leader()
    await cluster.stub(master.address).CreateTopic(topic("orders", partitions=2))
    assert cluster.owner_ids("orders") <= {""}
    await cluster.node("a", master)
    await cluster.until(lambda: cluster.owners("orders") == [Owner("a", 1)] * 2)


async def test_a_new_node_gets_its_share_and_no_more_moves(cluster: Cluster) -> None:
    master = await cluster.leader()
    await cluster.node("a", master)
    await cluster.node("b", master)
    await cluster.stub(master.address).CreateTopic(topic("orders", partitions=6))
    before = cluster.owners("orders")
    await cluster.node("c", master)
    await cluster.until(lambda: "c" in cluster.owner_ids("orders"))
    after = cluster.owners("orders")
    moved = [new for old, new in zip(before, after, strict=True) if old != new]
    assert moved == [Owner("c", 2)] * 2


async def test_a_broken_stream_moves_partitions_under_higher_epochs(cluster: Cluster) -> None:
    master = await cluster.leader(cadence=PATIENT)
    nodes = [await cluster.node(node_id, master) for node_id in "ab"]
    await cluster.stub(master.address).CreateTopic(topic("orders", partitions=4))
    await nodes[0].break_off()
    await cluster.until(lambda: cluster.owner_ids("orders") == {"b"})
    assert sorted(owner.epoch for owner in cluster.owners("orders")) == [1, 1, 2, 2]
    assert cluster.state_of("a") is NodeState.LOST


async def test_a_node_that_comes_back_at_once_keeps_its_partitions(cluster: Cluster) -> None:
    master = await cluster.leader()
    nodes = [await cluster.node(node_id, master) for node_id in "ab"]
    await cluster.stub(master.address).CreateTopic(topic("orders", partitions=4))
    before = cluster.owners("orders")
    await nodes[0].break_off()
    await cluster.node("a", master, incarnation=2)
    await cluster.until(lambda: cluster.view.nodes["a"].incarnation == 2)
    # The next node lost is a proof that the time for "a" has passed as well.
    await nodes[1].break_off()
    await cluster.until(lambda: cluster.owner_ids("orders") == {"a"})
    after = cluster.owners("orders")
    assert [one for one in after if one.epoch == 1] == [one for one in before if one.node_id == "a"]


async def test_silence_is_loss_and_a_voice_is_return(cluster: Cluster) -> None:
    master = await cluster.leader()
    nodes = [await cluster.node(node_id, master) for node_id in "ab"]
    await cluster.stub(master.address).CreateTopic(topic("orders", partitions=4))
    nodes[0].fall_silent()
    await cluster.until(lambda: cluster.owner_ids("orders") == {"b"})
    assert cluster.state_of("a") is NodeState.LOST
    nodes[0].speak()
    await cluster.until(lambda: cluster.owner_ids("orders") == {"a", "b"})
    assert cluster.state_of("a") is NodeState.ACTIVE


async def test_a_leaving_node_is_drained_and_forgotten(cluster: Cluster) -> None:
    master = await cluster.leader()
    nodes = [await cluster.node(node_id, master) for node_id in "ab"]
    await cluster.stub(master.address).CreateTopic(topic("orders", partitions=4))
    await nodes[0].leave()
    await cluster.until(lambda: cluster.owner_ids("orders") == {"b"})
    await nodes[0].break_off()
    await cluster.until(lambda: cluster.state_of("a") is None)


async def test_the_last_node_leaves_without_waiting_and_finds_its_partitions_again(
    cluster: Cluster,
) -> None:
    master = await cluster.leader()
    node = await cluster.node("a", master)
    await cluster.stub(master.address).CreateTopic(topic("orders", partitions=4))
    before = cluster.owners("orders")
    await node.leave()
    await node.break_off()
    await cluster.until(lambda: cluster.state_of("a") is NodeState.LOST)
    shown = await cluster.stub(master.address).GetCluster(master_pb2.GetClusterRequest())
    assert (shown.partitions, shown.partitions_without_owner) == (4, 4)
    await cluster.node("a", master, incarnation=2)
    await cluster.until(lambda: cluster.state_of("a") is NodeState.ACTIVE)
    assert cluster.owners("orders") == before


async def test_a_cordon_outlives_the_node(cluster: Cluster) -> None:
    master = await cluster.leader()
    nodes = [await cluster.node(node_id, master) for node_id in "ab"]
    stub = cluster.stub(master.address)
    reply = await stub.SetNodeState(master_pb2.SetNodeStateRequest(node_id="a", state="cordoned"))
    assert reply.node.state == "cordoned"
    await stub.CreateTopic(topic("orders", partitions=4))
    await cluster.until(lambda: cluster.owner_ids("orders") == {"b"})
    await nodes[0].break_off()
    await cluster.until(lambda: cluster.state_of("a") is NodeState.LOST)
    await cluster.node("a", master, incarnation=2)
    await cluster.until(lambda: cluster.state_of("a") is NodeState.CORDONED)
    error = await failure(
        stub.SetNodeState(master_pb2.SetNodeStateRequest(node_id="z", state="active"))
    )
    assert isinstance(error, NotFoundError)
    error = await failure(
        stub.SetNodeState(master_pb2.SetNodeStateRequest(node_id="a", state="lost"))
    )
    assert (error.code, error.field) == (ErrorCode.INVALID_ARGUMENT, "state")


async def test_a_second_process_under_one_id_replaces_the_first(cluster: Cluster) -> None:
    master = await cluster.leader()
    first = await cluster.node("a", master)
    await cluster.node("a", master, incarnation=2)
    await first.ended()
    assert isinstance(first.error, ConflictError)


# Leading.


async def test_the_other_master_answers_who_leads(cluster: Cluster) -> None:
    leader = await cluster.leader()
    other = await cluster.master()
    error = await failure(cluster.stub(other.address).CreateTopic(topic("orders")))
    assert isinstance(error, RoutingError)
    assert (error.code, error.details) == (ErrorCode.NOT_LEADER, {"leader": leader.address})
    assert (leader.ready()[0], other.ready()) == (True, (True, "stands by"))


async def test_a_leader_that_stops_hands_over_at_once(cluster: Cluster) -> None:
    leader = await cluster.leader(cadence=PATIENT)
    node = await cluster.node("a", leader)
    other = await cluster.master()
    await leader.stop()
    await leads(other)
    await node.ended()
    assert isinstance(node.error, RoutingError)
    assert cluster.view.leader is not None
    assert cluster.view.leader.address == other.address


async def test_a_leader_that_is_cut_off_steps_down_before_another_leads(
    cluster: Cluster,
) -> None:
    clock = SystemClock()
    cut_off = _CutOff(cluster.store)
    first = Master(
        MasterSettings(listen="127.0.0.1:0", open_to_all=True),
        cut_off,  # type: ignore[arg-type]
        clock,
        SystemRandom(),
    )
    await first.start()
    await leads(first)
    second = await cluster.master()
    cut_off.connected.clear()
    await leads(second)
    assert not first.leading
    error = await failure(cluster.stub(first.address).CreateTopic(topic("orders")))
    assert error.code is ErrorCode.NOT_LEADER
    cut_off.connected.set()
    await first.stop()


async def test_a_node_that_registers_while_a_term_ends_is_sent_on(cluster: Cluster) -> None:
    """Its record was being written, or it had not yet said who it is: no leader awaits it."""
    cut_off = _CutOff(cluster.store)
    master = await cluster.master_over(cut_off)
    await leads(master)
    known = await cluster.node("b", master)
    term_ended = _ends_of_terms(master)
    introduced = asyncio.Event()

    async def late() -> AsyncIterator[master_pb2.NodeBeat]:
        await introduced.wait()
        node = broker_pb2.NodeInfo(node_id="b", address="127.0.0.1:1")
        yield master_pb2.NodeBeat(node=node, incarnation=1)
        await known.ended()

    call = cluster.stub(master.address).RegisterNode(late())
    cut_off.connected.clear()
    node = cluster.new_node("a", master)
    await cut_off.node_write_begun.wait()
    await term_ended.wait()
    cut_off.leases.clear()
    cut_off.connected.set()
    await node.ended()
    introduced.set()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    for error in (node.error, from_rpc_error(caught.value)):
        assert isinstance(error, RoutingError)
        assert error.code is ErrorCode.NOT_LEADER
    cut_off.leases.set()


def _ends_of_terms(master: Master) -> asyncio.Event:
    ended = asyncio.Event()
    end_term = master._nodes.end_term

    def noted(error: MomError) -> None:
        end_term(error)
        ended.set()

    master._nodes.end_term = noted  # type: ignore[method-assign]
    return ended


class _CutOff:
    """A store whose leases and writes hang while it is cut off."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.connected = asyncio.Event()
        self.connected.set()
        self.leases = asyncio.Event()
        self.leases.set()
        self.node_write_begun = asyncio.Event()
        """The write of a node's record has begun and hangs."""

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    async def acquire_lease(self, *arguments: object) -> object:
        await self.connected.wait()
        await self.leases.wait()
        return await self._store.acquire_lease(*arguments)  # type: ignore[arg-type]

    async def write(self, writes: Sequence[KeyWrite], *more: object) -> int:
        if not self.connected.is_set() and any(
            one.key.startswith(catalog.NODES_PREFIX) for one in writes
        ):
            self.node_write_begun.set()
        await self.connected.wait()
        return await self._store.write(writes, *more)  # type: ignore[arg-type]


async def test_a_deposed_leader_writes_nothing_more(cluster: Cluster) -> None:
    """Also when it has not noticed yet: the store refuses it by the leader's signature."""
    master = await cluster.leader()
    holder = (await cluster.store.acquire_lease(LEADER_LEASE, "another", LEADER_LEASE_MS)).holder
    await cluster.store.release_lease(LEADER_LEASE, holder)
    grant = await cluster.store.acquire_lease(LEADER_LEASE, "another", 10 * LEADER_LEASE_MS)
    assert grant.holder == "another" != holder
    usurper = LeaderRecord(master_id="another", address="127.0.0.1:9", token=grant.token)
    await cluster.store.write([KeyWrite(LEADER_KEY, catalog.encode(usurper))])
    error = await failure(cluster.stub(master.address).CreateTopic(topic("orders")))
    assert error.code is ErrorCode.NOT_LEADER
    assert await cluster.store.list("topics/") == ()


async def test_a_new_leader_gives_nodes_time_to_come(cluster: Cluster) -> None:
    leader = await cluster.leader()
    nodes = [await cluster.node(node_id, leader) for node_id in "ab"]
    await cluster.stub(leader.address).CreateTopic(topic("orders", partitions=4))
    before = cluster.owners("orders")
    other = await cluster.master()
    await leader.stop()
    await leads(other)
    for node in nodes:
        await node.ended()
    await cluster.node("a", other)
    assert cluster.owners("orders") == before
    # "b" never comes, and is found lost after its time.
    await cluster.until(lambda: cluster.owner_ids("orders") == {"a"})
    kept = [one for one in before if one.node_id == "a"]
    assert [one for one in cluster.owners("orders") if one.epoch == 1] == kept


# Administration.


async def test_creating_again_is_no_error_and_another_is_a_conflict(cluster: Cluster) -> None:
    stub = cluster.stub((await cluster.leader()).address)
    first = await stub.CreateTopic(topic("orders", partitions=3))
    again = await stub.CreateTopic(topic("orders"))
    assert (again.created, again.topic) == (False, first.topic)
    error = await failure(stub.CreateTopic(topic("orders", partitions=4)))
    assert isinstance(error, ConflictError)
    assert json.loads(error.details["differences"]) == {"partitions": {"existing": 3, "wanted": 4}}
    kind = types_pb2.TOPIC_KIND_QUEUE
    assert isinstance(await failure(stub.CreateTopic(topic("orders", kind=kind))), ConflictError)


async def test_a_0_that_is_asked_for_is_none_that_is_left_out(cluster: Cluster) -> None:
    stub = cluster.stub((await cluster.leader()).address)
    kept = await stub.CreateTopic(topic("kept", retention_ms=0))
    assert kept.topic.HasField("retention_ms")
    assert kept.topic.retention_ms == 0
    assert (await stub.CreateTopic(topic("other"))).topic.retention_ms > 0
    error = await failure(stub.CreateTopic(topic("other", retention_ms=0)))
    assert error.field == "retention_ms"
    assert not (await stub.CreateTopic(topic("kept"))).created
    for field, wanted in (
        ("partitions", {"partitions": 0}),
        ("lease_ms", {"queue": {"lease_ms": 1_000}}),
    ):
        error = await failure(stub.CreateTopic(topic("none", **wanted)))
        assert (error.code, error.field) == (ErrorCode.INVALID_ARGUMENT, field)
    subscription = types_pb2.Subscription(topic="kept", name="s", session_ms=0)
    request = master_pb2.CreateSubscriptionRequest(subscription=subscription)
    assert (await failure(stub.CreateSubscription(request))).field == "session_ms"


async def test_two_creations_at_once_make_one_topic(cluster: Cluster) -> None:
    stub = cluster.stub((await cluster.leader()).address)
    replies = await asyncio.gather(*(stub.CreateTopic(topic("orders")) for _ in range(8)))
    assert sum(reply.created for reply in replies) == 1
    assert len({reply.topic.topic_id for reply in replies}) == 1


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (topic("bad name"), "name"),
        (topic("orders", partitions=1_025), "partitions"),
        (topic("orders", message_bytes_max=1 << 30), "message_bytes_max"),
        (topic("orders", queue={"lease_ms": 5_000}), "lease_ms"),
    ],
)
async def test_bad_settings_name_the_field(
    cluster: Cluster, request_: master_pb2.CreateTopicRequest, field: str
) -> None:
    error = await failure(cluster.stub((await cluster.leader()).address).CreateTopic(request_))
    assert (type(error), error.field) == (InvalidArgumentError, field)


async def test_a_queue_comes_with_its_subscription_and_takes_no_other(cluster: Cluster) -> None:
    stub = cluster.stub((await cluster.leader()).address)
    await stub.CreateTopic(
        topic("mail", kind=types_pb2.TOPIC_KIND_QUEUE, queue={"lease_ms": 5_000})
    )
    shown = await stub.GetTopic(master_pb2.GetTopicRequest(name="mail"))
    assert [(one.name, one.queue.lease_ms) for one in shown.subscriptions] == [("mail", 5_000)]
    patch = master_pb2.AlterTopicRequest(name="mail", merge_patch=b'{"lease_ms": "7s"}')
    assert (await stub.AlterTopic(patch)).topic.queue.lease_ms == 7_000
    shown = await stub.GetTopic(master_pb2.GetTopicRequest(name="mail"))
    assert shown.subscriptions[0].queue.lease_ms == 7_000
    other = types_pb2.Subscription(topic="mail", name="other")
    request = master_pb2.CreateSubscriptionRequest(subscription=other)
    assert isinstance(await failure(stub.CreateSubscription(request)), InvalidArgumentError)


async def test_partitions_grow_with_owners_and_never_shrink(cluster: Cluster) -> None:
    master = await cluster.leader()
    await cluster.node("a", master)
    stub = cluster.stub(master.address)
    await stub.CreateTopic(topic("orders", partitions=2))
    grow = master_pb2.AlterTopicRequest(name="orders", merge_patch=b'{"partitions": 5}')
    assert (await stub.AlterTopic(grow)).topic.partitions == 5
    assert cluster.owners("orders") == [Owner("a", 1)] * 5
    shrink = master_pb2.AlterTopicRequest(name="orders", merge_patch=b'{"partitions": 1}')
    assert (await failure(stub.AlterTopic(shrink))).field == "partitions"
    broken = master_pb2.AlterTopicRequest(name="orders", merge_patch=b"{")
    assert (await failure(stub.AlterTopic(broken))).field == "merge_patch"


async def test_an_owner_that_raised_its_epoch_hinders_no_alteration(cluster: Cluster) -> None:
    master = await cluster.leader()
    await cluster.node("a", master)
    stub = cluster.stub(master.address)
    await stub.CreateTopic(topic("orders"))
    found = cluster.view.assignments[cluster.view.topics["orders"].topic_id]
    raised = catalog.Assignment(topic_id=found.assignment.topic_id, owners=(Owner("a", 7),))
    key = catalog.assignment_key(raised.topic_id)
    await cluster.store.write([KeyWrite(key, catalog.encode(raised), found.revision)])
    grow = master_pb2.AlterTopicRequest(name="orders", merge_patch=b'{"partitions": 2}')
    await stub.AlterTopic(grow)
    assert cluster.owners("orders") == [Owner("a", 7), Owner("a", 1)]


async def test_deleting_drops_everything(cluster: Cluster) -> None:
    stub = cluster.stub((await cluster.leader()).address)
    created = await stub.CreateTopic(topic("mail", kind=types_pb2.TOPIC_KIND_QUEUE, partitions=2))
    wrong = master_pb2.DeleteTopicRequest(name="mail", kind=types_pb2.TOPIC_KIND_TOPIC)
    assert isinstance(await failure(stub.DeleteTopic(wrong)), NotFoundError)
    await stub.DeleteTopic(master_pb2.DeleteTopicRequest(name="mail"))
    for prefix in ("topics/", "assignments/", "subscriptions/"):
        assert await cluster.store.list(prefix) == ()
    while await cluster.store.list(DELETIONS_PREFIX):
        await cluster.view.changed()
    with pytest.raises(NotFoundError):
        await cluster.store.claim(PartitionId(created.topic.topic_id.hex(), 1), 9)
    again = await stub.CreateTopic(topic("mail"))
    assert again.topic.topic_id != created.topic.topic_id


async def test_a_deletion_that_its_leader_left_is_finished_by_the_next(cluster: Cluster) -> None:
    topic_id = "0" * 31 + "1"
    partition = PartitionId(topic_id, 0)
    await cluster.store.claim(partition, 1)
    record = b'{"topic_id": "%s", "partitions": 1}' % topic_id.encode()
    await cluster.store.write([KeyWrite(DELETIONS_PREFIX + topic_id, record)])
    await cluster.leader()
    while await cluster.store.list(DELETIONS_PREFIX):
        await cluster.view.changed()
    with pytest.raises(NotFoundError):
        await cluster.store.claim(partition, 2)


async def test_subscriptions_come_and_go(cluster: Cluster) -> None:
    stub = cluster.stub((await cluster.leader()).address)
    await stub.CreateTopic(topic("orders"))
    wanted = types_pb2.Subscription(
        topic="orders", name="mail", mode=types_pb2.SUBSCRIPTION_MODE_QUEUE, start="latest"
    )
    request = master_pb2.CreateSubscriptionRequest(subscription=wanted)
    assert (await stub.CreateSubscription(request)).created
    assert not (await stub.CreateSubscription(request)).created
    wanted.start = "earliest"
    request = master_pb2.CreateSubscriptionRequest(subscription=wanted)
    assert isinstance(await failure(stub.CreateSubscription(request)), ConflictError)
    gone = master_pb2.DeleteSubscriptionRequest(topic="orders", name="mail")
    await stub.DeleteSubscription(gone)
    assert isinstance(await failure(stub.DeleteSubscription(gone)), NotFoundError)


async def test_topics_are_listed_in_pages(cluster: Cluster) -> None:
    stub = cluster.stub((await cluster.leader()).address)
    names = [f"topic-{number}" for number in range(5)]
    for name in names:
        await stub.CreateTopic(topic(name))
    await stub.CreateTopic(topic("a-queue", kind=types_pb2.TOPIC_KIND_QUEUE))
    seen: list[str] = []
    token = ""
    while True:
        request = master_pb2.ListTopicsRequest(
            kind=types_pb2.TOPIC_KIND_TOPIC, limit=2, page_token=token
        )
        page = await stub.ListTopics(request)
        seen += [one.name for one in page.topics]
        token = page.next_page_token
        if not token:
            break
    assert seen == names
    error = await failure(stub.ListTopics(master_pb2.ListTopicsRequest(page_token="?")))
    assert error.field == "page_token"


async def test_the_byte_budget_of_the_store() -> None:
    store = MemoryStore(SystemClock(), capacity_bytes=1 << 30)
    async with Cluster(store) as cluster:
        stub = cluster.stub((await cluster.leader()).address)
        await stub.CreateTopic(topic("small", partitions=4, retention_bytes=100 << 20))
        error = await failure(stub.CreateTopic(topic("large", partitions=8)))
        assert error.field == "retention_bytes"
        shown = await stub.GetCluster(master_pb2.GetClusterRequest())
        assert shown.store_limit_bytes == 1 << 30
        assert shown.store_engine == "memory"
        assert shown.durability == types_pb2.DURABILITY_MEMORY
    await store.close()


async def test_the_cluster_keeps_its_id(cluster: Cluster) -> None:
    leader = await cluster.leader()
    shown = await cluster.stub(leader.address).GetCluster(master_pb2.GetClusterRequest())
    assert len(shown.cluster_id) == 16
    other = await cluster.master()
    await leader.stop()
    await leads(other)
    again = await cluster.stub(other.address).GetCluster(master_pb2.GetClusterRequest())
    assert again.cluster_id == shown.cluster_id
    assert again.master_address == other.address


async def test_tokens_and_what_they_allow(cluster: Cluster) -> None:
    master = await cluster.master(open_to_all=False, cluster_token=CLUSTER_TOKEN)
    await leads(master)
    stub = cluster.stub(master.address)
    admin = (("authorization", f"Bearer {CLUSTER_TOKEN}"),)
    assert (await failure(stub.CreateTopic(topic("orders")))).code is ErrorCode.UNAUTHENTICATED
    for name in ("orders", "private"):
        await stub.CreateTopic(topic(name), metadata=admin)
    request = master_pb2.CreateTokenRequest(name="reader", scopes=["read:orders"])
    made = await stub.CreateToken(request, metadata=admin)
    reader = (("authorization", f"Bearer {made.secret}"),)
    listed = await stub.ListTopics(master_pb2.ListTopicsRequest(), metadata=reader)
    assert [one.name for one in listed.topics] == ["orders"]
    error = await failure(stub.CreateTopic(topic("more"), metadata=reader))
    assert isinstance(error, ForbiddenError)
    tokens = await stub.ListTokens(master_pb2.ListTokensRequest(), metadata=admin)
    assert [one.name for one in tokens.tokens] == ["reader"]
    assert made.secret.encode() not in tokens.SerializeToString()
    revoke = master_pb2.RevokeTokenRequest(token_id=made.token.token_id)
    await stub.RevokeToken(revoke, metadata=admin)
    error = await failure(stub.ListTopics(master_pb2.ListTopicsRequest(), metadata=reader))
    assert error.code is ErrorCode.UNAUTHENTICATED


# Real processes over a real Redis.


class MasterProcess:
    """A ``mom-master`` of its own."""

    def __init__(self, url: str, name: str) -> None:
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "mom_broker.master.main"),
                *("--store", url, "--listen", "127.0.0.1:0", "--id", name, "--http-port", "-1"),
            ],
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"MOM_NAMESPACE": "takeover"},
        )
        self._lines: list[str] = []
        self._serving = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._lines.append(line)
            if "master serves" in line:
                self._serving.set()

    async def serves(self) -> None:
        """Wait until it has said where it serves."""
        assert await asyncio.to_thread(self._serving.wait, WAIT_S_MAX), "".join(self._lines)

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    async def wait(self) -> int:
        return await asyncio.to_thread(self._process.wait, WAIT_S_MAX)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        assert self._process.stderr is not None
        self._process.stderr.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "paused"])
async def test_a_leader_that_is_gone_is_replaced(redis_server: RedisServer, number: int) -> None:
    """A killed one's lease is released by whoever sees that it ended; a paused one's runs out."""
    clock = SystemClock()
    store = store_from_url(redis_server.url, clock, namespace="takeover")
    await store.open()
    masters = {name: MasterProcess(redis_server.url, name) for name in ("one", "two")}
    try:
        async with Cluster(store) as cluster:
            stubs = cluster.stub
            await cluster.until(lambda: cluster.view.leader is not None)
            leader = cluster.view.leader
            assert leader is not None
            await stubs(leader.address).CreateTopic(topic("orders", partitions=2))
            await both_serve(masters)
            masters[leader.master_id].signal(number)
            await cluster.until(lambda: cluster.view.leader not in (None, leader))
            following = cluster.view.leader
            assert following is not None
            shown = await stubs(following.address).GetTopic(
                master_pb2.GetTopicRequest(name="orders")
            )
            assert shown.topic.partitions == 2
            masters[following.master_id].signal(signal.SIGTERM)
            await cluster.until(lambda: cluster.view.leader is None)
            assert await masters[following.master_id].wait() == 0
    finally:
        for master in masters.values():
            master.end()
        await store.close()


async def both_serve(masters: dict[str, MasterProcess]) -> None:
    """Wait until each process has said where it serves."""
    for master in masters.values():
        await master.serves()
