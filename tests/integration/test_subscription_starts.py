"""Where subscriptions begin that are made on topics with messages: by the SDK, REST and `mom`.

Of the SDK by real processes over SQLite and Redis, and by a TestBroker whose clock goes with the
machine's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import mom_client
from integration.broker_process import BrokerProcess
from integration.cluster_processes import ClusterProcesses
from integration.dev_process import DevProcess
from integration.running_test_broker import running_test_broker
from mom_client.testing import TestBroker
from polling import until

OLD = ["old 0", "old 1", "old 2"]
NEW = ["new 0", "new 1"]
# Of a partition that holds OLD, and then gets NEW.
CASES = [
    ("earliest", [*OLD, *NEW]),
    ("latest", NEW),
    ("offset:0", [*OLD, *NEW]),
    ("offset:2", [*OLD[2:], *NEW]),
    ("offset:9", NEW),
    ("timestamp:0", [*OLD, *NEW]),
    ("timestamp:2100-01-01T00:00:00Z", NEW),
]
MODES = ["stream", "queue"]


@pytest.fixture(params=["SQLite", "Redis", "in memory"])
def addresses(request: pytest.FixtureRequest) -> list[str]:
    """Of nodes over that store; none: all is in memory."""
    if request.param == "in memory":
        return []
    processes: ClusterProcesses | BrokerProcess = request.getfixturevalue(
        "cluster" if request.param == "Redis" else "broker"
    )
    return processes.addresses


@pytest.fixture
async def in_memory(addresses: list[str]) -> AsyncIterator[TestBroker | None]:
    if addresses:
        yield None
    else:
        async with running_test_broker() as broker:
            yield broker


@pytest.fixture
async def client(
    addresses: list[str], in_memory: TestBroker | None
) -> AsyncIterator[mom_client.Client]:
    async with (
        in_memory.client() if in_memory is not None else mom_client.connect(addresses[0])
    ) as client:
        yield client


async def take(
    client: mom_client.Client, topic: str, subscription: str, mode: str, last: str = NEW[-1]
) -> list[str]:
    """What a subscription delivers of one partition, up to a last message."""
    found: list[str] = []
    while last not in found and mode == "queue":
        messages = await client.receive(topic, 100, wait=20, subscription=subscription)
        assert messages, f"after {found} nothing came"
        found += [one.text() for one in messages]
        await client.ack(messages)
    if mode == "stream":
        async with client.subscribe(topic, subscription, create=False) as messages_of:
            async for message in messages_of:
                found.append(message.text())
                if found[-1] == last:
                    break
    return found


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("start", "expected"), CASES)
async def test_it_begins_where_it_was_told(
    client: mom_client.Client, name: str, mode: str, start: str, expected: list[str]
) -> None:
    await client.create_topic(name, partitions=1)
    await client.publish_many(name, OLD)
    await client.create_subscription(name, "one", mode=mode, start=start)
    await client.publish_many(name, NEW)
    assert await take(client, name, "one", mode) == expected


@pytest.mark.parametrize("mode", MODES)
async def test_a_time_is_when_messages_were_appended(
    in_memory: TestBroker | None, client: mom_client.Client, name: str, mode: str
) -> None:
    def now_ms() -> int:
        return in_memory.clock.now_ms() if in_memory else time.time_ns() // 1_000_000

    async def is_past() -> bool:
        return now_ms() >= edge_ms

    await client.create_topic(name, partitions=1)
    await client.publish_many(name, OLD)
    edge_ms = now_ms() + 1
    await until(is_past, "the clock goes on")
    await client.publish_many(name, NEW)
    await client.create_subscription(name, "one", mode=mode, start=f"timestamp:{edge_ms}")
    assert await take(client, name, "one", mode) == NEW


@pytest.mark.parametrize("mode", MODES)
async def test_each_partition_has_an_end_of_its_own(
    client: mom_client.Client, name: str, mode: str
) -> None:
    """Some hold nothing, and one comes later."""
    await client.create_topic(name, partitions=3)
    for partition, count in ((0, 3), (2, 5)):
        await client.publish_many(name, ["old"] * count, partition=partition)
    await client.create_subscription(name, "one", mode=mode, start="latest")
    await client.alter(name, partitions=4)
    for partition in range(4):
        await client.publish(name, f"new {partition}", partition=partition)
    await client.publish(name, "last", partition=0)
    found: list[str] = []
    if mode == "queue":
        while len(found) < 5:
            messages = await client.receive(name, 100, wait=20, subscription="one")
            assert messages, f"after {found} nothing came"
            found += [one.text() for one in messages]
    else:
        async with client.subscribe(name, "one", create=False) as subscription:
            async for message in subscription:
                found.append(message.text())
                if len(found) == 5:
                    break
    assert sorted(found) == ["last", *(f"new {partition}" for partition in range(4))]


@pytest.mark.parametrize("mode", MODES)
async def test_one_that_stands_keeps_its_place_and_another_of_its_name_has_its_own(
    client: mom_client.Client, name: str, mode: str
) -> None:
    await client.create_topic(name, partitions=1)
    await client.publish_many(name, OLD)
    await client.create_subscription(name, "one", mode=mode, start="latest")
    await client.publish_many(name, NEW)
    await client.create_subscription(name, "one", mode=mode, start="latest")
    settings = {"session_ms": 20_000} if mode == "stream" else {"lease_ms": 20_000}
    await client.alter_subscription(name, "one", **settings)
    assert await take(client, name, "one", mode) == NEW
    await client.delete_subscription(name, "one")
    await client.create_subscription(name, "one", mode=mode, start="offset:1")
    assert await take(client, name, "one", mode) == [*OLD[1:], *NEW]
    await client.delete_subscription(name, "one")
    await client.create_subscription(name, "one", mode=mode, start="latest")
    await client.publish(name, "newest")
    assert await take(client, name, "one", mode, "newest") == ["newest"]


@pytest.mark.parametrize("mode", MODES)
async def test_latest_means_the_moment_of_the_call(
    client: mom_client.Client, name: str, mode: str
) -> None:
    """While others publish: nothing from before it, and all from after it."""
    await client.create_topic(name, partitions=1)
    acknowledged = -1

    async def publish() -> None:
        nonlocal acknowledged
        while True:
            await client.publish(name, str(acknowledged + 1))
            acknowledged += 1

    async def has(count: int) -> bool:
        assert not publishing.done(), publishing.result()
        return acknowledged >= count

    publishing = asyncio.create_task(publish())
    try:
        for turn in range(5):
            await until(lambda: has(20 * turn + 5), "some are published")  # noqa: B023 - awaited here
            before = acknowledged
            await client.create_subscription(name, f"s{turn}", mode=mode, start="latest")
            after = acknowledged + 2  # One may have been on its way.
            await until(lambda: has(after + 3), "more are published")  # noqa: B023 - awaited here
            found = list(map(int, await take(client, name, f"s{turn}", mode, str(after + 3))))
            assert before < found[0] <= after, "it begins at the call"
            assert found == list(range(found[0], found[0] + len(found)))
    finally:
        publishing.cancel()


async def test_what_nobody_handled_yet_is_counted_from_its_start(
    client: mom_client.Client, name: str
) -> None:
    await client.create_topic(name, partitions=1)
    await client.publish_many(name, OLD)
    for mode in MODES:
        await client.create_subscription(name, mode, mode=mode, start="offset:2")

    async def counts() -> dict[str, int]:
        (described,) = await client.describe(name)
        return {one.name: one.lag.messages + one.ready for one in described.subscriptions}

    async def is_one_each() -> bool:
        return await counts() == {"stream": 1, "queue": 1}

    await until(is_one_each, "one message waits for each")


async def test_what_retention_took_before_is_no_loss_of_a_new_one(
    broker: BrokerProcess, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Of one batch, the first message is removed."""
    async with mom_client.connect(broker.addresses[0]) as client:
        await client.create_topic(name, partitions=1, retain_until_acked=True)
        await client.create_subscription(name, "first", mode="queue")
        await client.publish_many(name, OLD)
        (message,) = await client.receive(name, 1, wait=20, subscription="first")
        await client.ack(message)

        async def is_trimmed() -> bool:
            (described,) = await client.describe(name)
            return described.log_start == 1

        await until(is_trimmed, "the first message is removed")
        for mode in MODES:
            await client.create_subscription(name, mode, mode=mode, start="earliest")
            assert await take(client, name, mode, mode, OLD[-1]) == OLD[1:]
        assert "retention removed" not in caplog.text


