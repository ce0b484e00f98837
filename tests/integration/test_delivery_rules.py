"""What queues promise of delays, priorities, order, expiry and dead letters, through the SDK.

By real processes, and by a TestBroker whose clock goes with the machine's: it is to be no other.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

import mom_client
from integration.broker_process import BrokerProcess
from integration.running_test_broker import running_test_broker
from mom_client.testing import TestBroker
from mom_core.message import Message


@pytest.fixture(params=["processes", "in memory"])
async def in_memory(request: pytest.FixtureRequest) -> AsyncIterator[TestBroker | None]:
    if request.param == "in memory":
        async with running_test_broker() as broker:
            yield broker
    else:
        yield None


@pytest.fixture
async def client(
    request: pytest.FixtureRequest, in_memory: TestBroker | None
) -> AsyncIterator[mom_client.Client]:
    if in_memory is not None:
        async with in_memory.client() as client:
            yield client
    else:
        processes: BrokerProcess = request.getfixturevalue("broker")
        async with mom_client.connect(processes.addresses[0]) as client:
            yield client


@pytest.fixture
def broker_now_ms(in_memory: TestBroker | None) -> Callable[[], int]:
    """The time of whoever serves."""
    if in_memory is not None:
        return in_memory.clock.now_ms
    return lambda: time.time_ns() // 1_000_000


async def take(
    client: mom_client.Client, queue: str, count: int, wait: float = 20
) -> list[mom_client.ReceivedMessage]:
    """Exactly so many messages, each acknowledged."""
    found: list[mom_client.ReceivedMessage] = []
    while len(found) < count:
        messages = await client.receive(queue, 1, wait=wait)
        assert messages, f"{len(found)} of {count} came"
        await client.ack(messages)
        found += messages
    return found


async def test_a_message_that_fails_too_often_goes_to_the_dead_letters_once(
    client: mom_client.Client, name: str
) -> None:
    await client.create_queue(name, partitions=2, dead_letter=f"{name}.dlq", max_deliveries=3)
    await client.publish(name, {"n": 1}, key="k", headers={"mine": "kept"})
    await client.publish(name, {"n": 2}, key="k")
    for failures in range(1, 4):
        (message,) = await client.receive(name, 1, wait=20)
        assert (message.json(), message.deliveries) == ({"n": 1}, failures)
        await client.nack(message)
    (dead,) = await take(client, f"{name}.dlq", 1)
    assert dead.json() == {"n": 1}
    assert (dead.key, dead.id) == ("k", message.id)
    headers = dead.headers
    assert headers["mine"] == "kept"
    assert headers["mom-dead-reason"] == "max_deliveries"
    assert headers["mom-dead-deliveries"] == "3"
    assert (headers["mom-dead-topic"], headers["mom-dead-subscription"]) == (name, name)
    assert headers["mom-dead-offset"] == str(message.offset)
    first, at = int(headers["mom-dead-first-delivered-at-ms"]), int(headers["mom-dead-at-ms"])
    assert 0 < first <= at
    assert await client.receive(f"{name}.dlq", 10) == []
    assert [one.json() for one in await client.receive(name, 10)] == [{"n": 2}]


async def test_many_dead_messages_keep_their_order(client: mom_client.Client, name: str) -> None:
    await client.create_queue(name, dead_letter=f"{name}.dlq", max_deliveries=1)
    await client.publish_many(name, list(range(50)))
    failed = 0
    while failed < 50:
        messages = await client.receive(name, 50, wait=20)
        assert [error for error in await client.nack(messages) if error] == []
        failed += len(messages)
    dead = await take(client, f"{name}.dlq", 50)
    assert [one.json() for one in dead] == list(range(50))
    assert await client.receive(f"{name}.dlq", 10) == []


async def test_what_is_given_back_uncounted_never_dies(
    client: mom_client.Client, name: str
) -> None:
    await client.create_queue(
        name, max_deliveries=2, dead_letter=f"{name}.dlq", retry_backoff_ms="10m"
    )
    await client.publish(name, "x")
    for _ in range(5):
        (one,) = await client.receive(name, wait=20)
        assert one.deliveries == 1
        await client.nack(one, count=False)  # Nor does it wait for a backoff.
    (one,) = await client.receive(name, wait=20)
    await client.nack(one, count=False, delay=3_600)
    (waiting,) = await client.browse(name)
    assert (waiting.state, waiting.deliveries) == ("delayed", 0)
    await client.reschedule(name, waiting)
    (one,) = await client.receive(name, wait=20)
    assert one.deliveries == 1
    await client.nack(one, delay=0.001)
    (one,) = await client.receive(name, wait=20)
    assert one.deliveries == 2


async def test_a_delayed_message_is_never_early(client: mom_client.Client, name: str) -> None:
    await client.create_queue(name)
    now_ms = int(time.time() * 1000)
    await client.publish_many(
        name,
        [Message(b"later", deliver_at_ms=now_ms + 800), Message(b"now"), Message(b"now, too")],
    )
    assert [one.value for one in await take(client, name, 2)] == [b"now", b"now, too"]
    (later,) = await take(client, name, 1)
    assert later.value == b"later"
    assert int(time.time() * 1000) >= now_ms + 800


async def test_higher_priorities_come_first(client: mom_client.Client, name: str) -> None:
    await client.create_queue(name)
    await client.publish_many(name, [Message(b"%d" % one, priority=one) for one in (0, 5, 9, 5, 0)])
    assert [one.value for one in await take(client, name, 5)] == [b"9", b"5", b"5", b"0", b"0"]


async def test_an_expired_message_is_not_delivered(client: mom_client.Client, name: str) -> None:
    await client.create_queue(name, dead_letter=f"{name}.dlq", dead_letter_expired=True)
    now_ms = int(time.time() * 1000)
    await client.publish_many(name, [Message(b"brief", expires_at_ms=now_ms + 300), b"lasting"])
    (dead,) = await take(client, f"{name}.dlq", 1)
    assert (dead.value, dead.headers["mom-dead-reason"]) == (b"brief", "expired")
    assert [one.value for one in await take(client, name, 1)] == [b"lasting"]


async def test_one_of_a_key_at_a_time_in_order(client: mom_client.Client, name: str) -> None:
    await client.create_queue(name, ordering="fifo", retry_backoff_ms=150)
    for number in range(3):
        await client.publish(name, f"a{number}", key="a")
    await client.publish(name, "b0", key="b")
    messages = await client.receive(name, 10, wait=20)
    assert sorted(one.text() for one in messages) == ["a0", "b0"]
    assert await client.receive(name, 10) == []
    await client.nack(messages)
    # The wait of the first holds the others of its key back.
    came = [one.text() for one in await take(client, name, 4)]
    assert [one for one in came if one.startswith("a")] == ["a0", "a1", "a2"]


async def test_a_backoff_waits_longer_each_time(
    client: mom_client.Client, name: str, broker_now_ms: Callable[[], int]
) -> None:
    await client.create_queue(name, retry_backoff_ms=100, retry_backoff_multiplier=2)
    await client.publish(name, "x")
    waits = []
    for _ in range(3):
        (message,) = await client.receive(name, 1, wait=20)
        failed_at = broker_now_ms()
        await client.nack(message)
        await asyncio.sleep(0)
        assert await client.receive(name, 1) == []
        (message,) = await client.receive(name, 1, wait=20)
        waits.append(broker_now_ms() - failed_at)
        await client.nack(message, delay=0.001)
    assert waits[0] >= 100
    assert waits[1] >= 200


async def test_all_of_it_outlives_a_restart(tmp_path: Path, name: str) -> None:
    now_ms = int(time.time() * 1000)
    with BrokerProcess(1, tmp_path / "data") as broker:
        async with mom_client.connect(broker.addresses[0]) as client:
            await client.create_queue(name, dead_letter=f"{name}.dlq", max_deliveries=2)
            await client.publish_many(
                name,
                [
                    Message(b"low"),
                    Message(b"high", priority=9),
                    Message(b"later", deliver_at_ms=now_ms + 2_500),
                    Message(b"poison", priority=8),
                ],
            )
            for _ in range(2):
                messages = await client.receive(name, 2, wait=20)
                assert [one.value for one in messages] == [b"high", b"poison"]
                if len(messages) == 2 and messages[0].deliveries == 1:
                    await client.nack(messages)
            held = messages
    with BrokerProcess(1, tmp_path / "data") as broker:
        async with mom_client.connect(broker.addresses[0]) as client:
            assert [one.value for one in await take(client, name, 1)] == [b"low"]
            await client.ack(held[0])  # The lease and its receipt are as they were.
            await client.nack(held[1])
            assert [one.value for one in await take(client, f"{name}.dlq", 1)] == [b"poison"]
            assert [one.value for one in await take(client, name, 1)] == [b"later"]
            assert int(time.time() * 1000) >= now_ms + 2_500


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"dead_letter": "SELF"}, "dead_letter"),
        ({"dead_letter": "not a name"}, "dead_letter"),
        ({"dead_letter_expired": True}, "dead_letter_expired"),
        ({"max_deliveries": 0}, "max_deliveries"),
        ({"retry_backoff_ms": 500, "retry_backoff_max_ms": 100}, "retry_backoff_max_ms"),
        ({"retry_backoff_multiplier": 0.5}, "retry_backoff_multiplier"),
        ({"ordering": "random"}, "ordering"),
    ],
)
async def test_settings_that_contradict_are_refused(
    client: mom_client.Client, name: str, settings: dict[str, object], field: str
) -> None:
    wanted = {key: name if value == "SELF" else value for key, value in settings.items()}
    with pytest.raises(mom_client.InvalidArgumentError) as caught:
        await client.create_queue(name, **wanted)
    assert caught.value.field == field


@pytest.mark.parametrize("ordering", ["fifo", "fair"])
async def test_a_priority_is_refused_where_there_are_none(
    client: mom_client.Client, name: str, ordering: str
) -> None:
    await client.create_queue(name, ordering=ordering)
    with pytest.raises(mom_client.InvalidArgumentError, match=f"has ordering {ordering}"):
        await client.publish(name, b"a", priority=5)
    await client.publish(name, b"b", priority=0)
    assert [one.value for one in await take(client, name, 1)] == [b"b"]
    await client.create_topic(f"{name}-log")  # Whose subscriptions may each have another one.
    await client.create_subscription(f"{name}-log", "mail", mode="queue", ordering=ordering)
    await client.publish(f"{name}-log", b"c", priority=5)


async def test_dead_letters_that_would_come_back_are_refused(
    client: mom_client.Client, name: str
) -> None:
    await client.create_queue(name, dead_letter=f"{name}.dlq")
    await client.alter(f"{name}.dlq", dead_letter=f"{name}.last")
    with pytest.raises(mom_client.InvalidArgumentError, match="come back"):
        await client.alter(f"{name}.last", dead_letter=name)
