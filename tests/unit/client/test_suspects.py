"""A suspect has its turn once, whoever asks for it."""

from __future__ import annotations

import asyncio

from mom_client.testing import TestBroker


async def test_an_iteration_that_was_cancelled_as_it_began_goes_on() -> None:
    async with TestBroker() as broker:
        client = broker.client()
        await client.create_queue("jobs", lease_ms=1_000)
        await client.publish_many("jobs", ["a", "b"])
        assert len(await client.receive("jobs", 2)) == 2
        await broker.clock.advance(2)  # Both are suspects now.
        async with client.consume("jobs") as messages:
            worker = messages._worker
            assert worker is not None
            (first, *_) = await messages._run(lambda engine: worker.next())
            assert first.suspect
            assert await messages._run(lambda engine: worker.begin(first))
            async with asyncio.timeout(20):
                seen = [(await anext(aiter(messages))).text()]
        assert seen == ["a"]
