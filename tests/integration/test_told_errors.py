"""What people are told: which message was refused, and that something waits and why."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from pathlib import Path

import pytest

import mom_client
from integration.broker_process import BrokerProcess
from mom_client import MomApp, ReceivedMessage, Retry
from polling import WAIT_S_MAX, until

MOM = str(Path(sys.executable).parent / "mom")


async def received(client: mom_client.Client, name: str, count: int) -> list[ReceivedMessage]:
    """So many messages of a queue."""
    found: list[ReceivedMessage] = []
    while len(found) < count:
        found += await client.receive(name, count - len(found), wait=20)
    return found


async def test_a_refused_ack_names_its_partition_and_offset(
    client: mom_client.Client, name: str
) -> None:
    await client.create_queue(name, partitions=3)
    for number in range(18):
        await client.publish(name, number, partition=number % 3)
    messages = await received(client, name, 18)
    assert await client.ack(messages) == [None] * 18
    refused = await client.ack(messages)
    for message, error in zip(messages, refused, strict=True):
        assert isinstance(error, mom_client.SettleError)
        place = f"message {message.offset} of '{name}' partition {message.partition}: "
        assert str(error).startswith(f"{place}is settled: it was acknowledged, ")
        told = (error.details["partition"], error.details["offset"])
        assert told == (str(message.partition), str(message.offset))
    with pytest.raises(mom_client.SettleError, match=f"of '{name}' partition"):
        await client.ack(messages[0])


async def test_the_command_line_tells_receipts_apart(
    client: mom_client.Client, broker: BrokerProcess, name: str
) -> None:
    await client.create_queue(name, partitions=2)
    for number in range(4):
        await client.publish(name, number, partition=number % 2)
    messages = await received(client, name, 4)
    await client.ack(messages)
    receipts = [one.receipt for one in messages]
    damaged = [one[:-1] + ("A" if one[-1] != "A" else "B") for one in receipts]
    command = [MOM, "ack", name, *receipts, *damaged, "--nodes", broker.addresses[0]]
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, check=False
    )
    lines = done.stderr.splitlines()
    assert lines[-1] == f"{name}: 0 done, 8 failed"
    shown = [line.removeprefix("mom: ").split(": ")[0] for line in lines[:8]]
    assert shown[:4] == [f"{one.partition}:{one.offset}" for one in messages]
    assert shown[4:] == [f"...{one[-16:]}" for one in damaged]
    assert len(set(shown)) == 8


async def test_produce_says_at_once_that_it_waits_and_why(
    client: mom_client.Client, broker: BrokerProcess, name: str
) -> None:
    await client.create_queue(name, messages_max=1)
    await client.publish(name, "fills it")
    process = await asyncio.create_subprocess_exec(
        MOM, "produce", name, "waits", "--nodes", broker.addresses[0],
        stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    async with asyncio.timeout(WAIT_S_MAX):
        said = (await process.stderr.readline()).decode()
        assert said.startswith("mom: waiting, and trying again for up to 30 s: ")
        assert f"queue '{name}' is full" in said
        [first] = await received(client, name, 1)
        await client.ack(first)
        _, rest = await process.communicate()
    assert process.returncode == 0, rest
    assert rest.decode().splitlines() == [f"{name}: partition 0, offset 1 (fsync)"]


async def test_a_partition_that_stopped_does_not_work_again_at_the_end(
    client: mom_client.Client,
    broker: BrokerProcess,
    name: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await client.create_topic(name)
    await client.publish(name, "bad")
    app = MomApp(broker.addresses)

    @app.subscriber(name, subscription="s", retry=Retry(tries=1), stop_on_failure=True)
    def handle(message: ReceivedMessage) -> None:
        raise ValueError("never")

    with caplog.at_level(logging.INFO, "mom_client"):
        async with app.running():
            await until(lambda: len(app.problems) == 1, "it stopped")
    assert "works again" not in caplog.text
    assert app.problems == {}
