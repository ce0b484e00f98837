"""Retention: removing what a topic need not keep any more.

A topic keeps messages for a time and up to a number of bytes a partition. A queue keeps each
message until it is acknowledged (and, if asked for, no longer than a time); its bytes are a bound
on what it takes in, never a reason to drop a message. A topic that retains until acked keeps each
message, whatever its age, until all of its subscriptions have handled it, and bounds its bytes as a
queue does; only while it has no subscription its time removes what nobody waits for.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from mom_broker.node.carrier import carry_of_queue, carry_of_topic
from mom_broker.node.floors import AckedFloors
from mom_broker.node.ownership import OwnedPartition, Ownership
from mom_broker.node.partition import Partition
from mom_broker.node.queue import QueueReader
from mom_core.errors import MomError
from mom_core.limits import RETENTION_SWEEP_MS
from mom_core.ports import Clock, Store, TrimRule
from mom_core.topics import TopicKind

_log = logging.getLogger(__name__)

# Topics need no such haste: every so many sweeps.
TOPIC_EVERY_SWEEPS: Final = 10
# What holds a queue's log is looked at in full then.
CARRY_EVERY_SWEEPS: Final = 10
# Passes of carrying bodies over before other partitions get their turn.
CARRY_PASSES_MAX: Final = 4


class Retention:
    """Sweeps the partitions of a node."""

    def __init__(
        self,
        ownership: Ownership,
        floors: AckedFloors,
        store: Store,
        clock: Clock,
        interval_ms: int = RETENTION_SWEEP_MS,
    ) -> None:
        self._interval_ms = interval_ms
        self._ownership = ownership
        self._floors = floors
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
                await self._look_at(owned)
            except MomError as error:
                _log.info("retention of %s waits: %s", owned.log.id, error.message)

    async def _look_at(self, owned: OwnedPartition) -> None:
        owned.log.drop_old_ids()
        if owned.log.config.kind is TopicKind.QUEUE:
            await self._look_at_queue(owned)
        elif self._is_turn_of_topic(owned.log):
            await self._look_at_topic(owned)

    def _is_turn_of_topic(self, log: Partition) -> bool:
        """One that refuses messages when it is full is looked at more often while it fills."""
        config = log.config
        fills = config.retain_until_acked and 2 * log.size_bytes > config.retention_bytes
        return fills or self._sweeps % TOPIC_EVERY_SWEEPS == 0

    def _before_time_ms(self, log: Partition) -> int | None:
        retention_ms = log.config.retention_ms
        return self._store.now_ms() - retention_ms if retention_ms else None

    async def _trim(self, log: Partition, rule: TrimRule) -> None:
        while log.lost is None:
            more = await self._trim_once(log, rule)
            if not more:
                return

    async def _trim_once(self, log: Partition, rule: TrimRule) -> bool:
        """One bounded step of a trim; whether it left any."""
        if not len(log.dedup.window):
            return (await log.trim(rule)).more
        # Exactly what was planned goes: what is appended meanwhile may let the rule cover more, of
        # which no id is kept yet.
        plan = await log.plan_trim(rule)
        await log.keep_ids(plan.log_start)
        await log.trim(TrimRule(before_offset=plan.log_start))
        return plan.more

    async def _carry_what_holds(self, log: Partition, readers: Sequence[QueueReader]) -> bool:
        """Whether a pass carried over anything that holds the log."""
        return log.lost is None and await carry_of_queue(log, readers)

    # Queues.

    async def _look_at_queue(self, owned: OwnedPartition) -> None:
        await self._trim_queue(owned)
        reader = owned.subscriptions.readers.get(owned.log.config.name)
        if reader is None or self._sweeps % CARRY_EVERY_SWEEPS:
            return
        for _ in range(CARRY_PASSES_MAX):
            if not await self._carry_what_holds(owned.log, [reader]):
                return
            await self._trim_queue(owned)

    async def _trim_queue(self, owned: OwnedPartition) -> None:
        log = owned.log
        before_time_ms = self._before_time_ms(log)
        reader = owned.subscriptions.readers.get(log.config.name)
        if reader is not None and before_time_ms is not None:
            reader.skip(log.bodies.older_than(before_time_ms))
        floor = reader.delivery.log_floor() if reader is not None else 0
        if floor > log.log_start or before_time_ms is not None:
            await self._trim(log, TrimRule(floor, before_time_ms, None))

    # Topics.

    async def _look_at_topic(self, owned: OwnedPartition) -> None:
        log, readers = owned.log, list(owned.subscriptions.readers.values())
        rule = await self._rule_of_topic(owned)
        if not readers:
            await self._trim(log, rule)
            return
        more = True
        while more and log.lost is None:
            plan = await log.plan_trim(rule)
            while await carry_of_topic(log, readers, plan.log_start, self._store.now_ms()):
                pass
            await self._trim(log, TrimRule(before_offset=plan.log_start))
            more = plan.more

    async def _rule_of_topic(self, owned: OwnedPartition) -> TrimRule:
        log, config = owned.log, owned.log.config
        if not config.retain_until_acked:
            return TrimRule(None, self._before_time_ms(log), config.retention_bytes or None)
        if not self._floors.has_subscriptions(owned):
            return TrimRule(None, self._before_time_ms(log), None)
        # It is kept as a queue is, and one delayed message must not fill it.
        readers = list(owned.subscriptions.readers.values())
        for _ in range(CARRY_PASSES_MAX):
            if not await self._carry_what_holds(log, readers):
                break
        return TrimRule(await self._floors.of(owned), None, None)
