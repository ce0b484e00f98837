"""A receipt that comes when its message is settled: the answer says no more than is known."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

import mom_client
from mom_client.testing import TestBroker

pytest_plugins = ["mom_client.pytest_plugin"]

TTL_S = 60

Ending = Callable[[TestBroker, mom_client.ReceivedMessage], Awaitable[object]]


async def acknowledged(broker: TestBroker, message: mom_client.ReceivedMessage) -> None:
    await broker.client().ack(message)


async def dead(broker: TestBroker, message: mom_client.ReceivedMessage) -> None:
    await broker.client().nack(message)
    await broker.client().nack(await broker.client().receive("emails"))
    assert await broker.client().receive("emails.dlq", wait=20)


async def cancelled(broker: TestBroker, message: mom_client.ReceivedMessage) -> None:
    await broker.client().nack(message)
    await broker.client().cancel("emails", message)


async def expired(broker: TestBroker, message: mom_client.ReceivedMessage) -> None:
    await broker.client().nack(message)
    await broker.clock.advance(TTL_S)


@pytest.mark.parametrize("ending", [acknowledged, dead, cancelled, expired])
async def test_a_late_receipt_is_not_told_that_its_message_was_acknowledged(
    mom_broker: TestBroker, ending: Ending
) -> None:
    client = mom_broker.client()
    await client.create_queue(
        "emails", dead_letter="emails.dlq", max_deliveries=2, message_ttl_ms=TTL_S * 1000
    )
    await client.publish("emails", "hi")
    [message] = await client.receive("emails")
    await ending(mom_broker, message)
    with pytest.raises(mom_client.SettleError, match="is settled: ") as refused:
        await client.ack(message)
    assert refused.value.code is mom_client.ErrorCode.ALREADY_SETTLED
    assert "acknowledged, cancelled, purged or redriven, expired" in refused.value.message
