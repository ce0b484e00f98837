"""Killed in the middle of writing: what was acknowledged is there, and nothing is half there."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mom_broker.storage.open import store_from_url
from mom_core.names import PartitionId
from mom_core.ports import Store
from mom_process.system import SystemClock
from redis_server import RedisServer

WRITER = Path(__file__).with_name("store_writer.py")
TOPIC_ID = "c" * 32


def acknowledged_before(url: str, commits: int, kill: Callable[[], None] | None = None) -> int:
    """Run a writer, kill it or what ``kill`` says after some commits; return its last one."""
    with subprocess.Popen(
        [sys.executable, str(WRITER), url, TOPIC_ID],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as writer:
        assert writer.stdout is not None
        for _ in range(commits):
            assert writer.stdout.readline(), "the writer ended by itself"
        if kill is not None:
            kill()
        writer.kill()
        # Lines that the writer got out before it died count as acknowledged, too.
        rest = [int(line) for line in writer.stdout.read().split("\n")[:-1] if line]
        return max([commits, *rest])


async def check(store: Store, acknowledged: int) -> None:
    """Every commit is whole, all acknowledged ones are there, and at most one more."""
    partition = PartitionId(TOPIC_ID, 0)
    state = await store.claim(partition, 2)
    assert acknowledged <= state.commit_number <= acknowledged + 1
    assert state.next_offset == 30 * state.commit_number
    assert not state.tail_lost
    offset, seen = 0, []
    while found := await store.read(partition, offset, 1 << 20):
        for one in found:
            assert one.base_offset == offset
            offset = one.end_offset
            seen.append(int.from_bytes(one.data[:4], "big"))
    assert seen == [number for number in range(1, state.commit_number + 1) for _ in range(3)]
    journal = (await store.load(partition, 2)).journal
    assert [int.from_bytes(one, "big") for one in journal] == sorted(set(seen))


@pytest.mark.parametrize("commits", [1, 7, 60])
async def test_killed_while_writing_to_sqlite(tmp_path: Path, commits: int) -> None:
    url = f"sqlite://{tmp_path}/data"
    acknowledged = acknowledged_before(url, commits)
    store = store_from_url(url, SystemClock())
    await store.open()
    await check(store, acknowledged)
    await store.close()


@pytest.mark.parametrize("commits", [1, 7, 60])
async def test_redis_killed_while_written_to(own_redis_server: RedisServer, commits: int) -> None:
    own_redis_server.start()
    acknowledged = acknowledged_before(own_redis_server.url, commits, own_redis_server.kill)
    own_redis_server.start()
    store = store_from_url(own_redis_server.url, SystemClock())
    await store.open()
    await check(store, acknowledged)
    await store.close()


async def test_a_node_killed_while_writing_to_redis(own_redis_server: RedisServer) -> None:
    own_redis_server.start()
    acknowledged = acknowledged_before(own_redis_server.url, 20)
    store = store_from_url(own_redis_server.url, SystemClock())
    await store.open()
    await check(store, acknowledged)
    assert "new:" not in own_redis_server.command("KEYS", "*new:*")
    await store.close()


async def test_an_append_only_file_cut_short(own_redis_server: RedisServer) -> None:
    own_redis_server.start()
    acknowledged_before(own_redis_server.url, 20, own_redis_server.kill)
    part = max(own_redis_server.directory.glob("appendonlydir/*.incr.aof"))
    whole = part.read_bytes()
    part.write_bytes(whole[: len(whole) - len(whole) // 8])
    own_redis_server.start()
    store = store_from_url(own_redis_server.url, SystemClock())
    await store.open()
    state = await store.claim(PartitionId(TOPIC_ID, 0), 2)
    assert state.next_offset == 30 * state.commit_number
    found = await store.read(PartitionId(TOPIC_ID, 0), 0, 1 << 30)
    assert len(found) == 3 * state.commit_number
    await store.close()
