"""A partition as its owner opens it, over a store and a clock that tests move by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mom_broker.node.cache import BatchCache
from mom_broker.node.dedup import DedupBudget
from mom_broker.node.ownership import OwnedPartition
from mom_broker.node.partition import Partition, PendingBudget
from mom_broker.node.queue import LeasedSlice, QueueReader
from mom_broker.node.rates import QueueRates
from mom_broker.node.retention import CARRY_EVERY_SWEEPS, Retention
from mom_broker.node.subscriptions import Subscriptions
from mom_core import batch, topics
from mom_core.delivery import SettleAction
from mom_core.errors import MomError
from mom_core.message import Message
from mom_core.names import PartitionId
from mom_core.ports import Store
from mom_core.topics import SubscriptionConfig, TopicConfig, TopicKind
from mom_process.system import SystemRandom

PARTITION = PartitionId("0a" * 16, 0)


class HandClock:
    """Stands still until a test moves it."""

    def __init__(self) -> None:
        self.time_ms = 1_700_000_000_000

    def now_ms(self) -> int:
        return self.time_ms

    def monotonic_ms(self) -> int:
        return self.time_ms

    async def sleep(self, delay_ms: int) -> None:
        raise AssertionError(f"nothing here sleeps, but something would {delay_ms} ms")


class NoDeadLetters:
    """Dead letters have nowhere to go."""

    def topic(self, name: str) -> TopicConfig | None:
        return None

    async def append(
        self, partition: PartitionId, batches: Sequence[bytes]
    ) -> list[MomError | None]:
        raise AssertionError("nothing is sent")


def topic_config(kind: TopicKind, **wanted: Any) -> TopicConfig:
    """Settings of the one topic or queue."""
    return topics.new_topic("orders", kind, wanted, topic_id=PARTITION.topic_id, created_at_ms=1)


class QueueFloors:
    """How far all subscriptions are, where none is in stream mode."""

    def has_subscriptions(self, owned: OwnedPartition) -> bool:
        return bool(owned.subscriptions.readers)

    async def of(self, owned: OwnedPartition) -> int:
        return min(one.delivery.log_floor() for one in owned.subscriptions.readers.values())


class Owner:
    """One owner of the partition after the other."""

    def __init__(
        self, store: Store, clock: HandClock, config: TopicConfig,
        subscriptions: Mapping[str, SubscriptionConfig],
    ) -> None:  # fmt: skip
        self.store = store
        self.clock = clock
        self.config = config
        self.configs = subscriptions
        self.epoch = 0
        self.dedup_budget = DedupBudget()
        self.owned: dict[PartitionId, OwnedPartition] = {}
        self.retention = Retention(self, QueueFloors(), store, clock)  # type: ignore[arg-type]  # has what it asks

    @property
    def log(self) -> Partition:
        return self.owned[PARTITION].log

    def reader(self, name: str = "orders") -> QueueReader:
        return self.owned[PARTITION].subscriptions.readers[name]

    async def open(self) -> None:
        """Take the partition over from whoever had it."""
        self.epoch += 1
        self.dedup_budget = DedupBudget()  # another node
        state = await self.store.claim(PARTITION, self.epoch)
        subscriptions = Subscriptions(
            now_ms=self.clock.now_ms,
            clock=self.clock,
            random=SystemRandom(),
            index=0,
            dead_letters=NoDeadLetters(),
            rates=QueueRates(self.clock.now_ms),
        )
        log = Partition(
            PARTITION,
            state,
            config=lambda: self.config,
            store=self.store,
            cache=BatchCache(4 << 20),
            budget=PendingBudget(),
            dedup_budget=self.dedup_budget,
            on_lost=lambda *_: None,
            snapshot=subscriptions.snapshot,
        )
        loaded = await self.store.load(PARTITION, self.epoch)
        await subscriptions.restore(loaded, log, self.configs)
        subscriptions.follow(self.configs)
        self.owned = {PARTITION: OwnedPartition(log, subscriptions)}
        await log.finish()

    async def publish(self, messages: Sequence[Message], **options: Any) -> int:
        """Append a batch; return its first offset."""
        return (await self.log.append(encoded(messages, **options))).base_offset

    async def receive(self, name: str = "orders", lease_ms: int = 30_000) -> list[LeasedSlice]:
        """All that can be had at once."""
        reader = self.reader(name)
        leased = reader.lease(10_000, lease_ms)
        return [] if leased is None else await reader.slices(leased, 8 << 20)

    async def settle(
        self, slices: Sequence[LeasedSlice], action: SettleAction, name: str = "orders"
    ) -> None:
        """Settle all of these."""
        for one in slices:
            end = one.base_offset + batch.parse_header(one.data).count
            outcomes, _ = self.reader(name).settle(action, one.lease_id, one.base_offset, end, 0)
            assert not [outcome for outcome in outcomes if outcome.error]
        await self.log.finish()

    async def sweep(self) -> None:
        """Let retention look at everything."""
        for _ in range(CARRY_EVERY_SWEEPS):
            await self.retention.sweep()
        assert self.log.lost is None
        await self.log.finish()


def encoded(messages: Sequence[Message], **options: Any) -> bytes:
    """A batch of these messages."""
    builder = batch.BatchBuilder()
    for one in messages:
        builder.add(one, None)
    return builder.build(base_id=bytes(16), timestamp_ms=1, **options)


def values(slices: Sequence[LeasedSlice]) -> list[bytes]:
    """The values that came."""
    return [message.value for one in slices for message in batch.decode(one.data)]