# REST.


async def ok(rest: httpx.AsyncClient, method: str, path: str, status: int, **options: Any) -> Any:
    response = await rest.request(method, path, **options)
    assert response.status_code == status, response.text
    return response.json()


@pytest.mark.parametrize(("start", "expected"), CASES)
async def test_rest_begins_where_it_was_told(
    rest: httpx.AsyncClient, name: str, start: str, expected: list[str]
) -> None:
    base = f"/v1/topics/{name}"
    await ok(rest, "PUT", base, 201, json={"partitions": 1})
    await ok(rest, "POST", f"{base}/records", 200, json={"records": [{"value": o} for o in OLD]})
    for mode in MODES:
        settings = {"mode": mode, "start": start}
        await ok(rest, "PUT", f"{base}/subscriptions/{mode}", 201, json=settings)
    await ok(rest, "POST", f"{base}/records", 200, json={"records": [{"value": n} for n in NEW]})
    read_from = 5 - len(expected)
    member = {"member_id": "a"}
    reply = await ok(rest, "POST", f"{base}/subscriptions/stream/leases:acquire", 200, json=member)
    assert [one["committed_offset"] for one in reply["leases"]] == [read_from]
    asked = {"max": 10, "wait_ms": 20_000}
    reply = await ok(rest, "POST", f"{base}/subscriptions/queue/messages:receive", 200, json=asked)
    assert [one["value"] for one in reply["messages"]] == expected


