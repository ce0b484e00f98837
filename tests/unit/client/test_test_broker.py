"""TestBroker: the real thing, but for the time."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
from contextlib import suppress

import pytest

import mom_client
from mom_client.testing import TestBroker

pytest_plugins = ["mom_client.pytest_plugin"]

DAY_S = 24 * 3600


async def test_a_failed_message_comes_again_after_its_backoff(mom_broker: TestBroker) -> None:
    client = mom_broker.client()
    await client.create_queue("emails", retry_backoff_ms=5_000)
    await client.publish("emails", "hi")
    [message] = await client.receive("emails")
    await client.nack(message)
    assert await client.receive("emails") == []
    await mom_broker.clock.advance(4.999)
    assert await client.receive("emails") == []
    await mom_broker.clock.advance(0.001)
    [again] = await client.receive("emails")
    assert (again.text(), again.deliveries) == ("hi", 2)


async def test_a_worker_gets_each_message_at_its_time(mom_broker: TestBroker) -> None:
    """However far the clock is moved at once."""
    client, clock = mom_broker.client(), mom_broker.clock
    await client.create_queue(
        "emails",
        retry_backoff_ms=60_000,
        retry_backoff_multiplier=2,
        max_deliveries=3,
        dead_letter="emails.dlq",
    )
    begin_ms = clock.now_ms()
    tries: list[int] = []

    async def work() -> None:
        while True:
            for message in await client.receive("emails", wait=20):
                tries.append(clock.now_ms() - begin_ms)
                await asyncio.sleep(0)
                await client.nack(message)

    worker = asyncio.create_task(work())
    await client.publish("emails", "hi", delay=3600)
    await clock.advance(DAY_S)
    worker.cancel()
    assert tries == [3_600_000, 3_660_000, 3_780_000]
    [dead] = await client.receive("emails.dlq")
    assert dead.headers["mom-dead-deliveries"] == "3"


async def test_a_wait_ends_when_something_comes_or_its_time_is_over(mom_broker: TestBroker) -> None:
    client = mom_broker.client()
    await client.create_queue("emails")
    waiting = asyncio.create_task(client.receive("emails", wait=20))
    await mom_broker.clock.advance(19)
    assert not waiting.done()
    await client.publish("emails", "hi")
    [message] = await waiting
    await client.ack(message)
    waiting = asyncio.create_task(client.receive("emails", wait=20))
    await mom_broker.clock.advance(20)
    assert waiting.done()
    assert waiting.result() == []


async def test_a_lease_ends_with_its_time_and_is_kept_by_a_worker(mom_broker: TestBroker) -> None:
    client, clock = mom_broker.client(), mom_broker.clock
    await client.create_queue("emails", lease_ms=30_000, retry_backoff_ms=0)
    await client.publish("emails", "hi")
    [late] = await client.receive("emails")
    await clock.advance(30)
    consumption = client.consume("emails")
    async with consumption:
        messages = aiter(consumption)
        message = await anext(messages)
        assert message.deliveries == 2
        with pytest.raises(mom_client.SettleError):
            await client.ack(late)
        await clock.advance(600)
        assert await client.receive("emails") == []
        await client.ack(message)


async def test_its_clock_is_the_clients_too(mom_broker: TestBroker) -> None:
    client, clock = mom_broker.client(), mom_broker.clock
    await client.create_queue("emails", retention_ms=0)
    await clock.advance(10 * DAY_S)
    await client.publish("emails", "later", delay=60)
    assert await client.receive("emails") == []
    await clock.advance(60)
    [message] = await client.receive("emails")
    assert message.timestamp_ms == clock.now_ms() - 60_000
    await client.ack(message)
    later = await client.publish("emails", "later still", delay=DAY_S)
    await client.reschedule("emails", later, delay=60)
    await clock.advance(59)
    assert await client.receive("emails") == []
    await clock.advance(1)
    assert [one.text() for one in await client.receive("emails")] == ["later still"]


async def test_topics_and_subscriptions(mom_broker: TestBroker) -> None:
    client = mom_broker.client()
    await client.create_topic("orders", partitions=3)
    results = await client.publish_many("orders", list(range(20)))
    assert not [one for one in results if isinstance(one, mom_client.MomError)]
    assert sorted([one.json() async for one in client.read("orders")]) == list(range(20))
    async with client.subscribe("orders", "billing") as billing:
        found = []
        async for message in billing:
            found.append(message.json())
            if len(found) == 20:
                break
    assert sorted(found) == list(range(20))


async def test_code_that_connects_by_itself(mom_broker: TestBroker) -> None:
    client = mom_broker.client()
    await client.create_queue("emails")
    async with mom_client.connect(mom_broker.address) as other:
        await other.publish("emails", "hi")
    assert [one.text() for one in await client.receive("emails")] == ["hi"]
    with pytest.raises(mom_client.UnavailableError):
        await other.receive("emails")


async def test_brokers_are_apart() -> None:
    async with TestBroker(start_ms=1_000) as one, TestBroker() as two:
        await one.client().create_queue("emails")
        assert await two.client().queues() == []
        await one.clock.advance(5)
        assert one.clock.now_ms() >= 6_000
        client = one.client()
    with pytest.raises(mom_client.UnavailableError):
        await client.publish("emails", "hi")


def test_without_asyncio() -> None:
    with TestBroker() as broker:
        client = broker.sync_client()
        # The clock may move on between a receive and its nack, which are another thread's.
        client.create_queue("emails", retry_backoff_ms=5_000, lease_ms=3_600_000)
        handled: list[int] = []

        def work() -> None:
            with suppress(mom_client.UnavailableError):
                while len(handled) < 3:
                    for message in client.receive("emails", wait=20):
                        handled.append(message.deliveries)
                        client.nack(message)

        client.publish("emails", "hi", delay=60)
        worker = threading.Thread(target=work)
        worker.start()
        while worker.is_alive():
            broker.clock.advance_sync(30)
        assert handled == [1, 2, 3]


async def test_a_call_that_only_time_would_end_is_told_of(mom_broker: TestBroker) -> None:
    client = mom_broker.client()
    await client.create_queue("emails")
    mom_broker._home.loop.long_rest_s = 0.001
    told = asyncio.Event()
    loop = asyncio.get_running_loop()

    class Telling(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "clock stands still" in record.getMessage():
                loop.call_soon_threadsafe(told.set)

    handler = Telling()
    logging.getLogger("mom_client").addHandler(handler)
    try:
        waiting = asyncio.create_task(client.receive("emails", wait=20))
        await told.wait()
    finally:
        logging.getLogger("mom_client").removeHandler(handler)
    waiting.cancel()


async def test_the_end_of_a_broker_ends_what_waits() -> None:
    async with TestBroker() as broker:
        client = broker.client()
        await client.create_queue("emails")
        waiting = asyncio.create_task(client.receive("emails", wait=50))
        await broker.clock.advance(1)
    with pytest.raises((mom_client.MomError, asyncio.CancelledError)):
        await waiting


async def test_time_goes_on_only(mom_broker: TestBroker) -> None:
    with pytest.raises(ValueError, match="back"):
        await mom_broker.clock.advance(-1)


def test_where_the_servers_are_missing_it_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['prometheus_client'] = None\n"
        "from mom_client.testing import TestBroker\n"
        "try:\n    TestBroker().__enter__()\n"
        "except ImportError as error:\n    print(error)\n"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "prometheus_client" in told.stdout
    assert "pip install 'mom-mq[server]'" in told.stdout
