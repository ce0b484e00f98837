"""Waiting for a foreign process, which has no event to wait for: look again until it holds."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable

WAIT_S_MAX = 60.0
_INTERVAL_S = 0.01


async def until(holds: Callable[[], bool] | Callable[[], Awaitable[bool]], what: str) -> None:
    """Return once ``holds()`` is true. Fails with ``what`` was waited for, after WAIT_S_MAX."""
    try:
        async with asyncio.timeout(WAIT_S_MAX):
            while True:
                found = holds()
                if await found if inspect.isawaitable(found) else found:
                    return
                await asyncio.sleep(_INTERVAL_S)
    except TimeoutError:
        raise AssertionError(f"waited {WAIT_S_MAX} s for this: {what}") from None
