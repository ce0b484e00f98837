"""Waits with an end, by the clock that the master was given."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine
from typing import Any, TypeVar

from mom_core.errors import TimedOutError
from mom_core.ports import Clock

ResultT = TypeVar("ResultT")


async def within(
    clock: Clock, work: Coroutine[Any, Any, ResultT], timeout_ms: int, what: str
) -> ResultT:
    """The result of ``work``. Raises TimedOutError, and cancels it, after ``timeout_ms``."""
    task = asyncio.ensure_future(work)
    timer = asyncio.ensure_future(clock.sleep(timeout_ms))
    try:
        await asyncio.wait({task, timer}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise TimedOutError(f"{what} took longer than {timeout_ms} ms")
    finally:
        timer.cancel()
        task.cancel()


async def woken(clock: Clock, event: asyncio.Event, timeout_ms: int) -> bool:
    """Wait for the event for at most ``timeout_ms``; whether it came. Clears it."""
    if not event.is_set():
        try:
            await within(clock, event.wait(), timeout_ms, "the wait")
        except TimedOutError:
            return False
    event.clear()
    return True


async def ended(tasks: Collection[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait for their end, whatever they end with.

    A cancellation of the caller is not taken for theirs: it passes on, with all of them cancelled.
    """
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # Looked at, so that asyncio does not report it.
