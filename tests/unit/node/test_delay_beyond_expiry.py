"""A message that would expire before it may be delivered is refused, and nothing else is."""

from __future__ import annotations

import pytest

from mom_broker.storage.memory import MemoryStore
from mom_core import limits, topics
from mom_core.errors import InvalidArgumentError
from mom_core.message import Message
from mom_core.topics import TopicKind
from unit.node.opened import HandClock, Owner, encoded, topic_config

TTL_MS = 60_000
FIRST = {"producer_id": 7, "sequence": 0}


def queue(ttl_ms: int) -> Owner:
    clock = HandClock()
    config = topic_config(TopicKind.QUEUE, message_ttl_ms=ttl_ms)
    subscription = topics.queue_subscription(config, bytes(32))
    return Owner(MemoryStore(clock), clock, config, {"orders": subscription})


async def test_a_delay_that_ends_with_the_expiry_or_later_is_refused_with_both_times() -> None:
    owner = queue(TTL_MS)
    await owner.open()
    expires_at_ms = owner.clock.now_ms() + TTL_MS
    latest_ms = expires_at_ms - limits.MESSAGE_TTL_MS_MIN
    for deliver_at_ms in (latest_ms + 1, expires_at_ms, expires_at_ms + TTL_MS):
        with pytest.raises(InvalidArgumentError) as refused:
            await owner.publish([Message(b"a", deliver_at_ms=deliver_at_ms)])
        assert refused.value.field == "deliver_at_ms"
        assert str(deliver_at_ms) in refused.value.message
        assert str(expires_at_ms) in refused.value.message
    assert await owner.publish([Message(b"a", deliver_at_ms=latest_ms)]) == 0


async def test_without_an_expiry_any_delay_is_taken() -> None:
    owner = queue(0)
    await owner.open()
    assert await owner.publish([Message(b"a", deliver_at_ms=owner.clock.now_ms() + TTL_MS)]) == 0


async def test_a_batch_that_landed_is_known_again_when_the_expiry_became_shorter() -> None:
    owner = queue(2 * TTL_MS)
    await owner.open()
    messages = [Message(b"a", deliver_at_ms=owner.clock.now_ms() + TTL_MS)]
    await owner.publish(messages, **FIRST)
    owner.config = topic_config(TopicKind.QUEUE, message_ttl_ms=TTL_MS // 2)
    again = await owner.log.append(encoded(messages, **FIRST))
    assert (again.base_offset, again.duplicate) == (0, True)
