"""Messages with a dedup_id: over the SDK, REST and the command line, and across a restart."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import httpx

import mom_client
from integration.broker_process import BrokerProcess
from mom_core.message import Message

MOM = str(Path(sys.executable).parent / "mom")


async def test_over_partitions_a_second_one_meets_the_first(
    client: mom_client.Client, name: str
) -> None:
    await client.create_queue(name, partitions=6)
    messages = [Message(b"%d" % one, dedup_id=f"order-{one % 100}") for one in range(300)]
    results = await client.publish_many(name, messages)
    firsts = {one: (results[one].partition, results[one].offset) for one in range(100)}
    assert len({partition for partition, _ in firsts.values()}) == 6
    for place, result in enumerate(results):
        assert (result.partition, result.offset) == firsts[place % 100]
        assert result.duplicate == (place >= 100)
        assert bool(result.id_text) == (place < 100)
    again = await client.publish(name, "again", dedup_id="order-7")
    assert (again.partition, again.offset, again.duplicate) == (*firsts[7], True)
    keyed = await client.publish(name, "x", key="k", dedup_id="keyed")
    assert (await client.publish(name, "y", key="k", dedup_id="keyed")).offset == keyed.offset
    got = await client.receive(name, 1_000, wait=20)
    while len(got) < 101:
        got += await client.receive(name, 1_000, wait=20)
    assert len(got) == 101
    ids = {(one.partition, one.offset): one.id for one in got}
    assert ids[firsts[7]] == results[7].id_text


async def test_a_batch_with_and_without_ids_keeps_each_ones_place(
    client: mom_client.Client, name: str
) -> None:
    await client.create_topic(name)
    await client.publish(name, "zero", dedup_id="a")
    messages = [
        Message(b"one", dedup_id="b"),
        Message(b"zero", dedup_id="a"),
        Message(b"two"),
        Message(b"one", dedup_id="b"),
        Message(b"three", id=bytes(range(16)), dedup_id="c"),
    ]
    results = await client.publish_many(name, messages)
    assert [one.offset for one in results] == [1, 0, 2, 1, 3]
    read = [one async for one in client.read(name)]
    assert [one.value for one in read] == [b"zero", b"one", b"two", b"three"]
    for place, offset in ((0, 1), (2, 2), (4, 3)):
        assert read[offset].id == results[place].id_text


async def test_the_window_outlives_a_restart_and_can_be_changed(tmp_path: Path, name: str) -> None:
    with BrokerProcess(1, tmp_path) as broker:
        async with mom_client.connect(broker.addresses[0]) as client:
            await client.create_queue(name, dedup_window_ms="1h")
            first = await client.publish(name, "x", dedup_id="a")
    with BrokerProcess(1, tmp_path) as broker:
        async with mom_client.connect(broker.addresses[0]) as client:
            again = await client.publish(name, "x", dedup_id="a")
            assert (again.offset, again.duplicate) == (first.offset, True)
            await client.alter(name, dedup_window_ms=0)
            assert not (await client.publish(name, "x", dedup_id="a")).duplicate


async def test_over_rest_and_the_command_line(
    broker: BrokerProcess, rest: httpx.AsyncClient, name: str
) -> None:
    made = await rest.put(f"/v1/queues/{name}", json={"dedup_window_ms": "10m"})
    assert made.json()["dedup_window_ms"] == 600_000
    path = f"/v1/queues/{name}/messages"
    (first,) = (await rest.post(path, json={"value": 1, "dedup_id": "a"})).json()["results"]
    assert "duplicate" not in first
    body = {"messages": [{"value": 1, "dedup_id": "a"}, {"value": 2, "dedup_id": "b"}]}
    again, other = (await rest.post(path, json=body)).json()["results"]
    assert again == {
        "partition": 0, "offset": first["offset"], "durability": "fsync", "duplicate": True,
    }  # fmt: skip
    assert other["offset"] == first["offset"] + 1
    refused = await rest.post(path, json={"value": 1, "dedup_id": "x" * 257})
    assert (refused.status_code, refused.json()["field"]) == (400, "dedup_id")
    refused = await rest.patch(f"/v1/queues/{name}", json={"dedup_window_ms": "25h"})
    assert (refused.status_code, refused.json()["field"]) == (400, "dedup_window_ms")

    def mom(*words: str) -> str:
        command = [MOM, *words, "--nodes", broker.addresses[0]]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    mom("produce", name, "three", "--dedup-id", "b", "--no-create")
    mom("produce", name, "four", "--dedup-id", "c", "--no-create")
    described = json.loads(mom("queue", "describe", name, "--output", "json"))
    assert described["dedup_window_ms"] == 600_000
    assert described["partition_list"][0]["high_watermark"] == first["offset"] + 3
    mom("queue", "alter", name, "--dedup-window", "0")
