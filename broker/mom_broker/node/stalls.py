"""Finds subscriptions that have messages and workers and make no progress.

It looks every second, shows what it found in the descriptions of partitions and in a gauge, and
logs when a stall begins and when it is over. What stands still is then known before somebody misses
the results: a handler that hangs, members that read and never commit, or a fault of ours.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Final

from mom_broker.node.group import GroupCoordinator
from mom_broker.node.ownership import OwnedPartition, Ownership
from mom_broker.storage.catalog_view import CatalogView
from mom_broker.storage.starts import end_of
from mom_core.errors import StoreError
from mom_core.limits import STALL_LOOK_MS, STALLED_AFTER_MS
from mom_core.names import PartitionId
from mom_core.ports import Clock, Store
from mom_core.topics import SubscriptionConfig

_log = logging.getLogger(__name__)

# The end of another node's partition is read in the store, and not more often than this.
_END_AGE_MS_MAX: Final = 10_000


class StallWatch:
    """Looks after the subscriptions of one node."""

    def __init__(self, ownership: Ownership, view: CatalogView, store: Store, clock: Clock) -> None:
        self._ownership = ownership
        self._view = view
        self._store = store
        self._clock = clock
        self.stalled: dict[tuple[str, str], int] = {}
        """Topic and subscription, and since when: milliseconds since the Unix epoch."""
        self._ends: dict[PartitionId, tuple[int, int]] = {}
        """What the store said of partitions elsewhere: their end, and when it was read."""

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self._clock.sleep(STALL_LOOK_MS)
            await self.look()

    async def look(self) -> None:
        """Look once at everything."""
        found: dict[tuple[str, str], int] = {}
        for partition, owned in tuple(self._ownership.owned.items()):
            configs = self._view.subscriptions.get(partition.topic_id, {})
            topic = owned.log.config.name
            for name, since_ms in (await self._look_at(partition, owned, configs)).items():
                key = (topic, name)
                found[key] = min(since_ms, found.get(key, since_ms))
        self._tell(found)

    async def _look_at(
        self,
        partition: PartitionId,
        owned: OwnedPartition,
        configs: dict[str, SubscriptionConfig],
    ) -> dict[str, int]:
        """The subscriptions that stand still on a partition, or whose group does."""
        found: dict[str, int] = {}
        for name, reader in tuple(owned.subscriptions.readers.items()):
            if name in configs:
                reader.look_for_stall(max(STALLED_AFTER_MS, configs[name].queue.lease_ms))
                if reader.stalled_since_ms:
                    found[name] = reader.stalled_since_ms
        for name, group in tuple(owned.subscriptions.groups.items()):
            if name in configs:
                await self._look_at_group(partition, group, configs[name])
                if group.stalled_since_ms:
                    found[name] = min(group.stalled_since_ms.values())
        return found

    async def _look_at_group(
        self, partition: PartitionId, group: GroupCoordinator, config: SubscriptionConfig
    ) -> None:
        ends = {
            index: await self._end(PartitionId(partition.topic_id, index))
            for index in group.held_partitions()
        }
        group.look_for_stalls(config, ends, max(STALLED_AFTER_MS, config.session_ms))

    async def _end(self, partition: PartitionId) -> int:
        """The offset after a partition's last message, which may be some seconds old."""
        owned = self._ownership.owned.get(partition)
        if owned is not None:
            self._ends.pop(partition, None)
            return owned.log.high_watermark
        end, read_ms = self._ends.get(partition, (0, -_END_AGE_MS_MAX))
        now_ms = self._clock.monotonic_ms()
        if now_ms - read_ms >= _END_AGE_MS_MAX:
            with suppress(StoreError):  # A store that is away shows elsewhere.
                end = await end_of(self._store, partition)
            self._ends[partition] = (end, now_ms)
        return end

    def _tell(self, found: dict[tuple[str, str], int]) -> None:
        for topic, name in found.keys() - self.stalled.keys():
            _log.warning(
                "subscription %r of %r stands still: it has messages and workers, and nothing is "
                "received, settled or committed. Look whether its handlers hang",
                name,
                topic,
            )
        for topic, name in self.stalled.keys() - found.keys():
            _log.info("subscription %r of %r moves again, or has nothing to do", name, topic)
        self.stalled = found
