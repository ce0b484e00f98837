"""A member that is killed and comes back under its id within its session: nobody else notices."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mom_client
from integration.app_process import lines_of
from integration.broker_process import BrokerProcess
from integration.descriptions import subscriptions_of
from polling import until

PARTITIONS = 4
# Far longer than the test waits: a partition that went by the session's end would fail it.
MEMBER = """
import asyncio, sys
import mom_client

async def read(address, topic, member, journal):
    async with (
        mom_client.connect(address) as client,
        client.subscribe(topic, "readers", member=member, session=300) as messages,
    ):
        async for message in messages:
            with open(journal, "a") as file:
                file.write(f"{member} {message.partition} {message.text()}\\n")

asyncio.run(read(*sys.argv[1:]))
"""


async def test_a_member_that_is_killed_goes_on_with_what_it_had(
    client: mom_client.Client, broker: BrokerProcess, name: str, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"

    @contextmanager
    def member(member_id: str) -> Iterator[subprocess.Popen[bytes]]:
        arguments = [broker.addresses[0], name, member_id, str(journal)]
        process = subprocess.Popen([sys.executable, "-c", MEMBER, *arguments])
        yield process
        process.kill()
        process.wait()

    async def holders() -> list[str] | None:
        """Who has each partition, once two share them."""
        found = [one.member_id for one in await subscriptions_of(client, name)]
        return found if sorted(found) == ["a", "a", "b", "b"] else None

    async def publish(text: str) -> list[str]:
        """To each partition; the lines of those who have them."""
        for partition in range(PARTITIONS):
            await client.publish(name, text, partition=partition)
        return [f"{one} {partition} {text}" for partition, one in enumerate(before)]

    await client.create_topic(name, partitions=PARTITIONS)
    await client.create_subscription(name, "readers")
    with member("b"):
        with member("a"):
            before = await until(holders, "the two share the partitions")
            lines = await publish("first")
            await until(lambda: sorted(lines_of(journal)) == sorted(lines), "all is read")
        more = await publish("second")
        others = [line for line in more if line.startswith("b")]
        await until(lambda: set(others) <= set(lines_of(journal)), "the other one reads on")
        assert await holders() == before, "what the killed one had is kept for it"
        with member("a"):
            await until(lambda: set(more) <= set(lines_of(journal)), "it is back")
            assert await holders() == before
    assert {line.split()[0] for line in lines_of(journal) if "second" in line} == {"a", "b"}
