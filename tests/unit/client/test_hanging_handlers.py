"""Handlers that hang are a stall, also when they have all the messages and none waits."""

from __future__ import annotations

import asyncio

import pytest

import mom_client
from mom_client.testing import TestBroker

pytest_plugins = ["mom_client.pytest_plugin"]

# Looks are a second apart, and the first of them begins the count.
LOOKS_S = 2


async def stalled(broker: TestBroker) -> bool:
    described = await broker.client().describe("emails")
    return any(each.stalled_since_ms for one in described for each in one.subscriptions)


@pytest.mark.parametrize(("lease_s", "bound_s"), [(5, 30), (120, 120)])
async def test_workers_that_have_all_messages_and_hang_are_a_stall(
    mom_broker: TestBroker, lease_s: int, bound_s: int
) -> None:
    client, clock = mom_broker.client(), mom_broker.clock
    await client.create_queue("emails", lease_ms=lease_s * 1000)
    await client.publish_many("emails", ["a", "b", "c"])
    app = mom_client.MomApp(mom_broker.address)
    answers: asyncio.Queue[None] = asyncio.Queue()

    @app.worker("emails", concurrency=10)
    async def hang(_: str) -> None:
        await answers.get()

    async with app.lifespan():
        await clock.advance(bound_s - LOOKS_S)
        assert not await stalled(mom_broker)
        await clock.advance(2 * LOOKS_S)
        assert await stalled(mom_broker), "leases are renewed, and nothing else happens"
        answers.put_nowait(None)
        await clock.advance(bound_s - LOOKS_S)
        assert not await stalled(mom_broker), "that was progress"
        await clock.advance(2 * LOOKS_S)
        assert await stalled(mom_broker)
        for _ in range(2):
            answers.put_nowait(None)
        await clock.advance(bound_s + LOOKS_S)
        assert not await stalled(mom_broker), "there is nothing to do"
