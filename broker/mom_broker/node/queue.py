"""A queue-mode subscription on one partition: leases over the log.

:class:`mom_core.delivery.Delivery` decides; this shell reads the messages' bodies, journals what
was decided in the order it was decided, and lets nothing out before it is durable.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from mom_broker.node.dead_letters import DeadLetters
from mom_broker.node.partition import Arrived, Partition
from mom_broker.node.rates import QueueRate
from mom_broker.node.signal import Signal
from mom_core import batch as codec
from mom_core.delivery import (
    Change,
    Delivery,
    DeliveryCounts,
    Leased,
    Outstanding,
    Policy,
    Run,
    SettleAction,
    SettleOutcome,
    WaitingResult,
    Wanted,
    runs_of_batch,
)
from mom_core.delivery.rate import Loan
from mom_core.errors import MomError
from mom_core.limits import PROMISE_MS
from mom_core.message import Message
from mom_core.ports import BatchHead, StoredBatch
from mom_core.ranges import RangeSet
from mom_core.watchdog import Watchdog

Journal = Callable[[Sequence[Change]], "asyncio.Future[None]"]

# Batches of the log whose beginnings are read at a time to learn what waits there.
CATCH_UP_BATCHES: Final = 1_024


class LeasedSlice(NamedTuple):
    """Consecutive messages of one stored batch that were leased together."""

    partition: int
    base_offset: int
    append_time_ms: int
    data: bytes
    lease_id: int
    deadline_ms: int
    deliveries: int
    suspect: bool
    """See :class:`~mom_core.delivery.LeasedRange`."""


class Promise:
    """A message is kept for one who was told of it, until that one has come, or for PROMISE_MS."""

    def __init__(self, reader: QueueReader) -> None:
        self._reader = reader
        reader.ready.promised += 1
        self._timer = asyncio.get_running_loop().call_later(PROMISE_MS / 1000, self._lapse)
        self.kept = True

    def end(self) -> None:
        """The one came. It looks by itself, so nobody is woken."""
        if self.kept:
            self.kept = False
            self._timer.cancel()
            self._reader.ready.promised -= 1

    def _lapse(self) -> None:
        self.end()
        self._reader.wake()


class QueueReader:
    """Receives and settles for one subscription of one partition."""

    def __init__(
        self,
        partition: Partition,
        delivery: Delivery,
        *,
        journal: Journal,
        now_ms: Callable[[], int],
        new_lease_id: Callable[[], int],
        rate: QueueRate,
        loan: Loan | None = None,
        is_new: bool = False,
    ) -> None:
        """``loan`` is what was lent of its share of the rate; ``is_new``: none of it was leased."""
        self._partition = partition
        self.delivery = delivery
        self.ready = Signal()
        """Wakes one waiting receive at a time."""
        self.rate = rate
        self.loan = loan
        self.is_new = is_new
        self._promises: deque[Promise] = deque()
        self.streams = 0
        """Workers that have a stream to it."""
        self.stalled_since_ms = 0
        """What the last look said: see :meth:`look_for_stall`."""
        self._watchdog = Watchdog()
        self._write = journal
        self._now_ms = now_ms
        self._new_lease_id = new_lease_id
        self._armed: asyncio.TimerHandle | None = None
        self._armed_ms = 0
        self._log_start = 0
        self._catching_up: asyncio.Task[None] | None = None
        self._journalled: asyncio.Future[None] | None = None
        self.dead_letters: DeadLetters | None = None
        self._skip_what_is_gone()
        if delivery.arrived < partition.high_watermark:
            self._catching_up = asyncio.create_task(self._catch_up(), name=f"read {partition.id}")

    @property
    def policy(self) -> Policy:
        """The settings that decide. Its ordering stays what it was."""
        return self.delivery.policy

    @policy.setter
    def policy(self, policy: Policy) -> None:
        self.delivery.policy = policy

    def arrive(self, batches: Sequence[Arrived]) -> None:
        """Take in what can be read now, unless earlier batches are still being caught up with."""
        now_ms = self._now_ms()
        for one in batches:
            if one.base_offset > self.delivery.arrived and self._catching_up is not None:
                return
            self.delivery.arrive(
                _runs(one.header, one.data, one.base_offset, one.append_time_ms, self.delivery),
                now_ms,
            )

    async def _catch_up(self) -> None:
        """Read on what was in the log before this reader, or before it was closed."""
        try:
            await catch_up(self._partition, [self.delivery], self._now_ms, self.wake)
            self._skip_what_is_gone()
        except MomError as error:
            self._partition.lose(error)
        finally:
            self._catching_up = None
        self.wake()

    def _journal(self, changes: Sequence[Change]) -> asyncio.Future[None]:
        self._journalled = self._write(changes)
        done_with, self.delivery.bodies_to_drop = self.delivery.bodies_to_drop, []
        if done_with:
            self._partition.release_bodies(done_with)
        if self.dead_letters is not None:
            self.dead_letters.kick()
        self.arm()
        return self._journalled

    async def caught_up(self) -> None:
        """Wait until the log that was there before this reader has been read."""
        if self._catching_up is not None:
            await asyncio.wait((self._catching_up,))

    def purge(self, *, leased: bool) -> Iterator[int]:
        """Take away all that waits now, in steps; how many each was. See :meth:`durable`."""
        self._expire()
        for first, end in self.delivery.purgeable(self.delivery.arrived, leased=leased):
            count, changes = self.delivery.purge(first, end, leased=leased)
            self.note(changes)
            yield count

    async def durable(self) -> None:
        """Wait until all that was journalled is durable. Raises what ended the ownership."""
        if self._journalled is not None:
            await asyncio.shield(self._journalled)

    def note(self, changes: Sequence[Change]) -> None:
        """Journal changes that were made elsewhere, if there are any."""
        if changes and self._partition.lost is None:
            self._journal(changes)
            self.wake()

    async def message(self, offset: int) -> Message | None:
        """A message of the log, decoded; None when it is no more."""
        batch = await self._partition.find(offset)
        if batch is None or batch.base_offset > offset:
            return None
        place = offset - batch.base_offset
        return codec.decode(codec.cut(batch.data, place, place + 1))[0]

    def close(self) -> None:
        """The subscription or the ownership ended: nothing more happens by itself."""
        self._disarm()
        self.rate.leave(self)
        if self._catching_up is not None:
            self._catching_up.cancel()
        if self.dead_letters is not None:
            self.dead_letters.close()
        self.ready.wake_all()

    def tell(self) -> Promise:
        """A message is kept for one who is told of it now, and will come."""
        return Promise(self)

    def tell_peek(self) -> None:
        """As :meth:`tell`, for one whose coming is not known from another's: the next counts."""
        self._promises.append(Promise(self))

    def come(self) -> bool:
        """Somebody came; whether for a message that was kept."""
        while self._promises:
            promise = self._promises.popleft()
            if promise.kept:
                promise.end()
                return True
        return False

    def has_more_ready(self) -> bool:
        """Whether a receive now would get something that nobody was woken for or told of."""
        return self.ready_at_most() > self.ready.promised and self.has_ready()

    def has_ready_for_newcomers(self) -> bool:
        """Whether there is something for one who stands behind all that wait."""
        ahead = self.ready.promised + len(self.ready)
        return self.ready_at_most() > ahead and self.has_ready()

    def has_ready(self) -> bool:
        """Whether a receive now would get something."""
        self._expire()
        return self.rate.allows != 0 and self.delivery.has_ready(self._now_ms())

    def ready_at_most(self) -> int:
        """A quick upper bound of what a receive now would get."""
        ready, allowed = self.delivery.ready_at_most(), self.rate.allows
        return ready if allowed is None else min(ready, allowed)

    @property
    def partition_index(self) -> int:
        """Which partition of its topic."""
        return self._partition.id.index

    def is_held_back(self) -> bool:
        """Whether a receive waits although there is something for it, but for the rate."""
        return bool(len(self.ready)) and self.delivery.has_ready(self._now_ms())

    def lend_rate(self, borrower: str) -> Loan | None:
        """Lend what is not used of its share of the rate; the caller journals it. None: nothing."""
        if self._partition.lost is not None:
            return None
        loan = self.rate.lend(self, borrower)
        self.loan = loan if loan is not None else self.loan
        return loan

    @property
    def workers(self) -> int:
        """Workers that have a stream to it or wait at it."""
        return max(self.streams, len(self.ready))

    def look_for_stall(self, bound_ms: int) -> None:
        """Note whether there are messages and workers, and for so long nothing happened.

        Who has a message under lease is a worker with work, also when nothing else waits.
        """
        ready = self.has_ready()
        could_work = self.delivery.leased_count > 0 or (ready and self.workers > 0)
        self.stalled_since_ms = self._watchdog.look(could_work, self._now_ms(), bound_ms)

    def outstanding(self, offset: int, messages_max: int) -> list[Outstanding]:
        """What is not settled from an offset on, in order."""
        self._expire()
        return self.delivery.outstanding(offset, self._now_ms(), messages_max)

    def counts(self) -> DeliveryCounts:
        """Messages by state."""
        self._expire()
        return self.delivery.counts(self._now_ms())

    def wake(self) -> bool:
        """Wake a waiting receive if there is something for it, else see to it that time does."""
        if self._partition.lost is not None:
            self.close()
            return False
        woken = bool(len(self.ready)) and self.has_more_ready() and self.ready.wake_one()
        self.arm()
        return woken

    def arm(self) -> None:
        """See to what time alone changes: leases that end, delays and messages that are over."""
        self.rate.arm()
        due_ms = self.delivery.next_event_ms()
        if due_ms is None or (self._armed is not None and self._armed_ms <= due_ms):
            return
        self._disarm()
        delay_s = max(1, due_ms - self._now_ms()) / 1000
        self._armed = asyncio.get_running_loop().call_later(delay_s, self._due)
        self._armed_ms = due_ms

    def _disarm(self) -> None:
        if self._armed is not None:
            self._armed.cancel()
            self._armed = None

    def _due(self) -> None:
        self._armed = None
        self._expire()
        self.wake()
        self.arm()

    def next_is_alone(self) -> bool:
        """Whether what a receive would get now is to be handled by itself."""
        self._expire()
        return self.delivery.next_is_alone(self._now_ms())

    def lease(
        self, messages_max: int, lease_ms: int, *, tells_begin: bool = False
    ) -> Leased | None:
        """Lease what is ready; None when nothing is. :meth:`slices` gives the messages.

        Raises OverloadedError when too many are leased, or what ended the ownership.
        """
        self._expire()
        self._skip_what_is_gone()
        allowed = self.rate.allows
        leased = self.delivery.lease(
            self._new_lease_id(),
            messages_max=messages_max if allowed is None else min(messages_max, allowed),
            lease_ms=lease_ms,
            now_ms=self._now_ms(),
            tells_begin=tells_begin,
        )
        if leased is None:
            return None
        self.rate.take(sum(one.end - one.first for one in leased.ranges))
        self._watchdog.progress()
        self._journal([leased])
        self.wake()  # What is left is for the next in line.
        return leased

    async def slices(self, leased: Leased, bytes_max: int) -> list[LeasedSlice]:
        """The messages of a lease that fit, durably leased; the others wait again.

        Raises what ended the ownership.
        """
        durable = self._journalled
        assert durable is not None, "a lease is journalled"
        try:
            slices, rest = await self._bodies(leased, bytes_max)
            self._release(leased.lease_id, rest)
            await asyncio.shield(durable)
        except BaseException:
            # The caller is gone or gets an error: nobody works on these.
            self._release(leased.lease_id, [(one.first, one.end) for one in leased.ranges])
            raise
        self.wake()
        return slices

    def take_back(self, one: LeasedSlice) -> None:
        """What was leased was never sent."""
        count = codec.parse_header(one.data).count
        self._release(one.lease_id, [(one.base_offset, one.base_offset + count)])

    async def _bodies(
        self, leased: Leased, bytes_max: int
    ) -> tuple[list[LeasedSlice], list[tuple[int, int]]]:
        """The messages that fit, and the ranges of those that do not."""
        slices: list[LeasedSlice] = []
        room = bytes_max
        for place, one in enumerate(leased.ranges):
            offset = one.first
            while offset < one.end:
                found = await self._find(offset, one.end)
                if found is None:
                    break
                offset = max(offset, found.base_offset)
                end, data = _fitting(found, offset, min(one.end, found.end_offset), room)
                if slices and len(data) > room:
                    later = [(other.first, other.end) for other in leased.ranges[place + 1 :]]
                    return slices, [(offset, one.end), *later]
                slices.append(
                    LeasedSlice(
                        self._partition.id.index,
                        offset,
                        found.append_time_ms,
                        data,
                        leased.lease_id,
                        leased.deadline_ms,
                        one.deliveries,
                        one.alone,
                    )
                )
                room -= len(data)
                offset = end
        return slices, []

    async def _find(self, offset: int, end: int) -> StoredBatch | None:
        """The batch of ``offset`` or the next one below ``end``; what is missing is settled."""
        batch = await self._partition.find(offset)
        if batch is None or batch.base_offset >= end:
            self._gone(offset, end)
            return None
        self._gone(offset, batch.base_offset)
        return batch

    def skip(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Count messages as settled whatever their state."""
        changes = [change for one in ranges for change in self.delivery.skip(*one)]
        self.note(changes)

    def _release(self, lease_id: int, ranges: Sequence[tuple[int, int]]) -> None:
        """Give back what was not delivered; it does not count as an attempt."""
        changes: list[Change] = []
        now_ms = self._now_ms()
        for first, end in ranges:
            outcomes, made = self.delivery.settle(
                SettleAction.RELEASE, lease_id, first, end, now_ms=now_ms
            )
            self.rate.give_back(_succeeded(outcomes))
            changes += made
        if changes and self._partition.lost is None:
            self._journal(changes)
            self.wake()

    def settle(
        self, action: SettleAction, lease_id: int, first: int, end: int, delay_ms: int
    ) -> tuple[list[SettleOutcome], asyncio.Future[None] | None]:
        """Settle offsets of a lease; the future is None when nothing changed."""
        self._expire()
        outcomes, changes = self.delivery.settle(
            action, lease_id, first, end, now_ms=self._now_ms(), delay_ms=delay_ms or None
        )
        if not changes:
            return outcomes, None
        if action is SettleAction.RELEASE:
            self.rate.give_back(_succeeded(outcomes))
        if action is not SettleAction.EXTEND:
            self._watchdog.progress()
        durable = self._journal(changes)
        self.wake()
        return outcomes, durable

    async def change_waiting(self, wanted: Sequence[Wanted]) -> list[WaitingResult]:
        """Cancel messages that wait, or move them to another time; durable on return."""
        self._expire()
        results, changes = self.delivery.change_waiting(wanted)
        self.note(changes)
        await self.durable()
        return results

    def _expire(self) -> None:
        changes = self.delivery.advance(self._now_ms())
        if changes and self._partition.lost is None:
            self._journal(changes)

    def _gone(self, first: int, end: int) -> None:
        changes = self.delivery.skip(first, end)
        if changes:
            self._journal(changes)

    def _skip_what_is_gone(self) -> None:
        """Count as settled what retention trimmed and what the store lost."""
        changes: list[Change] = []
        log_start = self._partition.log_start
        if log_start > self._log_start:
            self._log_start = log_start
            for first, end in self.delivery.pinning(log_start):
                changes += self.delivery.skip(first, end)
            if self.delivery.arrived < log_start:
                carried = RangeSet(self.delivery.carried())
                for first, end, kept in list(carried.split(self.delivery.arrived, log_start)):
                    changes += self.delivery.skip(first, end) if not kept else []
        if self._catching_up is None:
            for first, end in self._partition.gaps:
                if end > self.delivery.arrived:
                    changes += self.delivery.skip(max(first, self.delivery.arrived), end)
        if changes:
            self._journal(changes)


def _succeeded(outcomes: Sequence[SettleOutcome]) -> int:
    return sum(one.end - one.first for one in outcomes if one.error is None)


async def catch_up(
    log: Partition,
    deliveries: Sequence[Delivery],
    now_ms: Callable[[], int],
    on_progress: Callable[[], object] = lambda: None,
) -> None:
    """Let delivery states take in the log up to its high watermark. Raises StoreError."""
    while log.lost is None:
        behind = [one for one in deliveries if one.arrived < log.high_watermark]
        if not behind:
            return
        offset = min(one.arrived for one in behind)
        heads = await log.heads(offset, CATCH_UP_BATCHES)
        wanted = max(codec.columns_width(_columns(heads, one.policy)) for one in behind)
        if wanted:
            heads = await log.heads(
                offset, CATCH_UP_BATCHES, bytes_per_record=codec.COLUMNS_BYTES_PER_RECORD_MAX
            )
        if not heads:
            return  # What is left is a gap.
        for head in heads:
            log.sequences.note(codec.parse_header(head.head))
        for one in behind:
            one.arrive(_runs_of_heads(heads, one), now_ms())
        on_progress()


def _columns(heads: Sequence[BatchHead], policy: Policy) -> int:
    """Which columns of any of the batches a policy looks at."""
    found = 0
    for one in heads:
        found |= codec.parse_header(one.head).columns & policy.columns
    return found


def _runs_of_heads(heads: Sequence[BatchHead], state: Delivery) -> Iterator[Run]:
    for one in heads:
        header = codec.parse_header(one.head)
        yield from _runs(header, one.head, one.base_offset, one.append_time_ms, state)


def _runs(
    header: codec.BatchHeader, index: bytes, base_offset: int, append_time_ms: int, state: Delivery
) -> list[Run]:
    # A change of the time to live begins where a batch does, so one holds for all of it.
    ttl_ms = state.ttl_ms(base_offset)
    return runs_of_batch(header, index, base_offset, append_time_ms, state.policy, ttl_ms)


def _fitting(batch: StoredBatch, first: int, end: int, room: int) -> tuple[int, bytes]:
    """At least one message of [first, end), and then as many as fit into the room."""
    base = batch.base_offset
    if len(batch.data) > room:
        header = codec.parse_header(batch.data)
        ends = codec.record_ends(header, batch.data)
        start = ends[first - base - 1] if first > base else 0
        stop = first + 1
        while stop < end and ends[stop - base] - start <= room:
            stop += 1
        end = stop
    return end, codec.cut(batch.data, first - base, end - base)
