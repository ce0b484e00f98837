"""Waits for the end of tasks."""

from __future__ import annotations

import asyncio

import pytest

from mom_broker.master.waiting import ended


async def test_tasks_are_ended_whatever_they_end_with() -> None:
    begun = asyncio.Event()

    async def waits() -> None:
        begun.set()
        await asyncio.Event().wait()

    async def fails() -> None:
        raise ValueError("a defect")

    tasks = [asyncio.create_task(one()) for one in (fails, waits)]
    await begun.wait()
    await ended(tasks)
    assert all(task.done() for task in tasks)
    await ended([])


async def test_the_cancellation_of_who_waits_is_not_lost() -> None:
    begun, asked, may_end = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def slow_to_end() -> None:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            asked.set()
            await may_end.wait()

    task = asyncio.create_task(slow_to_end())
    await begun.wait()
    waiter = asyncio.create_task(ended([task]))
    await asked.wait()
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    may_end.set()
    await asyncio.wait({task})
    assert task.cancelled()
