"""What a large queue costs: its rate beside a small one's, its node's memory, and its takeover."""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import time
from collections.abc import Sequence
from typing import NamedTuple

from backlog import Memory
from scenarios import PARTITIONS, Target

import mom_client
from mom_core.message import Message

READY = 1_000_000
LEASED = 100_000
DELAYED = 100_000
# Small bodies: the state of the messages is measured here, bodies by the backlog.
SMALL = b"x" * 100
TAKEN = 50_000
CHUNK = 20_000
LEASE_S = 3_600
DAY_S = 24 * 3_600
SUBSCRIPTIONS = 10
START_TIMEOUT_S = 30


class LargeQueue(NamedTuple):
    """What was seen."""

    small_per_s: float
    """Receive and ack from a queue that holds nothing else."""
    large_per_s: float
    """The same with all that waits, is leased and is delayed beside it."""
    peak_mib: float
    """Of the node that owns it."""
    takeover_s: float
    """From the kill of that node to the next message from another one."""


async def large_queue(
    target: Target, owner: subprocess.Popen[bytes], start_another: Sequence[str]
) -> LargeQueue:
    """Fill a queue, take from it, and kill its node. ``start_another`` is a second node's command.

    Rates are medians of three, taken in turn from a small queue and from the large one.
    """
    count = target.count(TAKEN)
    memory = Memory([owner.pid])
    memory.reset_peak()
    async with mom_client.connect(target.nodes) as client:
        large = await _filled(client, target)
        small_rates, large_rates = [], []
        for _ in range(3):
            small = await _queue(client, target, "small")
            await _publish(client, small, count)
            small_rates.append(await _take(client, small, count))
            await client.delete(small)
            await _publish(client, large, count)
            large_rates.append(await _take(client, large, count))
        peak_mib = memory.peak_mib()
        takeover_s = await _takeover(client, large, owner, start_another)
    return LargeQueue(
        statistics.median(small_rates), statistics.median(large_rates), peak_mib, takeover_s
    )


async def _queue(client: mom_client.Client, target: Target, what: str) -> str:
    name = target.name(what)
    await client.create_queue(name, partitions=PARTITIONS)
    return name


async def _publish(client: mom_client.Client, name: str, count: int) -> None:
    for _ in range(0, count, CHUNK):
        await client.publish_many(name, [SMALL] * min(count, CHUNK))


async def _filled(client: mom_client.Client, target: Target) -> str:
    name = await _queue(client, target, "large")
    tomorrow_ms = int((time.time() + DAY_S) * 1000)
    leased = target.count(LEASED)
    await _publish(client, name, leased)
    while leased > 0:
        leased -= len(await client.receive(name, min(leased, 1_000), lease=LEASE_S))
    for _ in range(0, target.count(DELAYED), CHUNK):
        # Each has a time of its own, so that none shares its neighbour's place in memory.
        delayed = [Message(SMALL, deliver_at_ms=tomorrow_ms + number) for number in range(CHUNK)]
        await client.publish_many(name, delayed)
    await _publish(client, name, target.count(READY))
    return name


async def _take(client: mom_client.Client, name: str, count: int) -> float:
    """Receive and ack, messages a second."""
    seen = 0
    begun = time.perf_counter()
    while seen < count:
        messages = await client.receive(name, min(1_000, count - seen))
        seen += len(messages)
        await client.ack(messages)
    return count / (time.perf_counter() - begun)


async def _takeover(
    client: mom_client.Client,
    name: str,
    owner: subprocess.Popen[bytes],
    start_another: Sequence[str],
) -> float:
    quiet = asyncio.subprocess.DEVNULL
    other = await asyncio.create_subprocess_exec(*start_another, stdout=quiet, stderr=quiet)
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            while len((await client.cluster()).nodes) < 2:  # noqa: ASYNC110 - of other processes
                await asyncio.sleep(0.05)
        begun = time.perf_counter()
        owner.kill()
        messages: list[mom_client.ReceivedMessage] = []
        while not messages:
            messages = await client.receive(name, 1, wait=20)
        return time.perf_counter() - begun
    finally:
        other.terminate()
        await other.wait()


async def fan_out(target: Target) -> float:
    """Bytes in the store for each byte published to a topic that ten subscriptions read."""
    count, size = target.count(20_000), 1_024
    async with mom_client.connect(target.nodes) as client:
        name = target.name("fan")
        await client.create_topic(name, partitions=PARTITIONS)
        for number in range(SUBSCRIPTIONS):
            await client.create_subscription(name, f"reader-{number}", mode="queue")
        before = (await client.cluster()).store_used_bytes
        await client.publish_many(name, [b"x" * size] * count)
        # Each subscription has the first messages, so that none is only a name.
        for number in range(SUBSCRIPTIONS):
            await client.receive(name, 100, wait=5, subscription=f"reader-{number}")
        used = (await client.cluster()).store_used_bytes - before
        await client.delete(name)
    return used / (count * size)
