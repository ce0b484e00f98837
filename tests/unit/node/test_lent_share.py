"""What a partition lent of its share of a rate, at its next owner."""

from __future__ import annotations

import pytest
from opened import PARTITION, HandClock, Owner, topic_config

from mom_broker.storage.memory import MemoryStore
from mom_core import topics
from mom_core.errors import MomError
from mom_core.limits import RATE_PARTS
from mom_core.topics import TopicKind


@pytest.mark.parametrize("snapshot", [False, True])
async def test_the_next_owner_has_it_when_the_loan_is_over(snapshot: bool) -> None:
    clock = HandClock()
    config = topic_config(TopicKind.QUEUE, partitions=2, rate_per_s=100)
    subscription = topics.queue_subscription(config, bytes(32))
    owner = Owner(MemoryStore(clock), clock, config, {"orders": subscription})
    await owner.open()
    lender = owner.owned[PARTITION].subscriptions
    loan = await lender.lend_rate("orders", subscription.created_at_ms, "n2")
    assert loan is not None
    assert loan.parts == RATE_PARTS
    assert await lender.lend_rate("orders", 7, "n2") is None, "of a queue of the same name"
    if snapshot:
        await owner.log.write_snapshot()
    await owner.open()
    clock.time_ms = loan.back_ms
    assert owner.reader().rate.allows == 0
    clock.time_ms += 40
    assert owner.reader().rate.allows == 2


async def test_a_lender_that_was_replaced_lends_nothing() -> None:
    clock = HandClock()
    config = topic_config(TopicKind.QUEUE, partitions=2, rate_per_s=100)
    subscription = topics.queue_subscription(config, bytes(32))
    owner = Owner(MemoryStore(clock), clock, config, {"orders": subscription})
    await owner.open()
    stale = owner.owned[PARTITION].subscriptions
    await owner.open()
    with pytest.raises(MomError):
        await stale.lend_rate("orders", subscription.created_at_ms, "n2")
