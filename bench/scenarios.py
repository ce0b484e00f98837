"""What is measured, each as a rate or a latency of the SDK or of REST against a running MOM."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable

from http_load import post_rate

import mom_client
from mom_core.message import Message

VALUE = b"x" * 1024
PARTITIONS = 4
HTTP_CONNECTIONS = 64


class Target:
    """A running MOM to measure."""

    def __init__(self, nodes: str, gateway_port: int, scale: float) -> None:
        """``scale`` multiplies the number of messages; 1 is what published figures use."""
        self.nodes = nodes
        self.gateway_port = gateway_port
        self._scale = scale
        self._made = 0

    def count(self, full: int) -> int:
        """A number of messages at this scale."""
        return max(100, int(full * self._scale))

    def name(self, what: str) -> str:
        """A fresh topic name."""
        self._made += 1
        return f"{what}-{self._made}"


async def _fresh(client: mom_client.Client, target: Target, what: str) -> str:
    name = target.name(what)
    create = client.create_queue if what == "queue" else client.create_topic
    await create(name, partitions=PARTITIONS)
    return name


async def publish(target: Target) -> float:
    """SDK: publish_many, messages a second."""
    count = target.count(100_000)
    async with mom_client.connect(target.nodes) as client:
        name = await _fresh(client, target, "topic")
        begun = time.perf_counter()
        await client.publish_many(name, [VALUE] * count)
        elapsed = time.perf_counter() - begun
        await client.delete(name)
    return count / elapsed


async def publish_with_wishes(target: Target) -> float:
    """SDK: publish_many to a queue, each message with a priority, a delay and a dedup_id, messages
    a second."""
    count = target.count(100_000)
    async with mom_client.connect(target.nodes) as client:
        name = await _fresh(client, target, "queue")
        at_ms = int(time.time() * 1000) + 60_000
        messages = [
            Message(VALUE, priority=number % 10, deliver_at_ms=at_ms, dedup_id=f"{name}-{number}")
            for number in range(count)
        ]
        begun = time.perf_counter()
        await client.publish_many(name, messages)
        elapsed = time.perf_counter() - begun
        await client.delete(name)
    return count / elapsed


async def publish_each(target: Target) -> float:
    """SDK: one awaitable for each message, all under way together, messages a second."""
    count = target.count(50_000)
    async with mom_client.connect(target.nodes) as client:
        name = await _fresh(client, target, "topic")
        begun = time.perf_counter()
        await asyncio.gather(*(client.publish(name, VALUE) for _ in range(count)))
        elapsed = time.perf_counter() - begun
        await client.delete(name)
    return count / elapsed


async def publish_latency(target: Target) -> float:
    """SDK: median time of a publish at depth one, milliseconds."""
    async with mom_client.connect(target.nodes) as client:
        name = await _fresh(client, target, "topic")
        times = []
        for _ in range(target.count(500)):
            begun = time.perf_counter()
            await client.publish(name, VALUE)
            times.append(time.perf_counter() - begun)
        await client.delete(name)
    return sorted(times)[len(times) // 2] * 1000


async def stream_read(target: Target) -> float:
    """SDK: read a topic from its start, messages a second."""
    count = target.count(100_000)
    async with mom_client.connect(target.nodes) as client:
        name = await _fresh(client, target, "topic")
        await client.publish_many(name, [VALUE] * count)
        begun = time.perf_counter()
        seen = 0
        async for _ in client.read(name):
            seen += 1
        elapsed = time.perf_counter() - begun
        assert seen == count, f"{seen} of {count} messages came out"
        await client.delete(name)
    return count / elapsed


async def receive_and_ack(target: Target) -> float:
    """SDK: receive and ack in batches of up to 1,000, messages a second."""
    count = target.count(50_000)
    async with mom_client.connect(target.nodes) as client:
        name = await _fresh(client, target, "queue")
        await client.publish_many(name, [VALUE] * count)
        seen = 0

        async def work() -> None:
            nonlocal seen
            while seen < count:
                messages = await client.receive(name, max_messages=1_000)
                seen += len(messages)
                await client.ack(messages)

        begun = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(2)))
        elapsed = time.perf_counter() - begun
        assert seen == count, f"{seen} of {count} messages came out"
        await client.delete(name)
    return count / elapsed


async def consume_each(target: Target) -> float:
    """SDK: a worker that handles and acks one message at a time, messages a second."""
    count = target.count(50_000)
    async with mom_client.connect(target.nodes) as client:
        name = await _fresh(client, target, "queue")
        await client.publish_many(name, [VALUE] * count)
        seen = 0
        begun = time.perf_counter()
        async with client.consume(name) as worker:
            async for _ in worker:
                worker.ack()
                seen += 1
                if seen == count:
                    break
        elapsed = time.perf_counter() - begun
        await client.delete(name)
    return count / elapsed


async def _rest(target: Target, messages: int, requests: int) -> float:
    records = [{"value": "x" * 1024} for _ in range(messages)]
    async with mom_client.connect(target.nodes) as client:
        name = await _fresh(client, target, "topic")
        rate = await post_rate(
            "127.0.0.1",
            target.gateway_port,
            f"/v1/topics/{name}/records",
            json.dumps({"records": records}).encode(),
            requests=requests,
            connections=HTTP_CONNECTIONS if messages == 1 else 8,
        )
        await client.delete(name)
    return rate * messages


async def rest_single(target: Target) -> float:
    """REST: one message a request over 64 connections, requests a second."""
    return await _rest(target, 1, target.count(10_000))


async def rest_batches(target: Target) -> float:
    """REST: 100 messages a request over 8 connections, messages a second."""
    return await _rest(target, 100, target.count(500))


SCENARIOS: dict[str, tuple[str, Callable[[Target], Awaitable[float]]]] = {
    "SDK publish_many": ("msg/s", publish),
    "SDK publish_many, with wishes": ("msg/s", publish_with_wishes),
    "SDK publish, one awaitable each": ("msg/s", publish_each),
    "SDK stream read": ("msg/s", stream_read),
    "SDK receive+ack": ("msg/s", receive_and_ack),
    "SDK consume, one at a time": ("msg/s", consume_each),
    "REST 100-message batches": ("msg/s", rest_batches),
    "REST single requests": ("req/s", rest_single),
    "SDK publish p50 at depth one": ("ms", publish_latency),
}
