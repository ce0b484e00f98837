"""The line of those who wait for messages."""

from __future__ import annotations

import asyncio

import pytest

from mom_broker.node.signal import Signal, WaitingRoom

LONG_MS = 60_000


async def test_who_was_woken_in_vain_keeps_the_place() -> None:
    room, signal = WaitingRoom(), Signal()
    order: list[str] = []

    async def wait(name: str, turn: int) -> None:
        await room.wait([signal], LONG_MS, turn)
        order.append(name)

    turns = [room.turn() for _ in range(3)]
    late = [asyncio.create_task(wait(f"{one}", turns[one])) for one in (1, 2)]
    await asyncio.sleep(0)
    again = asyncio.create_task(wait("0", turns[0]))
    await asyncio.sleep(0)
    for _ in range(3):
        assert signal.wake_one()
        await asyncio.sleep(0)
    await asyncio.gather(again, *late)
    assert order == ["0", "1", "2"]
    assert not signal.wake_one()


async def test_a_wake_up_is_a_promise_until_the_woken_one_looks() -> None:
    room, signal = WaitingRoom(), Signal()
    waiting = asyncio.create_task(room.wait([signal], LONG_MS))
    await asyncio.sleep(0)
    signal.wake_one()
    assert signal.promised == 1
    assert await waiting is signal
    assert signal.promised == 0


async def test_one_that_leaves_hands_its_wake_up_on() -> None:
    room, signal = WaitingRoom(), Signal()
    first, second = (asyncio.create_task(room.wait([signal], LONG_MS)) for _ in range(2))
    await asyncio.sleep(0)
    signal.wake_one()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await second is signal
    assert (signal.promised, room.count) == (0, 0)
