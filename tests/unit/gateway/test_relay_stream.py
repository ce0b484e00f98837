"""A relayed stream is closed in good order, also when its client goes between two messages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from mom_gateway.relay import _Steps


async def test_a_stream_whose_step_is_still_ending_is_closed() -> None:
    closed: list[str] = []

    async def messages() -> AsyncGenerator[bytes, None]:
        try:
            yield b"first"
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)  # as a call does that tells its server
            closed.append("yes")

    async with _Steps(messages()) as steps:
        assert await asyncio.ensure_future(steps.next()) == b"first"
        waiting = asyncio.ensure_future(steps.next())
        await asyncio.sleep(0)
        waiting.cancel()  # and not awaited: its client is gone
    assert closed == ["yes"]
