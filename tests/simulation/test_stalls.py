"""A queue whose worker hangs is told as stalled, and one that is slow is not, also after a loss."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from e2e.history import events, messengers
from e2e.history.checker import check
from e2e.history.events import Action, Outcome, body_of, read_events
from e2e.history.messengers import Held, Messenger
from e2e.history.recorder import ClientRecorder, Recorder
from e2e.history.stalls import LOOKS_S, STALLED_AFTER_S
from simulation.disrupted_load import NODES, DisruptedLoad
from simulation.simulated_cluster import SimulatedCluster, simulated
from simulation.test_simulation import MEMORY, seeds

HUNG, SLOW = "hung", "slow"
MESSAGES = 40
WORK_EACH_S = 5.0
LOOK_EACH_S = 2.0
LEASE_S = 60.0
# Until every lease of before a loss is over: see e2e.history.flow.calm_times.
CALM_S = LEASE_S + 2
# How long a worker hangs then.
HANGS_S = STALLED_AFTER_S + 2 * LOOKS_S + 4 * LOOK_EACH_S


class Workers:
    """One who hangs over a message of a queue, and one who is slow at another."""

    def __init__(self, messenger: Messenger, own: ClientRecorder, recorder: Recorder) -> None:
        self._messenger = messenger
        self._own = own
        self._recorder = recorder
        self._ended = asyncio.Event()

    @asynccontextmanager
    async def disruption(self, name: str) -> AsyncIterator[None]:
        self._recorder.write(events.Mark(name, True, self._own.now()))
        yield
        await asyncio.sleep(WORK_EACH_S)
        self._recorder.write(events.Mark(name, False, self._own.now()))

    async def publish(self) -> None:
        for queue in (HUNG, SLOW):
            await self._messenger.create_queue(queue, {"partitions": 1})
            self._recorder.write(events.Queue(queue))
            for number in range(MESSAGES):
                message_id = f"{queue}-{number}"
                call = self._own.send(queue, message_id, None)
                self._own.sent(call, *await self._messenger.offer(queue, body_of(message_id, 10)))

    async def hang(self) -> None:
        """Be slow at one queue and stand still at the other, then empty both."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._be_slow())
            tasks.create_task(self._look())
            await asyncio.sleep(CALM_S)
            held = await self._receive(HUNG, 1)
            await asyncio.sleep(HANGS_S)
            await self._ack(HUNG, held)
            await asyncio.sleep(2 * LOOKS_S)
            self._ended.set()
        for queue in (HUNG, SLOW):
            while await self._messenger.backlog(queue):
                await self._ack(queue, await self._receive(queue, MESSAGES))
            self._recorder.write(events.Drained(queue, 0, self._own.now()))

    async def _be_slow(self) -> None:
        while not self._ended.is_set():
            held = await self._receive(SLOW, 1)
            await asyncio.sleep(WORK_EACH_S)
            await self._ack(SLOW, held)

    async def _look(self) -> None:
        while not self._ended.is_set():
            for queue in (HUNG, SLOW):
                begin = self._own.now()
                stalled = await self._messenger.is_stalled(queue)
                self._own.described(queue, begin, stalled)
            await asyncio.sleep(LOOK_EACH_S)

    async def _receive(self, queue: str, count: int) -> list[tuple[str, Held]]:
        with self._own.call("receive") as begin:
            found = await self._messenger.receive(queue, count, wait_s=0, lease_s=LEASE_S)
        end = self._own.now()
        return [
            (
                self._own.lease(
                    queue,
                    one.partition,
                    one.offset,
                    one.body,
                    deliveries=one.deliveries,
                    begin=begin,
                    end=end,
                    lease_s=LEASE_S,
                ),
                one,
            )
            for one in found
        ]

    async def _ack(self, queue: str, held: list[tuple[str, Held]]) -> None:
        begin = self._own.now()
        results = await self._messenger.settle(queue, [one for _, one in held], Action.ACK)
        for (lease, _), error in zip(held, results, strict=True):
            self._own.settle(lease, Action.ACK, begin, Outcome.REFUSED if error else Outcome.OK)


@pytest.mark.parametrize("seed", seeds())
def test_what_stands_still_is_told_and_what_is_slow_is_not(seed: int, tmp_path: Path) -> None:
    path = tmp_path / "history.ndjson"

    async def scenario(simulation: SimulatedCluster) -> None:
        kind = messengers.sdk(simulation.addresses)
        async with AsyncExitStack() as stack:
            recorder = stack.enter_context(Recorder(path, simulation.loop.time))
            own = recorder.client("sdk-1", kind.name, idempotent=True, ordered=True)
            messenger = await stack.enter_async_context(kind.connect(own))
            workers = Workers(messenger, own, recorder)
            await workers.publish()
            await DisruptedLoad(simulation).disrupt(workers)  # type: ignore[arg-type]
            await workers.hang()

    simulated(seed, NODES, scenario)
    history = list(read_events(path))
    verdict = check(history, MEMORY)
    assert not verdict.findings, [str(one) for one in verdict.findings]
    told = [one for one in history if isinstance(one, events.Described)]
    assert any(one.stalled for one in told if one.target == HUNG)
    assert not any(one.stalled for one in told if one.target == SLOW)
