"""A steady load on a topic and a queue, by clients of several kinds, for as long as asked.

::

    with Recorder(path) as recorder:
        async with Load(plan, kinds, recorder) as load:
            async with load.disruption("a node is killed"):
                ...

Each client publishes keyed and unkeyed messages to both, follows the topic's log, reads it as a
member of a subscription (where its kind can) and works on the queue. Some messages of the queue
are delayed, cancelled, moved, sent twice under a dedup id, expire or fail; a FIFO queue beside it
gets a quarter of the load. Two queues with a rate get their messages in surges: one has priorities,
and one is fair to tenants and is purged at times. At another queue some messages crash their
workers. One client looks after the dead letters of all of them, and sends them back now and then.
At the end of the block publishing stops, a fresh reader reads the log to its end, the others catch
up, and the queues are emptied: then the history says what was lost. Errors that clients meet go
into the history and end nothing.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import takewhile
from types import TracebackType
from typing import Final

import msgspec

from e2e.history import events
from e2e.history.caretaker import Caretaker
from e2e.history.events import Action, Outcome, ReadMode, body_of
from e2e.history.messengers import (
    RETENTION_BYTES,
    Held,
    Kind,
    Landed,
    Messenger,
    QueueToMake,
    Record,
    outcome_of,
)
from e2e.history.recorder import CallError, ClientRecorder, Recorder
from e2e.history.side_load import SideLoad, SidePlan
from e2e.history.wishes import (
    CRASH_MAX_DELIVERIES,
    CRASH_SURGE,
    MAX_DELIVERIES,
    NO_WISH,
    RATE_PER_S,
    RATED_SENDS_PER_S,
    RETRY_BACKOFF_MS,
    RETRY_BACKOFF_MS_MAX,
    RETRY_BACKOFF_MULTIPLIER,
    SURGE,
    TENANT_HEADER,
    Fate,
    Wish,
    fails,
    fate_of,
    id_with,
    killer_id,
    kills,
    moved_delay_s,
    priority_of,
    tenant_of,
    wish_of,
)
from mom_core.limits import RATE_BUCKET_MS

# Before a call that failed is made again, so that a client does not spin on a refused connection.
PAUSE_S: Final = 0.1
# Sends of one client and target that are under way; at a limit its schedule waits.
SENDS_AT_ONCE_MAX: Final = 200
# A worker settles most messages at once, and some in the other ways, each so many-th.
NACK_EACH: Final = 17
EXTEND_EACH: Final = 13
# The FIFO queue gets one message for so many of the others.
FIFO_SHARE: Final = 4
# The queue whose workers crash gets one for so many of the others. Two clients work on it, and wait
# between two receives for several messages to come.
CRASH_SHARE: Final = 8
CRASH_PAUSE_S: Final = 0.3
# There every attempt of a killer lasts as long as a lease.
CRASH_LEASE_S_MAX: Final = 2.0
# The fair queue is purged after so many of a client's messages, when the most of a surge waits.
PURGE_EACH: Final = 3 * SURGE
PURGE_AFTER_S: Final = 1.0
# A purge on request finds so many messages, of which an owner that forgets it shows some.
PURGE_WAITING_MIN: Final = SURGE // 2
# At the queues with a rate, where a lost lease hides for so long what comes next.
RATED_LEASE_S_MAX: Final = 3.0
# What the rule of rates allows for each: see events.Queue.burst.
CLIENTS_MAX: Final = 8
# Of the queues with few messages: a store promises little of its room for them.
SMALL_RETENTION_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a load does. Times are seconds."""

    topic: str = "history-log"
    subscription: str = "history-group"
    queue: str = "history-queue"
    partitions: int = 4
    sends_per_s: float = 20.0
    """Of each client to each of topic and queue."""
    keys: int = 8
    """Two messages of three have one of so many keys, which all clients share."""
    value_bytes: int = 200
    deadline_s: float = 15.0
    """Of one call, beyond what it asks to wait."""
    wait_s: float = 2.0
    """How long a worker waits for messages."""
    lease_s: float = 5.0
    receive_max: int = 10
    drain_s: float = 60.0
    """Within this time readers come to the end and the queue is emptied, or it is a finding."""
    wishes: bool = True
    """Whether messages are delayed, cancelled and so on, there are queues of other orders, and the
    small load of :mod:`e2e.history.side_load` is beside it."""

    @property
    def queues(self) -> list[events.Queue]:
        """The queues and how they deliver. Their dead letters go to a queue of their own."""
        if not self.wishes:
            return [events.Queue(self.queue)]
        dead = f"{self.queue}-dead"
        queue = events.Queue(
            self.queue,
            "priority",
            MAX_DELIVERIES,
            dead,
            retry_backoff_s=RETRY_BACKOFF_MS / 1000,
            retry_backoff_multiplier=RETRY_BACKOFF_MULTIPLIER,
            retry_backoff_s_max=RETRY_BACKOFF_MS_MAX / 1000,
        )
        replace = msgspec.structs.replace
        burst = math.ceil(RATE_PER_S * RATE_BUCKET_MS / 1000) + CLIENTS_MAX
        # Their calm times last longer without it, see e2e.history.flow.
        even = replace(queue, retry_backoff_multiplier=1.0)
        rated = replace(even, rate_per_s=RATE_PER_S, burst=burst)
        return [
            events.Queue(dead),
            replace(queue, expired_are_dead=True),
            replace(queue, target=f"{self.queue}-fifo", ordering="fifo"),
            replace(rated, target=f"{self.queue}-rated", priorities=True),
            replace(rated, target=f"{self.queue}-fair", ordering="fair"),
            replace(
                queue,
                target=f"{self.queue}-crash",
                max_deliveries=CRASH_MAX_DELIVERIES,
                crashes=True,
            ),
        ]

    @property
    def queues_sent_to(self) -> list[events.Queue]:
        """Without the dead letters."""
        dead = self.dead_letter_queues
        return [one for one in self.queues if one not in dead]

    @property
    def dead_letter_queues(self) -> list[events.Queue]:
        """Those that hold the dead letters of the others."""
        dead = {one.dead_letter for one in self.queues}
        return [one for one in self.queues if one.target in dead]

    @property
    def beside(self) -> SidePlan:
        """Where the small load beside this one goes."""
        return SidePlan(
            topic=f"{self.topic}-short",
            queue=f"{self.queue}-bounded",
            lease_s=self.lease_s,
            wait_s=self.wait_s,
            deadline_s=self.deadline_s,
            drain_s=self.drain_s,
        )

    def lease_s_of(self, queue: events.Queue) -> float:
        """How long a worker of a queue has for a message."""
        if queue.crashes:
            return min(self.lease_s, CRASH_LEASE_S_MAX)
        return min(self.lease_s, RATED_LEASE_S_MAX) if queue.rate_per_s else self.lease_s

    def to_make(self, queue: events.Queue) -> QueueToMake:
        """A queue with its settings."""
        main = queue.target == self.queue
        settings: dict[str, object] = {
            "partitions": self.partitions if main else 1,
            "retention_bytes": RETENTION_BYTES if main else SMALL_RETENTION_BYTES,
            "lease_ms": int(self.lease_s_of(queue) * 1000),
        }
        if queue.dead_letter:
            settings |= {
                "ordering": queue.ordering,
                "dead_letter": queue.dead_letter,
                "max_deliveries": queue.max_deliveries,
                "dead_letter_expired": queue.expired_are_dead,
                "retry_backoff_ms": RETRY_BACKOFF_MS,
                "retry_backoff_multiplier": queue.retry_backoff_multiplier,
                "retry_backoff_max_ms": RETRY_BACKOFF_MS_MAX,
                "rate_per_s": queue.rate_per_s,
            }
        if queue.ordering == "fair":
            settings["fair_by"] = f"header:{TENANT_HEADER}"
        return QueueToMake(queue.target, settings)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outgoing:
    """A message to send."""

    target: str
    id: str
    key: str | None
    fate: Fate | None = None
    wish: Wish = NO_WISH
    queue: bool
    """Whether it goes to a queue, not a topic."""


