"""Waiting for a foreign process, which has no event to wait for: look again until it holds."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import TypeVar, overload

WAIT_S_MAX = 60.0
_INTERVAL_S = 0.01

_Found = TypeVar("_Found")


@overload
async def until(holds: Callable[[], Awaitable[_Found | None]], what: str) -> _Found: ...
@overload
async def until(holds: Callable[[], _Found | None], what: str) -> _Found: ...
async def until(holds: Callable[[], object], what: str) -> object:
    """What ``holds()`` gives once that is true. Fails with ``what`` was waited for, after
    WAIT_S_MAX."""
    try:
        async with asyncio.timeout(WAIT_S_MAX):
            while True:
                found = holds()
                if inspect.isawaitable(found):
                    found = await found
                if found:
                    return found
                await asyncio.sleep(_INTERVAL_S)
    except TimeoutError:
        raise AssertionError(f"waited {WAIT_S_MAX} s for this: {what}") from None
