"""The SDK and the command line with nothing but a gateway's URL."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator

import pytest
from dev_process import DevProcess

import mom_client
from mom_client import connect_protocol as connect
from mom_core.errors import ErrorCode, NotFoundError, UnavailableError
from mom_proto.v1 import broker_pb2


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevProcess]:
    with DevProcess(tmp_path_factory.mktemp("dev") / "data", "--nodes", "2") as process:
        yield process


@pytest.fixture
async def client(dev: DevProcess) -> AsyncIterator[mom_client.Client]:
    """A client that calls everything through the gateway."""
    async with mom_client.connect(dev.facts["rest_url"], direct=False) as client:
        yield client


def relayed(dev: DevProcess, method: str) -> int:
    """How many calls of a method the gateway has passed on."""
    with urllib.request.urlopen(dev.facts["rest_url"] + "/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    counts = [
        float(line.rpartition(" ")[2])
        for line in lines
        if line.startswith("mom_gateway_requests_total") and f'route="{method}"' in line
    ]
    return int(sum(counts))


async def test_a_topic_is_made_published_to_and_read(
    client: mom_client.Client, dev: DevProcess, name: str
) -> None:
    await client.create_topic(name, partitions=4)
    before = relayed(dev, "/mom.v1.Broker/Produce")
    results = await client.publish_many(name, [f"m{number}" for number in range(5_000)])
    assert {one.durability for one in results if isinstance(one, mom_client.Published)} == {"fsync"}
    found = [message.text() async for message in client.read(name)]
    assert sorted(found) == sorted(f"m{number}" for number in range(5_000))
    assert relayed(dev, "/mom.v1.Broker/Produce") > before


async def test_a_queue_is_worked_off_and_waited_at(client: mom_client.Client, name: str) -> None:
    await client.create_queue(name, partitions=3)
    waiting = asyncio.create_task(client.receive(name, 10, wait=20))
    await client.publish(name, "first")
    messages = await waiting
    assert [one.text() for one in messages] == ["first"]
    await client.ack(messages[0])
    assert await client.receive(name, 10) == []


async def test_a_member_of_a_group_reads_on(client: mom_client.Client, name: str) -> None:
    await client.create_topic(name, partitions=2)
    await client.publish_many(name, list(range(100)))
    seen = []
    async with client.subscribe(name, "billing") as messages:
        async for message in messages:
            seen.append(message.json())
            if len(seen) == 100:
                break
    assert sorted(seen) == list(range(100))


async def test_an_error_comes_over_whole(client: mom_client.Client) -> None:
    with pytest.raises(NotFoundError) as caught:
        await client.topic("no-such-topic")
    assert caught.value.field == "topic"
    with pytest.raises(NotFoundError):
        await client.delete("no-such-topic")


async def test_nodes_that_can_be_reached_are_called_directly(dev: DevProcess, name: str) -> None:
    async with mom_client.connect(dev.facts["rest_url"]) as client:
        await client.create_topic(name, partitions=4)
        async with asyncio.timeout(30):
            while True:
                before = relayed(dev, "/mom.v1.Broker/Produce")
                await client.publish_many(name, list(range(100)))
                if relayed(dev, "/mom.v1.Broker/Produce") == before:
                    return


def test_the_command_line_takes_the_url(dev: DevProcess, name: str) -> None:
    url = dev.facts["rest_url"]
    dev.mom("--url", url, "topic", "create", name)
    dev.mom("--url", url, "produce", name, "one", "two")
    read = dev.mom("--url", url, "consume", name, "--until-end").stdout
    assert sorted(read.split()) == [b"one", b"two"]


async def test_a_url_of_something_else_is_named(dev: DevProcess) -> None:
    url = dev.facts["rest_url"] + "/docs"
    with pytest.raises(UnavailableError, match=r"/docs answered 404 .* not as a MOM gateway"):
        async with mom_client.connect(url, connect_timeout_ms=1_000):
            pass


def post(
    dev: DevProcess, path: str, body: bytes, content_type: str = connect.UNARY_TYPE, **headers: str
) -> tuple[int, bytes]:
    request = urllib.request.Request(
        dev.facts["rest_url"] + path,
        data=body,
        headers={"content-type": content_type, **headers},
        method="POST",
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


@pytest.mark.parametrize(
    ("path", "content_type", "status", "code"),
    [
        ("/mom.v1.Master/RegisterNode", connect.UNARY_TYPE, 404, "not_found"),
        ("/mom.v1.Broker/Authenticate", connect.UNARY_TYPE, 404, "not_found"),
        ("/mom.v1.Broker/Fetch", "application/grpc", 415, "invalid_argument"),
        ("/mom.v1.Broker/WatchRouting", connect.STREAM_TYPE, 400, "invalid_argument"),
    ],
)
def test_what_is_no_call_of_a_client_is_refused(
    dev: DevProcess, path: str, content_type: str, status: int, code: str
) -> None:
    got, body = post(dev, path, b"", content_type)
    assert (got, json.loads(body)["code"]) == (status, code)
    error = connect.parse_error(body)
    assert error is not None
    assert not error.retriable


def test_a_target_outside_of_the_cluster_is_not_called(dev: DevProcess) -> None:
    request = broker_pb2.DescribePartitionsRequest(topic_id=bytes(16)).SerializeToString()
    headers = {"mom-target": "127.0.0.1:1"}
    status, body = post(dev, "/mom.v1.Broker/DescribePartitions", request, **headers)
    error = connect.parse_error(body)
    # It was answered by a node, not by a failed connection to that port.
    assert status == 200 or (error is not None and error.code is not ErrorCode.UNAVAILABLE)
