"""The time to live of a message is the one that its queue had when it came."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from opened import HandClock, Owner, topic_config

from mom_broker.storage.memory import MemoryStore
from mom_core import batch, topics
from mom_core.delivery import SettleAction
from mom_core.message import Message
from mom_core.topics import TopicKind


def set_ttl(owner: Owner, ttl_ms: int) -> None:
    """What the control plane says from now on, whether anybody follows or not."""
    config = owner.configs["orders"]
    queue = msgspec.structs.replace(config.queue, message_ttl_ms=ttl_ms)
    owner.configs = {"orders": msgspec.structs.replace(config, queue=queue)}


def follow(owner: Owner) -> None:
    """The owner hears of it."""
    next(iter(owner.owned.values())).subscriptions.follow(owner.configs)


async def opened(**wanted: Any) -> Owner:
    clock = HandClock()
    config = topic_config(TopicKind.QUEUE, **wanted)
    subscription = topics.queue_subscription(config, bytes(32))
    owner = Owner(MemoryStore(clock), clock, config, {"orders": subscription})
    await owner.open()
    return owner


async def values(owner: Owner) -> list[bytes]:
    """The messages that can be had now; they wait again."""
    slices = await owner.receive()
    await owner.settle(slices, SettleAction.RELEASE)
    return [one.value for each in slices for one in batch.decode(each.data)]


@pytest.mark.parametrize("snapshot", [False, True])
async def test_a_takeover_does_not_change_it(snapshot: bool) -> None:
    owner = await opened(message_ttl_ms=1_000)
    await owner.publish([Message(b"one second")])
    set_ttl(owner, 5_000)
    follow(owner)
    await owner.publish([Message(b"five seconds")])
    set_ttl(owner, 0)
    follow(owner)
    await owner.publish([Message(b"for ever")])
    if snapshot:
        await owner.log.write_snapshot()
    set_ttl(owner, 200)  # Nobody has the partition now; the next owner hears of it.
    await owner.open()
    await owner.publish([Message(b"a moment")])
    await owner.open()
    left = []
    for elapsed_ms in (200, 800, 4_000, 100_000):
        owner.clock.time_ms += elapsed_ms
        left.append(await values(owner))
    assert left == [
        [b"one second", b"five seconds", b"for ever"],
        [b"five seconds", b"for ever"],
        [b"for ever"],
        [b"for ever"],
    ]


async def test_one_that_is_set_between_two_owners_is_not_for_what_waits() -> None:
    """Of a queue without a time to live, whose first one is set while nobody has the partition."""
    owner = await opened()
    await owner.publish([Message(b"for ever")])
    set_ttl(owner, 1_000)
    await owner.open()
    owner.clock.time_ms += 1_000
    assert await values(owner) == [b"for ever"]
