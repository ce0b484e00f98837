"""Nodes over real sockets: the log, leases, moves, restarts, and input that is wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from integration.node_cluster import (
    TOPIC,
    NodeCluster,
    encoded,
    fetch_request,
    node_cluster,
    partition,
    produce_request,
    receive_request,
    settle_request,
    values,
)
from mom_broker.rpc.errors import from_rpc_error
from mom_broker.storage.memory import MemoryStore
from mom_broker.storage.sqlite import SqliteStore
from mom_core import topics
from mom_core.errors import ErrorCode, RoutingError, StaleEpochError
from mom_core.limits import MESSAGE_BYTES_MAX_DEFAULT
from mom_core.names import PartitionId
from mom_core.ports import TrimRule
from mom_process.system import SystemClock
from mom_process.wire_errors import from_proto
from mom_proto.v1 import broker_pb2

QUEUE = topics.TopicKind.QUEUE
ACK = broker_pb2.SETTLE_ACTION_ACK
NACK = broker_pb2.SETTLE_ACTION_NACK
EXTEND = broker_pb2.SETTLE_ACTION_EXTEND


@pytest.fixture
async def cluster() -> AsyncIterator[NodeCluster]:
    store = MemoryStore(SystemClock())
    await store.open()
    async with node_cluster(store, ["n1", "n2"]) as running:
        yield running
    await store.close()


async def test_what_is_produced_is_fetched_by_offset_and_time(cluster: NodeCluster) -> None:
    await cluster.create(owners=["n1"])
    stub = cluster.stub("n1")
    reply = await stub.Produce(
        produce_request((0, encoded([b"a", b"b"])), (0, encoded([b"c"])), (0, encoded([b"d"])))
    )
    assert [one.base_offset for one in reply.results] == [0, 2, 3]
    result = (await stub.Fetch(fetch_request(0, 1))).results[0]
    assert values(result.batches) == [b"a", b"b", b"c", b"d"], "whole batches"
    assert (result.start_offset, result.next_offset, result.high_watermark) == (1, 4, 4)
    at = broker_pb2.FetchPartition(
        partition=partition(0), timestamp_ms=result.batches[0].append_time_ms
    )
    by_time = (await stub.Fetch(broker_pb2.FetchRequest(partitions=[at]))).results[0]
    assert by_time.start_offset == 0
    latest = broker_pb2.FetchPartition(partition=partition(0), latest=True)
    at_end = (await stub.Fetch(broker_pb2.FetchRequest(partitions=[latest]))).results[0]
    assert (at_end.start_offset, len(at_end.batches)) == (4, 0)


async def test_a_long_poll_ends_when_a_message_comes(cluster: NodeCluster) -> None:
    await cluster.create(owners=["n1"])
    stub = cluster.stub("n1")
    polling = asyncio.ensure_future(_fetch(stub, fetch_request(0, 0, wait_ms=30_000)))
    await until(lambda: waiting_calls(cluster, "n1") == 1)
    await stub.Produce(produce_request((0, encoded([b"now"]))))
    assert values((await polling).results[0].batches) == [b"now"]


async def test_a_node_forwards_to_the_owner(cluster: NodeCluster) -> None:
    await cluster.create(QUEUE, owners=["n1", "n2"])
    stub = cluster.stub("n1")
    reply = await stub.Produce(produce_request((0, encoded([b"a"])), (1, encoded([b"b"]))))
    assert not any(one.HasField("error") for one in reply.results)
    fetched = (await stub.Fetch(fetch_request(1, 0))).results[0]
    assert values(fetched.batches) == [b"b"]
    got = await stub.Receive(receive_request(5, partitions=[1]))
    assert values(got.batches) == [b"b"]
    settled = await stub.Settle(settle_request(got.batches, ACK))
    assert not settled.results[0].failures


async def test_a_forwarded_call_is_not_passed_on_again(cluster: NodeCluster) -> None:
    await cluster.create(owners=["n2"])
    request = produce_request((0, encoded([b"a"])))
    request.forwarded = True
    result = (await cluster.stub("n1").Produce(request)).results[0]
    assert result.error.code == ErrorCode.NOT_OWNER
    assert from_proto(result.error).retriable


async def test_the_old_owner_can_write_nothing_after_a_move(cluster: NodeCluster) -> None:
    await cluster.create(owners=["n1"])
    await cluster.stub("n1").Produce(produce_request((0, encoded([b"before"]))))
    zombie = next(iter(cluster.nodes["n1"].ownership.owned.values())).log
    await cluster.assign(["n2"])
    await cluster.stub("n2").Produce(produce_request((0, encoded([b"after"]))))
    zombie.lost = None  # as if it had slept through the news
    landing = zombie.append(encoded([b"from the grave"]))
    with pytest.raises(StaleEpochError):
        await landing
    result = (await cluster.stub("n2").Fetch(fetch_request(0, 0))).results[0]
    assert values(result.batches) == [b"before", b"after"]


async def test_an_old_owner_sends_readers_that_are_ahead_of_it_on(cluster: NodeCluster) -> None:
    await cluster.create(owners=["n1"])
    await cluster.stub("n1").Produce(produce_request((0, encoded([b"before"]))))
    zombie = next(iter(cluster.nodes["n1"].ownership.owned.values())).log
    await cluster.assign(["n2"])
    await cluster.stub("n2").Produce(produce_request((0, encoded([b"after", b"and after"]))))
    zombie.lost = None  # as if it had slept through the news
    for offset in (2, 3):
        with pytest.raises(RoutingError) as caught:
            await zombie.read(offset, 1)
        assert caught.value.retriable
    result = (await cluster.stub("n2").Fetch(fetch_request(0, 4))).results[0]
    assert result.error.code == ErrorCode.OFFSET_OUT_OF_RANGE


async def test_a_lease_lives_on_with_the_next_owner(cluster: NodeCluster) -> None:
    await cluster.create(QUEUE, owners=["n1"])
    await cluster.stub("n1").Produce(produce_request((0, encoded([b"a", b"b", b"c"]))))
    got = await cluster.stub("n1").Receive(receive_request(2, lease_ms=60_000))
    assert values(got.batches) == [b"a", b"b"]
    await cluster.assign(["n2"])
    stub = cluster.stub("n2")
    rest = await stub.Receive(receive_request(10))
    assert values(rest.batches) == [b"c"], "no second live lease"
    settled = await stub.Settle(settle_request(got.batches, ACK))
    assert not settled.results[0].failures, "the old receipt is good at the new owner"
    again = await stub.Settle(settle_request(got.batches, ACK))
    failure = again.results[0].failures[0]
    assert (failure.error.code, failure.count) == (ErrorCode.ALREADY_SETTLED, 2)


async def test_leases_and_messages_survive_a_restart_without_master(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path, SystemClock())
    await store.open()
    async with node_cluster(store, ["n1"]) as cluster:
        await cluster.create(QUEUE, owners=["n1"])
        stub = cluster.stub("n1")
        await stub.Produce(produce_request((0, encoded([b"a", b"b"]))))
        got = await stub.Receive(receive_request(1, lease_ms=60_000))
    await store.close()
    store = SqliteStore(tmp_path, SystemClock())
    await store.open()
    async with node_cluster(store, ["n1"]) as cluster:
        stub = cluster.stub("n1")
        assert values((await stub.Receive(receive_request(9, wait_ms=5_000))).batches) == [b"b"]
        assert not (await stub.Settle(settle_request(got.batches, ACK))).results[0].failures
    await store.close()


async def test_a_request_for_one_leases_one(cluster: NodeCluster) -> None:
    await cluster.create(QUEUE, owners=["n1"] * 4)
    stub = cluster.stub("n1")
    await stub.Produce(produce_request(*((index, encoded([b"x"] * 5)) for index in range(4))))
    got = await stub.Receive(receive_request(1))
    assert len(values(got.batches)) == 1
    described = await stub.DescribePartitions(broker_pb2.DescribePartitionsRequest(topic_id=TOPIC))
    counts = [one.subscriptions[0] for one in described.partitions]
    assert sum(one.leased for one in counts) == 1
    assert sum(one.ready for one in counts) == 19


async def test_one_of_many_waiting_receives_gets_a_message(cluster: NodeCluster) -> None:
    await cluster.create(QUEUE, owners=["n1", "n1"])
    stub = cluster.stub("n1")
    receives = [
        asyncio.ensure_future(_receive(stub, receive_request(1, wait_ms=30_000))) for _ in range(5)
    ]
    await until(lambda: waiting_calls(cluster, "n1") == 5)
    await stub.Produce(produce_request((1, encoded([b"a", b"b"]))))
    done: set[asyncio.Future] = set()
    while len(done) < 2:
        more, _ = await asyncio.wait(receives, return_when=asyncio.FIRST_COMPLETED)
        done |= more
        receives = [one for one in receives if one not in done]
    assert sorted(value for one in done for value in values(one.result().batches)) == [b"a", b"b"]
    assert waiting_calls(cluster, "n1") == 3
    for one in receives:
        one.cancel()
    await asyncio.gather(*receives, return_exceptions=True)


async def test_a_nacked_message_wakes_a_waiting_receive(cluster: NodeCluster) -> None:
    await cluster.create(QUEUE, owners=["n1"])
    stub = cluster.stub("n1")
    await stub.Produce(produce_request((0, encoded([b"a"]))))
    got = await stub.Receive(receive_request(1, lease_ms=120_000))
    waiting = asyncio.ensure_future(_receive(stub, receive_request(1, wait_ms=55_000)))
    await until(lambda: waiting_calls(cluster, "n1") == 1)
    await stub.Settle(settle_request(got.batches, NACK, delay_ms=50))
    again = await asyncio.wait_for(waiting, 30)  # well before the poll's own end
    assert again.batches[0].deliveries == 2
    late = await stub.Settle(settle_request(got.batches, ACK))
    assert late.results[0].failures[0].error.code == ErrorCode.LEASE_LOST


async def test_an_expired_lease_goes_to_a_waiting_worker(cluster: NodeCluster) -> None:
    await cluster.create(QUEUE, owners=["n1"])
    stub = cluster.stub("n1")
    await stub.Produce(produce_request((0, encoded([b"a"]))))
    first = await stub.Receive(receive_request(1, lease_ms=1_000))
    second = await stub.Receive(receive_request(1, wait_ms=30_000))
    assert second.batches[0].deliveries == 2
    extended = await stub.Settle(settle_request(first.batches, EXTEND, delay_ms=5_000))
    assert extended.results[0].failures[0].error.code == ErrorCode.LEASE_LOST


async def test_a_receiver_that_vanishes_leaves_nothing_behind(cluster: NodeCluster) -> None:
    await cluster.create(QUEUE, owners=["n1"])
    stub = cluster.stub("n1")
    gone = stub.Receive(receive_request(1, wait_ms=30_000))
    await until(lambda: waiting_calls(cluster, "n1") == 1)
    gone.cancel()
    await until(lambda: waiting_calls(cluster, "n1") == 0)
    await stub.Produce(produce_request((0, encoded([b"a"]))))
    assert values((await stub.Receive(receive_request(1))).batches) == [b"a"]


async def test_bytes_bound_what_is_leased(cluster: NodeCluster) -> None:
    await cluster.create(QUEUE, owners=["n1"])
    stub = cluster.stub("n1")
    await stub.Produce(produce_request((0, encoded([bytes(1_000)] * 10))))
    got = await stub.Receive(receive_request(10, max_bytes=3_500))
    assert len(values(got.batches)) == 3
    rest = await stub.Receive(receive_request(10))
    assert len(values(rest.batches)) == 7
    assert rest.batches[0].deliveries == 1, "what did not fit was never delivered"


async def test_a_duplicate_batch_lands_once(cluster: NodeCluster) -> None:
    await cluster.create(owners=["n1"])
    stub = cluster.stub("n1")
    data = encoded([b"a"], producer_id=9, sequence=0)
    first = (await stub.Produce(produce_request((0, data)))).results[0]
    second = (await stub.Produce(produce_request((0, data)))).results[0]
    assert (second.base_offset, second.duplicate) == (first.base_offset, True)
    gap = encoded([b"c"], producer_id=9, sequence=2)
    refused = (await stub.Produce(produce_request((0, gap)))).results[0]
    assert refused.error.code == ErrorCode.OUT_OF_ORDER_SEQUENCE
    result = (await stub.Fetch(fetch_request(0, 0))).results[0]
    assert values(result.batches) == [b"a"]


@pytest.mark.parametrize(
    ("data", "code", "words"),
    [
        (b"no batch at all", ErrorCode.CORRUPT_BATCH, "at least 64 bytes"),
        (encoded([b"a"])[:-1] + b"?", ErrorCode.CORRUPT_BATCH, "checksum"),
        (
            encoded([bytes(MESSAGE_BYTES_MAX_DEFAULT + 100_000)]),
            ErrorCode.TOO_LARGE,
            "message_bytes_max",
        ),
    ],
)
async def test_a_bad_batch_hurts_no_other(
    cluster: NodeCluster, data: bytes, code: ErrorCode, words: str
) -> None:
    await cluster.create(owners=["n1"])
    reply = await cluster.stub("n1").Produce(
        produce_request((0, encoded([b"a"])), (0, data), (5, encoded([b"b"])), (0, encoded([b"c"])))
    )
    good, bad, no_partition, last = reply.results
    assert (good.base_offset, last.base_offset) == (0, 1)
    assert bad.error.code == code
    assert words in bad.error.message
    assert no_partition.error.code == ErrorCode.INVALID_ARGUMENT
    assert "partition 5 is out of range" in no_partition.error.message


async def test_offsets_that_can_not_be_read_say_what_can(cluster: NodeCluster) -> None:
    await cluster.create(owners=["n1"])
    stub = cluster.stub("n1")
    await stub.Produce(produce_request((0, encoded([b"a"])), (0, encoded([b"b"]))))
    past = (await stub.Fetch(fetch_request(0, 3))).results[0]
    assert past.error.code == ErrorCode.OFFSET_OUT_OF_RANGE
    owned = cluster.nodes["n1"].ownership.owned[PartitionId("0a" * 16, 0)]
    await owned.log.trim(TrimRule(before_offset=1))
    below = (await stub.Fetch(fetch_request(0, 0))).results[0]
    assert below.error.code == ErrorCode.OFFSET_TRIMMED
    assert below.error.details["log_start"] == "1"
    assert below.log_start == 1


async def test_unknown_things_are_named(cluster: NodeCluster) -> None:
    await cluster.create(owners=["n1"])
    stub = cluster.stub("n1")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Receive(receive_request(1, name="nobody"))
    error = from_rpc_error(caught.value)
    assert error.code is ErrorCode.NOT_FOUND
    assert "'nobody'" in error.message


async def test_a_full_queue_refuses_and_takes_again_after_acks(cluster: NodeCluster) -> None:
    await cluster.create(QUEUE, owners=["n1"], retention_bytes=1 << 20)
    stub = cluster.stub("n1")
    big = encoded([bytes(600_000)])
    assert not (await stub.Produce(produce_request((0, big)))).results[0].HasField("error")
    refused = (await stub.Produce(produce_request((0, big)))).results[0].error
    assert refused.code == ErrorCode.OVERLOADED
    assert refused.retry_after_ms > 0
    got = await stub.Receive(receive_request(1))
    await stub.Settle(settle_request(got.batches, ACK))
    owned = cluster.nodes["n1"].ownership.owned[PartitionId("0a" * 16, 0)]
    # The last batch always stays, so a second, small one lets the first go.
    await stub.Produce(produce_request((0, encoded([b"small"]))))
    await until(lambda: owned.log.size_bytes < 1_000)
    assert not (await stub.Produce(produce_request((0, big)))).results[0].HasField("error")


async def test_subscribe_streams_as_far_as_the_credit(cluster: NodeCluster) -> None:
    await cluster.create(owners=["n1"])
    stub = cluster.stub("n1")
    for _ in range(4):
        await stub.Produce(produce_request((0, encoded([bytes(1_000)]))))
    call = stub.Subscribe()
    start = broker_pb2.FetchPartition(partition=partition(0), earliest=True)
    await call.write(broker_pb2.SubscribeRequest(start=start, credit_bytes=1))
    first = await call.read()
    assert len(first.batches) == 1, "the first batch comes whatever its size"
    await call.write(broker_pb2.SubscribeRequest(credit_bytes=10_000))
    second = await call.read()
    assert second.next_offset == 4
    await stub.Produce(produce_request((0, encoded([b"later"]))))
    assert values((await call.read()).batches) == [b"later"]
    call.cancel()


async def test_a_stream_subscription_moves_partitions_one_at_a_time(cluster: NodeCluster) -> None:
    subscription = topics.new_subscription(
        "billing", "orders", {"start": "earliest"}, created_at_ms=2, secret=bytes(32)
    )
    await cluster.create(owners=["n1", "n2"], subscriptions=[subscription])
    stub = cluster.stub("n2")

    async def acquire(member: str) -> dict[int, broker_pb2.PartitionLease]:
        reply = await stub.AcquirePartitions(
            broker_pb2.AcquirePartitionsRequest(
                topic_id=TOPIC, subscription="billing", member_id=member
            )
        )
        return {one.partition: one for one in reply.leases}

    async def commit(member: str, lease: broker_pb2.PartitionLease, offset: int) -> str:
        reply = await stub.CommitOffsets(
            broker_pb2.CommitOffsetsRequest(
                topic_id=TOPIC,
                subscription="billing",
                member_id=member,
                commits=[
                    broker_pb2.OffsetCommit(
                        partition=lease.partition, generation=lease.generation, offset=offset
                    )
                ],
            )
        )
        return reply.results[0].code

    alone = await acquire("a")
    assert sorted(alone) == [0, 1]
    assert await acquire("b") == {}, "nothing is taken from who works on it"
    revoking = [one for one in (await acquire("a")).values() if one.revoking]
    assert len(revoking) == 1
    assert await commit("a", revoking[0], 7) == ""
    await stub.ReleasePartitions(
        broker_pb2.ReleasePartitionsRequest(
            topic_id=TOPIC,
            subscription="billing",
            member_id="a",
            partitions=[revoking[0].partition],
        )
    )
    taken = await acquire("b")
    assert [one.committed_offset for one in taken.values()] == [7]
    assert await commit("a", revoking[0], 9) == ErrorCode.FENCED, "a zombie's commit is refused"
    described = await stub.DescribePartitions(broker_pb2.DescribePartitionsRequest(topic_id=TOPIC))
    assert [(one.partition, one.node_id) for one in described.partitions] == [(1, "n2")]
    described = await cluster.stub("n1").DescribePartitions(
        broker_pb2.DescribePartitionsRequest(topic_id=TOPIC)
    )
    holders = {one.partition: one.subscriptions[0].member_id for one in described.partitions}
    assert holders == {one: "b" if one in taken else "a" for one in (0, 1)}
    await cluster.assign(["n2", "n1"])
    after = await acquire("b")
    assert after == taken, "the group lives on with the next coordinator"


async def test_routing_tells_topics_and_their_changes(cluster: NodeCluster) -> None:
    stream = cluster.stub("n1").WatchRouting(broker_pb2.WatchRoutingRequest())
    first = await stream.read()
    assert first.full
    assert {one.node_id for one in first.nodes} == {"n1", "n2"}
    await cluster.create(owners=["n1", "n2"])
    while not (update := await stream.read()).topics or not update.topics[0].owners[0].node_id:
        pass
    assert [one.node_id for one in update.topics[0].owners] == ["n1", "n2"]
    assert update.topics[0].owners[1].hash_first == 1 << 31
    stream.cancel()


async def _fetch(stub: Any, request: broker_pb2.FetchRequest) -> broker_pb2.FetchResponse:
    return await stub.Fetch(request)


async def _receive(stub: Any, request: broker_pb2.ReceiveRequest) -> broker_pb2.ReceiveResponse:
    return await stub.Receive(request)


def waiting_calls(cluster: NodeCluster, node_id: str) -> float:
    """Long polls at a node, by its own metric."""
    return cluster.nodes[node_id].registry.get_sample_value("mom_node_waiting_calls") or 0


async def until(holds: Callable[[], bool]) -> None:
    """Let the loop run until a condition holds; the test's own time limit ends it otherwise."""
    while not holds():  # noqa: ASYNC110 - what holds has no event of its own
        await asyncio.sleep(0)
