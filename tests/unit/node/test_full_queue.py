"""A queue that is full refuses what is new, and knows again what has landed."""

from __future__ import annotations

import pytest

from mom_broker.storage.memory import MemoryStore
from mom_core import topics
from mom_core.errors import OverloadedError
from mom_core.message import Message
from mom_core.topics import TopicKind
from unit.node.opened import HandClock, Owner, encoded, topic_config

FIRST = {"producer_id": 7, "sequence": 0}
NEXT = {"producer_id": 7, "sequence": 1}


@pytest.mark.parametrize("taken_over", [False, True])
@pytest.mark.parametrize("bound", [{"messages_max": 2}, {"retention_bytes": 1 << 20}])
async def test_a_batch_that_filled_it_is_known_again(
    bound: dict[str, int], taken_over: bool
) -> None:
    clock = HandClock()
    config = topic_config(TopicKind.QUEUE, **bound)
    subscription = topics.queue_subscription(config, bytes(32))
    owner = Owner(MemoryStore(clock), clock, config, {"orders": subscription})
    await owner.open()
    messages = [Message(bytes(400_000)), Message(bytes(400_000))]
    offset = await owner.publish(messages, **FIRST)
    if taken_over:
        await owner.open()
    again = await owner.log.append(encoded(messages, **FIRST))
    assert (again.base_offset, again.duplicate) == (offset, True)
    with pytest.raises(OverloadedError, match="is full"):
        owner.log.append(encoded(messages, **NEXT))
    assert owner.reader().counts().ready == 2


async def test_a_batch_has_to_find_room_unless_it_never_could() -> None:
    clock = HandClock()
    config = topic_config(TopicKind.QUEUE, messages_max=3)
    subscription = topics.queue_subscription(config, bytes(32))
    owner = Owner(MemoryStore(clock), clock, config, {"orders": subscription})
    await owner.open()
    one, two, four = ([Message(b"")] * count for count in (1, 2, 4))
    await owner.publish(two)
    with pytest.raises(OverloadedError, match="holds 2 messages, 2 more came"):
        owner.log.append(encoded(two))
    await owner.publish(four)
    with pytest.raises(OverloadedError, match="holds 6 messages, 1 more came"):
        owner.log.append(encoded(one))
