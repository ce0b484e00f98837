"""A node ends under load, by a crash or in good order: clients notice nothing.

Publishers, a consumer group and workers of a queue, by the SDK and by REST, run on while the owner
of partitions, and of the group, ends and its partitions move.
"""

from __future__ import annotations

import asyncio
import itertools
import signal
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

import mom_client
from integration.cluster_processes import ClusterProcesses, ServerProcess
from mom_core.errors import ErrorCode
from polling import until

PARTITIONS = 6
KEYS = 4
# Publishes of one client that wait for their results.
WINDOW = 64
# What each publisher still gets through after the partitions have moved.
AFTERWARDS = 100
# Long beside a takeover; a receive whose answer died with the node is over after it.
LEASE_S = 5


class Load:
    """All that runs against one topic and one queue, and what came of it."""

    def __init__(self, cluster: ClusterProcesses, topic: str, queue: str) -> None:
        self.topic = topic
        self.queue = queue
        self.published: dict[str, set[str]] = {topic: set(), queue: set()}
        self.seen: set[str] = set()
        self.acked: set[str] = set()
        self.stop_after: dict[str, int] = {}
        self.stopping = False
        self.finished = False
        self._cluster = cluster
        self._names = itertools.count()

    async def publish_by_sdk(self, target: str) -> None:
        """Many at a time; each must land."""
        name = f"s{next(self._names)}"
        under_way: dict[asyncio.Future[Any], str] = {}
        async with mom_client.connect(self._cluster.addresses) as client:
            for number in self._numbers(name):
                key = f"{name}.{number % KEYS}"
                under_way[client.publish(target, f"{key} {number}", key=key)] = f"{key} {number}"
                if len(under_way) >= WINDOW:
                    await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                    self._landed(target, under_way)
            if under_way:
                await asyncio.wait(under_way)
            self._landed(target, under_way)

    def _landed(self, target: str, under_way: dict[asyncio.Future[Any], str]) -> None:
        for one in [one for one in under_way if one.done()]:
            assert one.result().durability == "fsync"
            self.published[target].add(under_way.pop(one))

    async def publish_by_rest(self, target: str, path: str, member: str) -> None:
        """One request at a time, of two messages."""
        name = f"r{next(self._names)}"
        async with self._cluster.rest() as rest:
            for number in self._numbers(name):
                key = f"{name}.{number % KEYS}"
                values = [f"{key} {2 * number}", f"{key} {2 * number + 1}"]
                body = {member: [{"value": value, "key": key} for value in values]}
                response = await rest.post(path, json=body)
                assert response.status_code == 200, response.text
                self.published[target].update(values)

    def _numbers(self, name: str) -> Iterator[int]:
        for number in itertools.count():
            if self.stopping and number >= self.stop_after.setdefault(name, number + AFTERWARDS):
                return
            yield number

    async def read_as_member(self) -> None:
        """A member of a group of the topic."""
        async with (
            mom_client.connect(self._cluster.addresses) as client,
            client.subscribe(self.topic, "group") as messages,
        ):
            async for message in messages:
                self.seen.add(message.text())

    async def work_by_sdk(self) -> None:
        """Receive and acknowledge."""
        async with mom_client.connect(self._cluster.addresses) as client:
            while not self.finished:
                messages = await client.receive(self.queue, 50, wait=1, lease=LEASE_S)
                assert not self.acked & {one.text() for one in messages}
                results = await client.ack(messages)
                for message, error in zip(messages, results, strict=True):
                    if error is None:
                        self._acked(message.text())
                    else:
                        assert error.code is ErrorCode.LEASE_LOST, error

    async def work_by_rest(self) -> None:
        """The same through the gateway."""
        path = f"/v1/queues/{self.queue}/messages"
        async with self._cluster.rest() as rest:
            while not self.finished:
                body = {"max": 50, "wait_ms": 1_000, "lease_ms": LEASE_S * 1_000}
                response = await rest.post(f"{path}:receive", json=body)
                assert response.status_code == 200, response.text
                messages = response.json()["messages"]
                if not messages:
                    continue
                assert not self.acked & {one["value"] for one in messages}
                receipts = [one["receipt"] for one in messages]
                response = await rest.post(f"{path}:ack", json={"receipts": receipts})
                assert response.status_code in (200, 207), response.text
                for one, result in zip(messages, response.json()["results"], strict=True):
                    if result.get("status") == "ok":
                        self._acked(one["value"])
                    else:
                        assert result["code"] == "lease_lost", result

    def _acked(self, text: str) -> None:
        assert text not in self.acked, "it was published twice, or acknowledged by two"
        self.acked.add(text)


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM], ids=["crash", "drain"])
async def test_a_node_ends_under_load(cluster: ClusterProcesses, ending: signal.Signals) -> None:
    topic, queue = f"topic-{ending.name}", f"queue-{ending.name}"
    load = Load(cluster, topic, queue)
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(mom_client.connect(cluster.addresses))
        await client.create_topic(topic, partitions=PARTITIONS)
        await client.create_queue(queue, partitions=PARTITIONS)
        publishers = [
            load.publish_by_sdk(topic),
            load.publish_by_sdk(topic),
            load.publish_by_sdk(queue),
            load.publish_by_rest(topic, f"/v1/topics/{topic}/records", "records"),
            load.publish_by_rest(queue, f"/v1/queues/{queue}/messages", "messages"),
        ]
        readers = [
            load.read_as_member(), load.read_as_member(), load.work_by_sdk(), load.work_by_rest(),
        ]  # fmt: skip
        async with running(publishers) as publishing, running(readers) as reading:
            await going(
                [*publishing, *reading],
                lambda: min(map(len, (*load.published.values(), load.seen, load.acked))) > 500,
                "all are at work",
            )
            # Its owner is the coordinator of the group.
            lost = (await client.describe(topic))[0].node_id
            assert lost in cluster.nodes
            # Also when this test fails: the others share the cluster.
            stack.push_async_callback(returns, cluster.nodes[lost])
            if ending is signal.SIGKILL:
                cluster.nodes[lost].kill()
            else:
                await cluster.nodes[lost].stop()
            load.stopping = await moved(client, lost, topic, queue)
            await asyncio.gather(*publishing)
            await going(
                reading,
                lambda: (
                    len(load.seen) >= len(load.published[topic])
                    and len(load.acked) >= len(load.published[queue])
                ),
                "all is read and acknowledged",
            )
            load.finished = True
            await asyncio.gather(*reading[2:])
        assert load.seen == load.published[topic]
        assert load.acked == load.published[queue]
        await check_log(client, topic, len(load.published[topic]))