class _ConnectedClient:
    """A client with its recorder, and what the load watches of it."""

    def __init__(self, kind: Kind, recorder: ClientRecorder) -> None:
        self.kind = kind
        self.recorder = recorder
        self.name = recorder.name
        self.messenger: Messenger
        self.sent_from: dict[str, float] = {}
        """When the last send to each target that succeeded had begun."""
        self.under_way: dict[object, float] = {}
        """When each send and settling that is under way began, the oldest first."""
        self.received = 0

    def sends_again(self, target: str, since: float) -> bool:
        """See :meth:`Load.every_client_sends`."""
        oldest = next(iter(self.under_way.values()), since)
        return oldest >= since and self.sent_from.get(target, 0.0) > since


class Load:
    """The clients at work; an async context manager that drains at its end."""

    def __init__(self, plan: Plan, kinds: Sequence[Kind], recorder: Recorder) -> None:
        assert len(kinds) <= CLIENTS_MAX, "the rule of rates allows for no more"
        self.plan = plan
        self._recorder = recorder
        self._clients = [
            _ConnectedClient(
                kind,
                recorder.client(
                    f"{kind.name}-{number}",
                    kind.name,
                    idempotent=kind.idempotent,
                    ordered=kind.ordered_by_call,
                ),
            )
            for number, kind in enumerate(kinds, start=1)
        ]
        self._stack = AsyncExitStack()
        self._tasks: asyncio.TaskGroup
        self._publishing: list[asyncio.Task[None]] = []
        self._consuming: list[asyncio.Task[None]] = []
        self._workers: list[asyncio.Task[None]] = []
        self._stopping = asyncio.Event()
        self._drained = asyncio.Event()
        self._news = asyncio.Condition()
        self._readers: set[str] = set()
        self._reached: dict[tuple[str, int], int] = {}
        """The offset after the last one that each reader got of each partition."""
        self._empty_receives: Counter[str] = Counter()
        self._beside = SideLoad(plan.beside, self._clients, recorder)
        self._caretakers: list[asyncio.Task[None]] = []

    # Life.

    async def __aenter__(self) -> Load:
        async with AsyncExitStack() as stack:
            for client in self._clients:
                connection = client.kind.connect(client.recorder)
                client.messenger = await stack.enter_async_context(connection)
            plan = self.plan
            queues = [plan.to_make(one) for one in plan.queues]
            await self._clients[0].messenger.prepare(
                plan.topic, plan.subscription, plan.partitions, queues
            )
            for one in plan.queues:
                self._recorder.write(one)
            if plan.wishes:
                await self._beside.prepare()
            self._tasks = await stack.enter_async_context(asyncio.TaskGroup())
            self._stack = stack.pop_all()
        for client in self._clients:
            self._start(client)
        if plan.wishes:
            self._beside.start(self._tasks.create_task)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                await self._drain()
        finally:
            self._beside.cancel()
            everything = (self._publishing, self._consuming, self._caretakers, self._workers)
            for task in (one for tasks in everything for one in tasks):
                task.cancel()
            # The group has to know of a cancellation, which may be its own. Any other error of
            # the block goes on as it is, where the group would wrap it.
            if kind is not asyncio.CancelledError:
                kind = error = trace = None
            await self._stack.__aexit__(kind, error, trace)

    def _start(self, client: _ConnectedClient) -> None:
        plan, recorder, spawn = self.plan, client.recorder, self._tasks.create_task
        self._publishing.append(spawn(self._publish(client, plan.topic, None)))
        for queue in plan.queues_sent_to:
            self._publishing.append(spawn(self._publish(client, queue.target, queue)))
        follower = f"{client.name}/follow"
        recorder.reader(follower, ReadMode.LOG, plan.topic)
        self._readers.add(follower)
        for partition in range(plan.partitions):
            self._consuming.append(spawn(self._follow(client, follower, partition)))
        if client.kind.joins:
            recorder.reader(plan.subscription, ReadMode.GROUP, plan.topic)
            self._readers.add(plan.subscription)
            self._consuming.append(spawn(self._join(client)))
        for one in plan.queues_sent_to:
            if not one.crashes or client in (self._clients[0], self._clients[-1]):
                self._workers.append(spawn(self._work(client, one)))
        if client is self._clients[0]:
            for one in plan.dead_letter_queues:
                self._caretakers.append(spawn(self._look_after(client, one)))

    # What a test does meanwhile.

    async def every_client_sends(self) -> None:
        """Wait until each client sends as if nothing had been.

        No send or settling that began before this call is under way any more, at whatever
        partition, and a send to each target that began after it has succeeded. Raises
        TimeoutError, naming the clients that have not come so far, after the plan's deadline and
        time to drain.
        """
        since = self._recorder.now()

        def late() -> list[str]:
            return [
                f"{client.name} to {target}"
                for client in self._clients
                for target in (self.plan.topic, self.plan.queue)
                if not client.sends_again(target, since)
            ]

        try:
            await self._until(lambda: not late(), self.plan.deadline_s + self.plan.drain_s)
        except TimeoutError:
            raise TimeoutError(f"no send succeeds any more: {', '.join(late())}") from None

    @asynccontextmanager
    async def disruption(self, name: str) -> AsyncIterator[None]:
        """Mark what happens inside; over when every client sends again."""
        self._recorder.write(events.Mark(name, True, self._recorder.now()))
        try:
            yield
            await self.every_client_sends()
        finally:
            self._recorder.write(events.Mark(name, False, self._recorder.now()))

    async def purge(self) -> str:
        """Purge the fair queue when much waits in it; returns its name."""
        (target,) = [one.target for one in self.plan.queues if one.ordering == "fair"]
        waiting = await self._backlog(target)
        while waiting < PURGE_WAITING_MIN:
            await asyncio.sleep(PAUSE_S)
            waiting = await self._backlog(target)
        await self._purge_now(self._clients[0], target)
        return target

    async def _until(self, holds: Callable[[], bool], timeout_s: float) -> None:
        async with asyncio.timeout(timeout_s), self._news:
            await self._news.wait_for(holds)

    async def _tell(self) -> None:
        async with self._news:
            self._news.notify_all()

    # Publishing.

    async def _publish(
        self, client: _ConnectedClient, target: str, queue: events.Queue | None
    ) -> None:
        room = asyncio.Semaphore(SENDS_AT_ONCE_MAX if client.kind.ordered_by_call else 1)
        surge = _surge(queue)
        interval_s = surge / self._sends_per_s(queue)
        due = self._recorder.now()
        number = 0
        async with asyncio.TaskGroup() as sends:
            while not self._stopping.is_set():
                await room.acquire()
                number += 1
                one = self._outgoing(client, target, queue, number)
                send = sends.create_task(self._send(client, one))
                send.add_done_callback(lambda _: room.release())
                if self._is_to_purge(client, queue, number):
                    sends.create_task(self._purge(client, target))
                if number % surge == 0:
                    # What was missed while there was no room is not made up for.
                    due = max(due + interval_s, self._recorder.now())
                    await self._pause(due - self._recorder.now())

    def _sends_per_s(self, queue: events.Queue | None) -> float:
        """Of each client."""
        if queue is not None and queue.rate_per_s:
            return RATED_SENDS_PER_S / len(self._clients)
        if queue is not None and queue.crashes:
            return self.plan.sends_per_s / CRASH_SHARE
        fifo = queue is not None and queue.ordering == "fifo"
        return self.plan.sends_per_s / (FIFO_SHARE if fifo else 1)

    def _outgoing(
        self, client: _ConnectedClient, target: str, queue: events.Queue | None, number: int
    ) -> _Outgoing:
        """A client's message number ``number`` to a target."""
        key = f"k{number % self.plan.keys}" if number % 3 else None
        if queue is None:
            return _Outgoing(target=target, id=f"{client.name}-t{number}", key=key, queue=False)
        suffix = target.removeprefix(self.plan.queue).removeprefix("-") or "q"
        name = f"{client.name}-{suffix}{number}"
        if queue.rate_per_s:
            fair = queue.ordering == "fair"
            wish = Wish(group=tenant_of(number)) if fair else Wish(priority=priority_of(number))
            return _Outgoing(target=target, id=name, key=key, wish=wish, queue=True)
        if queue.crashes:
            return _Outgoing(target=target, id=killer_id(number, name), key=key, queue=True)
        fate = fate_of(number, queue.ordering) if queue.dead_letter else None
        message_id = id_with(fate, name)
        wish = wish_of(fate, message_id)
        return _Outgoing(target=target, id=message_id, key=key, fate=fate, wish=wish, queue=True)

    async def _send(self, client: _ConnectedClient, one: _Outgoing) -> None:
        landed = None
        for _ in range(1 + client.kind.resends):
            landed = await self._try(client, one)
            if landed is not None:
                break
            await self._pause(PAUSE_S)
        delay_s = moved_delay_s(one.fate)
        if one.fate is Fate.AGAIN:
            await self._try(client, one)
        elif one.fate is Fate.CANCELLED and landed is not None:
            await self._cancel(client, one.target, landed)
        elif delay_s is not None and landed is not None:
            await self._move(client, one.target, landed, delay_s)

    async def _try(self, client: _ConnectedClient, one: _Outgoing) -> Landed | None:
        """One call; where it landed, or None when it failed."""
        body = body_of(one.id, self.plan.value_bytes)
        begin = self._recorder.now()
        call = client.recorder.send(one.target, one.id, one.key, one.wish)
        client.under_way[call] = begin
        try:
            async with asyncio.timeout(self.plan.deadline_s):
                landed = await client.messenger.send(
                    one.target, body, one.key, one.wish, queue=one.queue
                )
        except (CallError, TimeoutError) as error:
            client.recorder.send_failed(call, _call_error(error))
            return None
        else:
            client.recorder.sent(call, *landed)
            client.sent_from[one.target] = begin
            return landed
        finally:
            del client.under_way[call]
            await self._tell()

    async def _cancel(self, client: _ConnectedClient, target: str, landed: Landed) -> None:
        recorder, place = client.recorder, (landed.partition, landed.offset)
        begin = recorder.now()
        code: str | None = "unknown"
        with suppress(CallError, TimeoutError), recorder.call("cancel"):
            async with asyncio.timeout(self.plan.deadline_s):
                code = await client.messenger.cancel(target, *place)
        # A call that was made again may find its own cancellation.
        outcome = Outcome.UNKNOWN if code else Outcome.OK
        recorder.cancelled(target, *place, begin, outcome)

    async def _move(
        self, client: _ConnectedClient, target: str, landed: Landed, delay_s: float
    ) -> None:
        recorder, place = client.recorder, (landed.partition, landed.offset)
        begin = recorder.now()
        code: str | None = "unknown"
        with suppress(CallError, TimeoutError), recorder.call("reschedule"):
            async with asyncio.timeout(self.plan.deadline_s):
                code = await client.messenger.reschedule(target, *place, delay_s)
        outcome = Outcome.UNKNOWN if code else Outcome.OK
        recorder.moved(target, *place, begin, delay_s, outcome)

    def _is_to_purge(
        self, client: _ConnectedClient, queue: events.Queue | None, number: int
    ) -> bool:
        fair = queue is not None and queue.ordering == "fair"
        return fair and client is self._clients[0] and number % PURGE_EACH == 0

    async def _purge(self, client: _ConnectedClient, target: str) -> None:
        await self._pause(PURGE_AFTER_S)
        await self._purge_now(client, target)

    async def _purge_now(self, client: _ConnectedClient, target: str) -> None:
        recorder = client.recorder
        begin = recorder.now()
        outcome = Outcome.UNKNOWN
        with suppress(CallError, TimeoutError), recorder.call("purge"):
            async with asyncio.timeout(self.plan.deadline_s):
                await client.messenger.purge(target)
            outcome = Outcome.OK
        recorder.purged(target, begin, outcome)

    async def _pause(self, seconds: float) -> None:
        """Wait, though no longer than until publishing stops."""
        if seconds > 0:
            try:
                async with asyncio.timeout(seconds):
                    await self._stopping.wait()
            except TimeoutError:
                return

    # Reading.

    async def _follow(self, client: _ConnectedClient, reader: str, partition: int) -> None:
        while True:
            offset = self._reached.get((reader, partition), 0)
            await self._read(
                client,
                client.messenger.read(self.plan.topic, partition, offset, follow=True),
                reader,
                ReadMode.LOG,
            )

    async def _join(self, client: _ConnectedClient) -> None:
        plan = self.plan
        while True:
            await self._read(
                client,
                client.messenger.join(plan.topic, plan.subscription, client.name),
                plan.subscription,
                ReadMode.GROUP,
            )

    async def _read(
        self,
        client: _ConnectedClient,
        records: AsyncIterator[Record],
        reader: str,
        mode: ReadMode,
    ) -> bool:
        """Record what comes; whether it came to an end without an error."""
        topic = self.plan.topic
        try:
            async with aclosing(records):  # type: ignore[type-var]
                async for one in records:
                    partition, offset, body = one
                    client.recorder.read(reader, mode, topic, partition, offset, body)
                    place = (reader, partition)
                    self._reached[place] = max(self._reached.get(place, 0), offset + 1)
                    if self._stopping.is_set():
                        await self._tell()
        except (CallError, TimeoutError):
            await asyncio.sleep(PAUSE_S)
            return False
        return True

    # Working.

    async def _work(self, client: _ConnectedClient, queue: events.Queue) -> None:
        while not self._drained.is_set():
            await self._work_once(client, queue, self.plan.receive_max)
            if queue.crashes:
                await asyncio.sleep(CRASH_PAUSE_S)

    async def _work_once(
        self, client: _ConnectedClient, queue: events.Queue, receive_max: int
    ) -> None:
        plan, recorder = self.plan, client.recorder
        try:
            with recorder.call("receive", plan.wait_s) as begin:
                async with asyncio.timeout(plan.deadline_s + plan.wait_s):
                    held = await client.messenger.receive(
                        queue.target,
                        receive_max,
                        wait_s=plan.wait_s,
                        lease_s=plan.lease_s_of(queue),
                    )
        except (CallError, TimeoutError):
            await asyncio.sleep(PAUSE_S)
            return
        if held:
            await self._handle(client, queue, held, begin, recorder.now())
        else:
            self._empty_receives[queue.target] += 1
            await self._tell()

    async def _look_after(self, client: _ConnectedClient, dead: events.Queue) -> None:
        """See :class:`Caretaker`."""
        caretaker = Caretaker(
            dead.target,
            client.messenger,
            client.recorder,
            deadline_s=self.plan.deadline_s,
            end_s=self.plan.drain_s,
            take=lambda: self._work_once(client, dead, 1),
        )
        await caretaker.run(self._stopping)

    async def _handle(
        self,
        client: _ConnectedClient,
        queue: events.Queue,
        held: Sequence[Held],
        begin: float,
        end: float,
    ) -> None:
        leases = [self._record_lease(client, queue, one, begin, end) for one in held]
        if queue.crashes:
            await self._handle_or_crash(client, queue, list(zip(leases, held, strict=True)))
            return
        acks: list[tuple[str, Held]] = []
        nacks: list[tuple[str, Held]] = []
        extended: list[tuple[str, Held]] = []
        for pair in zip(leases, held, strict=True):
            client.received += 1
            first = pair[1].deliveries == 1
            given_back = queue.dead_letter and fails(pair[1].body, pair[1].redrives)
            if given_back or (first and client.received % NACK_EACH == 0):
                nacks.append(pair)
            else:
                acks.append(pair)
            if client.received % EXTEND_EACH == 0:
                extended.append(pair)
        await self._settle(client, queue, Action.EXTEND, extended)
        await self._settle(client, queue, Action.NACK, nacks)
        await self._settle(client, queue, Action.ACK, acks)

    def _record_lease(
        self, client: _ConnectedClient, queue: events.Queue, one: Held, begin: float, end: float
    ) -> str:
        recorder, facts = client.recorder, one.facts
        place = (queue.target, one.partition, one.offset, one.body)
        if facts is not None:
            recorder.dead_letter(*place, begin=begin, end=end, facts=facts)
        return recorder.lease(
            *place,
            deliveries=one.deliveries,
            begin=begin,
            end=end,
            lease_s=self.plan.lease_s_of(queue),
            redrives=one.redrives,
        )

    async def _handle_or_crash(
        self, client: _ConnectedClient, queue: events.Queue, pairs: Sequence[tuple[str, Held]]
    ) -> None:
        """Handle one after the other, and at one that kills its worker vanish with the rest."""
        handled = list(takewhile(lambda pair: not kills(pair[1].body, pair[1].redrives), pairs))
        await self._settle(client, queue, Action.ACK, handled)
        if left := [lease for lease, _ in pairs[len(handled) :]]:
            client.recorder.crashed(left)

    async def _settle(
        self,
        client: _ConnectedClient,
        queue: events.Queue,
        action: Action,
        pairs: Sequence[tuple[str, Held]],
    ) -> None:
        if not pairs:
            return
        plan, recorder = self.plan, client.recorder
        lease_s = plan.lease_s_of(queue) if action is Action.EXTEND else 0.0
        begin = recorder.now()
        outcomes = [Outcome.UNKNOWN] * len(pairs)
        client.under_way[pairs[0][0]] = begin
        try:
            with recorder.call(action.value) as begin:
                async with asyncio.timeout(plan.deadline_s):
                    results = await client.messenger.settle(
                        queue.target, [held for _, held in pairs], action, lease_s=lease_s
                    )
            outcomes = [outcome_of(one) for one in results]
        except (CallError, TimeoutError):
            await asyncio.sleep(PAUSE_S)
        finally:
            del client.under_way[pairs[0][0]]
            await self._tell()
        for (lease, _), outcome in zip(pairs, outcomes, strict=True):
            recorder.settle(lease, action, begin, outcome, lease_s)

    # The end.

    async def _drain(self) -> None:
        self._stopping.set()
        await asyncio.gather(*self._publishing)
        await asyncio.gather(*self._caretakers)
        for one in self.plan.dead_letter_queues:
            self._workers.append(self._tasks.create_task(self._work(self._clients[0], one)))
        ends = [await self._read_to_end(partition) for partition in range(self.plan.partitions)]

        def caught_up() -> bool:
            return all(
                self._reached.get((reader, partition), 0) >= end
                for reader in self._readers
                for partition, end in enumerate(ends)
            )

        # Who is late is found by the checker, who knows every reader.
        await self._in_time(caught_up)
        # What dies last comes to the dead letters before its queue counts as empty.
        for one in (*self.plan.queues_sent_to, *self.plan.dead_letter_queues):
            await self._empty_queue(one.target)
        if self.plan.wishes:
            await self._beside.drain()
        self._drained.set()
        # The queue may be empty before the answers to the last acknowledgements are here.
        await asyncio.gather(*self._workers)

    @property
    def _final_reader(self) -> str:
        return f"{self._clients[0].name}/final"

    async def _read_to_end(self, partition: int) -> int:
        client, topic = self._clients[0], self.plan.topic
        reader = self._final_reader
        if partition == 0:
            client.recorder.reader(reader, ReadMode.LOG, topic)
        deadline = self._recorder.now() + self.plan.drain_s
        whole = False
        while not whole and self._recorder.now() < deadline:
            offset = self._reached.get((reader, partition), 0)
            records = client.messenger.read(topic, partition, offset, follow=False)
            whole = await self._read(client, records, reader, ReadMode.LOG)
        end = self._reached.get((reader, partition), 0)
        if whole:
            self._recorder.write(events.LogEnd(reader, topic, partition, end, self._recorder.now()))
        return end

    async def _empty_queue(self, queue: str) -> None:
        """Wait until the workers have emptied a queue, and record what is left."""
        left = await self._backlog(queue)
        deadline = self._recorder.now() + self.plan.drain_s
        while left and self._recorder.now() < deadline:
            seen = self._empty_receives[queue]
            await self._in_time(lambda seen=seen: self._empty_receives[queue] > seen)  # type: ignore[misc]
            left = await self._backlog(queue)
        self._recorder.write(events.Drained(queue, left, self._recorder.now()))

    async def _backlog(self, queue: str) -> int:
        deadline = self._recorder.now() + self.plan.drain_s
        while True:
            try:
                async with asyncio.timeout(self.plan.deadline_s):
                    return await self._clients[0].messenger.backlog(queue)
            except (CallError, TimeoutError):
                if self._recorder.now() > deadline:
                    raise
                await asyncio.sleep(PAUSE_S)

    async def _in_time(self, holds: Callable[[], bool]) -> bool:
        try:
            await self._until(holds, self.plan.drain_s)
        except TimeoutError:
            return False
        return True


def _surge(queue: events.Queue | None) -> int:
    """How many messages a client sends to it at once."""
    if queue is None:
        return 1
    return CRASH_SURGE if queue.crashes else SURGE if queue.rate_per_s else 1


def _call_error(error: CallError | TimeoutError) -> CallError:
    return error if isinstance(error, CallError) else CallError("deadline")
