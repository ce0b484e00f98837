"""Waiting messages are cancelled and moved: over the SDK, REST and the command line."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

import mom_client
from integration.broker_process import BrokerProcess
from integration.descriptions import subscriptions_of
from mom_core.errors import ErrorCode
from mom_core.message import Message

HOUR = 3_600
MOM = str(Path(sys.executable).parent / "mom")


async def test_each_message_has_its_own_result(client: mom_client.Client, name: str) -> None:
    await client.create_queue(name, partitions=2)
    sent = [await client.publish(name, f"{one}", partition=one % 2, delay=HOUR) for one in range(4)]
    ready = await client.publish(name, "ready", partition=0)
    (leased,) = await client.receive(name, 1, wait=20)
    results = await client.cancel(name, [sent[0], leased, "1:99", sent[1].position, sent[0]])
    codes = [one.code if one is not None else None for one in results]
    assert codes == [None, ErrorCode.CONFLICT, ErrorCode.NOT_FOUND, None, ErrorCode.ALREADY_SETTLED]
    await client.ack(leased)
    with pytest.raises(mom_client.SettleError, match=ready.position):
        await client.cancel(name, ready)
    await client.reschedule(name, sent[2])
    assert [one.text() for one in await client.receive(name, 10, wait=20)] == ["2"]
    with pytest.raises(mom_client.ConflictError, match="lease"):
        await client.reschedule(name, sent[2], delay=1)
    delayed = [one.delayed for one in await subscriptions_of(client, name)]
    assert delayed == [0, 1], "only the last one still waits"


async def test_what_is_no_position_fails_by_itself(client: mom_client.Client, name: str) -> None:
    await client.create_queue(name)
    sent = await client.publish(name, "x", delay=HOUR)
    codes = [
        one.code if one is not None else None
        for one in await client.cancel(name, ["nonsense", sent.position, "0:9", "8:1"])
    ]
    wrong = ErrorCode.INVALID_ARGUMENT
    assert codes == [wrong, None, ErrorCode.NOT_FOUND, wrong]
    assert await client.cancel(name, ["x"])
    with pytest.raises(mom_client.InvalidArgumentError, match="PARTITION:OFFSET"):
        await client.cancel(name, "nonsense")


async def test_a_moved_message_is_never_early(client: mom_client.Client, name: str) -> None:
    await client.create_queue(name)
    sent = await client.publish(name, "x", delay=HOUR)
    due_ms = int(time.time() * 1000) + 400
    await client.reschedule(name, sent, deliver_at_ms=due_ms)
    (message,) = await client.receive(name, 1, wait=20)
    assert message.text() == "x"
    assert time.time() * 1000 >= due_ms


async def test_what_would_expire_before_is_refused(client: mom_client.Client, name: str) -> None:
    await client.create_queue(name)
    sent = await client.publish(name, "x", ttl=HOUR)
    with pytest.raises(mom_client.InvalidArgumentError, match="expires"):
        await client.reschedule(name, sent, delay=2 * HOUR)
    with pytest.raises(mom_client.InvalidArgumentError, match="in two ways"):
        await client.reschedule(name, sent, delay=1, deliver_at_ms=5)
    with pytest.raises(mom_client.InvalidArgumentError, match="0:42"):
        await client.cancel(name, "first")
    await client.create_topic(f"{name}-log")
    await client.create_subscription(f"{name}-log", "stream", mode="stream")
    with pytest.raises(mom_client.InvalidArgumentError, match="stream mode"):
        await client.cancel(f"{name}-log", "0:0", subscription="stream")


async def test_of_one_subscription_alone(client: mom_client.Client, name: str) -> None:
    await client.create_topic(name)
    for one in ("mail", "bill"):
        await client.create_subscription(name, one, mode="queue")
    sent = await client.publish(name, "x")
    await client.cancel(name, sent, subscription="mail")
    assert await client.receive(name, 1, subscription="mail") == []
    assert len(await client.receive(name, 1, subscription="bill", wait=20)) == 1


async def test_it_outlives_a_restart(tmp_path: Path, name: str) -> None:
    with BrokerProcess(1, tmp_path) as broker:
        async with mom_client.connect(broker.addresses[0]) as client:
            await client.create_queue(name)
            messages = [Message(b"%d" % one) for one in range(1_500)]
            sent = await client.publish_many(name, messages)
            assert not any(await client.cancel(name, sent[:1_200]))
            assert not any(await client.reschedule(name, sent[1_200:1_499], delay=HOUR))
    with BrokerProcess(1, tmp_path) as broker:
        async with mom_client.connect(broker.addresses[0]) as client:
            got = await client.receive(name, 1_500, wait=20)
            assert [one.value for one in got] == [b"1499"]


def test_sync(broker: BrokerProcess, name: str) -> None:
    with mom_client.sync.connect(broker.addresses[0]) as client:
        client.create_queue(name)
        first, second = (client.publish(name, "x", delay=HOUR) for _ in range(2))
        client.cancel(name, first)
        assert client.reschedule(name, [first, second])[1] is None
        assert len(client.receive(name, 10, wait=20)) == 1


async def test_over_rest_and_the_command_line(
    broker: BrokerProcess, rest: httpx.AsyncClient, name: str
) -> None:
    path = f"/v1/queues/{name}/messages"
    await rest.put(f"/v1/queues/{name}", json={})
    body = {"messages": [{"value": one, "delay_ms": 3_600_000} for one in range(4)]}
    sent = (await rest.post(path, json=body)).json()["results"]
    positions = [f"{one['partition']}:{one['offset']}" for one in sent]
    reply = await rest.post(f"{path}:cancel", json={"positions": [positions[0], "0:99"]})
    assert reply.status_code == 207
    assert [one["status"] for one in reply.json()["results"]] == ["ok", 404]
    reply = await rest.post(f"{path}:reschedule", json={"positions": [positions[1]]})
    assert reply.status_code == 200
    got = await rest.post(f"{path}:receive", json={"max": 10, "wait_ms": 20_000})
    assert [one["value"] for one in got.json()["messages"]] == [1]

    def mom(*words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        command = [MOM, *words, "--nodes", broker.addresses[0]]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        return done

    failed = mom("cancel", name, positions[2], positions[1], "-o", "json", code=1)
    done, leased = json.loads(failed.stdout)["results"]
    assert (done["status"], leased["error"]["code"]) == ("ok", "conflict")
    mom("reschedule", name, positions[3], "--at", "2100-01-01T00:00:00Z")
    assert "1 done" in mom("reschedule", name, positions[3], "--delay", "0").stderr
    got = await rest.post(f"{path}:receive", json={"max": 10, "wait_ms": 20_000})
    assert [one["value"] for one in got.json()["messages"]] == [3]
    assert "PARTITION:OFFSET" in mom("cancel", name, "nonsense", code=1).stderr