async def returns(node: ServerProcess) -> None:
    """Start it again and wait for it."""
    node.start()
    await node.ready()


async def moved(client: mom_client.Client, lost: str, *names: str) -> bool:
    """Wait until other nodes serve all partitions."""

    async def elsewhere() -> bool:
        owners = [one.node_id for name in names for one in await client.describe(name)]
        return lost not in owners and all(owners)

    await until(elsewhere, "the partitions are served by other nodes")
    return True


async def check_log(client: mom_client.Client, name: str, count: int) -> None:
    """Everything that was acknowledged is there, once, and in order by key."""
    numbers: defaultdict[str | None, list[int]] = defaultdict(list)
    async for message in client.read(name):
        key, _, number = message.text().partition(" ")
        assert key == message.key
        numbers[key].append(int(number))
    found = Counter((key, number) for key, some in numbers.items() for number in some)
    assert [one for one, times in found.items() if times > 1] == []
    assert len(found) == count
    assert all(some == sorted(some) for some in numbers.values())


async def going(tasks: list[asyncio.Task[None]], holds: Callable[[], bool], what: str) -> None:
    """Wait until something holds, or one of the tasks fails."""

    def look() -> bool:
        for task in tasks:
            if task.done():
                task.result()
        return holds()

    await until(look, what)


@asynccontextmanager
async def running(works: list[Awaitable[None]]) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Tasks that are cancelled at the end, if they have not ended."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
