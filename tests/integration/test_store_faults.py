"""Redis in every kind of trouble, under processes that serve REST and the SDK.

Each time: a clear error that names what is wrong, with Retry-After by REST and a typed retriable
error by the SDK; what was acknowledged is there; and all goes on by itself once it is mended.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

import mom_client
from integration.cluster_processes import becomes
from integration.conftest import TRY_MS, StoredCluster
from integration.dev_process import environment
from mom_core.errors import ErrorCode
from polling import until

REFUSAL_MS = 1_000
MIB = 1 << 20


class Clients:
    """REST and SDK of one test, with a topic and a queue of its own that hold something."""

    def __init__(
        self, cluster: StoredCluster, rest: httpx.AsyncClient, sdk: mom_client.Client
    ) -> None:
        self._cluster = cluster
        self.rest = rest
        self.sdk = sdk
        self.topic = f"topic-{uuid.uuid4().hex[:8]}"
        self.queue = f"queue-{uuid.uuid4().hex[:8]}"
        self.acknowledged: list[str] = []

    async def begin(self) -> None:
        await self.sdk.create_topic(self.topic, partitions=2)
        await self.sdk.create_queue(self.queue, partitions=2)
        await self.publish("before")
        await self.sdk.publish_many(self.queue, [f"job {number}" for number in range(10)])

    async def post(self, value: object = "by REST") -> httpx.Response:
        return await self.rest.post(f"/v1/topics/{self.topic}/records", json={"value": value})

    async def publish(self, word: str) -> None:
        """Publish both ways; both must land."""
        value = f"{word} by SDK"
        await self.sdk.publish(self.topic, value)
        self.acknowledged.append(value)
        value = f"{word} by REST"
        response = await self.post(value)
        assert response.status_code == 200, response.text
        self.acknowledged.append(value)

    async def refused(self, code: ErrorCode, words: str) -> None:
        """Both ways get the error that says what is wrong with the store."""
        response, failure = await asyncio.gather(
            self.post("refused"), self.sdk.publish(self.topic, "refused"), return_exceptions=True
        )
        assert isinstance(response, httpx.Response)
        problem = response.json()
        assert (response.status_code, problem["code"]) == (503, code.value), problem
        assert words in problem["detail"]
        assert problem["retriable"]
        assert int(response.headers["retry-after"]) >= 1
        assert isinstance(failure, mom_client.StoreError)
        assert failure.code is code, failure
        assert words in failure.message
        assert failure.retriable

    async def mended(self, word: str) -> None:
        """All goes on by itself."""

        async def lands() -> bool:
            response = await self.post("again")
            assert response.status_code in (200, 503), response.text
            return response.status_code == 200

        await until(lands, "messages land again")
        await self.publish(word)
        for message in await self.sdk.receive(self.queue, 2, wait=10):
            await self.sdk.ack(message)
        found = [message.text() async for message in self.sdk.read(self.topic)]
        assert set(self.acknowledged) <= set(found)
        assert len([one for one in found if one in self.acknowledged]) == len(self.acknowledged)
        for node in self._cluster.nodes.values():
            await becomes(node, "mom_node_pending_bytes", 0)


@pytest.fixture
async def clients(cluster: StoredCluster) -> AsyncIterator[Clients]:
    sdk = mom_client.connect(
        cluster.addresses, delivery_timeout_ms=TRY_MS, refusal_timeout_ms=REFUSAL_MS
    )
    async with cluster.rest() as rest, sdk:
        found = Clients(cluster, rest, sdk)
        await found.begin()
        yield found


async def test_down(cluster: StoredCluster, clients: Clients) -> None:
    cluster.redis.kill()
    try:
        await clients.refused(ErrorCode.STORE_UNAVAILABLE, "can't be reached")
        # Nothing is restarted for it: these processes are the ones that can say what is wrong.
        for process in cluster.processes:
            await process.alive()
    finally:
        await asyncio.to_thread(cluster.redis.start)
    await clients.mended("after")


async def test_a_restart_is_not_noticed(cluster: StoredCluster, clients: Clients) -> None:
    cluster.redis.kill()
    publishing = asyncio.create_task(clients.publish("across"))
    await asyncio.to_thread(cluster.redis.start)
    await publishing
    await clients.mended("after")


async def test_suspended(cluster: StoredCluster, clients: Clients) -> None:
    cluster.redis.signal(signal.SIGSTOP)
    try:
        await clients.refused(ErrorCode.STORE_UNAVAILABLE, "did not answer in time")
    finally:
        cluster.redis.signal(signal.SIGCONT)
    await clients.mended("after")


async def test_slow(cluster: StoredCluster, clients: Clients) -> None:
    # Under what a store may take: late, but no error.
    cluster.redis.command("CLIENT", "PAUSE", "1500", "WRITE")
    await clients.publish("slowly")
    await clients.mended("after")


async def test_read_only(cluster: StoredCluster, clients: Clients) -> None:
    cluster.redis.command("REPLICAOF", "127.0.0.1", "1")
    try:
        await clients.refused(ErrorCode.STORE_UNAVAILABLE, "replica")
    finally:
        cluster.redis.command("REPLICAOF", "NO", "ONE")
    await clients.mended("after")


@asynccontextmanager
async def full(cluster: StoredCluster, clients: Clients, share: float) -> AsyncIterator[None]:
    """The store may hold only a share of what it does."""
    used = int(cluster.redis.command("INFO", "memory").partition("used_memory:")[2].split()[0])
    cluster.redis.command("CONFIG", "SET", "maxmemory", str(int(share * used)))

    async def refuses() -> bool:
        return (await clients.post("fills")).status_code == 503

    try:
        await until(refuses, "the store is full")
        yield
    finally:
        cluster.redis.command("CONFIG", "SET", "maxmemory", "0")


async def test_full(cluster: StoredCluster, clients: Clients) -> None:
    async with full(cluster, clients, 0.5):
        await clients.refused(ErrorCode.STORE_FULL, "is full")
        # What makes room goes on, both ways.
        jobs = f"/v1/queues/{clients.queue}/messages"
        (first,) = await clients.sdk.receive(clients.queue, wait=10)
        await clients.sdk.ack(first)
        response = await clients.rest.post(f"{jobs}:receive", json={"wait_ms": 10_000})
        (second,) = response.json()["messages"]
        response = await clients.rest.post(f"{jobs}:ack", json={"receipts": [second["receipt"]]})
        assert response.json()["results"][0]["status"] == "ok"
        found = {message.text() async for message in clients.sdk.read(clients.topic)}
        assert found >= set(clients.acknowledged)
    await clients.mended("after")


async def test_room_that_is_made_is_used(cluster: StoredCluster, clients: Clients) -> None:
    """A full store is emptied by its users alone."""
    large = f"large-{uuid.uuid4().hex[:8]}"
    await clients.sdk.create_topic(large)
    await clients.sdk.publish_many(large, [bytes(MIB // 2)] * 32)
    async with full(cluster, clients, 0.75):
        await clients.sdk.delete(large)
        await clients.mended("after")


async def test_evicting(cluster: StoredCluster, clients: Clients) -> None:
    cluster.redis.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")

    try:

        async def noticed() -> bool:
            return (await clients.post("evicted?")).status_code == 503

        await until(noticed, "the setting is noticed")
        await clients.refused(ErrorCode.STORE_MISCONFIGURED, "maxmemory-policy is allkeys-lru")
        # A process that starts now says so, too, and does not serve.
        node = await asyncio.create_subprocess_exec(
            sys.executable, "-c", "from mom_broker.node.main import main; main()",
            "--store", cluster.redis.url, "--listen", "127.0.0.1:0", "--http-port", "-1",
            env=environment(), stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        _, errors = await node.communicate()
        assert node.returncode == 1
        assert "set `maxmemory-policy noeviction`" in errors.decode()
    finally:
        cluster.redis.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
    await clients.mended("after")
