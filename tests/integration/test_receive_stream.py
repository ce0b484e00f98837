"""Receives by a stream: what a node pushes, to whom, and what is left when streams end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

import mom_client
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
from mom_broker.rpc.errors import from_rpc_error
from mom_broker.storage.memory import MemoryStore
from mom_client.wire import GrpcChannels, GrpcStream
from mom_core import topics
from mom_core.errors import ErrorCode, MomError
from mom_process.system import SystemClock
from mom_proto.v1 import broker_pb2
from polling import until

QUEUE = topics.TopicKind.QUEUE
ACK = broker_pb2.SETTLE_ACTION_ACK
BYTES = 1 << 20


@pytest.fixture
async def cluster() -> AsyncIterator[NodeCluster]:
    store = MemoryStore(SystemClock())
    await store.open()
    async with node_cluster(store, ["n1", "n2"]) as running:
        yield running
    await store.close()


class Stream:
    """A worker's stream, spoken by hand."""

    def __init__(self, cluster: NodeCluster, node_id: str, **start: Any) -> None:
        self._start = broker_pb2.ReceiveStreamStart(
            topic_id=TOPIC, **{"subscription": "orders", "keep_credit": True, **start}
        )
        self._call: Any = cluster.stub(node_id).ReceiveStream()

    async def begin(self, messages: int, size_bytes: int = BYTES) -> Stream:
        await self._call.write(
            broker_pb2.ReceiveStreamRequest(
                start=self._start, credit_messages=messages, credit_bytes=size_bytes
            )
        )
        return self

    async def give(self, messages: int, size_bytes: int = BYTES) -> None:
        await self._call.write(
            broker_pb2.ReceiveStreamRequest(credit_messages=messages, credit_bytes=size_bytes)
        )

    async def next(self) -> broker_pb2.ReceiveStreamResponse:
        response = await asyncio.wait_for(self._call.read(), 30)
        assert response is not grpc.aio.EOF, "the stream ended"
        return response

    async def next_values(self) -> list[bytes]:
        return values((await self.next()).batches)

    async def finish(self) -> list[bytes]:
        """End the worker's side, and read to the node's end."""
        await self._call.done_writing()
        late: list[bytes] = []
        while (response := await asyncio.wait_for(self._call.read(), 30)) is not grpc.aio.EOF:
            late += values(response.batches)
        return late

    async def _read_on(self) -> None:
        while await self._call.read() is not grpc.aio.EOF:
            pass

    async def failure(self) -> Any:
        """The error that ends it."""
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asyncio.wait_for(self._read_on(), 30)
        return from_rpc_error(caught.value)


def readers(cluster: NodeCluster, *node_ids: str) -> list[Any]:
    return [
        reader
        for node_id in node_ids
        for owned in cluster.nodes[node_id].ownership.owned.values()
        for reader in owned.subscriptions.readers.values()
    ]


async def put(cluster: NodeCluster, *messages: tuple[int, Sequence[bytes]]) -> None:
    """Messages into partitions."""
    request = produce_request(*((index, encoded(list(some))) for index, some in messages))
    reply = await cluster.stub("n1").Produce(request)
    assert not any(one.HasField("error") for one in reply.results)


async def leased(cluster: NodeCluster) -> int:
    return sum(one.counts().leased for one in readers(cluster, "n1", "n2"))


async def test_messages_are_pushed_as_far_as_the_credit_goes(cluster: NodeCluster) -> None:
    await cluster.create(QUEUE, owners=["n1"])
    stream = await Stream(cluster, "n1").begin(3)
    await put(cluster, (0, [b"a"]))
    assert await stream.next_values() == [b"a"]
    await put(cluster, (0, [b"b", b"c", b"d", b"e"]))
    response = await stream.next()
    assert values(response.batches) == [b"b", b"c"]
    assert response.more_ready
    assert await leased(cluster) == 3, "nothing is leased beyond the credit"
    await stream.give(5)
    assert await stream.next_values() == [b"d", b"e"]


async def test_bytes_are_credit_too(cluster: NodeCluster) -> None:
    await cluster.create(QUEUE, owners=["n1"])
    await put(cluster, (0, [bytes(1_000)] * 10))
    stream = await Stream(cluster, "n1").begin(10, 3_500)
    assert len(await stream.next_values()) == 3
    assert len(await stream.next_values()) == 1, "one comes whatever its size"
    assert await leased(cluster) == 4
    await stream.give(0, 100_000)
    assert len(await stream.next_values()) == 6


