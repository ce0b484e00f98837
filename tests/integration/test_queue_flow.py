"""Rate limits, turns by a header, and the watchdog of queues that stand still, over sockets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

import mom_client
from integration.broker_process import BrokerProcess
from integration.node_cluster import (
    TOPIC,
    NodeCluster,
    encoded,
    node_cluster,
    produce_request,
    receive_request,
    settle_request,
    values,
)
from integration.test_delivery_rules import take
from integration.test_receive_stream import QUEUE, Stream, connected, put, readers
from mom_broker.storage.memory import MemoryStore
from mom_core import limits, topics
from mom_core.message import Message
from mom_process.system import SystemClock
from mom_proto.v1 import broker_pb2
from polling import until

NODES = 2


@pytest.fixture(scope="module")
def broker() -> Iterator[BrokerProcess]:
    with BrokerProcess(NODES) as process:
        yield process


@pytest.fixture
async def cluster() -> AsyncIterator[NodeCluster]:
    store = MemoryStore(SystemClock())
    await store.open()
    async with node_cluster(store, ["n1", "n2"]) as running:
        yield running
    await store.close()


def seconds_at_least(messages: int, rate_per_s: float, buckets: int) -> float:
    """How long it takes at the least until so many have come, with a bucket on each node."""
    share_per_s = rate_per_s / buckets
    burst = buckets * max(1.0, share_per_s * limits.RATE_BUCKET_MS / 1000)
    return (messages - burst) / rate_per_s


# Rates.


async def test_a_rate_holds_over_workers_partitions_and_nodes(client: mom_client.Client) -> None:
    await client.create_queue("limited", partitions=4, rate_per_s="3000/m")
    for partition in range(4):
        await client.publish_many("limited", [b"x"] * 15, partition=partition)
    begun, seen, done = time.monotonic(), 0, asyncio.Event()

    async def pushed() -> None:
        nonlocal seen
        async with client.consume("limited") as worker:
            async for _ in worker:
                worker.ack()
                seen += 1
                if seen == 60:
                    done.set()

    async def polled() -> None:
        nonlocal seen
        while True:
            messages = await client.receive("limited", 10, wait=20)
            seen += len(messages)
            await client.ack(messages)
            if seen == 60:
                done.set()

    workers = [asyncio.create_task(one()) for one in (pushed, pushed, polled, polled)]
    await asyncio.wait_for(done.wait(), 60)
    assert time.monotonic() - begun >= seconds_at_least(60, 50, NODES)
    for one in workers:
        one.cancel()
    await asyncio.gather(*workers, return_exceptions=True)


async def test_a_rate_can_be_changed_and_taken_away(client: mom_client.Client) -> None:
    await client.create_queue("altered", rate_per_s="1/h")
    await client.publish_many("altered", [b"x"] * 30)
    assert len(await client.receive("altered", 30)) == 1
    waiting = asyncio.create_task(client.receive("altered", 30, wait=50))
    await client.alter("altered", rate_per_s=0)
    assert await waiting, "who waits for the rate is woken"


async def test_what_was_given_back_does_not_count(cluster: NodeCluster) -> None:
    await cluster.create(QUEUE, owners=["n1"], rate_per_s="1/h")
    await put(cluster, (0, [b"a", b"b"]))
    stub = cluster.stub("n1")
    got = await stub.Receive(receive_request(5))
    assert values(got.batches) == [b"a"]
    assert not (await stub.Receive(receive_request(5))).batches
    release = broker_pb2.SETTLE_ACTION_RELEASE
    await stub.Settle(settle_request(got.batches, release))
    assert values((await stub.Receive(receive_request(5))).batches) == [b"a"]


async def test_a_takeover_is_no_burst(cluster: NodeCluster) -> None:
    await cluster.create(QUEUE, owners=["n1", "n1"], rate_per_s=5)
    await put(cluster, (0, [b"x"] * 12), (1, [b"x"] * 12))
    begun, seen, moves = time.monotonic(), 0, 0
    async with connected(cluster) as client:
        while seen < 12:
            if seen > 2 * moves:
                moves += 1
                await cluster.assign(["n2", "n2"] if moves % 2 else ["n1", "n1"])
            messages = await client.receive("orders", 5, wait=20)
            seen += len(messages)
            await client.ack(messages)
    assert moves >= 5
    # One bucket, before the first move. The others began empty.
    assert time.monotonic() - begun >= seconds_at_least(12, 5, 1)


async def test_one_node_lends_its_partitions_the_whole_rate(cluster: NodeCluster) -> None:
    await cluster.create(QUEUE, owners=["n1"] * 8, rate_per_s=40)
    await put(cluster, (3, [b"x"] * 30))  # Only one partition has messages.
    begun, seen = time.monotonic(), 0
    stub = cluster.stub("n1")
    while seen < 30:
        seen += len(values((await stub.Receive(receive_request(30, wait_ms=20_000))).batches))
    assert time.monotonic() - begun >= seconds_at_least(30, 40, 1)


# Turns.


async def test_a_noisy_tenant_delays_another_by_two_messages(client: mom_client.Client) -> None:
    await client.create_queue("fair", ordering="fair", fair_by="header:tenant")
    noisy = [Message(b"noisy", b"%d" % one, {"tenant": "noisy"}) for one in range(20_000)]
    await client.publish_many("fair", noisy)
    await take(client, "fair", 3)
    await client.publish("fair", b"quiet", headers={"tenant": "quiet"})
    assert b"quiet" in [one.value for one in await take(client, "fair", 2)]


async def test_dead_letters_are_shared_by_their_header_too(client: mom_client.Client) -> None:
    dead = {"ordering": "fair", "fair_by": "header:tenant"}
    await client.create_queue("origin.dlq", **dead)
    await client.create_queue("origin", dead_letter="origin.dlq", max_deliveries=1)
    for tenant in ("noisy", "noisy", "noisy", "quiet"):
        await client.publish("origin", tenant, headers={"tenant": tenant})
    failed = 0
    while failed < 4:
        messages = await client.receive("origin", 4, wait=20)
        await client.nack(messages)
        failed += len(messages)
    await until(lambda: _has_ready(client, "origin.dlq", 4), "all are among the dead letters")
    assert "quiet" in [one.text() for one in await client.receive("origin.dlq", 2)]


async def test_redriven_dead_letters_take_turns_where_they_go(client: mom_client.Client) -> None:
    fair = {"ordering": "fair", "fair_by": "header:tenant"}
    await client.create_queue("again", dead_letter="again.dlq", max_deliveries=1, **fair)
    for tenant in ("noisy", "noisy", "noisy", "quiet"):
        await client.publish("again", tenant, headers={"tenant": tenant})
    failed = 0
    while failed < 4:
        messages = await client.receive("again", 4, wait=20)
        await client.nack(messages)
        failed += len(messages)
    await until(lambda: _has_ready(client, "again.dlq", 4), "all are among the dead letters")
    await client.redrive("again.dlq", wait=True)
    await until(lambda: _has_ready(client, "again", 4), "all are back")
    assert "quiet" in [one.text() for one in await take(client, "again", 2)]


async def test_a_header_that_is_named_later_holds_for_what_comes_then(
    client: mom_client.Client,
) -> None:
    await client.create_topic("shared")
    await client.publish("shared", b"before", headers={"tenant": "a"})
    settings = {"mode": "queue", "ordering": "fair", "fair_by": "header:tenant"}
    await client._run(lambda engine: engine.create_subscription("shared", "work", settings))

    async def knows() -> bool:
        snapshot = await client._run(_routing)
        return "work" in snapshot.topics["shared"].subscriptions

    await until(knows, "the producer knows of the subscription")
    for _ in range(30):
        await client.publish("shared", b"noisy", headers={"tenant": "noisy"})
    await client.publish("shared", b"quiet", headers={"tenant": "quiet"})
    first = []
    for _ in range(3):
        (message,) = await client.receive("shared", 1, subscription="work", wait=20)
        first.append(message.value)
    assert sorted(first) == [b"before", b"noisy", b"quiet"]


async def _routing(engine: Any) -> Any:
    return engine.routing()


async def test_turns_outlive_a_move(cluster: NodeCluster) -> None:
    await cluster.create(QUEUE, owners=["n1"], ordering="fair", fair_by="header:tenant")
    async with connected(cluster) as client:
        for value in (b"noisy", b"noisy", b"noisy", b"quiet"):
            await client.publish("orders", value, headers={"tenant": value.decode()})
        await cluster.assign(["n2"])
        first = [(await client.receive("orders", 1, wait=20))[0].value for _ in range(2)]
    assert sorted(first) == [b"noisy", b"quiet"]


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"fair_by": "header:tenant"}, "fair_by"),
        ({"fair_by": "tenant", "ordering": "fair"}, "fair_by"),
        ({"fair_by": "header:", "ordering": "fair"}, "fair_by"),
        ({"rate_per_s": "fast"}, "rate_per_s"),
        ({"rate_per_s": -1}, "rate_per_s"),
        ({"rate_per_s": 1e9}, "rate_per_s"),
    ],
)
async def test_settings_that_make_no_sense_are_refused(
    client: mom_client.Client, settings: dict[str, object], field: str
) -> None:
    with pytest.raises(mom_client.InvalidArgumentError) as caught:
        await client.create_queue("refused", **settings)
    assert caught.value.field == field


async def test_what_has_turns_can_not_change(client: mom_client.Client) -> None:
    await client.create_queue("settled", ordering="fair", fair_by="header:tenant")
    with pytest.raises(mom_client.InvalidArgumentError, match="can't change"):
        await client.alter("settled", fair_by="key")


async def test_a_topic_shares_by_one_header(client: mom_client.Client) -> None:
    await client.create_topic("agreed")

    async def subscribe(name: str, fair_by: str) -> None:
        settings = {"mode": "queue", "ordering": "fair", "fair_by": fair_by}
        await client._run(lambda engine: engine.create_subscription("agreed", name, settings))

    await subscribe("one", "header:tenant")
    await subscribe("two", "header:tenant")
    await subscribe("three", "key")
    with pytest.raises(mom_client.ConflictError, match="header 'tenant' already"):
        await subscribe("four", "header:customer")


async def _has_ready(client: mom_client.Client, queue: str, count: int) -> bool:
    partitions = await client._run(lambda engine: engine.describe(queue))
    return sum(one.ready for each in partitions for one in each.subscriptions) >= count


# The watchdog.


@pytest.fixture
def quick_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stall shows after a moment; lease and session are as short as they may be."""
    monkeypatch.setattr("mom_broker.node.stalls.STALLED_AFTER_MS", 200)
    monkeypatch.setattr("mom_broker.node.stalls.STALL_LOOK_MS", 50)


