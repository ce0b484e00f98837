"""How much waits in each queue and subscription, over the partitions that a node knows of."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from typing import Any, Final

from mom_broker.node import lags
from mom_broker.node.group import read_from
from mom_broker.node.ownership import OwnedPartition, Ownership
from mom_broker.node.partition import Partition
from mom_broker.rpc.messages import MODES
from mom_broker.storage.catalog_view import CatalogView
from mom_core.group import GroupState
from mom_core.names import PartitionId
from mom_core.ports import Store
from mom_core.topics import SubscriptionConfig, SubscriptionMode
from mom_core.watchdog import earliest_ms
from mom_proto.v1 import broker_pb2

# Reads of the store under way at a time for one count: it hurries nobody.
_READS_AT_ONCE: Final = 16

_Totals = dict[tuple[str, str], broker_pb2.SubscriptionTotal]


class Totals:
    """Counts for the master."""

    def __init__(self, view: CatalogView, ownership: Ownership, store: Store) -> None:
        self._view = view
        self._ownership = ownership
        self._store = store

    async def count(self) -> broker_pb2.CountMessagesResponse:
        """Of the partitions here, and of the groups that are coordinated here."""
        totals: _Totals = {}
        slots = asyncio.Semaphore(_READS_AT_ONCE)

        async def bounded(work: Coroutine[Any, Any, None]) -> None:
            async with slots:
                await work

        works = [one for owned in self._ownership.owned.values() for one in self._of(owned, totals)]
        await asyncio.gather(*map(bounded, works))
        return broker_pb2.CountMessagesResponse(totals=[one for _, one in sorted(totals.items())])

    def _of(self, owned: OwnedPartition, totals: _Totals) -> Iterator[Coroutine[Any, Any, None]]:
        """Add what memory tells. What is left to read, for subscriptions in which something waits.

        Most of a thousand queues are empty most of the time, and cost no more than a look.
        """
        log = owned.log
        configs = self._view.subscriptions.get(log.id.topic_id, {})
        for name, reader in owned.subscriptions.readers.items():
            total = _total(totals, log.config.name, name, SubscriptionMode.QUEUE)
            total.messages += reader.delivery.backlog
            total.stalled_since_ms = earliest_ms(total.stalled_since_ms, reader.stalled_since_ms)
            oldest = reader.delivery.oldest_unsettled()
            if oldest is not None:
                yield self._add_age(log, oldest, total)
        for name, group in owned.subscriptions.groups.items():
            if name in configs:
                total = _total(totals, log.config.name, name, SubscriptionMode.STREAM)
                total.stalled_since_ms = earliest_ms(*group.stalled_since_ms.values())
                yield from self._of_group(log.id.topic_id, configs[name], group.state, total)

    def _of_group(
        self,
        topic_id: str,
        config: SubscriptionConfig,
        state: GroupState,
        total: broker_pb2.SubscriptionTotal,
    ) -> Iterator[Coroutine[Any, Any, None]]:
        for index in range(state.partition_count):
            partition = PartitionId(topic_id, index)
            committed = read_from(config, index, state.lease(index).committed)
            owned = self._ownership.owned.get(partition)
            if owned is None:
                yield self._add_lag(partition, committed, total)
                continue
            first = max(committed, owned.log.log_start)
            if first < owned.log.high_watermark:
                total.messages += owned.log.high_watermark - first
                yield self._add_age(owned.log, first, total)

    async def _add_age(
        self, log: Partition, oldest: int, total: broker_pb2.SubscriptionTotal
    ) -> None:
        age_ms = await lags.age_ms(log, oldest, self._store.now_ms())
        total.oldest_ms = max(total.oldest_ms, age_ms or 0)

    async def _add_lag(
        self, partition: PartitionId, committed: int, total: broker_pb2.SubscriptionTotal
    ) -> None:
        lag = await lags.lag_of(self._store, partition, committed)
        total.messages += lag.messages
        total.oldest_ms = max(total.oldest_ms, lag.behind_ms)


def _total(
    totals: _Totals, topic: str, subscription: str, mode: SubscriptionMode
) -> broker_pb2.SubscriptionTotal:
    key = (topic, subscription)
    if key not in totals:
        totals[key] = broker_pb2.SubscriptionTotal(
            topic=topic, subscription=subscription, mode=MODES[mode]
        )
    return totals[key]
