"""Of messages that are published together, only those are refused that would expire too soon."""

from __future__ import annotations

import mom_client
from mom_client.testing import TestBroker

pytest_plugins = ["mom_client.pytest_plugin"]

TTL_S = 60


async def test_only_what_would_expire_too_soon_is_refused(mom_broker: TestBroker) -> None:
    client, clock = mom_broker.client(), mom_broker.clock
    await client.create_queue("emails", message_ttl_ms=TTL_S * 1000)
    now_ms = clock.now_ms()
    delays_ms = [0, TTL_S * 1000, 30_000, 2 * TTL_S * 1000, TTL_S * 1000 - 1_000, 0]
    messages = [
        mom_client.Message(b"%d" % delay_ms, deliver_at_ms=now_ms + delay_ms)
        for delay_ms in delays_ms
    ]
    results = await client.publish_many("emails", messages)
    refused = [isinstance(one, mom_client.InvalidArgumentError) for one in results]
    assert refused == [False, True, False, True, False, False]
    came = []
    for step_s in (0, 30, 29):
        await clock.advance(step_s)
        got = await client.receive("emails", max_messages=10)
        await client.ack(got)
        came += [int(one.text()) for one in got]
    assert came == [0, 0, 30_000, 59_000]
