"""A loop whose time moves only when it is told to."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from mom_process.virtual_time import VirtualClock, VirtualLoop


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    """Running in a thread of its own."""
    made = VirtualLoop()

    def run() -> None:
        asyncio.set_event_loop(made)
        made.run_forever()
        made.finish()

    thread = threading.Thread(target=run)
    thread.start()
    yield made
    made.call_soon_threadsafe(made.stop)
    thread.join()


def test_time_stands_still(loop: VirtualLoop) -> None:
    sleeping = asyncio.run_coroutine_threadsafe(asyncio.sleep(0.001), loop)
    assert loop.rest().result() == 0
    assert not sleeping.done()
    assert loop.travel(0.001).result() == 0.001
    assert sleeping.done()


def test_each_timer_has_its_own_time(loop: VirtualLoop) -> None:
    seen: list[float] = []

    async def tick() -> None:
        while True:
            await asyncio.sleep(10)
            seen.append(loop.time())

    asyncio.run_coroutine_threadsafe(tick(), loop)
    assert loop.travel(35).result() == 35
    assert seen == [10, 20, 30]


def test_a_journey_can_be_interrupted(loop: VirtualLoop) -> None:
    loop.call_soon_threadsafe(loop.call_later, 10, loop.pause)
    assert loop.travel(35).result() == 10
    assert loop.rest().result() == 10
    assert loop.travel(35).result() == 35


def test_a_traveller_may_give_up(loop: VirtualLoop) -> None:
    loop.rest().cancel()
    assert loop.travel(5).result() == 5


def test_a_long_rest_is_told_once(loop: VirtualLoop) -> None:
    rested = threading.Event()
    loop.on_long_rest = rested.set
    loop.long_rest_s = 0.001
    loop.rest().result()
    assert rested.wait(30)
    assert loop.travel(5).result() == 5


def test_a_loop_that_runs_free_waits_for_nothing() -> None:
    loop = VirtualLoop(runs_free=True)

    async def a_day() -> float:
        async with asyncio.timeout(100_000):
            await asyncio.sleep(86_400)
        return loop.time()

    assert loop.run_until_complete(a_day()) == 86_400
    loop.finish()


def test_sums_of_seconds_are_whole_milliseconds() -> None:
    loop = VirtualLoop(runs_free=True)
    clock = VirtualClock(loop, 1_000)

    async def sums() -> list[int]:
        found = []
        for _ in range(100):
            await clock.sleep(100)
            found.append(clock.now_ms())
        return found

    assert loop.run_until_complete(sums()) == [1_000 + 100 * n for n in range(1, 101)]
    loop.finish()
