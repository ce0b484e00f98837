"""Messages that wait long do not hold the log behind them, and lose nothing by that."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from mom_broker.node.bodies import body_key
from mom_broker.node.lags import add_ages
from mom_broker.storage.memory import MemoryStore
from mom_core import limits, topics
from mom_core.delivery import SettleAction
from mom_core.errors import OverloadedError, StoreError
from mom_core.message import Message
from mom_core.topics import SubscriptionConfig, TopicKind
from mom_proto.v1 import broker_pb2
from unit.node.opened import PARTITION, HandClock, Owner, topic_config, values

DAY_MS = 24 * 3600 * 1000
BATCH = [Message(b"%04d" % number + bytes(60)) for number in range(5_000)]


def queue(store_bytes: int | None = None, **wanted: Any) -> Owner:
    clock = HandClock()
    config = topic_config(TopicKind.QUEUE, **wanted)
    subscription = topics.queue_subscription(config, bytes(32))
    store = MemoryStore(clock, store_bytes)
    return Owner(store, clock, config, {"orders": subscription})


def subscription(name: str) -> SubscriptionConfig:
    return topics.new_subscription(
        name, "orders", {"mode": "queue"}, created_at_ms=1, secret=bytes(32)
    )


async def drain(owner: Owner, name: str = "orders") -> int:
    """Receive and acknowledge all that is ready; how many came."""
    count = 0
    while slices := await owner.receive(name):
        count += len(values(slices))
        await owner.settle(slices, SettleAction.ACK, name)
    return count


async def pass_by(owner: Owner, batches: int) -> None:
    """Messages that come and are acknowledged."""
    for _ in range(batches):
        await owner.publish(BATCH)
        await drain(owner)


async def kept(owner: Owner, *offsets: int) -> list[bool]:
    found = await owner.store.read_kept(PARTITION, [body_key(one) for one in offsets])
    return [one is not None for one in found]


async def test_one_delayed_by_a_day_under_a_million_others() -> None:
    owner = queue()
    await owner.open()
    tomorrow = owner.clock.now_ms() + DAY_MS
    await owner.publish([Message(b"before")])
    offset = await owner.publish([Message(b"tomorrow", headers={"a": "b"}, deliver_at_ms=tomorrow)])
    for _ in range(10):
        await pass_by(owner, 20)
        await owner.sweep()
    # The log went, and all that is left is that one message.
    assert owner.log.size_bytes < limits.CARRY_LOG_BYTES_MIN
    assert (await owner.store.usage()).used_bytes < limits.CARRY_LOG_BYTES_MIN + 1_000
    assert len(owner.reader().delivery.snapshot()) < 200
    assert await kept(owner, offset) == [True]

    await owner.open()
    assert await owner.receive() == []
    owner.clock.time_ms = tomorrow - 1
    assert await owner.receive() == []
    owner.clock.time_ms = tomorrow
    (got,) = await owner.receive()
    assert (got.base_offset, got.deliveries) == (offset, 1)
    assert values([got]) == [b"tomorrow"]

    # Under lease, given back, delivered again by the next owner, and then gone with its body.
    await owner.open()
    await owner.settle([got], SettleAction.NACK)
    (again,) = await owner.receive()
    assert values([again]) == [b"tomorrow"]
    assert again.deliveries == 2
    await owner.settle([again], SettleAction.ACK)
    assert await kept(owner, offset) == [False]
    await owner.open()
    assert await owner.receive() == []
    assert owner.log.bodies.stored == []


async def test_a_carried_message_keeps_its_age() -> None:
    owner = queue()
    await owner.open()
    begun_ms = owner.clock.now_ms()
    await owner.publish([Message(b"later", deliver_at_ms=begun_ms + DAY_MS)])
    owner.clock.time_ms += 60_000
    await pass_by(owner, 100)
    for _ in range(10):
        await owner.sweep()
    assert await kept(owner, 0) == [True]
    await owner.publish([Message(b"new")])
    owner.clock.time_ms += 1_000
    description = broker_pb2.SubscriptionDescription()
    await add_ages(owner.log, owner.reader(), owner.clock.now_ms(), description)
    assert (description.oldest_unacked_ms, description.oldest_ready_ms) == (61_000, 1_000)


async def test_a_long_lease_holds_nothing_either() -> None:
    owner = queue()
    await owner.open()
    first = await owner.publish([Message(b"long"), Message(b"longer")])
    held = await owner.receive(lease_ms=limits.LEASE_MS_MAX)
    await pass_by(owner, 20)
    await owner.sweep()
    assert owner.log.size_bytes == 0
    assert await kept(owner, first, first + 1) == [True, True]
    await owner.open()
    # The old receipt works; the other one comes again after its lease, with its body.
    owner.reader().settle(SettleAction.ACK, held[0].lease_id, first, first + 1, 0)
    await owner.log.finish()
    assert await kept(owner, first, first + 1) == [False, True]
    owner.clock.time_ms += limits.LEASE_MS_MAX
    assert values(await owner.receive()) == [b"longer"]


async def test_what_is_still_needed_for_the_most_part_stays_in_the_log() -> None:
    owner = queue()
    await owner.open()
    await owner.publish([Message(b"x" * 100, deliver_at_ms=owner.clock.now_ms() + DAY_MS)] * 5_000)
    await owner.publish(BATCH * 2)
    await drain(owner)
    await owner.sweep()
    assert owner.log.size_bytes > 1_000_000
    assert owner.log.bodies.stored == []


async def test_thousands_are_carried_in_steps_and_come_in_order() -> None:
    owner = queue()
    await owner.open()
    later = owner.clock.now_ms() + DAY_MS
    for number in range(0, 4_000, 10):
        await owner.publish(
            [Message(b"%d" % (number + one), deliver_at_ms=later + one % 3) for one in range(10)]
        )
        await owner.publish(BATCH[:1_000])
        await drain(owner)
    await owner.sweep()
    assert len(owner.log.bodies) == 4_000
    assert owner.log.size_bytes == 0
    await owner.open()
    owner.clock.time_ms = later + 10
    got = await owner.receive()
    assert values(got) == [b"%d" % number for number in range(4_000)]
    await owner.settle(got, SettleAction.ACK)
    assert len(owner.log.bodies) == 0
    assert not any(await kept(owner, *(one.base_offset for one in got)))


async def test_a_full_store_keeps_the_log_and_settles() -> None:
    owner = queue(store_bytes=8 << 20)
    await owner.open()
    later = owner.clock.now_ms() + DAY_MS
    await owner.publish([Message(bytes(500_000), deliver_at_ms=later)])
    with suppress(StoreError):
        while True:
            await owner.publish(BATCH)
    assert await drain(owner)
    await owner.sweep()
    assert len(owner.log.bodies) == 0
    assert owner.log.size_bytes > limits.CARRY_LOG_BYTES_MIN
    await owner.open()
    owner.clock.time_ms = later
    assert values(await owner.receive()) == [bytes(500_000)]


async def test_a_topics_retention_takes_no_delayed_message() -> None:
    clock = HandClock()
    config = topic_config(TopicKind.TOPIC, retention_ms=60_000)
    owner = Owner(
        MemoryStore(clock), clock, config, {name: subscription(name) for name in ("mail", "bill")}
    )
    await owner.open()
    later = clock.now_ms() + DAY_MS
    await owner.publish([Message(b"ready"), Message(b"later", deliver_at_ms=later)])
    (mail,) = await owner.receive("mail")
    await owner.settle([mail], SettleAction.ACK, "mail")
    clock.time_ms += 61_000
    await owner.publish([Message(b"new")])
    await owner.sweep()
    # One body serves both; what was ready went with the log, as retention says.
    assert owner.log.log_start == 2
    assert [one.offset for one in owner.log.bodies.stored] == [1]
    await owner.open()
    assert values(await owner.receive("bill")) == [b"new"]
    clock.time_ms = later
    got = await owner.receive("mail")
    assert values(got) == [b"later", b"new"]
    await owner.settle(got, SettleAction.ACK, "mail")
    assert await kept(owner, 1) == [True]
    # What one is done with the other still needs, also for the next owner.
    await owner.open()
    await owner.publish([Message(b"newer")])
    await owner.settle(await owner.receive("mail"), SettleAction.ACK, "mail")
    assert await kept(owner, 1) == [True]
    owner.reader("bill")._expire()
    got = await owner.receive("bill")
    assert b"later" in values(got)
    # A subscription that ends needs nothing any more.
    owner.configs = {"mail": owner.configs["mail"]}
    owner.owned[PARTITION].subscriptions.follow(owner.configs)
    await owner.log.finish()
    assert await kept(owner, 1) == [False]


async def test_one_delayed_message_does_not_fill_a_topic_that_is_kept_until_acked() -> None:
    clock = HandClock()
    config = topic_config(TopicKind.TOPIC, retain_until_acked=True)
    names = ("mail", "bill")
    owner = Owner(MemoryStore(clock), clock, config, {name: subscription(name) for name in names})
    await owner.open()
    tomorrow = clock.now_ms() + DAY_MS
    await owner.publish([Message(b"tomorrow", deliver_at_ms=tomorrow)])
    for _ in range(4):
        for _ in range(20):
            await owner.publish(BATCH)
            for name in names:
                await drain(owner, name)
        for _ in range(10):
            await owner.sweep()
    assert owner.log.size_bytes < limits.CARRY_LOG_BYTES_MIN
    assert await kept(owner, 0) == [True]
    clock.time_ms = tomorrow
    for name in names:
        assert values(await owner.receive(name)) == [b"tomorrow"]


async def test_a_topic_that_is_kept_until_acked_keeps_a_message_whatever_its_age() -> None:
    clock = HandClock()
    config = topic_config(TopicKind.TOPIC, retain_until_acked=True)
    names = ("mail", "bill")
    owner = Owner(MemoryStore(clock), clock, config, {name: subscription(name) for name in names})
    await owner.open()
    await owner.publish([Message(b"old")])
    clock.time_ms += 100 * DAY_MS
    for name in names:
        await owner.sweep()
        assert owner.log.log_start == 0
        assert await drain(owner, name) == 1
    await owner.sweep()
    assert owner.log.log_start == 1


async def test_bodies_that_nobody_came_to_need_are_dropped_by_the_next_owner() -> None:
    owner = queue()
    await owner.open()
    offset = await owner.publish([Message(b"x")])
    await owner.log.keep_bodies({offset: bytes(100)}, [1])
    assert await kept(owner, offset) == [True]
    await owner.open()
    assert await kept(owner, offset) == [False]
    assert values(await owner.receive()) == [b"x"]


async def test_a_dead_message_keeps_its_body_on_its_way() -> None:
    owner = queue(max_deliveries=1, dead_letter="elsewhere")
    await owner.open()
    offset = await owner.publish([Message(b"dead")])
    await owner.settle(await owner.receive(), SettleAction.NACK)
    assert owner.reader().delivery.has_dead
    await pass_by(owner, 20)
    await owner.sweep()
    assert owner.log.size_bytes == 0
    await owner.open()
    message = await owner.reader().message(offset)
    assert message is not None
    assert message.value == b"dead"


async def test_a_message_that_is_carried_while_it_is_received_comes() -> None:
    owner = queue()
    await owner.open()
    await owner.publish([Message(b"slow")])
    await pass_by_all_but_first(owner)
    await owner.open()  # nothing in memory

    store = owner.store
    read = store.read

    async def trimmed_meanwhile(*arguments: Any) -> Any:
        store.read = read  # type: ignore[method-assign]
        await owner.sweep()
        return await read(*arguments)

    store.read = trimmed_meanwhile  # type: ignore[method-assign]
    assert values(await owner.receive()) == [b"slow"]
    assert owner.log.log_start > 0


async def pass_by_all_but_first(owner: Owner) -> None:
    (held,) = await owner.receive()
    await pass_by(owner, 20)
    await owner.settle([held], SettleAction.RELEASE)


async def test_a_trim_by_time_takes_carried_bodies_of_a_queue() -> None:
    owner = queue(retention_ms=3_600_000)
    await owner.open()
    offset = await owner.publish([Message(b"x", deliver_at_ms=owner.clock.now_ms() + DAY_MS)])
    await pass_by(owner, 20)
    await owner.sweep()
    assert await kept(owner, offset) == [True]
    owner.clock.time_ms += 3_600_001
    await owner.sweep()
    assert await kept(owner, offset) == [False]
    assert owner.log.bodies.bytes == 0


async def test_retention_that_leaves_nothing_leaves_the_delayed() -> None:
    clock = HandClock()
    config = topic_config(TopicKind.TOPIC, retention_ms=60_000)
    owner = Owner(MemoryStore(clock), clock, config, {"mail": subscription("mail")})
    await owner.open()
    later = clock.now_ms() + DAY_MS
    await owner.publish([Message(b"ready"), Message(b"later", deliver_at_ms=later)])
    clock.time_ms += 61_000
    await owner.sweep()
    assert owner.log.size_bytes == 0
    await owner.open()
    assert await owner.receive("mail") == []
    clock.time_ms = later
    assert values(await owner.receive("mail")) == [b"later"]


async def test_a_snapshot_at_the_same_time_leaves_no_body_out() -> None:
    owner = queue()
    await owner.open()
    offset = await owner.publish([Message(b"x")])
    keeping = asyncio.create_task(owner.log.keep_bodies({offset: bytes(100)}, [1]))
    await asyncio.gather(keeping, owner.log.write_snapshot())
    # The next owner knows of it, and drops it, since nobody came to need it.
    await owner.open()
    assert await kept(owner, offset) == [False]


async def test_carried_bodies_count_for_a_queues_bound() -> None:
    owner = queue(retention_bytes=6_000_000)
    await owner.open()
    later = owner.clock.now_ms() + DAY_MS
    await owner.publish([Message(bytes(900_000), deliver_at_ms=later)])
    await pass_by(owner, 11)
    await owner.sweep()
    assert owner.log.size_bytes == 0
    with pytest.raises(OverloadedError, match="holds 900"):
        await owner.publish([Message(bytes(870_000))] * 6)
    await owner.publish([Message(bytes(820_000))] * 6)
