"""What a backlog costs: the memory of the servers while far more waits than their caches hold."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from scenarios import PARTITIONS, VALUE, Target

import mom_client
from mom_core.limits import MIB, NODE_CACHE_BYTES_MAX_DEFAULT

# A backlog of so many times a node's cache.
CACHES = 8
CHUNK = 8_192


class Backlog(NamedTuple):
    """What was seen, memory in MiB of all servers together."""

    mib: int
    peak_mib: float
    published_per_s: float
    received_per_s: float


class Memory:
    """Resident memory of processes."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = pids

    def reset_peak(self) -> None:
        """Let the peak begin at what is resident now (proc(5), clear_refs)."""
        for pid in self._pids:
            Path(f"/proc/{pid}/clear_refs").write_text("5")

    def peak_mib(self) -> float:
        """The sum of the processes' peaks."""
        return sum(status_mib(pid, "VmHWM") for pid in self._pids)


def status_mib(pid: int, field: str) -> float:
    """A memory field of /proc/PID/status."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(one for one in status.splitlines() if one.startswith(field))
    return int(line.split()[1]) / 1024


async def measure(target: Target, pids: Sequence[int]) -> Backlog:
    """Fill a queue with a backlog, then receive and ack all of it."""
    count = target.count(CACHES * NODE_CACHE_BYTES_MAX_DEFAULT // len(VALUE))
    memory = Memory(pids)
    async with mom_client.connect(target.nodes) as client:
        name = target.name("backlog")
        await client.create_queue(
            name, partitions=PARTITIONS, retention_bytes=2 * count * len(VALUE)
        )
        memory.reset_peak()
        begun = time.perf_counter()
        for size in _sizes(count):
            await client.publish_many(name, [VALUE] * size)
        published = time.perf_counter()
        seen = 0
        while seen < count:
            messages = await client.receive(name, max_messages=1_000)
            seen += len(messages)
            await client.ack(messages)
        received = time.perf_counter()
        assert seen == count, f"{seen} of {count} messages came out"
        peak = memory.peak_mib()
        await client.delete(name)
    return Backlog(
        mib=count * len(VALUE) // MIB,
        peak_mib=peak,
        published_per_s=count / (published - begun),
        received_per_s=count / (received - published),
    )


def _sizes(count: int) -> Iterator[int]:
    while count > 0:
        yield min(count, CHUNK)
        count -= CHUNK
