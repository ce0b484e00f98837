"""A delayed message comes at its time to who waits for it: exact on any machine, in virtual time.

Calls and writes take no time here, so what is left is what the nodes themselves wait for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

import mom_client
from simulation.simulated_cluster import SimulatedCluster, simulated

LATE_MS_MAX = 50
MESSAGES = 60
GAPS_MS = [(1, 2_000), (0, 20)]
"""Between the times of two messages: far apart, and close together."""


class Arrivals:
    """How late each message came; negative is early."""

    def __init__(self, simulation: SimulatedCluster) -> None:
        self._simulation = simulation
        self.late_ms: list[int] = []
        self.complete = asyncio.Event()

    def note(self, message: mom_client.ReceivedMessage) -> None:
        self.late_ms.append(self._simulation.now_ms() - int(message.text()))
        if len(self.late_ms) == MESSAGES:
            self.complete.set()


async def poll(client: mom_client.Client, arrivals: Arrivals) -> None:
    while True:
        for message in await client.receive("emails", 5, wait=20):
            arrivals.note(message)
            await client.ack(message)


async def stream(client: mom_client.Client, arrivals: Arrivals) -> None:
    async with client.consume("emails") as messages:
        async for message in messages:
            arrivals.note(message)


Work = Callable[[mom_client.Client, Arrivals], Awaitable[None]]


@pytest.mark.parametrize("gap_ms", GAPS_MS, ids=str)
@pytest.mark.parametrize(("nodes", "partitions"), [(1, 1), (3, 6)])
@pytest.mark.parametrize("work", [poll, stream])
@pytest.mark.parametrize("workers", [1, 3])
def test_it_comes_at_its_time(
    workers: int, work: Work, nodes: int, partitions: int, gap_ms: tuple[int, int]
) -> None:
    async def scenario(simulation: SimulatedCluster) -> list[int]:
        simulation.weather.slow_share = 0
        arrivals = Arrivals(simulation)
        async with simulation.client() as client:
            await client.create_queue("emails", partitions=partitions)
            working = [asyncio.ensure_future(work(client, arrivals)) for _ in range(workers)]
            at_ms = simulation.now_ms() + 1_000
            for _ in range(MESSAGES):
                at_ms += simulation.numbers.randint(*gap_ms)
                await client.publish("emails", str(at_ms), deliver_at_ms=at_ms)
            await arrivals.complete.wait()
            for one in working:
                one.cancel()
            await asyncio.gather(*working, return_exceptions=True)
        return arrivals.late_ms

    late_ms = simulated(1, nodes, scenario)
    assert min(late_ms) >= 0, "never early"
    assert max(late_ms) <= LATE_MS_MAX
