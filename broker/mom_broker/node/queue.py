"""A queue-mode subscription on one partition: leases over the log.

:class:`mom_core.delivery.Delivery` decides; this shell reads the messages' bodies, journals what
was decided in the order it was decided, and lets nothing out before it is durable.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple

from mom_broker.node.partition import Partition
from mom_broker.node.signal import Signal
from mom_core import batch as codec
from mom_core.delivery import (
    Change,
    Delivery,
    DeliveryCounts,
    Leased,
    Outstanding,
    SettleAction,
    SettleOutcome,
)
from mom_core.ports import StoredBatch

Journal = Callable[[Sequence[Change]], "asyncio.Future[None]"]


class LeasedSlice(NamedTuple):
    """Consecutive messages of one stored batch that were leased together."""

    partition: int
    base_offset: int
    append_time_ms: int
    data: bytes
    lease_id: int
    deadline_ms: int
    deliveries: int


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
    ) -> None:
        self._partition = partition
        self.delivery = delivery
        self.ready = Signal()
        """Wakes one waiting receive at a time."""
        self._journal = journal
        self._now_ms = now_ms
        self._new_lease_id = new_lease_id
        self._armed: asyncio.TimerHandle | None = None
        self._armed_ms = 0
        self._skip_what_is_gone()

    def has_ready(self) -> bool:
        """Whether a receive now would get something."""
        self._expire()
        return self.delivery.has_ready(self._partition.high_watermark, self._now_ms())

    def ready_at_most(self) -> int:
        """A quick upper bound of what a receive now would get."""
        return self.delivery.ready_at_most(self._partition.high_watermark)

    def outstanding(self, offset: int, messages_max: int) -> list[Outstanding]:
        """What is not settled from an offset on, in order."""
        self._expire()
        return self.delivery.outstanding(
            offset, self._partition.high_watermark, self._now_ms(), messages_max
        )

    def counts(self) -> DeliveryCounts:
        """Messages by state."""
        self._expire()
        return self.delivery.counts(self._partition.high_watermark, self._now_ms())

    def wake(self) -> None:
        """Wake a waiting receive if there is something for it, else see to it that time does."""
        if self._partition.lost is not None:
            self.ready.wake_all()
        elif len(self.ready) and self.has_ready():
            self.ready.wake_one()
        elif len(self.ready):
            self.arm()

    def arm(self) -> None:
        """Wake those who wait when the next lease ends or delay is over."""
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
        self.wake()

    async def receive(self, messages_max: int, bytes_max: int, lease_ms: int) -> list[LeasedSlice]:
        """Lease what is ready, up to the bounds; empty when nothing is. Durable on return.

        Raises OverloadedError when too many are leased, or what ended the ownership.
        """
        self._expire()
        self._skip_what_is_gone()
        now_ms = self._now_ms()
        leased = self.delivery.lease(
            self._new_lease_id(),
            messages_max=messages_max,
            lease_ms=lease_ms,
            high_watermark=self._partition.high_watermark,
            now_ms=now_ms,
        )
        if leased is None:
            return []
        durable = self._journal([leased])
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

    def _release(self, lease_id: int, ranges: Sequence[tuple[int, int]]) -> None:
        """Give back what was not delivered; it does not count as an attempt."""
        changes: list[Change] = []
        now_ms = self._now_ms()
        for first, end in ranges:
            _, made = self.delivery.settle(
                SettleAction.RELEASE, lease_id, first, end, now_ms=now_ms
            )
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
            action, lease_id, first, end, now_ms=self._now_ms(), delay_ms=delay_ms
        )
        if not changes:
            return outcomes, None
        durable = self._journal(changes)
        self.wake()
        return outcomes, durable

    def _expire(self) -> None:
        changes = self.delivery.expire(self._now_ms())
        if changes and self._partition.lost is None:
            self._journal(changes)

    def _gone(self, first: int, end: int) -> None:
        changes = self.delivery.skip(first, end)
        if changes:
            self._journal(changes)

    def _skip_what_is_gone(self) -> None:
        """Count as settled what retention trimmed and what the store lost."""
        changes = self.delivery.skip(self.delivery.floor, self._partition.log_start)
        for first, end in self._partition.gaps:
            if end > self.delivery.cursor:
                changes += self.delivery.skip(max(first, self.delivery.cursor), end)
        if changes:
            self._journal(changes)


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