async def _stalled_since(cluster: NodeCluster, node_id: str = "n1") -> list[int]:
    reply = await cluster.stub(node_id).DescribePartitions(
        broker_pb2.DescribePartitionsRequest(topic_id=TOPIC)
    )
    return [one.stalled_since_ms for each in reply.partitions for one in each.subscriptions]


async def _counted_stalls(cluster: NodeCluster) -> list[int]:
    reply = await cluster.stub("n1").CountMessages(broker_pb2.CountMessagesRequest())
    return [one.stalled_since_ms for one in reply.totals]


async def _until_stalled(cluster: NodeCluster, stalled: bool) -> None:
    async def holds() -> bool:
        return any(await _stalled_since(cluster)) is stalled

    await until(holds, f"stalled is {stalled}")


def gauge(cluster: NodeCluster) -> float:
    value = cluster.nodes["n1"].registry.get_sample_value("mom_node_stalled_subscriptions")
    assert value is not None
    return value


async def test_a_worker_that_hangs_is_a_stall(cluster: NodeCluster, quick_watch: None) -> None:
    await cluster.create(QUEUE, owners=["n1"], lease_ms=1_000)
    await put(cluster, (0, [b"a", b"b"]))
    stream = await Stream(cluster, "n1", lease_ms=60_000).begin(1)
    response = await stream.next()  # It handles this one, and never comes back.
    before_ms = time.time() * 1000
    await _until_stalled(cluster, True)
    assert gauge(cluster) == 1
    (since_ms,) = await _stalled_since(cluster)
    assert since_ms <= before_ms + 60_000
    assert await _counted_stalls(cluster) == [since_ms], "what the operator asks about"
    await cluster.stub("n1").Settle(settle_request(response.batches, broker_pb2.SETTLE_ACTION_ACK))
    await _until_stalled(cluster, False)
    await until(lambda: gauge(cluster) == 0, "the node has seen it")


