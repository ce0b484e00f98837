"""A queue's rate over several nodes: it is reached by one that is busy, and never exceeded."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import mom_client
from integration.cluster_processes import ClusterProcesses
from integration.node_cluster import (
    NodeCluster,
    node_cluster,
)
from integration.test_receive_stream import QUEUE, connected, put
from mom_broker.storage.memory import MemoryStore
from mom_core import limits
from mom_process.system import SystemClock
from polling import until
from redis_server import RedisServer

NODES = ("n0", "n1", "n2")
RATE_PER_S = 90
# What one node has of it alone.
SHARE_PER_S = RATE_PER_S / len(NODES)
BURST = len(NODES) + RATE_PER_S * limits.RATE_BUCKET_MS / 1000
# A message may be told later than it was leased, by a machine that does other things too.
LATE_S = 0.4


class Received:
    """When messages came, over all workers."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def came(self, count: int) -> None:
        self.times += [time.monotonic()] * count

    async def more(self, count: int) -> float:
        """Wait for so many more; the seconds that they took."""
        begun, before = time.monotonic(), len(self.times)
        await until(lambda: len(self.times) >= before + count, f"{count} more messages")
        return time.monotonic() - begun

    def most_above_the_rate(self) -> float:
        """In the worst of all spans of time, how many more came than the rate brings."""
        lowest = worst = 0.0
        for place, at in enumerate(self.times):
            brought = RATE_PER_S * (at - self.times[0])
            lowest = min(lowest, place - brought)
            worst = max(worst, place + 1 - brought - lowest)
        return worst


async def reached(received: Received) -> None:
    """Wait until the one busy node has more than twice its own share."""
    for _ in range(20):
        seconds = await received.more(RATE_PER_S)
        if RATE_PER_S / seconds > 2 * SHARE_PER_S:
            return
    raise AssertionError(f"{RATE_PER_S / seconds:.0f} a second of {RATE_PER_S}")


@pytest.fixture
async def cluster() -> AsyncIterator[NodeCluster]:
    store = MemoryStore(SystemClock())
    await store.open()
    async with node_cluster(store, NODES) as running:
        yield running
    await store.close()


async def test_a_new_owner_knows_what_was_lent(cluster: NodeCluster) -> None:
    await cluster.create(QUEUE, owners=NODES, rate_per_s=RATE_PER_S)
    received = Received()
    await put(cluster, (0, [b"x"] * 2_000))
    async with connected(cluster) as client, working(client, "orders", received):
        await reached(received)
        await cluster.assign((NODES[0], NODES[2], NODES[1]))
        await client.publish_many("orders", [b"x"] * 400, partition=1)
        await client.publish_many("orders", [b"x"] * 400, partition=2)
        await received.more(4 * RATE_PER_S)
    assert received.most_above_the_rate() <= BURST + LATE_S * RATE_PER_S


@asynccontextmanager
async def working(client: mom_client.Client, queue: str, received: Received) -> AsyncIterator[None]:
    """Workers of the queue. One that fails is a failure."""
    workers = [asyncio.create_task(take(client, queue, received)) for _ in NODES]
    try:
        yield
    finally:
        for one in workers:
            one.cancel()
        ends = await asyncio.gather(*workers, return_exceptions=True)
    assert all(isinstance(one, asyncio.CancelledError) for one in ends), ends


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "paused"])
async def test_a_rate_is_reached_and_kept_when_the_lender_is_lost(
    redis_server: RedisServer, tmp_path: Path, number: int
) -> None:
    with_nodes = ClusterProcesses(tmp_path, redis_server.url, nodes=len(NODES))
    received = Received()
    cluster = await asyncio.to_thread(with_nodes.__enter__)
    try:
        async with mom_client.connect(cluster.addresses) as client:
            await client.create_queue("limited", partitions=len(NODES), rate_per_s=RATE_PER_S)
            await client.publish_many("limited", [b"x"] * 4_000, partition=0)
            async with working(client, "limited", received):
                await reached(received)
                owners = await owners_of(cluster)
                assert len(set(owners)) == len(NODES), "a partition on each"
                lender = cluster.nodes[owners[1]]
                lender.signal(number)
                for index in (1, 2):
                    await client.publish_many("limited", [b"x"] * 300, partition=index)
                await received.more(2 * RATE_PER_S)
                lender.signal(signal.SIGCONT)
                await received.more(2 * RATE_PER_S)
    finally:
        cluster.end()
    assert received.most_above_the_rate() <= BURST + LATE_S * RATE_PER_S


async def take(client: mom_client.Client, queue: str, received: Received) -> None:
    while True:
        messages = await client.receive(queue, 50, wait=1)
        received.came(len(messages))
        await client.ack(messages)


async def owners_of(cluster: ClusterProcesses) -> list[str]:
    """The nodes that have the queue's partitions, in order."""
    shown = await cluster.mom("queue", "describe", "limited")
    return [one["node_id"] for one in shown["partition_list"]]
