"""A worker of a queue: leases that are kept while a handler runs, and acks in the background.

Loop-native. Renewals run in the client's own loop, so a handler may block for longer than a lease.

A lease is over when its owner says so, or when it was not renewed in time by this process's own
clock, counted from the request: a process that was stopped, or cut off, then begins nothing more
of it, for another worker may have it. An ack is sent all the same, since only the owner knows.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from mom_client.lease_room import LeaseRoom
from mom_client.lease_streams import ArrivedLease
from mom_client.received import ReceivedMessage, messages_of_lease
from mom_core.errors import MomError
from mom_core.limits import LEASE_MS_DEFAULT
from mom_core.ranges import RangeSet
from mom_process.wire_errors import from_proto
from mom_proto.v1 import broker_pb2

if TYPE_CHECKING:
    from mom_client.engine import Engine

# A lease is renewed when this share of it has passed, which leaves time for two more tries.
RENEW_AT_SHARE: Final = 1 / 3
_RETRY_MS: Final = 200

_log = logging.getLogger("mom_client")

ACK: Final = broker_pb2.SETTLE_ACTION_ACK
NACK: Final = broker_pb2.SETTLE_ACTION_NACK
RELEASE: Final = broker_pb2.SETTLE_ACTION_RELEASE
EXTEND: Final = broker_pb2.SETTLE_ACTION_EXTEND
BEGIN: Final = broker_pb2.SETTLE_ACTION_BEGIN


class HeldLease:
    """Messages that were leased together and are not all settled."""

    __slots__ = ("_batch", "_worker", "begun", "end", "ends_ms", "first", "gone", "lease_id",
                 "lease_ms", "lost", "over", "partition", "renew_at_ms",
                 "suspect")  # fmt: skip

    def __init__(self, worker: QueueWorker, leased: broker_pb2.LeasedBatch, since_ms: int) -> None:
        self._worker = worker
        self._batch = leased
        self.begun = False
        """Whether the handler has it."""
        self.partition = leased.partition.index
        self.lease_id = leased.lease_id
        self.suspect = leased.suspect
        """It is one message, and one that a worker had when it died. See :meth:`QueueWorker.begin`.
        """
        self.first = leased.base_offset
        self.end = leased.base_offset + int.from_bytes(leased.batch[12:16], "little")
        self.lease_ms = leased.lease_ms or LEASE_MS_DEFAULT
        self.gone = RangeSet()
        """Settled, or lost."""
        self.lost = RangeSet()
        """What its owner said is not this worker's any more."""
        self.over = False
        """It was not renewed in time; whether it is lost, its owner knows."""
        self.renew_at_ms = 0
        self.ends_ms = 0
        """When it is over at the earliest, by this process's clock."""
        self.lasts_from(since_ms)

    def lasts_from(self, since_ms: int) -> None:
        """It was granted, or renewed, by a request of that time."""
        self.ends_ms = since_ms + self.lease_ms
        self.renew_at_ms = since_ms + int(self.lease_ms * RENEW_AT_SHARE)

    def messages(self) -> list[ReceivedMessage]:
        """The messages, decoded by whoever calls."""
        return messages_of_lease(self._worker.topic, self._worker.subscription, self._batch)

    def open_ranges(self) -> list[tuple[int, int]]:
        """What is neither settled nor lost."""
        return [(a, b) for a, b, gone in self.gone.split(self.first, self.end) if not gone]


