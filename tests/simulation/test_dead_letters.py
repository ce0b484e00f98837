"""Dead letters and redrives while processes die, part and come back: exactly once, none lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

import mom_client
from simulation.disrupted_load import BROKEN_SHARE, NODES, DisruptedLoad
from simulation.simulated_cluster import SimulatedCluster, simulated
from simulation.test_simulation import seeds

QUEUE = "work"
DEAD = "work.dead"
MESSAGES = 60
POISONED = frozenset(f"m{number}" for number in range(0, MESSAGES, 4))
SETTINGS = {
    "lease_ms": 2_000,
    "max_deliveries": 2,
    "dead_letter": DEAD,
    "retry_backoff_ms": 200,
    "partitions": 3,
}


class PoisonedLoad:
    """A worker that fails at some messages, and a producer that sends each of them twice."""

    def __init__(self, client: mom_client.Client) -> None:
        self._client = client
        self.acked: Counter[str] = Counter()
        self.handled: set[str] = set()
        self.ended = False

    @asynccontextmanager
    async def disruption(self, name: str) -> AsyncIterator[None]:
        yield

    async def publish(self) -> None:
        for number in range(MESSAGES):
            for _ in range(2):
                text = f"m{number}"
                await self._again(lambda one=text: self._client.publish(QUEUE, one, dedup_id=one))
            await asyncio.sleep(0.3)

    async def work(self) -> None:
        while not self.ended:
            messages = await self._again(lambda: self._client.receive(QUEUE, 5, wait=1))
            for one in () if messages is True else messages:
                self.handled.add(one.text())
                if one.text() in POISONED:
                    await self._again(lambda one=one: self._client.nack(one))
                elif await self._again(lambda one=one: self._client.ack(one)):
                    self.acked[one.text()] += 1

    async def _again(self, call):  # type: ignore[no-untyped-def]
        """Until it succeeds; None when the lease was lost."""
        while not self.ended:
            try:
                return await call() or True
            except mom_client.SettleError:
                return None
            except mom_client.MomError as error:
                if not error.retriable:
                    raise
            await asyncio.sleep(0.1)
        return None

    async def redrive(self) -> None:
        operation = await self._again(lambda: self._client.redrive(DEAD, rate="5/s"))
        while not self.ended:
            try:
                ended = await self._client.operation(operation.operation_id, wait=True)
            except mom_client.MomError as error:
                if not error.retriable:
                    raise
                await asyncio.sleep(0.1)
            else:
                assert ended.state == "done"
                return

    async def dead(self) -> list[mom_client.DeadLetter]:
        found = await self._again(lambda: self._client.dead_letters(DEAD))
        return [] if found is True else found


async def run(simulation: SimulatedCluster) -> None:
    async with simulation.client() as client:
        await client.create_queue(DEAD)
        await client.create_queue(QUEUE, **SETTINGS)
        load = PoisonedLoad(client)
        worker = asyncio.create_task(load.work())
        try:
            await disrupt_and_redrive(simulation, load)
        finally:
            load.ended = True
            await worker


async def disrupt_and_redrive(simulation: SimulatedCluster, load: PoisonedLoad) -> None:
    disrupted = DisruptedLoad(simulation)
    simulation.weather.broken_share = BROKEN_SHARE
    publisher = asyncio.create_task(load.publish())
    for _ in range(4):
        await disrupted.disrupt(load)
        await asyncio.sleep(3)
    await publisher
    await rest(load, 0, disrupted.done)
    redrive = asyncio.create_task(load.redrive())
    for _ in range(2):
        await disrupted.disrupt(load)
    simulation.weather.broken_share = 0.0
    await redrive
    await rest(load, 1, disrupted.done)


async def rest(load: PoisonedLoad, redrives: int, done: list[str]) -> None:
    """Everything has come to where it belongs, and stays there."""
    await asyncio.sleep(60)
    dead = await load.dead()
    texts = [one.message.text() for one in dead]
    assert len(set(texts)) == len(texts), done
    # A delivery whose answer was lost counts, so others may be among them, unless they were acked.
    assert set(texts) >= POISONED, done
    assert not load.acked.keys() & set(texts), done
    assert {one.facts.redrives for one in dead} <= set(range(redrives + 1))
    assert load.handled | set(texts) == {f"m{number}" for number in range(MESSAGES)}
    assert set(load.acked.values()) == {1}, done


@pytest.mark.parametrize("seed", seeds())
def test_each_dead_letter_is_there_once(seed: int) -> None:
    simulated(seed, NODES, run)
