"""A topic that is kept until acked: time alone takes nothing from a subscription."""

from __future__ import annotations

from mom_client.testing import TestBroker

pytest_plugins = ["mom_client.pytest_plugin"]

# A TestBroker looks at topics every 100 s.
SWEEPS_S = 300


async def log_start(broker: TestBroker) -> int:
    [partition] = await broker.client().describe("steps")
    return partition.log_start


async def test_age_removes_nothing_that_a_subscription_has_not_handled(
    mom_broker: TestBroker,
) -> None:
    client = mom_broker.client()
    await client.create_topic("steps", retain_until_acked=True, retention_ms=5_000)
    for name in ("mail", "bill"):
        await client.create_subscription("steps", name, mode="queue")
    await client.create_subscription("steps", "reader")
    await client.publish("steps", "kept")
    await mom_broker.clock.advance(2 * SWEEPS_S)
    for name in ("mail", "bill"):
        [message] = await client.receive("steps", subscription=name)
        await client.ack(message)
        await mom_broker.clock.advance(SWEEPS_S)
        assert await log_start(mom_broker) == 0, "others have not handled it"
    assert [one.text() async for one in client.read("steps")] == ["kept"]
    await client.seek("steps", "reader", "latest")
    await mom_broker.clock.advance(SWEEPS_S)
    assert await log_start(mom_broker) == 1, "all have handled it"


async def test_without_a_subscription_it_is_kept_by_time(mom_broker: TestBroker) -> None:
    client = mom_broker.client()
    await client.create_topic("steps", retain_until_acked=True, retention_ms=3_600_000)
    await client.publish("steps", "old")
    await mom_broker.clock.advance(3_600 - SWEEPS_S)
    assert await log_start(mom_broker) == 0
    await mom_broker.clock.advance(2 * SWEEPS_S)
    assert await log_start(mom_broker) == 1
