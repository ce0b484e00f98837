"""A stream-mode subscription's coordinator: the shell around :class:`mom_core.group.GroupState`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from mom_core.group import NOT_COMMITTED, Change, GroupState, GroupView
from mom_core.topics import SubscriptionConfig
from mom_core.watchdog import Watchdog

Journal = Callable[[Sequence[Change]], "asyncio.Future[None]"]


class GroupCoordinator:
    """Answers the members of one subscription; nothing is told before it is durable."""

    def __init__(self, state: GroupState, *, journal: Journal, now_ms: Callable[[], int]) -> None:
        self.state = state
        self._journal = journal
        self._now_ms = now_ms
        self.stalled_since_ms: dict[int, int] = {}
        """Partitions that stood still at the last look, and since when: milliseconds since the Unix
        epoch."""
        self._watchdogs: dict[int, tuple[Watchdog, int]] = {}
        """Of each partition that is held, with the offset that was committed at the last look."""

    async def acquire(self, member_id: str, session_ms: int) -> GroupView:
        """Join or stay in the group, and take what can be taken."""
        try:
            return self.state.acquire(member_id, self._now_ms(), session_ms)
        finally:
            await self._durable()

    async def commit(self, member_id: str, partition: int, generation: int, offset: int) -> None:
        """Note how far a partition was handled. Raises FencedError for who lost it."""
        try:
            self.state.expire(self._now_ms())
            self.state.commit(member_id, partition, generation, offset)
        finally:
            await self._durable()

    async def release(self, member_id: str, partitions: Sequence[int]) -> None:
        """Give partitions up; with none named, leave."""
        self.state.release(member_id, partitions or None)
        await self._durable()

    async def seek(self, offsets: Sequence[tuple[int, int]], *, force: bool) -> None:
        """Set committed offsets, all or none. Raises ConflictError while members hold them."""
        self.state.expire(self._now_ms())
        if not force:
            for partition, _ in offsets:
                self.state.check_free(partition)
        for partition, offset in offsets:
            self.state.seek(partition, offset, force=force)
        await self._durable()

    def held_partitions(self) -> list[int]:
        """Those that a member has."""
        leases = map(self.state.lease, range(self.state.partition_count))
        return [index for index, lease in enumerate(leases) if lease.holder is not None]

    def look_for_stalls(
        self, config: SubscriptionConfig, ends: Mapping[int, int], bound_ms: int
    ) -> None:
        """Note the partitions that have messages and a member, and for so long no commit.

        ``ends``: of each held partition, the offset after its last message.
        """
        now_ms = self._now_ms()
        watchdogs: dict[int, tuple[Watchdog, int]] = {}
        stalled: dict[int, int] = {}
        for index, end in ends.items():
            committed = read_from(config, index, self.state.lease(index).committed)
            watchdog, before = self._watchdogs.get(index, (Watchdog(), committed))
            if committed != before:
                watchdog.progress()
            since_ms = watchdog.look(committed < end, now_ms, bound_ms)
            if since_ms:
                stalled[index] = since_ms
            watchdogs[index] = (watchdog, committed)
        self._watchdogs, self.stalled_since_ms = watchdogs, stalled

    def grow(self, partitions: int) -> None:
        """Follow the topic to more partitions."""
        self.state.grow(partitions)
        changes = self.state.drain_changes()
        if changes:
            self._journal(changes)

    async def _durable(self) -> None:
        changes = self.state.drain_changes()
        if changes:
            await asyncio.shield(self._journal(changes))


def read_from(config: SubscriptionConfig, partition: int, committed: int) -> int:
    """The offset that a member reads from: the committed one, else where the subscription began."""
    if committed != NOT_COMMITTED:
        return committed
    starts = config.start_offsets
    return starts[partition] if partition < len(starts) else 0