async def test_a_queue_without_workers_or_messages_is_no_stall(
    cluster: NodeCluster, quick_watch: None
) -> None:
    await cluster.create(QUEUE, owners=["n1", "n1"], lease_ms=1_000)
    await Stream(cluster, "n1").begin(5)
    await until(lambda: len(readers(cluster, "n1")) == 2, "the node has seen it")
    watch = cluster.nodes["n1"]._stalls
    for reader in readers(cluster, "n1"):
        reader.look_for_stall(0)
        assert reader.stalled_since_ms == 0, "it waits for messages"
    await watch.look()
    assert watch.stalled == {}
    await cluster.assign(["n2", "n2"])  # Where nobody has a stream.
    await put(cluster, (0, [b"a"]))
    await until(
        lambda: any(one.counts().ready for one in readers(cluster, "n2")), "the node has seen it"
    )
    for reader in readers(cluster, "n2"):
        reader.look_for_stall(0)
        assert reader.stalled_since_ms == 0, "nobody works on it"


async def test_a_member_that_commits_nothing_is_a_stall(
    cluster: NodeCluster, quick_watch: None
) -> None:
    reading = topics.new_subscription(
        "reading", "orders", {"session_ms": 1_000}, created_at_ms=1, secret=bytes(32)
    )
    await cluster.create(owners=["n1", "n2"], subscriptions=[reading])
    stub = cluster.stub("n1")
    await stub.Produce(produce_request((1, encoded([b"a"]))))
    join = broker_pb2.AcquirePartitionsRequest(
        topic_id=TOPIC, subscription="reading", member_id="m1", session_ms=300_000
    )
    leases = (await stub.AcquirePartitions(join)).leases
    await _until_stalled(cluster, True)  # Partition 1 is another node's, and its end known by then.
    assert all(await _counted_stalls(cluster))
    commit = broker_pb2.OffsetCommit(
        partition=1, generation=next(one.generation for one in leases if one.partition == 1),
        offset=1,
    )  # fmt: skip
    await stub.CommitOffsets(
        broker_pb2.CommitOffsetsRequest(
            topic_id=TOPIC, subscription="reading", member_id="m1", commits=[commit]
        )
    )
    await _until_stalled(cluster, False)