class QueueWorker:
    """Receives, keeps, settles."""

    def __init__(
        self,
        engine: Engine,
        topic: str,
        subscription: str,
        *,
        at_once_max: int | None,
        lease_ms: int,
    ) -> None:
        """``at_once_max`` messages are leased at a time; None: by its speed."""
        self.topic = topic
        self.subscription = subscription
        self._engine = engine
        self._room = LeaseRoom(at_once_max, engine.clock.monotonic_ms())
        self._lease_ms = lease_ms
        self._streams = engine.lease_streams(
            topic,
            subscription,
            room=self._room,
            lease_ms=lease_ms,
            accept=self._accept,
        )
        self._asked = False
        """Whether somebody wants the next messages, or works on the last ones."""
        self._not_begun: list[HeldLease] = []
        self._leases: set[HeldLease] = set()
        self._settles: list[broker_pb2.SettleRange] = []
        self._to_settle = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._tasks: list[asyncio.Task[None]] = []
        self._to_renew = asyncio.Event()
        self._renewals: set[asyncio.Task[None]] = set()
        self._has_turn: HeldLease | None = None
        """The suspect that is being handled."""
        self._has_backoff = False
        self.on_lost: Callable[[HeldLease, int, int], None] | None = None
        """Called when the offsets [first, end) of a lease were lost."""

    async def open(self) -> None:
        """Begin. Raises NotFoundError."""
        await self._engine.topic(self.topic)
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._keep_renewing()),
            loop.create_task(self._keep_settling()),
        ]

    async def next(
        self, wait_ms: int | None = None, max_messages: int | None = None
    ) -> list[HeldLease]:
        """Lease the next messages, waiting for them; empty only when ``wait_ms`` has passed.

        What an earlier call leased for a caller that was cancelled meanwhile comes first. Where
        messages are asked for and not pushed, ``max_messages`` are.
        """
        self._asked = True
        try:
            async with asyncio.timeout(None if wait_ms is None else wait_ms / 1000):
                while not (found := self._found()):
                    if not await self._streams.wait():
                        await self._poll(max_messages, may_raise=wait_ms is not None)
        except TimeoutError:
            return []
        self._streams.took_up()
        await self._look_at_backoff()
        return found

    async def _look_at_backoff(self) -> None:
        route = await self._engine.topic(self.topic)
        self._has_backoff = route.subscription(self.subscription).queue.retry_backoff_ms > 0

    def _found(self) -> list[HeldLease]:
        """What is leased and not begun, in the order in which it came."""
        self._not_begun = [one for one in self._not_begun if one in self._leases and not one.begun]
        return list(self._not_begun)

    def _accept(self, arrived: ArrivedLease) -> None:
        """An owner pushed messages."""
        lease = HeldLease(self, arrived.batch, arrived.leased_ms)
        self._leases.add(lease)
        self._not_begun.append(lease)
        if self._asked:
            self._to_renew.set()
        else:
            self.give_back(lease, lease.first)

    def leave(self) -> None:
        """Nobody asks for more now: give back what was not begun, until the next call of next."""
        self._asked = False
        self._streams.stop()
        for lease in self._found():
            self.give_back(lease, lease.first)

    async def _poll(self, max_messages: int | None, *, may_raise: bool) -> None:
        """Ask for messages, in a call that nodes and gateways pass on."""
        room = self._streams.room
        try:
            batches = await self._engine.receive(
                self.topic,
                self.subscription,
                max_messages=min(max_messages or room, room),
                wait_ms=self._streams.poll_ms,
                lease_ms=self._lease_ms,
                tells_begin=True,
            )
        except MomError as error:
            if may_raise or not error.retriable:
                raise
            await asyncio.sleep(_RETRY_MS / 1000)
            return
        leases = [HeldLease(self, one, batches.since_ms) for one in batches]
        self._streams.hold(sum(one.end - one.first for one in leases))
        self._leases.update(leases)
        self._not_begun += leases
        self._to_renew.set()

    async def begin(self, lease: HeldLease) -> bool:
        """Say that the handler begins with a suspect; False: it must not, it is not this worker's.

        From then on the delivery counts, so that a message which ends its workers is dead in the
        end. What was handled before it is settled first: it must not count as tried, too. Nor must
        a suspect of another worker of this client, so each has its turn: until it is settled.
        """
        if self._has_turn is lease:
            return True  # Who asked before was cancelled, and comes again.
        await self.flush()
        await self._engine.suspect_turn.acquire()
        self._has_turn = lease
        try:
            begun = self.is_held(lease, lease.first) and await self._begin(lease)
        except BaseException:
            self._end_turn(lease)
            raise
        if not begun:
            self._end_turn(lease)
        return begun

    def _end_turn(self, lease: HeldLease) -> None:
        if self._has_turn is lease:
            self._has_turn = None
            self._engine.suspect_turn.release()

    async def _begin(self, lease: HeldLease) -> bool:
        begun = _range(lease, lease.first, lease.end, BEGIN, 0)
        try:
            (result,) = await self._engine.settle(self.topic, self.subscription, [begun])
        except MomError as error:
            _log.warning("%r: a message was not begun: %s", self.topic, error.message)
            self.give_back(lease, lease.first)
            return False
        for failure in result.failures:
            _log.warning("%r: a message was not begun: %s", self.topic, failure.error.message)
            self._let_go(lease, lease.first, lease.end)
        return not result.failures

    def settle(self, lease: HeldLease, offset: int, action: int, delay_ms: int = 0) -> None:
        """Settle one message in the background."""
        if action != RELEASE:
            self._room.handled(self._now_ms())
        if offset in lease.gone:
            if offset in lease.lost:
                _log.warning(
                    "%r partition %d offset %d was not settled: its lease was lost, and another "
                    "worker may have it", self.topic, lease.partition, offset,
                )  # fmt: skip
            return
        self._let_go(lease, offset, offset + 1)
        self._queue(lease, offset, offset + 1, action, delay_ms)

    def _let_go(self, lease: HeldLease, first: int, end: int) -> None:
        """These are settled, or lost."""
        left = sum(high - low for low, high, gone in lease.gone.split(first, end) if not gone)
        lease.gone.add(first, end)
        if not lease.open_ranges():
            self._leases.discard(lease)
            self._end_turn(lease)
        if not lease.over:  # Else they were counted when it was.
            self._streams.settled(left)

    def give_back(self, lease: HeldLease, first: int) -> None:
        """Release what is left of a lease from ``first`` on."""
        for start, end in lease.open_ranges():
            if end > first:
                start = max(start, first)
                self._let_go(lease, start, end)
                self._queue(lease, start, end, RELEASE)

    def fail(self, lease: HeldLease, offset: int, delay_ms: int) -> None:
        """Give one message back as failed; ``delay_ms`` is for a queue without a backoff."""
        self.settle(lease, offset, NACK, 0 if self._has_backoff else delay_ms)

    def is_held(self, lease: HeldLease, offset: int) -> bool:
        """Whether a message is still this worker's, as far as is known. From any thread."""
        is_over = lease.over or self._now_ms() >= lease.ends_ms
        return not is_over and offset not in lease.gone

    def _queue(
        self, lease: HeldLease, first: int, end: int, action: int, delay_ms: int = 0
    ) -> None:
        last = self._settles[-1] if self._settles else None
        if (
            last is not None
            and last.lease_id == lease.lease_id
            and last.partition == lease.partition
            and last.action == action
            and last.delay_ms == delay_ms
            and last.first_offset + last.count == first
        ):
            last.count += end - first
        else:
            self._settles.append(_range(lease, first, end, action, delay_ms))
        self._idle.clear()
        self._to_settle.set()

    async def flush(self) -> None:
        """Wait until everything settled so far has reached its owners, or failed."""
        await self._idle.wait()

    async def close(self) -> None:
        """Settle what is due and give back the rest unhandled."""
        self.leave()
        await self._streams.ended()
        for lease in self._leases:
            for first, end in lease.open_ranges():
                self._queue(lease, first, end, RELEASE)
            self._end_turn(lease)
        self._leases.clear()
        try:
            await self.flush()
        finally:
            tasks = [*self._tasks, *self._renewals]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep_settling(self) -> None:
        while True:
            await self._to_settle.wait()
            self._to_settle.clear()
            while self._settles:
                ranges, self._settles = self._settles, []
                await self._settle(ranges)
            self._idle.set()

    async def _settle(self, ranges: list[broker_pb2.SettleRange]) -> None:
        try:
            results = await self._engine.settle(self.topic, self.subscription, ranges)
        except MomError as error:
            _log.warning("settling messages of %r failed: %s", self.topic, error.message)
            return
        for one, result in zip(ranges, results, strict=True):
            for failure in result.failures:
                _log.warning(
                    "%d messages of %r partition %d from offset %d were not settled: %s",
                    failure.count, self.topic, one.partition, failure.first_offset,
                    failure.error.message,
                )  # fmt: skip

    # Renewing.

    def _now_ms(self) -> int:
        return self._engine.clock.monotonic_ms()

    async def _keep_renewing(self) -> None:
        while True:
            self._to_renew.clear()
            now_ms = self._now_ms()
            self._drop_ended(now_ms)
            due = [lease for lease in self._leases if lease.renew_at_ms <= now_ms]
            if due:
                self._begin_renewal(due, now_ms)
            moments = (min(one.renew_at_ms, one.ends_ms) for one in self._leases)
            next_ms = min(moments, default=None)
            timeout = None if next_ms is None else (next_ms - now_ms) / 1000
            try:
                async with asyncio.timeout(timeout):
                    await self._to_renew.wait()
            except TimeoutError:
                continue

    def _drop_ended(self, now_ms: int) -> None:
        for lease in [one for one in self._leases if one.ends_ms <= now_ms]:
            lease.over = True
            self._leases.discard(lease)
            self._end_turn(lease)
            for first, end in lease.open_ranges():
                self._streams.settled(end - first)
                self._tell_lost(lease, first, end)

    def _tell_lost(self, lease: HeldLease, first: int, end: int) -> None:
        if self.on_lost is not None:
            self.on_lost(lease, first, end)

    def _begin_renewal(self, due: Iterable[HeldLease], now_ms: int) -> None:
        """By a task of its own: an owner that does not answer must not hold up the others.

        A lease is tried again after a further third, and dropped at its end, so few are under way.
        """
        by_partition: dict[int, list[HeldLease]] = {}
        for lease in due:
            lease.renew_at_ms = now_ms + int(lease.lease_ms * RENEW_AT_SHARE)
            by_partition.setdefault(lease.partition, []).append(lease)
        for leases in by_partition.values():
            task = asyncio.get_running_loop().create_task(self._renew(leases))
            self._renewals.add(task)
            task.add_done_callback(self._renewals.discard)

    async def _renew(self, leases: Iterable[HeldLease]) -> None:
        due = [(one, first, end) for one in leases for first, end in one.open_ranges()]
        if not due:
            return
        sent_ms = self._now_ms()
        ranges = [_range(one, first, end, EXTEND, one.lease_ms) for one, first, end in due]
        try:
            results = await self._engine.settle(self.topic, self.subscription, ranges)
        except MomError as error:
            _log.warning("renewing leases of %r failed: %s", self.topic, error.message)
            return
        failed: set[HeldLease] = set()
        for (lease, _, _), result in zip(due, results, strict=True):
            for failure in result.failures:
                if from_proto(failure.error).retriable:
                    failed.add(lease)
                else:
                    self._lose(lease, failure.first_offset, failure.count)
        for lease in {one for one, _, _ in due} - failed:
            lease.lasts_from(max(sent_ms, lease.ends_ms - lease.lease_ms))

    def _lose(self, lease: HeldLease, first: int, count: int) -> None:
        for start, end, gone in list(lease.gone.split(first, first + count)):
            if not gone:
                self._let_go(lease, start, end)
                lease.lost.add(start, end)
                self._tell_lost(lease, start, end)


def _range(
    lease: HeldLease, first: int, end: int, action: int, delay_ms: int = 0
) -> broker_pb2.SettleRange:
    return broker_pb2.SettleRange(
        partition=lease.partition,
        first_offset=first,
        count=end - first,
        lease_id=lease.lease_id,
        action=action,  # type: ignore[arg-type]
        delay_ms=delay_ms,
    )
