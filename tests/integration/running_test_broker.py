"""A TestBroker whose clock goes with the machine's, for tests that know no other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from mom_client.testing import TestBroker

STEP_S = 0.005


@asynccontextmanager
async def running_test_broker() -> AsyncIterator[TestBroker]:
    """The broker; its clock is never ahead of the machine's."""
    async with TestBroker() as broker:
        running = asyncio.create_task(_run(broker))
        try:
            yield broker
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running


async def _run(broker: TestBroker) -> None:
    behind_ms = int(time.time() * 1000) - broker.clock.now_ms()
    while True:
        await asyncio.sleep(STEP_S)
        late_ms = int(time.time() * 1000) - broker.clock.now_ms() - behind_ms
        await broker.clock.advance(late_ms / 1000)
