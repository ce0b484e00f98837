"""What an owner keeps beside the log serves the next one, over every engine."""

from __future__ import annotations

from mom_core import limits, topics
from mom_core.delivery import SettleAction
from mom_core.message import Message
from mom_core.ports import Store
from mom_core.topics import TopicKind
from unit.node.opened import HandClock, Owner, topic_config, values

BATCH = [Message(b"%04d" % number + bytes(60)) for number in range(5_000)]


async def owner_over(store: Store) -> Owner:
    config = topic_config(TopicKind.QUEUE)
    subscription = topics.queue_subscription(config, bytes(32))
    owner = Owner(store, HandClock(), config, {"orders": subscription})
    await owner.open()
    return owner


async def ack_all(owner: Owner) -> None:
    while slices := await owner.receive():
        await owner.settle(slices, SettleAction.ACK)


async def test_a_carried_body_comes_at_its_time(store: Store) -> None:
    owner = await owner_over(store)
    later = owner.clock.now_ms() + 3_600_000
    await owner.publish([Message(b"x" * 5_000, deliver_at_ms=later), Message(b"ready")])
    for _ in range(15):
        await owner.publish(BATCH)
        await ack_all(owner)
    assert owner.log.size_bytes > limits.CARRY_LOG_BYTES_MIN
    await owner.sweep()
    assert owner.log.size_bytes == 0
    await owner.open()
    assert await owner.receive() == []
    owner.clock.time_ms = later
    assert values(await owner.receive()) == [b"x" * 5_000]


async def test_ids_of_acknowledged_messages_are_known_to_the_next_owner(store: Store) -> None:
    owner = await owner_over(store)
    for number in range(3):
        messages = [Message(b"x", dedup_id=f"{number}-{one}") for one in range(100)]
        await owner.publish([*messages, Message(b"none")], producer_id=7, sequence=number)
        await ack_all(owner)
        await owner.sweep()
        assert owner.log.size_bytes == 0
        await owner.open()
    messages = [Message(b"again", dedup_id=one) for one in ("0-5", "new", "2-99")]
    assert await owner.publish(messages, producer_id=7, sequence=3) == 303
    assert await owner.publish(messages[:1], producer_id=7, sequence=4) == 304
    assert await owner.publish([Message(b"last")], producer_id=7, sequence=5) == 304
    assert values(await owner.receive()) == [b"again", b"last"]