async def test_credit_of_one_leases_one_of_many_partitions(cluster: NodeCluster) -> None:
    await cluster.create(QUEUE, owners=["n1"] * 8)
    stream = await Stream(cluster, "n1").begin(1)
    await put(cluster, *((index, [b"x"] * 3) for index in range(8)))
    assert await stream.next_values() == [b"x"]
    assert await leased(cluster) == 1


async def test_a_message_goes_to_the_one_that_waits_longest(cluster: NodeCluster) -> None:
    await cluster.create(QUEUE, owners=["n1", "n1"])
    (first, second) = readers(cluster, "n1") or await _readers(cluster, 2)
    stub = cluster.stub("n1")
    line: list[Any] = []
    for place in range(6):  # Streams and plain receives take turns in one line.
        if place % 2:
            line.append(asyncio.ensure_future(_receive(stub)))
        else:
            line.append(await Stream(cluster, "n1").begin(1))
        await until(lambda place=place: len(first.ready) == place + 1, "the node has seen it")
    for place, one in enumerate(line):
        await put(cluster, (place % 2, [b"%d" % place]))
        if isinstance(one, Stream):
            assert await one.next_values() == [b"%d" % place]
        else:
            assert values((await one).batches) == [b"%d" % place]
    assert (len(first.ready), len(second.ready)) == (0, 0)


async def test_waiting_streams_share_what_comes_at_once(cluster: NodeCluster) -> None:
    await cluster.create(QUEUE, owners=["n1"])
    (reader,) = await _readers(cluster, 1)
    streams = [await Stream(cluster, "n1").begin(1_000) for _ in range(4)]
    await until(lambda: len(reader.ready) == 4, "the node has seen it")
    await put(cluster, (0, [b"x"] * 100))
    shares = [len(await one.next_values()) for one in streams]
    assert min(shares) >= 5, shares
    assert max(shares) <= 50, shares


async def test_credit_that_finds_nothing_lapses_if_it_is_not_to_be_kept(
    cluster: NodeCluster,
) -> None:
    await cluster.create(QUEUE, owners=["n1"])
    stream = await Stream(cluster, "n1", keep_credit=False).begin(5)
    response = await stream.next()
    assert (response.credit_lapsed, response.more_ready) == (True, False)
    await put(cluster, (0, [b"a", b"b"]))
    told = await stream.next()
    assert (told.more_ready, len(told.batches)) == (True, 0)
    assert await leased(cluster) == 0, "it wakes first, and leases second"
    await stream.give(5)
    response = await stream.next()
    assert (values(response.batches), response.credit_lapsed) == ([b"a", b"b"], True)


async def test_a_message_waits_a_moment_for_the_one_that_was_told_of_it(
    cluster: NodeCluster,
) -> None:
    await cluster.create(QUEUE, owners=["n1"])
    (reader,) = await _readers(cluster, 1)
    told = await Stream(cluster, "n1", keep_credit=False).begin(1)
    assert (await told.next()).credit_lapsed
    await until(lambda: len(reader.ready) == 1, "the node has seen it")
    behind = await Stream(cluster, "n1").begin(1)
    await until(lambda: len(reader.ready) == 2, "the node has seen it")
    await put(cluster, (0, [b"a"]))
    assert (await told.next()).more_ready
    await told.give(1)
    assert await told.next_values() == [b"a"]
    # One that never comes holds nobody up.
    await until(lambda: len(reader.ready) == 2, "the node has seen it")
    await put(cluster, (0, [b"b"]))
    assert await behind.next_values() == [b"b"]


async def test_a_stream_that_was_ended_leases_nothing_more(cluster: NodeCluster) -> None:
    await cluster.create(QUEUE, owners=["n1"])
    stream = await Stream(cluster, "n1").begin(10)
    await put(cluster, (0, [b"a"]))
    assert await stream.next_values() == [b"a"]
    assert await stream.finish() == []
    await put(cluster, (0, [b"b"]))
    assert values((await cluster.stub("n1").Receive(receive_request(5))).batches) == [b"b"]
    assert readers(cluster, "n1")[0].workers == 0


async def test_a_stream_that_broke_leaves_its_leases(cluster: NodeCluster) -> None:
    await cluster.create(QUEUE, owners=["n1"])
    await put(cluster, (0, [b"a"]))
    stream = await Stream(cluster, "n1", lease_ms=60_000).begin(10)
    response = await stream.next()
    stream._call.cancel()
    await until(lambda: readers(cluster, "n1")[0].streams == 0, "the node has seen it")
    assert await leased(cluster) == 1
    settled = await cluster.stub("n1").Settle(settle_request(response.batches, ACK))
    assert not settled.results[0].failures


