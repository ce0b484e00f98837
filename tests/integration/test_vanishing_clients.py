"""Clients that vanish in the middle of a call: what they held goes back to zero.

Waiting calls, bytes that wait for the store and requests in hand are read from /metrics.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator

import grpc
import httpx
import pytest

import mom_client
from integration.cluster_processes import becomes
from integration.conftest import StoredCluster
from integration.descriptions import subscriptions_of
from integration.dev_process import environment
from integration.node_cluster import encoded
from mom_proto.v1 import broker_pb2, broker_pb2_grpc, types_pb2
from polling import until

REQUESTS = "mom_gateway_requests_in_hand"
POLLS = "mom_gateway_long_polls"
BODIES = "mom_gateway_body_bytes"
WAITING = "mom_node_waiting_calls"
PENDING = "mom_node_pending_bytes"
LEASED = 5


@pytest.fixture
async def client(cluster: StoredCluster) -> AsyncIterator[mom_client.Client]:
    async with mom_client.connect(cluster.addresses) as connected:
        yield connected


async def nothing_held(cluster: StoredCluster) -> None:
    """Wait until no process holds anything for anyone."""
    for node in cluster.nodes.values():
        await becomes(node, WAITING, 0)
        await becomes(node, PENDING, 0)
    await becomes(cluster.gateway, POLLS, 0)
    await becomes(cluster.gateway, BODIES, 0)
    await becomes(cluster.gateway, REQUESTS, 1)  # the one that asks


async def waiting(cluster: StoredCluster) -> float:
    """Calls that wait at all nodes."""
    return sum([await node.gauge(WAITING) for node in cluster.nodes.values()])


async def wait_at_nodes(cluster: StoredCluster, count: int) -> None:
    async def is_so() -> bool:
        return await waiting(cluster) >= count

    await until(is_so, f"{count} calls wait at nodes")


class Socket:
    """A connection to the gateway that can be cut."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    @classmethod
    async def connected(cls, cluster: StoredCluster) -> Socket:
        url = httpx.URL(cluster.gateway.http)
        _, writer = await asyncio.open_connection(url.host, url.port)
        return cls(writer)

    async def send(self, text: str) -> None:
        self._writer.write(text.encode())
        await self._writer.drain()

    def cut(self) -> None:
        self._writer.transport.abort()


async def test_a_body_that_stops_in_its_middle(
    cluster: StoredCluster, client: mom_client.Client, name: str
) -> None:
    await client.create_topic(name)
    path = f"POST /v1/topics/{name}/records HTTP/1.1\r\nhost: x\r\n"
    whole = await Socket.connected(cluster)
    await whole.send(f'{path}content-length: 99999\r\n\r\n{{"value": "never')
    await becomes(cluster.gateway, REQUESTS, 2)
    whole.cut()
    await nothing_held(cluster)
    # What a stream had sent in whole lines has landed, the line that was cut off has not.
    stream = await Socket.connected(cluster)
    lines = "content-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n"
    first, second = '{"value": 1}\n{"value": 2}\n', '{"value": "cut o'
    await stream.send(f"{path}{lines}{len(first):x}\r\n{first}\r\n{len(second):x}\r\n{second}\r\n")
    found: list[object] = []
    async for message in client.read(name, follow=True):
        found.append(message.json())
        if len(found) == 2:
            break
    stream.cut()
    await nothing_held(cluster)
    assert [one.json() async for one in client.read(name)] == [1, 2]


async def test_rest_polls_that_are_cut_off(
    cluster: StoredCluster, client: mom_client.Client, name: str
) -> None:
    await client.create_topic(f"{name}-topic")
    await client.create_queue(name, partitions=3)
    receive = '{"wait_ms": 50000}'
    polls = [await Socket.connected(cluster) for _ in range(8)]
    for poll in polls[:4]:
        await poll.send(
            f"POST /v1/queues/{name}/messages:receive HTTP/1.1\r\nhost: x\r\n"
            f"content-length: {len(receive)}\r\n\r\n{receive}"
        )
    for poll in polls[4:]:
        await poll.send(
            f"GET /v1/topics/{name}-topic/partitions/0/records?offset=0&wait_ms=50000 HTTP/1.1\r\n"
            "host: x\r\n\r\n"
        )
    await becomes(cluster.gateway, POLLS, 8)
    await wait_at_nodes(cluster, 8)
    for poll in polls:
        poll.cut()
    await nothing_held(cluster)
    await client.publish(name, "for whoever asks")
    (message,) = await client.receive(name, wait=30)
    assert message.deliveries == 1, "nobody who is gone got it"


