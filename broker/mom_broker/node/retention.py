"""Retention: removing what a topic need not keep any more.

A topic keeps messages for a time and up to a number of bytes a partition. A queue keeps each
message until it is acknowledged (and, if asked for, no longer than a time); its bytes are a bound
on what it takes in, never a reason to drop a message.
"""

from __future__ import annotations

import logging
from typing import Final

from mom_broker.node.ownership import OwnedPartition, Ownership
from mom_core.errors import MomError
from mom_core.limits import RETENTION_SWEEP_MS
from mom_core.ports import Clock, Store, TrimRule
from mom_core.topics import TopicKind

_log = logging.getLogger(__name__)

# Topics need no such haste: every so many sweeps.
TOPIC_EVERY_SWEEPS: Final = 10


class Retention:
    """Sweeps the partitions of a node."""

    def __init__(
        self,
        ownership: Ownership,
        store: Store,
        clock: Clock,
        interval_ms: int = RETENTION_SWEEP_MS,
    ) -> None:
        self._interval_ms = interval_ms
        self._ownership = ownership
        self._store = store
        self._clock = clock
        self._sweeps = 0

    async def run(self) -> None:
        """Sweep for as long as the node lives."""
        while True:
            await self._clock.sleep(self._interval_ms)
            await self.sweep()

    async def sweep(self) -> None:
        """Look at each partition once. What fails is tried again with the next sweep."""
        self._sweeps += 1
        for owned in list(self._ownership.owned.values()):
            try:
                await self._trim(owned)
            except MomError as error:
                _log.info("retention of %s waits: %s", owned.log.id, error.message)

    async def _trim(self, owned: OwnedPartition) -> None:
        rule = self._rule(owned)
        while rule is not None and owned.log.lost is None:
            trimmed = await owned.log.trim(rule)
            if not trimmed.more:
                return

    def _rule(self, owned: OwnedPartition) -> TrimRule | None:
        config = owned.log.config
        before_time_ms = self._store.now_ms() - config.retention_ms if config.retention_ms else None
        if config.kind is TopicKind.TOPIC:
            if self._sweeps % TOPIC_EVERY_SWEEPS:
                return None
            return TrimRule(None, before_time_ms, config.retention_bytes or None)
        reader = owned.subscriptions.readers.get(config.name)
        floor = reader.delivery.log_floor() if reader is not None else 0
        if floor <= owned.log.log_start and before_time_ms is None:
            return None
        return TrimRule(floor, before_time_ms, None)