# The command line.


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevProcess]:
    with DevProcess(tmp_path_factory.mktemp("dev") / "data") as process:
        yield process


def produce(dev: DevProcess, topic: str, values: list[str]) -> None:
    dev.mom("produce", topic, *values)


@pytest.mark.parametrize(("start", "expected"), [CASES[1], CASES[3]])
def test_commands_begin_where_they_were_told(
    dev: DevProcess, name: str, start: str, expected: list[str]
) -> None:
    dev.mom("topic", "create", name, "--partitions", "1")
    produce(dev, name, OLD)
    dev.mom("subscription", "create", name, "s", "--from", start)
    dev.mom("subscription", "create", name, "q", "--mode", "queue", "--from", start)
    produce(dev, name, NEW)
    read = dev.mom("consume", name, "--subscription", "s", "--until-end").stdout
    assert read.decode().splitlines() == expected
    words = ("receive", name, "--subscription", "q", "--max", "10", "--ack")
    assert dev.mom(*words).stdout.decode().splitlines() == expected


def test_a_place_outlives_a_restart_in_which_nobody_read(tmp_path: Path) -> None:
    """It is the place of its creation, and not of the first reader."""
    with DevProcess(tmp_path / "data") as dev:
        dev.mom("topic", "create", "logs", "--partitions", "1")
        produce(dev, "logs", OLD)
        dev.mom("subscription", "create", "logs", "s", "--from", "latest")
        dev.mom("subscription", "create", "logs", "q", "--mode", "queue", "--from", "latest")
        produce(dev, "logs", NEW)
        dev.kill()
        dev.start()
        read = dev.mom("consume", "logs", "--subscription", "s", "--until-end").stdout
        assert read.decode().splitlines() == NEW
        words = ("receive", "logs", "--subscription", "q", "--max", "10", "--ack")
        assert dev.mom(*words).stdout.decode().splitlines() == NEW