async def test_what_was_never_sent_is_given_back_at_once(cluster: NodeCluster) -> None:
    await cluster.create(QUEUE, owners=["n1"])
    for _ in range(12):
        await put(cluster, (0, [bytes(200_000)] * 5))
    stream = await Stream(cluster, "n1", lease_ms=600_000).begin(1_000, 1 << 29)
    # Nobody reads, so the connection takes no more at some time.
    reader = readers(cluster, "n1")[0]
    # A response holds 25 of them at the most: one is on its way, the next one waits.
    await until(lambda: reader.counts().leased >= 40, "leases wait to be sent")
    before = reader.counts().leased
    stream._call.cancel()
    await until(lambda: reader.counts().leased <= before - 10, "they are given back")
    got = await cluster.stub("n1").Receive(receive_request(1, wait_ms=20_000))
    assert got.batches[0].deliveries == 1


async def test_a_stream_ends_when_its_node_owns_nothing_any_more(cluster: NodeCluster) -> None:
    await cluster.create(QUEUE, owners=["n1", "n1"])
    stream = await Stream(cluster, "n1").begin(10)
    await _readers(cluster, 2)
    await cluster.assign(["n1", "n2"])
    await put(cluster, (0, [b"a"]))
    assert await stream.next_values() == [b"a"], "it goes on with what is left"
    await cluster.assign(["n2", "n2"])
    error = await stream.failure()
    assert error.code is ErrorCode.NOT_OWNER
    assert error.retriable


async def test_a_stream_takes_partitions_in_that_come(cluster: NodeCluster) -> None:
    await cluster.create(QUEUE, owners=["n1", "n2"])
    stream = await Stream(cluster, "n1").begin(10)
    await cluster.assign(["n1", "n1"])
    await until(lambda: len(readers(cluster, "n1")) == 2, "the node has seen it")
    await put(cluster, (1, [b"moved"]))
    assert await stream.next_values() == [b"moved"]


@pytest.mark.parametrize(
    ("start", "code"),
    [
        ({"lease_ms": 5}, ErrorCode.INVALID_ARGUMENT),
        ({"subscription": "nobody"}, ErrorCode.NOT_FOUND),
        ({"subscription": "reading"}, ErrorCode.INVALID_ARGUMENT),
    ],
)
async def test_a_wrong_start_is_refused(
    cluster: NodeCluster, start: dict[str, Any], code: ErrorCode
) -> None:
    reading = topics.new_subscription("reading", "orders", {}, created_at_ms=1, secret=bytes(32))
    await cluster.create(QUEUE, owners=["n1"], subscriptions=[reading])
    stream = await Stream(cluster, "n1", **start).begin(1)
    assert (await stream.failure()).code is code


async def test_a_stream_without_a_start_is_refused(cluster: NodeCluster) -> None:
    await cluster.create(QUEUE, owners=["n1"])
    stream = Stream(cluster, "n1")
    await stream.give(5)
    error = await stream.failure()
    assert (error.code, error.field) == (ErrorCode.INVALID_ARGUMENT, "start")


# Workers of the SDK.


@asynccontextmanager
async def connected(cluster: NodeCluster) -> AsyncIterator[mom_client.Client]:
    async with mom_client.connect(cluster.nodes["n1"].address) as client:
        yield client


async def test_a_worker_with_room_for_one_leases_one_of_two_nodes(cluster: NodeCluster) -> None:
    await cluster.create(QUEUE, owners=["n1", "n2"])
    await put(cluster, (0, [b"a"] * 3), (1, [b"b"] * 3))
    seen: list[bytes] = []
    async with connected(cluster) as client, client.consume("orders", at_once_max=1) as worker:
        async for message in worker:
            await worker._run(lambda engine: worker._worker.flush())  # No ack is on its way.
            assert await leased(cluster) == 1
            seen.append(message.value)
            if len(seen) == 6:
                break
    assert sorted(seen) == [b"a", b"a", b"a", b"b", b"b", b"b"]


async def test_a_worker_that_ends_gives_back_what_it_did_not_begin(cluster: NodeCluster) -> None:
    await cluster.create(QUEUE, owners=["n1", "n2"])
    await put(cluster, (0, [b"a"] * 20), (1, [b"b"] * 20))
    async with connected(cluster) as client:
        async with client.consume("orders", at_once_max=16) as worker:
            async for message in worker:
                worker.ack()
                first = message.value
                break
        counts = [one.counts() for one in readers(cluster, "n1", "n2")]
        assert (sum(one.leased for one in counts), sum(one.ready for one in counts)) == (0, 39)
        rest = [await client.receive("orders", 100, wait=10) for _ in range(2)]
        assert sorted(one.value for some in rest for one in some) == sorted(
            [b"a"] * (20 - (first == b"a")) + [b"b"] * (20 - (first == b"b"))
        )
        assert {one.deliveries for some in rest for one in some} == {1}, "these count as attempts"


