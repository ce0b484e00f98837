"""Looking at what a queue holds, without disturbing it: by the SDK, REST and the command line."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from dev_process import DevProcess

import mom_client
from integration.broker_process import BrokerProcess

HOUR = 3_600


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevProcess]:
    with DevProcess(tmp_path_factory.mktemp("dev") / "data") as process:
        yield process


async def filled(client: mom_client.Client, name: str) -> mom_client.ReceivedMessage:
    """A queue of two partitions: the first has one under lease, one delayed, one given back; the
    second one that is ready. Returns the leased one."""
    await client.create_queue(name, partitions=2, lease_ms="10m")
    for text in ("leased", "back"):
        await client.publish(name, text, partition=0)
    leased, back = await client.receive(name, 2, wait=20)
    await client.nack(back)
    await client.publish(name, "delayed", partition=0, delay=HOUR)
    await client.publish(name, "ready", partition=1, key="k")
    return leased


async def test_each_has_its_state(client: mom_client.Client, name: str) -> None:
    taken = await filled(client, name)
    leased, back, delayed, ready = await client.browse(name)
    assert [one.text() for one in (leased, back, delayed, ready)] == [
        "leased", "back", "delayed", "ready",
    ]  # fmt: skip
    assert [one.state for one in (leased, back, delayed, ready)] == [
        "leased", "ready", "delayed", "ready",
    ]  # fmt: skip
    assert [one.deliveries for one in (leased, back, delayed, ready)] == [1, 1, 0, 0]
    assert [one.position for one in (leased, back, delayed, ready)] == ["0:0", "0:1", "0:2", "1:0"]
    assert leased.until_ms == taken.lease_expires_at_ms
    assert delayed.until_ms > (time.time() + HOUR - 60) * 1000
    assert (back.until_ms, ready.until_ms) == (0, 0)
    assert (ready.key, ready.id != "", ready.append_time_ms > 0) == ("k", True, True)


async def test_nobody_is_disturbed(client: mom_client.Client, name: str) -> None:
    taken = await filled(client, name)
    for _ in range(3):
        assert len(await client.browse(name)) == 4
    got = []
    while len(got) < 2:
        got += await client.receive(name, 10, wait=20)
    assert {(one.text(), one.deliveries) for one in got} == {("back", 2), ("ready", 1)}
    assert await client.ack([taken, *got]) == [None] * 3
    assert [one.text() for one in await client.browse(name)] == ["delayed"]


async def test_what_was_only_seen_can_be_cancelled_and_not_acknowledged(
    client: mom_client.Client, name: str
) -> None:
    await filled(client, name)
    seen = await client.browse(name)
    with pytest.raises(mom_client.InvalidArgumentError, match="no lease"):
        await client.ack(seen[1])
    await client.cancel(name, seen[2])
    assert [one.position for one in await client.browse(name)] == ["0:0", "0:1", "1:0"]


async def test_it_goes_on_over_partitions(client: mom_client.Client, name: str) -> None:
    await filled(client, name)
    assert [one.position for one in await client.browse(name, limit=2)] == ["0:0", "0:1"]
    after = await client.browse(name, start="0:2", limit=2)
    assert [one.position for one in after] == ["0:2", "1:0"]
    assert [one.position for one in await client.browse(name, partition=1)] == ["1:0"]
    assert [one.position for one in await client.browse(name, partition=0, start="0:1")] == [
        "0:1",
        "0:2",
    ]
    assert await client.browse(name, start="1:7") == []
    for wrong in ({"partition": 2}, {"partition": 1, "start": "0:1"}, {"start": "2:0"},
                  {"start": "x"}, {"limit": 0}):  # fmt: skip
        with pytest.raises(mom_client.InvalidArgumentError):
            await client.browse(name, **wrong)  # type: ignore[arg-type]


async def test_more_than_one_look_shows(client: mom_client.Client, name: str) -> None:
    await client.create_queue(name)
    await client.publish_many(name, [b"%d" % one for one in range(2_100)])
    found = await client.browse(name, limit=2_050)
    assert [one.offset for one in found] == list(range(2_050))


async def test_large_ones_come_in_pages(
    client: mom_client.Client, rest: httpx.AsyncClient, name: str
) -> None:
    await client.create_queue(name, message_bytes_max="8Mi")
    for _ in range(3):  # Together more than one answer holds.
        await client.publish(name, bytes(7 << 20))
    assert len(await client.browse(name)) == 3
    page = (await rest.get(f"/v1/queues/{name}/messages")).json()
    assert (len(page["messages"]), page["next_page_token"]) == (2, "0:2")


async def test_a_subscription_is_looked_at(client: mom_client.Client, name: str) -> None:
    await client.create_topic(name)
    await client.create_subscription(name, "mail", mode="queue")
    await client.create_subscription(name, "stream")
    await client.publish(name, "x")
    (seen,) = await client.browse(name, subscription="mail")
    assert (seen.text(), seen.state) == ("x", "ready")
    with pytest.raises(mom_client.InvalidArgumentError, match="stream"):
        await client.browse(name, subscription="stream")
    with pytest.raises(mom_client.InvalidArgumentError, match="topic"):
        await client.browse(name)


def test_without_asyncio(broker: BrokerProcess, name: str) -> None:
    with mom_client.sync.connect(broker.addresses[0]) as client:
        client.create_queue(name)
        client.publish(name, {"n": 1})
        (seen,) = client.browse(name, limit=1)
        assert (seen.json(), seen.state) == ({"n": 1}, "ready")


async def test_by_rest(client: mom_client.Client, rest: httpx.AsyncClient, name: str) -> None:
    await filled(client, name)

    async def shown(status: int = 200, **params: Any) -> Any:
        response = await rest.get(f"/v1/queues/{name}/messages", params=params)
        assert response.status_code == status, response.text
        return response.json()

    first = await shown(limit=3)
    assert [(one["position"], one["state"]) for one in first["messages"]] == [
        ("0:0", "leased"), ("0:1", "ready"), ("0:2", "delayed"),
    ]  # fmt: skip
    assert first["messages"][2]["until_ms"] > time.time() * 1000
    assert "until_ms" not in first["messages"][1]
    second = await shown(limit=3, page_token=first["next_page_token"])
    assert [one["value"] for one in second["messages"]] == ["ready"]
    assert second["next_page_token"] == ""
    assert [one["position"] for one in (await shown(partition=1))["messages"]] == ["1:0"]
    for field, value in (("partition", 2), ("limit", 0), ("page_token", "x"), ("offset", 1)):
        assert (await shown(400, **{field: value}))["field"] == field
    assert (await rest.get(f"/v1/queues/{name}.none/messages")).status_code == 404


async def test_a_subscription_by_rest(
    client: mom_client.Client, rest: httpx.AsyncClient, name: str
) -> None:
    await client.create_topic(name)
    await client.create_subscription(name, "mail", mode="queue")
    await client.publish(name, "x")
    response = await rest.get(f"/v1/topics/{name}/subscriptions/mail/messages")
    assert [one["value"] for one in response.json()["messages"]] == ["x"]
    missing = await rest.get(f"/v1/topics/{name}/subscriptions/none/messages")
    assert missing.status_code == 404


def test_by_the_command_line(dev: DevProcess) -> None:
    dev.mom("queue", "create", "seen", "--partitions", "2")
    dev.mom("produce", "seen", "now", "then", "--partition", "0")
    dev.mom("produce", "seen", "later", "--partition", "1", "--delay", "1h")
    table = dev.mom("queue", "browse", "seen").stdout.decode()
    titles, *rows = [line.split() for line in table.splitlines()]
    assert titles == ["POSITION", "STATE", "UNTIL", "DELIVERIES", "APPENDED", "VALUE"]
    assert [(row[0], row[1], row[-1]) for row in rows] == [
        ("0:0", "ready", "now"), ("0:1", "ready", "then"), ("1:0", "delayed", "later"),
    ]  # fmt: skip
    shown = dev.json("queue", "browse", "seen", "--limit", "2")
    assert [one["value"] for one in shown["messages"]] == ["now", "then"]
    assert shown["next_position"] == "1:0"
    said = dev.mom("queue", "browse", "seen", "--limit", "2").stderr.decode()
    assert "--from 1:0" in said
    rest = dev.json("queue", "browse", "seen", "--from", "1:0")
    assert ([one["value"] for one in rest["messages"]], rest["next_position"]) == (["later"], None)
    assert dev.json("queue", "browse", "seen", "--partition", "1") == rest
    assert b"PARTITION:OFFSET" in dev.mom("queue", "browse", "seen", "--from", "x", code=2).stderr
    dev.mom("queue", "create", "empty")
    assert b"no messages" in dev.mom("queue", "browse", "empty").stderr
    dev.mom("topic", "create", "log")
    dev.mom("subscription", "create", "log", "mail", "--mode", "queue")
    dev.mom("produce", "log", "x")
    seen = dev.json("subscription", "browse", "log", "mail")
    assert [one["value"] for one in seen["messages"]] == ["x"]