async def test_grpc_calls_that_are_cancelled(
    cluster: StoredCluster, client: mom_client.Client, name: str
) -> None:
    await client.create_topic(name)
    await client.publish(name, b"first")
    owner = cluster.nodes[(await client.describe(name))[0].node_id]
    topic_id = (await client.topic(name)).topic_id
    partition = types_pb2.Partition(topic_id=topic_id)
    async with grpc.aio.insecure_channel(owner.address) as channel:
        stub = broker_pb2_grpc.BrokerStub(channel)
        latest = broker_pb2.FetchPartition(partition=partition, latest=True)
        fetch = stub.Fetch(broker_pb2.FetchRequest(partitions=[latest], wait_ms=50_000))
        stream = stub.Subscribe()
        await stream.write(broker_pb2.SubscribeRequest(start=latest, credit_bytes=1 << 20))
        await becomes(owner, WAITING, 2)
        fetch.cancel()
        await becomes(owner, WAITING, 1)
        stream.cancel()
        await becomes(owner, WAITING, 0)
        # A produce that is cancelled while the store is busy.
        cluster.redis.signal(signal.SIGSTOP)
        try:
            batch = broker_pb2.ProduceBatch(partition=partition, batch=encoded([bytes(100_000)]))
            produces = [stub.Produce(broker_pb2.ProduceRequest(batches=[batch])) for _ in range(3)]

            async def pending() -> bool:
                return await owner.gauge(PENDING) >= 3 * 100_000

            await until(pending, "the batches wait for the store")
            for one in produces:
                one.cancel()
        finally:
            cluster.redis.signal(signal.SIGCONT)
        await becomes(owner, PENDING, 0)
    await nothing_held(cluster)


_CLIENT = """
import asyncio, sys
import mom_client

async def main(addresses, name):
    async with mom_client.connect(addresses) as client:
        async def read():
            async for _ in client.read(name + "-topic", follow=True):
                pass

        async def publish():
            while True:
                await asyncio.gather(*(client.publish(name + "-topic", b"x") for _ in range(100)))

        async def take_part():
            async with client.subscribe(name + "-topic", "group", session=1) as messages:
                async for _ in messages:
                    pass

        held = []
        while len(held) < 5:
            held += await client.receive(name, 5, wait=10, lease=1)
        polls = [client.receive(name + "-empty", wait=50) for _ in range(10)]
        works = [asyncio.ensure_future(one) for one in (read(), publish(), take_part(), *polls)]
        print("holds all", flush=True)
        await asyncio.gather(*works)

asyncio.run(main(sys.argv[1].split(","), sys.argv[2]))
"""


async def test_a_client_process_that_is_killed(
    cluster: StoredCluster, client: mom_client.Client, name: str
) -> None:
    await client.create_topic(f"{name}-topic", partitions=3)
    await client.create_queue(name, partitions=3)
    await client.create_queue(f"{name}-empty", partitions=3)
    await client.publish_many(name, range(LEASED))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _CLIENT, ",".join(cluster.addresses), name,
        env=environment(), stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"holds all\n"
        await wait_at_nodes(cluster, 10)
    finally:
        process.kill()
        await process.communicate()
    await nothing_held(cluster)

    async def leases_ended() -> bool:
        return sum(one.leased for one in await subscriptions_of(client, name)) == 0

    await until(leases_ended, "the leases have ended")
    again: list[mom_client.ReceivedMessage] = []
    while len(again) < LEASED:
        again += await client.receive(name, LEASED, wait=10)
    # It held several, so none of those deliveries counts, and each comes by itself now.
    assert {one.deliveries for one in again} == {1}
    # Its place in the group is free, too.
    async with client.subscribe(f"{name}-topic", "group") as messages:
        partitions: set[int] = set()
        for partition in range(3):
            await client.publish(f"{name}-topic", b"y", partition=partition)
        async for message in messages:
            partitions.add(message.partition)
            if partitions == {0, 1, 2}:
                break
