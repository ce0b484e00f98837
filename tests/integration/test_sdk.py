"""The SDK against real nodes in another process."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
import time
import tracemalloc
from collections.abc import Iterator
from itertools import chain

import pytest

import mom_client
from integration.broker_process import BrokerProcess
from integration.descriptions import subscriptions_of
from mom_client.engine import Engine
from mom_client.options import IN_FLIGHT_BYTES_MAX_DEFAULT
from mom_core.errors import ErrorCode
from mom_core.message import Message
from polling import WAIT_S_MAX


@pytest.fixture(scope="module")
def broker() -> Iterator[BrokerProcess]:
    with BrokerProcess(2) as process:
        yield process


# Publishing and reading.


async def test_what_is_published_is_read_again_and_again(
    client: mom_client.Client, name: str
) -> None:
    made = await client.create_topic(name, partitions=4)
    assert made.partitions == 4
    published = await client.publish(name, {"n": 1}, key="k", headers={"h": "v"})
    assert published.durability == "memory"
    await client.publish(name, "text", partition=published.partition)
    await client.publish(name, b"\x00bytes", partition=published.partition)
    for _ in range(2):
        found = [one async for one in client.read(name)]
        assert [one.offset for one in found] == [0, 1, 2]
        assert found[0].json() == {"n": 1}
        assert (found[0].key, found[0].headers) == ("k", {"h": "v"})
        assert found[0].id == published.id_text
        assert (found[1].text(), found[1].content_type) == ("text", "text/plain")
        assert (found[2].value, found[2].content_type) == (b"\x00bytes", None)
        assert found[0].timestamp_ms > 0
        assert found[0].receipt == ""


async def test_keys_keep_their_order_and_their_partition(
    client: mom_client.Client, name: str
) -> None:
    await client.create_topic(name, partitions=4)
    results = await asyncio.gather(
        *(client.publish(name, number, key=f"k{number % 7}") for number in range(2_000))
    )
    assert len({one.partition for one in results[::7]}) == 1
    seen: dict[str | None, list[int]] = {}
    async for one in client.read(name):
        seen.setdefault(one.key, []).append(one.json())
    assert sorted(chain.from_iterable(seen.values())) == list(range(2_000))
    assert all(numbers == sorted(numbers) for numbers in seen.values())


async def test_messages_without_key_spread_evenly(client: mom_client.Client, name: str) -> None:
    await client.create_topic(name, partitions=4)
    results = [await client.publish(name, number) for number in range(40)]
    assert [sum(one.partition == index for one in results) for index in range(4)] == [10] * 4


async def test_one_bad_message_hurts_no_other(client: mom_client.Client, name: str) -> None:
    await client.create_topic(name, message_bytes_max=2048)
    values = [b"a", b"x" * 3000, Message(b"b", headers={"n": "v" * 40_000}), b"c"]
    good, large, headers, last = await client.publish_many(name, values)
    assert isinstance(good, mom_client.Published)
    assert isinstance(last, mom_client.Published)
    assert isinstance(large, mom_client.TooLargeError)
    assert (large.field, large.details["limit_bytes"]) == ("value", "2048")
    assert isinstance(headers, mom_client.TooLargeError)
    assert headers.field == "headers"
    assert [one.value async for one in client.read(name)] == [b"a", b"c"]


async def test_only_settings_that_are_named_count(client: mom_client.Client, name: str) -> None:
    made = await client.create_topic(name, partitions=2, retention_ms=0)
    assert (made.partitions, made.retention_ms) == (2, 0)
    assert await client.create_topic(name) == made
    with pytest.raises(mom_client.ConflictError, match="retention_ms is 0, not 3600000"):
        await client.create_topic(name, retention_ms="1h")


async def test_bad_arguments_name_the_field(client: mom_client.Client, name: str) -> None:
    await client.create_topic(name, partitions=2)
    with pytest.raises(mom_client.InvalidArgumentError, match="it has 0 to 1"):
        await client.publish(name, b"", partition=2)
    with pytest.raises(mom_client.NotFoundError, match="no topic or queue 'nothing-here'"):
        await client.publish("nothing-here", b"")
    with pytest.raises(mom_client.InvalidArgumentError, match="not a valid name"):
        await client.publish("-bad name", b"")
    with pytest.raises(mom_client.InvalidArgumentError, match="no JSON form"):
        client.publish(name, object())
    with pytest.raises(mom_client.InvalidArgumentError, match="start"):
        async for _ in client.read(name, start="yesterday"):
            pass
    with pytest.raises(mom_client.OffsetError) as caught:
        async for _ in client.read(name, partition=0, start="offset:99"):
            pass
    assert caught.value.code is ErrorCode.OFFSET_OUT_OF_RANGE


async def test_reading_from_an_offset_inside_a_batch(client: mom_client.Client, name: str) -> None:
    await client.create_topic(name)
    await client.publish_many(name, range(100))
    found = [one.json() async for one in client.read(name, partition=0, start="offset:37")]
    assert found == list(range(37, 100))


async def test_following_sees_what_comes(client: mom_client.Client, name: str) -> None:
    await client.create_topic(name, partitions=2)
    await client.publish(name, 0)
    reader = aiter(client.read(name, follow=True))
    assert (await anext(reader)).json() == 0
    nearly = asyncio.ensure_future(anext(reader))
    await client.publish(name, 1)
    assert (await nearly).json() == 1
    await reader.aclose()  # type: ignore[attr-defined]


# Queues.


async def test_receive_ack_nack_extend(client: mom_client.Client, name: str) -> None:
    await client.create_queue(name, partitions=2)
    assert await client.receive(name) == []
    await client.publish_many(name, range(10))
    messages: list[mom_client.ReceivedMessage] = []
    while len(messages) < 10:
        messages += await client.receive(name, 10, wait=5)
    assert sorted(one.json() for one in messages) == list(range(10))
    assert {one.deliveries for one in messages} == {1}
    assert await client.extend(messages, 60) == [None] * 10
    assert await client.ack(messages[:5]) == [None] * 5
    await client.nack(messages[5])
    (again,) = await client.receive(name, 10, wait=5)
    assert (again.value, again.deliveries) == (messages[5].value, 2)
    with pytest.raises(mom_client.SettleError):
        await client.ack(messages[5])
    results = await client.ack(messages)
    assert [one is None for one in results] == [False] * 6 + [True] * 4


async def test_a_waiting_receive_wakes_and_leases_one(client: mom_client.Client, name: str) -> None:
    await client.create_queue(name, partitions=4)
    waiting = asyncio.ensure_future(client.receive(name, wait=20))
    await client.publish_many(name, range(8))
    assert len(await waiting) == 1
    counts = await subscriptions_of(client, name)
    assert sum(one.leased for one in counts) == 1


async def test_cancelled_receives_leave_nothing_leased(
    client: mom_client.Client, name: str
) -> None:
    await client.create_queue(name, partitions=2)
    waiting = [asyncio.ensure_future(client.receive(name, 10, wait=20)) for _ in range(20)]
    await client.publish(name, "wakes")
    for one in waiting:
        one.cancel()
    done = await asyncio.gather(*waiting, return_exceptions=True)
    won = [one for one in done if isinstance(one, list) and one]
    if not won:
        (message,) = await client.receive(name, wait=10)
        assert message.text() == "wakes"


async def test_a_handler_that_blocks_keeps_its_lease(client: mom_client.Client, name: str) -> None:
    await client.create_queue(name)
    await client.publish_many(name, ["slow", "next"])
    async with client.consume(name, lease=1, at_once_max=1) as messages:
        async for message in messages:
            if message.text() == "slow":
                ends = time.monotonic() + 2.5
                while time.monotonic() < ends:  # Blocks this loop for longer than the lease.
                    threading.Event().wait(0.1)
                assert await client.receive(name, 10) != [] or message.deliveries == 1
            break
    found = await client.receive(name, 10, wait=5)
    assert "slow" in {one.text() for one in found}


async def test_consume_acks_what_was_handled(client: mom_client.Client, name: str) -> None:
    await client.create_queue(name)
    await client.publish_many(name, range(50))
    seen = []

    async def work() -> None:
        async with client.consume(name) as messages:
            async for message in messages:
                seen.append(message.json())
                if len(seen) == 30:
                    raise RuntimeError("of the handler")

    with pytest.raises(RuntimeError, match="of the handler"):
        await work()
    assert seen == list(range(30))
    left = await client.receive(name, 100, wait=5)
    assert [one.json() for one in left] == list(range(29, 50))
    assert left[0].deliveries == 2  # The one that failed counts; those not begun do not.


# Groups.


async def test_members_share_partitions_and_go_on_where_the_group_was(
    client: mom_client.Client, name: str
) -> None:
    await client.create_topic(name, partitions=4)
    await client.publish_many(name, (Message(b"%d" % n, key=b"%d" % n) for n in range(400)))
    seen: list[int] = []
    async with client.subscribe(name, "group") as subscription:
        async for message in subscription:
            seen.append(message.json())
            if len(seen) == 150:
                break
    async with client.subscribe(name, "group") as subscription:
        async for message in subscription:
            seen.append(message.json())
            if len(set(seen)) == 400:
                break
    assert sorted(set(seen)) == list(range(400))
    assert len(seen) <= 402  # The one at hand when a member leaves comes again.


async def test_two_members(client: mom_client.Client, name: str) -> None:
    await client.create_topic(name, partitions=4)
    seen: dict[str, set[int]] = {"a": set(), "b": set()}
    total = 800

    async def work(member: str) -> None:
        async with client.subscribe(name, "group", member=f"{name}-{member}") as subscription:
            async for message in subscription:
                seen[member].add(message.json())
                if len(seen["a"] | seen["b"]) == total:
                    return

    async def publish() -> None:
        for first in range(0, total, 10):
            batch = [Message(b"%d" % n, key=b"%d" % n) for n in range(first, first + 10)]
            await client.publish_many(name, batch)

    workers = [asyncio.ensure_future(work(one)) for one in seen]
    await publish()
    await asyncio.wait(workers, timeout=60, return_when=asyncio.FIRST_COMPLETED)
    for worker in workers:
        worker.cancel()
    await asyncio.gather(*workers, return_exceptions=True)
    assert seen["a"] | seen["b"] == set(range(total))


async def test_explicit_commit(client: mom_client.Client, name: str) -> None:
    await client.create_topic(name)
    await client.publish_many(name, range(10))
    async with client.subscribe(name, "group", auto_commit=False) as subscription:
        async for message in subscription:
            if message.json() == 3:
                await subscription.commit()
            if message.json() == 6:
                break
    async with client.subscribe(name, "group", auto_commit=False) as subscription:
        async for message in subscription:
            assert message.json() == 4
            break


# Living in real processes.


async def test_several_loops_and_threads(client: mom_client.Client, name: str) -> None:
    await client.create_topic(name, partitions=2)

    async def publish(first: int) -> int:
        results = await asyncio.gather(
            *(client.publish(name, number) for number in range(first, first + 500))
        )
        return len(results)

    counts = await asyncio.gather(
        *(asyncio.to_thread(asyncio.run, publish(500 * turn)) for turn in range(4)), publish(2_000)
    )
    assert counts == [500] * 5
    assert sorted([one.json() async for one in client.read(name)]) == list(range(2_500))


async def test_close_flushes(broker: BrokerProcess, name: str) -> None:
    client = mom_client.connect(broker.addresses)
    await client.create_topic(name)
    futures = [client.publish(name, number) for number in range(5_000)]
    await client.close()
    assert [one.result().offset for one in futures] == list(range(5_000))
    with pytest.raises(mom_client.UnavailableError, match="was closed"):
        client.publish(name, 1)


async def test_backpressure_bounds_what_is_in_flight(broker: BrokerProcess, name: str) -> None:
    engine = Engine(broker.addresses, options=mom_client.EngineOptions(in_flight_bytes_max=1 << 20))
    await engine.start()
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, engine.producer.in_flight_bytes)
            await asyncio.sleep(0)

    async with mom_client.connect(broker.addresses) as client:
        await client.create_topic(name, partitions=2)
    watcher = asyncio.ensure_future(watch())
    results = await engine.publish_many(name, [Message(bytes(10_000))] * 2_000)
    watcher.cancel()
    await engine.close()
    assert all(isinstance(one, mom_client.Published) for one in results)
    assert 0 < most < (1 << 20) + 20_000


async def test_memory_stays_bounded_over_many_messages(
    client: mom_client.Client, name: str
) -> None:
    await client.create_topic(name, partitions=2)
    value = bytes(1024)
    await client.publish_many(name, (value for _ in range(1_000)))
    gc.collect()
    tracemalloc.start()
    try:
        results = await client.publish_many(name, (bytes(1024) for _ in range(100_000)))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(results) == 100_000
    # What is in flight, its encoded batches and requests, and the results; not the 100 MB.
    assert peak < 3 * IN_FLIGHT_BYTES_MAX_DEFAULT


async def test_cancelled_publishes_leak_nothing(client: mom_client.Client, name: str) -> None:
    await client.create_topic(name)
    futures = [client.publish(name, number) for number in range(100)]
    for one in futures:
        one.cancel()
    await client.publish(name, "last")
    assert [one async for one in client.read(name)][-1].text() == "last"
    assert client._io._engine is not None
    assert client._io._engine.producer.in_flight_bytes == 0


async def test_no_server_is_a_clear_error_in_bounded_time() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(mom_client.UnavailableError, match=f"tried {address}") as caught:
            async with (
                asyncio.timeout(WAIT_S_MAX),
                mom_client.connect(address, connect_timeout_ms=500),
            ):
                pass
    assert caught.value.retriable
    with pytest.raises(mom_client.InvalidArgumentError, match="neither the host:port"):
        await mom_client.connect("example").ready()


async def test_a_topic_made_again_is_another_one(client: mom_client.Client, name: str) -> None:
    await client.create_queue(name)
    await client.publish(name, "old")
    (old,) = await client.receive(name, wait=5)
    await client.delete(name)
    await client.create_queue(name)
    assert await client.receive(name) == []
    with pytest.raises(mom_client.SettleError) as caught:
        await client.ack(old)
    assert caught.value.code is ErrorCode.INVALID_RECEIPT
    await client.publish(name, "new")
    (new,) = await client.receive(name, wait=5)
    assert new.text() == "new"


# The sync face.


def test_sync(broker: BrokerProcess, name: str) -> None:
    with mom_client.sync.connect(",".join(broker.addresses)) as client:
        client.create_topic(name, partitions=2)
        assert name in [one.name for one in client.topics()]
        client.publish(name, 0)
        client.publish_many(name, range(1, 2_500))
        assert sorted(one.json() for one in client.read(name)) == list(range(2_500))
        client.create_queue(f"{name}-q")
        client.publish_many(f"{name}-q", range(10))
        seen = []
        with client.consume(f"{name}-q") as messages:
            for message in messages:
                seen.append(message.json())
                if len(seen) == 10:
                    break
        assert seen == list(range(10))
        (last,) = client.receive(f"{name}-q", 10, wait=5)
        client.ack(last)
        with client.subscribe(name, "group") as subscription:
            found = {next(iter(subscription)).offset}
        assert found == {0}
        assert client.alter(name, partitions=3).partitions == 3
        client.delete(name)
        with pytest.raises(mom_client.NotFoundError):
            client.publish(name, 1)


async def test_a_handler_that_is_cancelled_and_comes_back_misses_nothing(
    client: mom_client.Client, name: str
) -> None:
    await client.create_topic(name, partitions=2)
    await client.publish_many(name, range(100))
    seen: set[int] = set()
    async with client.subscribe(name, "group") as subscription:
        while len(seen) < 100:
            handled = 0
            async for message in subscription:
                seen.add(message.json())
                handled += 1
                if handled == 7 or len(seen) == 100:
                    break
        lonely = asyncio.ensure_future(anext(aiter(subscription)))
        await asyncio.sleep(0)
        lonely.cancel()
        await client.publish(name, 100)
        async for message in subscription:
            seen.add(message.json())
            if 100 in seen:
                break
    assert seen == set(range(101))


async def test_an_iteration_that_was_left_and_is_closed_late_leaves_the_next_one_alone(
    client: mom_client.Client, name: str
) -> None:
    """As after a `break`: Python closes the generator some time later."""
    await client.create_queue(name)
    await client.publish(name, "first")
    async with client.consume(name) as messages:
        left = aiter(messages)
        assert (await anext(left)).text() == "first"
        messages.ack()
        following = aiter(messages)
        waiting = asyncio.ensure_future(anext(following))
        await client.describe(name)  # By then the worker has begun to wait.
        await left.aclose()
        await client.publish(name, "second")
        assert (await waiting).text() == "second"


async def test_a_subscription_that_was_left_goes_on_where_it_was(
    client: mom_client.Client, name: str
) -> None:
    await client.create_topic(name)
    async with client.subscribe(name, subscription="s") as messages:
        await client.publish_many(name, [0, 1])
        left = aiter(messages)
        assert (await anext(left)).json() == 0
        await client.publish_many(name, [2, 3])
        following = aiter(messages)
        assert (await anext(following)).json() == 0, "what was at hand comes again"
        await left.aclose()
        assert [(await anext(following)).json() for _ in range(3)] == [1, 2, 3]


async def test_a_worker_that_is_cancelled_and_comes_back_gets_what_was_left(
    client: mom_client.Client, name: str
) -> None:
    await client.create_queue(name)
    await client.publish_many(name, range(40))
    seen: list[int] = []
    async with client.consume(name) as messages:
        while len(seen) < 40:
            async for message in messages:
                seen.append(message.json())
                if len(seen) % 9 == 0:
                    messages.ack()
                    break
                if len(seen) == 40:
                    break
        messages.ack()
    assert sorted(seen) == list(range(40))
    assert await client.receive(name) == []
