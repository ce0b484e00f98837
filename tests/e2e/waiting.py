"""Waiting for what has no event that a test could wait for: a foreign process is asked again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

ValueT = TypeVar("ValueT")

POLL_SECONDS = 0.1


def wait_until(what: str, check: Callable[[], ValueT], seconds: float = 60) -> ValueT:
    """Ask until the answer is true, and return it; else the test fails with ``what``."""
    deadline = time.monotonic() + seconds
    while not (answer := check()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(POLL_SECONDS)
    return answer


async def wait_until_async(what: str, check: Callable[[], ValueT], seconds: float = 60) -> ValueT:
    """The same beside a load, which goes on meanwhile."""
    return await asyncio.to_thread(wait_until, what, check, seconds)
