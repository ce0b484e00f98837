"""Counting what waits: what it tells, and that it reads the store only where it has to."""

from __future__ import annotations

from typing import Any

from mom_broker.node import lags
from mom_broker.node.totals import Totals
from mom_broker.storage.memory import MemoryStore
from mom_core import topics
from mom_core.delivery import SettleAction
from mom_core.message import Message
from mom_core.ports import TrimRule
from mom_core.topics import SubscriptionConfig, TopicKind
from unit.node.opened import PARTITION, HandClock, Owner, topic_config


class CountedStore(MemoryStore):
    """Counts what it is asked about logs."""

    reads = 0

    async def read_heads(self, *words: Any, **named: Any) -> Any:
        self.reads += 1
        return await super().read_heads(*words, **named)

    async def offset_at(self, *words: Any) -> int:
        self.reads += 1
        return await super().offset_at(*words)


class View:
    """The subscriptions that stand, as the catalog tells them."""

    def __init__(self, subscriptions: dict[str, SubscriptionConfig]) -> None:
        self.subscriptions = {PARTITION.topic_id: subscriptions}


class Counted:
    """A partition with its counts."""

    def __init__(self, kind: TopicKind, subscription: SubscriptionConfig | None = None) -> None:
        self.clock = HandClock()
        self.store = CountedStore(self.clock)
        config = topic_config(kind)
        one = subscription or topics.queue_subscription(config, bytes(32))
        self.owner = Owner(self.store, self.clock, config, {one.name: one})
        self.totals = Totals(View({one.name: one}), self.owner, self.store)  # type: ignore[arg-type]  # has what it asks

    async def count(self) -> tuple[int, int, int]:
        """Messages, the age of the oldest, and what was read for it."""
        before = self.store.reads
        (total,) = (await self.totals.count()).totals
        return total.messages, total.oldest_ms, self.store.reads - before


def reader() -> SubscriptionConfig:
    return topics.new_subscription("reader", "orders", {}, created_at_ms=1, secret=bytes(32))


async def test_an_empty_queue_and_a_new_message_cost_no_read() -> None:
    counted = Counted(TopicKind.QUEUE)
    await counted.owner.open()
    assert await counted.count() == (0, 0, 0)
    await counted.owner.publish([Message(b"a"), Message(b"b")])
    counted.clock.time_ms += 5_000
    assert await counted.count() == (2, 5_000, 0)
    await counted.owner.settle(await counted.owner.receive(), SettleAction.ACK)
    assert await counted.count() == (0, 0, 0)


async def test_what_stands_still_is_read_once() -> None:
    counted = Counted(TopicKind.QUEUE)
    await counted.owner.open()
    await counted.owner.publish([Message(b"a")])
    counted.clock.time_ms += 1_000
    await counted.owner.publish([Message(b"b")])
    await counted.owner.open()  # Its next owner has nothing of the log in memory.
    assert await counted.count() == (2, 1_000, 1)
    counted.clock.time_ms += 60_000
    assert await counted.count() == (2, 61_000, 0)
    first, second = await counted.owner.receive()
    await counted.owner.settle([first], SettleAction.ACK)
    assert await counted.count() == (1, 60_000, 1)
    await counted.owner.settle([second], SettleAction.ACK)
    assert await counted.count() == (0, 0, 0)


async def test_a_trim_makes_another_message_the_oldest() -> None:
    counted = Counted(TopicKind.TOPIC, reader())
    await counted.owner.open()
    await counted.owner.publish([Message(b"a")])
    counted.clock.time_ms += 1_000
    await counted.owner.publish([Message(b"b")])
    await counted.owner.open()
    log = counted.owner.log
    began_ms = counted.clock.now_ms() - 1_000
    assert await log.append_time_ms(0) == began_ms
    assert await counted.count() == (2, 1_000, 0)
    await log.trim(TrimRule(before_time_ms=began_ms + 1))
    assert log.log_start == 1
    assert await log.append_time_ms(0) == began_ms + 1_000
    assert await counted.count() == (1, 0, 1)


async def test_a_reader_of_an_own_partition_is_told_as_the_store_would_tell() -> None:
    counted = Counted(TopicKind.TOPIC, reader())
    await counted.owner.open()
    assert await counted.count() == (0, 0, 0)
    await counted.owner.publish([Message(b"a"), Message(b"b"), Message(b"c")])
    counted.clock.time_ms += 300
    lag = await lags.lag_of(counted.store, PARTITION, 0)
    assert await counted.count() == (lag.messages, lag.behind_ms, 0) == (3, 300, 0)
