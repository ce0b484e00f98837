"""A small load beside the large one, on what an administrator bounds and stops.

A queue with a bound is paused now and then, so that it fills and refuses messages; its workers take
their time. A topic keeps its messages for a short time, and is read from its beginning again and
again. At the end its queue is emptied.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol

from e2e.history import events
from e2e.history.events import Action, Outcome, ReadMode, body_of
from e2e.history.messengers import Held, Landed, Messenger, outcome_of
from e2e.history.recorder import CallError, ClientRecorder, Recorder
from e2e.history.wishes import NO_WISH

# Of all clients together. A pause lasts so long that the queue fills twice.
OFFERS_PER_S: Final = 5.0
MESSAGES_MAX: Final = 5
PAUSE_EACH_S: Final = 6.0
PAUSED_S: Final = 2.0
# Two workers keep up with what comes, and always have something in their hands.
WORKERS: Final = 2
RECEIVE_MAX: Final = 3
HANDLING_S: Final = 0.4
# Topics are looked at every ten seconds, so there is always something old and something young.
RETENTION_S: Final = 5.0
SENDS_PER_S: Final = 2.0
READING_EACH_S: Final = 1.0
# Before a call that failed is made again.
RETRY_S: Final = 0.1
_BYTES: Final = 1 << 20
_BODY_BYTES: Final = 100


class SideClient(Protocol):
    """What it needs of a client."""

    name: str
    recorder: ClientRecorder
    messenger: Messenger


@dataclass(frozen=True, slots=True, kw_only=True)
class SidePlan:
    """Where it goes. Times are seconds."""

    topic: str
    queue: str
    lease_s: float
    wait_s: float
    deadline_s: float
    drain_s: float


class SideLoad:
    """The small load of a load's clients, who are connected when it begins."""

    def __init__(self, plan: SidePlan, clients: Sequence[SideClient], recorder: Recorder) -> None:
        self._plan = plan
        self._clients = clients
        self._recorder = recorder
        self._publishing: list[asyncio.Task[None]] = []
        self._workers: list[asyncio.Task[None]] = []
        self._stopping = asyncio.Event()
        self._drained = asyncio.Event()
        self._trimmed = asyncio.Event()
        """A reader found the beginning of the topic gone."""

    async def prepare(self) -> None:
        """Create the two; no error when they stand already."""
        plan, messenger = self._plan, self._clients[0].messenger
        settings = {"partitions": 1, "retention_bytes": _BYTES}
        await messenger.create_topic(
            plan.topic, settings | {"retention_ms": int(RETENTION_S * 1000)}
        )
        await messenger.create_queue(plan.queue, settings | {"messages_max": MESSAGES_MAX})
        self._recorder.write(events.Topic(plan.topic, RETENTION_S))
        self._recorder.write(events.Queue(plan.queue, messages_max=MESSAGES_MAX))

    def start(self, spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]) -> None:
        """Begin."""
        for client in self._clients:
            self._publishing.append(spawn(self._offer(client)))
            self._publishing.append(spawn(self._publish(client)))
        self._publishing.append(spawn(self._pause_at_times(self._clients[0])))
        self._publishing.append(spawn(self._read_at_times(self._clients[0])))
        for client in self._clients[:WORKERS]:
            self._workers.append(spawn(self._work(client)))

    async def drain(self) -> None:
        """Stop publishing, wait until the queue is empty, and record what is left.

        Before that a reader has found the beginning of the topic gone, or waited for it in vain.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(self._plan.drain_s):
                await self._trimmed.wait()
        self._stopping.set()
        await asyncio.gather(*self._publishing)
        deadline = self._recorder.now() + self._plan.drain_s
        left = await self._backlog()
        while left and self._recorder.now() < deadline:
            await asyncio.sleep(RETRY_S)
            left = await self._backlog()
        self._recorder.write(events.Drained(self._plan.queue, left, self._recorder.now()))
        self._drained.set()
        await asyncio.gather(*self._workers)

    def cancel(self) -> None:
        """End at once."""
        for task in (*self._publishing, *self._workers):
            task.cancel()

    # The queue with a bound.

    async def _offer(self, client: SideClient) -> None:
        queue = self._plan.queue
        for message_id in self._numbered(client, queue):
            body = body_of(message_id, _BODY_BYTES)
            offered = client.messenger.offer(queue, body)
            await self._send(client, queue, message_id, offered)
            await self._pause(len(self._clients) / OFFERS_PER_S)

    async def _work(self, client: SideClient) -> None:
        plan, recorder = self._plan, client.recorder
        while not self._drained.is_set():
            try:
                with recorder.call("receive", plan.wait_s) as begin:
                    async with asyncio.timeout(plan.deadline_s + plan.wait_s):
                        held = await client.messenger.receive(
                            plan.queue, RECEIVE_MAX, wait_s=plan.wait_s, lease_s=plan.lease_s
                        )
            except (CallError, TimeoutError):
                await asyncio.sleep(RETRY_S)
                continue
            if held:
                await self._handle(client, held, begin)

    async def _handle(self, client: SideClient, held: Sequence[Held], begin: float) -> None:
        plan, recorder = self._plan, client.recorder
        end = recorder.now()
        leases = [
            recorder.lease(
                plan.queue,
                one.partition,
                one.offset,
                one.body,
                deliveries=one.deliveries,
                begin=begin,
                end=end,
                lease_s=plan.lease_s,
            )
            for one in held
        ]
        await asyncio.sleep(HANDLING_S)
        outcomes = [Outcome.UNKNOWN] * len(held)
        settled = recorder.now()
        try:
            with recorder.call(Action.ACK.value) as settled:
                async with asyncio.timeout(plan.deadline_s):
                    results = await client.messenger.settle(plan.queue, held, Action.ACK)
            outcomes = [outcome_of(one) for one in results]
        except (CallError, TimeoutError):
            await asyncio.sleep(RETRY_S)
        for lease, outcome in zip(leases, outcomes, strict=True):
            recorder.settle(lease, Action.ACK, settled, outcome)

    async def _pause_at_times(self, client: SideClient) -> None:
        """Whatever becomes of a pause, the queue goes on after it."""
        while not self._stopping.is_set():
            await self._pause(PAUSE_EACH_S)
            await self._set_paused(client, True)
            await self._pause(PAUSED_S)
            await self._resume(client)

    async def _resume(self, client: SideClient) -> None:
        """Until it is done. A queue that stays paused shows when it is not empty in the end."""
        deadline = self._recorder.now() + self._plan.deadline_s + self._plan.drain_s
        goes_on = await self._set_paused(client, False)
        while not goes_on and self._recorder.now() < deadline:
            await asyncio.sleep(RETRY_S)
            goes_on = await self._set_paused(client, False)

    async def _set_paused(self, client: SideClient, paused: bool) -> bool:
        recorder, queue = client.recorder, self._plan.queue
        begin = recorder.now()
        outcome = Outcome.UNKNOWN
        try:
            async with asyncio.timeout(self._plan.deadline_s):
                await client.messenger.set_paused(queue, paused)
            outcome = Outcome.OK
        except (CallError, TimeoutError):
            pass  # It needs a master, which may be away: no failed call of those that do not.
        recorder.paused(queue, paused, begin, outcome)
        return outcome is Outcome.OK

    async def _backlog(self) -> int:
        deadline = self._recorder.now() + self._plan.drain_s
        while True:
            try:
                async with asyncio.timeout(self._plan.deadline_s):
                    return await self._clients[0].messenger.backlog(self._plan.queue)
            except (CallError, TimeoutError):
                if self._recorder.now() > deadline:
                    raise
                await asyncio.sleep(RETRY_S)

    # The topic that keeps little.

    async def _publish(self, client: SideClient) -> None:
        topic = self._plan.topic
        for message_id in self._numbered(client, topic):
            body = body_of(message_id, _BODY_BYTES)
            sent = client.messenger.send(topic, body, None, NO_WISH, queue=False)
            await self._send(client, topic, message_id, sent)
            await self._pause(len(self._clients) / SENDS_PER_S)

    async def _read_at_times(self, client: SideClient) -> None:
        topic = self._plan.topic
        for reader in self._numbered(client, f"{topic}/reading"):
            begin = client.recorder.now()
            try:
                async with asyncio.timeout(self._plan.deadline_s):
                    await self._read(client, reader)
            except (CallError, TimeoutError):
                await asyncio.sleep(RETRY_S)
            else:
                client.recorder.reading(reader, topic, 0, begin)
            await self._pause(READING_EACH_S)

    async def _read(self, client: SideClient, reader: str) -> None:
        topic = self._plan.topic
        is_first = True
        records = client.messenger.read(topic, 0, 0, follow=False)
        async with aclosing(records):  # type: ignore[type-var]
            async for partition, offset, body in records:
                client.recorder.read(reader, ReadMode.LOG, topic, partition, offset, body)
                if is_first and offset:
                    self._trimmed.set()
                is_first = False

    # Both.

    def _numbered(self, client: SideClient, target: str) -> Iterator[str]:
        number = 0
        while not self._stopping.is_set():
            number += 1
            yield f"{client.name}-{target}-{number}"

    async def _send(
        self, client: SideClient, target: str, message_id: str, sending: Awaitable[Landed]
    ) -> None:
        """One call, which is not made again: a refusal is an answer, too."""
        call = client.recorder.send(target, message_id, None)
        try:
            async with asyncio.timeout(self._plan.deadline_s):
                landed = await sending
        except CallError as error:
            client.recorder.send_failed(call, error)
        except TimeoutError:
            client.recorder.send_failed(call, CallError("deadline"))
        else:
            client.recorder.sent(call, *landed)

    async def _pause(self, seconds: float) -> None:
        """Wait, though no longer than until publishing stops."""
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return