async def test_a_worker_of_nodes_without_streams_asks_them(
    cluster: NodeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mom_client.lease_streams._METHOD", "/mom.v1.Broker/NotThere")
    await cluster.create(QUEUE, owners=["n1", "n2"])
    await put(cluster, (0, [b"a"] * 5), (1, [b"b"] * 5))
    seen: list[bytes] = []
    async with connected(cluster) as client, client.consume("orders", at_once_max=2) as worker:
        async for message in worker:
            seen.append(message.value)
            assert await leased(cluster) <= 4
            if len(seen) == 10:
                break
    assert sorted(seen) == [b"a"] * 5 + [b"b"] * 5


async def test_a_stream_that_ends_while_more_is_sent_is_worth_another_try(
    cluster: NodeCluster,
) -> None:
    """gRPC then forgets the peer's status at times, and says INTERNAL."""
    channels = GrpcChannels()

    async def send(stream: GrpcStream) -> None:
        with contextlib.suppress(MomError):
            while True:
                await stream.send(b"")

    for _ in range(100):
        stream = await channels.open(cluster.nodes["n1"].address, "/mom.v1.Broker/NotThere")
        sending = asyncio.create_task(send(stream))
        with pytest.raises(MomError) as caught:
            await stream.receive()
        assert caught.value.retriable or caught.value.code is ErrorCode.METHOD_NOT_ALLOWED
        await sending
    await channels.close()


async def test_a_worker_outlives_moves_of_owners(cluster: NodeCluster) -> None:
    await cluster.create(QUEUE, owners=["n1", "n1"])
    seen: list[bytes] = []

    async def work(client: mom_client.Client) -> None:
        async with client.consume("orders") as worker:
            async for message in worker:
                seen.append(message.value)
                if len(seen) == 8:
                    break

    async with connected(cluster) as client:
        working = asyncio.ensure_future(work(client))
        for move, owners in enumerate((["n1", "n1"], ["n2", "n1"], ["n2", "n2"], ["n1", "n2"])):
            await cluster.assign(owners)
            await client.publish("orders", b"%d-0" % move, partition=0)
            await client.publish("orders", b"%d-1" % move, partition=1)
            await until(lambda move=move: len(seen) == 2 * (move + 1), "the node has seen it")
        await working
    assert sorted(seen) == [b"%d-%d" % (move, one) for move in range(4) for one in range(2)]


async def test_a_worker_that_iterates_no_more_holds_nothing(cluster: NodeCluster) -> None:
    await cluster.create(QUEUE, owners=["n1"])
    await put(cluster, (0, [b"a"] * 10))
    async with connected(cluster) as client, client.consume("orders", at_once_max=4) as worker:
        async for _ in worker:
            worker.ack()
            break
        await until(lambda: readers(cluster, "n1")[0].counts().leased == 0, "the node has seen it")
        async for _ in worker:
            worker.ack()
            break
    assert readers(cluster, "n1")[0].counts().ready == 8


async def _receive(stub: Any) -> Any:
    return await stub.Receive(receive_request(1, wait_ms=50_000))


async def _readers(cluster: NodeCluster, count: int) -> list[Any]:
    await until(lambda: len(readers(cluster, "n1")) == count, "the node has seen it")
    return readers(cluster, "n1")


@pytest.mark.parametrize("messages_max", [0, 5])
async def test_a_wait_covers_partitions_that_come_meanwhile(
    cluster: NodeCluster, messages_max: int
) -> None:
    await cluster.create(QUEUE, owners=["n1", "n2"])
    request = receive_request(messages_max, wait_ms=20_000, forwarded=True)
    waiting = asyncio.ensure_future(cluster.stub("n1").Receive(request))
    await until(lambda: [len(one.ready) for one in readers(cluster, "n1")] == [1], "the call waits")
    await cluster.move(1, "n1")
    await until(
        lambda: [len(one.ready) for one in readers(cluster, "n1")] == [1, 1], "it waits at both"
    )
    await put(cluster, (1, [b"a"]))
    response = await waiting
    assert response.more_ready or values(response.batches) == [b"a"]
