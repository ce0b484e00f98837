"""How many messages a worker has leased at a time, by its speed."""

from __future__ import annotations

from mom_client.lease_room import MESSAGES_LEAST, MESSAGES_MOST, SPAN_MS, LeaseRoom
from mom_client.testing import TestBroker
from polling import until


def handle(room: LeaseRoom, count: int, each_ms: float, start_ms: float = 0) -> float:
    """Handle messages at a steady speed; when the last one was."""
    now_ms = start_ms
    for _ in range(count):
        now_ms += each_ms
        room.handled(int(now_ms))
    return now_ms


def test_a_quick_worker_has_what_it_handles_in_a_span() -> None:
    room = LeaseRoom(None, 0)
    assert room.messages == MESSAGES_LEAST
    handle(room, 1_000, each_ms=2)
    assert room.messages == SPAN_MS // 2


def test_the_quickest_has_the_most_after_its_first_messages() -> None:
    room = LeaseRoom(None, 0)
    handle(room, MESSAGES_LEAST, each_ms=0.01)
    assert room.messages == MESSAGES_MOST


def test_a_slow_worker_has_the_least() -> None:
    room = LeaseRoom(None, 0)
    for each_ms in (50, 1_000, 600_000):
        handle(room, 100, each_ms=each_ms)
        assert room.messages == MESSAGES_LEAST


def test_a_worker_that_becomes_slow_has_the_least_after_its_first_slow_message() -> None:
    room = LeaseRoom(None, 0)
    now_ms = handle(room, 1_000, each_ms=0.01)
    assert room.messages == MESSAGES_MOST
    handle(room, 1, each_ms=1_000, start_ms=now_ms)
    assert room.messages == MESSAGES_LEAST


def test_what_the_caller_says_counts() -> None:
    room = LeaseRoom(3, 0)
    handle(room, 1_000, each_ms=0)
    assert room.messages == 3


async def test_leases_follow_the_speed() -> None:
    async with TestBroker() as broker:
        client = broker.client()
        await client.create_queue("jobs")
        await client.publish_many("jobs", ["job"] * 400)

        async def leased() -> int:
            return (await client.describe("jobs"))[0].subscriptions[0].leased

        async def has_many() -> bool:
            return await leased() > MESSAGES_MOST // 2

        async def has_few() -> bool:
            return await leased() <= MESSAGES_LEAST

        async with client.consume("jobs") as worker:
            messages = aiter(worker)
            await anext(messages)
            assert await leased() <= MESSAGES_LEAST
            for _ in range(2 * MESSAGES_LEAST):  # All in the same moment.
                worker.ack()
                await anext(messages)
            await until(has_many, "more are leased")
            for _ in range(MESSAGES_MOST):  # A second each.
                await broker.clock.advance(1)
                worker.ack()
                await anext(messages)
            await until(has_few, "few are leased again")
            for _ in range(2 * MESSAGES_LEAST):
                await broker.clock.advance(1)
                worker.ack()
                await anext(messages)
                assert await leased() <= 2 * MESSAGES_LEAST, "settled ones may still count"
