"""A Redis that is down, restarted, suspended, read-only or robbed of its functions."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from mom_broker.storage import redis as engine
from mom_broker.storage import redis_lanes
from mom_broker.storage.redis import RedisStore
from mom_core.errors import ErrorCode, StoreError
from mom_core.names import PartitionId
from mom_core.ports import Commit, KeyEvent, KeySnapshot, KeyWrite, NewBatch, TrimRule
from mom_process.system import SystemClock
from polling import until
from redis_server import RedisServer, free_port

PARTITION = PartitionId("e" * 32, 0)


def commit(number: int) -> Commit:
    return Commit(PARTITION, 1, number, [NewBatch(b"%d" % number, 1, 1)])


@pytest.fixture
async def store(own_redis_server: RedisServer) -> AsyncIterator[RedisStore]:
    own_redis_server.start()
    opened = RedisStore(own_redis_server.url, SystemClock())
    await opened.open()
    await opened.claim(PARTITION, 1)
    await opened.commit(commit(1))
    yield opened
    await opened.close()


async def test_nobody_listens() -> None:
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(StoreError, match="can't be reached") as refused:
        await RedisStore(f"redis://{address}", SystemClock()).open()
    assert refused.value.code is ErrorCode.STORE_UNAVAILABLE
    assert address in refused.value.message
    assert "see that it runs" in refused.value.message


async def test_a_server_that_is_down_is_given_up_in_bounded_time(
    store: RedisStore, own_redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "RETRY_MS_MAX", 300)
    own_redis_server.kill()
    async with asyncio.timeout(5):
        with pytest.raises(StoreError, match="can't be reached") as refused:
            await store.commit(commit(2))
    assert refused.value.code is ErrorCode.STORE_UNAVAILABLE
    assert refused.value.retry_after_ms


async def test_a_commit_outlives_a_restart(
    store: RedisStore, own_redis_server: RedisServer
) -> None:
    own_redis_server.kill()
    waiting = asyncio.create_task(store.commit(commit(2)))
    await asyncio.to_thread(own_redis_server.start)
    assert (await waiting).next_offset == 2
    assert [one.data for one in await store.read(PARTITION, 0, 100)] == [b"1", b"2"]


async def test_a_suspended_server(
    store: RedisStore, own_redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "RETRY_MS_MAX", 500)
    monkeypatch.setattr(redis_lanes, "REPLY_TIMEOUT_MS", 200)
    own_redis_server.signal(signal.SIGSTOP)
    with pytest.raises(StoreError, match="did not answer in time"):
        await store.commit(commit(2))
    own_redis_server.signal(signal.SIGCONT)
    # The server may have run it meanwhile: the repetition gets the first result.
    assert (await store.commit(commit(2))).appended[0].base_offset == 1
    assert len(await store.read(PARTITION, 0, 100)) == 2


async def test_a_primary_that_became_a_replica(
    store: RedisStore, own_redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "RETRY_MS_MAX", 300)
    own_redis_server.command("REPLICAOF", "127.0.0.1", "1")
    with pytest.raises(StoreError, match="replica"):
        await store.commit(commit(2))
    own_redis_server.command("REPLICAOF", "NO", "ONE")
    assert (await store.commit(commit(2))).next_offset == 2
    # Another server may have led meanwhile, without the newest writes.
    await store.usage()
    assert not (await store.claim(PARTITION, 2)).tail_lost


async def test_functions_that_were_flushed_come_back(
    store: RedisStore, own_redis_server: RedisServer
) -> None:
    own_redis_server.command("FUNCTION", "FLUSH", "SYNC")
    assert (await store.commit(commit(2))).next_offset == 2
    assert await store.write([KeyWrite("a", b"1")]) == 1
    assert len(await store.read(PARTITION, 0, 100)) == 2


async def test_connections_that_are_cut(store: RedisStore, own_redis_server: RedisServer) -> None:
    for number in range(2, 12):
        own_redis_server.command("CLIENT", "KILL", "TYPE", "normal")
        assert (await store.commit(commit(number))).next_offset == number
    assert len(await store.read(PARTITION, 0, 1000)) == 11


async def test_a_watch_goes_on_after_a_restart(
    store: RedisStore, own_redis_server: RedisServer
) -> None:
    async with aclosing(store.watch("t")) as watch, asyncio.timeout(20):
        assert isinstance(await anext(watch), KeySnapshot)
        await store.write([KeyWrite("t1", b"1")])
        assert isinstance(await anext(watch), KeyEvent)
        own_redis_server.kill()
        following = asyncio.create_task(anext(watch))
        await asyncio.to_thread(own_redis_server.start)
        again = await following
        assert isinstance(again, KeySnapshot)
        assert [one.key for one in again.entries] == ["t1"]
        revision = await store.write([KeyWrite("t2", b"2")])
        assert await anext(watch) == KeyEvent("t2", b"2", revision)


async def test_two_stores_share_a_server(store: RedisStore, own_redis_server: RedisServer) -> None:
    other = RedisStore(own_redis_server.url, SystemClock())
    await other.open()
    async with aclosing(other.watch("t")) as watch, asyncio.timeout(10):
        assert isinstance(await anext(watch), KeySnapshot)
        revision = await store.write([KeyWrite("t1", b"1")])
        assert await anext(watch) == KeyEvent("t1", b"1", revision)
    assert [one.data for one in await other.read(PARTITION, 0, 100)] == [b"1"]
    assert abs(other.now_ms() - store.now_ms()) <= 2 * engine.CLOCK_ROUND_TRIP_MS_MAX
    await other.close()


async def test_a_drop_that_was_cut_off_is_finished_at_the_next_open(
    store: RedisStore, own_redis_server: RedisServer
) -> None:
    tag = f"{{mom:{PARTITION.topic_id}:0}}"
    own_redis_server.command("SADD", "{mom:control}:drops", f"{PARTITION.topic_id}:0")
    other = RedisStore(own_redis_server.url, SystemClock())
    await other.open()
    await other.close()
    assert tag + ":meta" in own_redis_server.command("KEYS", "*")
    assert tag + ":b:" not in own_redis_server.command("KEYS", "*")
    assert tag + ":index" not in own_redis_server.command("KEYS", "*")


async def test_far_above_the_limit_all_goes_on_but_messages(
    store: RedisStore, own_redis_server: RedisServer
) -> None:
    """As after a limit that was lowered; the high-water mark does not come into play first."""
    large = PartitionId("a" * 32, 0)
    await store.claim(large, 1)
    await store.commit(Commit(large, 1, 1, [NewBatch(bytes(8 << 20), 1, 1)]))
    own_redis_server.command("CONFIG", "SET", "maxmemory", "4mb")
    with pytest.raises(StoreError) as refused:
        await store.commit(commit(2))
    assert refused.value.code is ErrorCode.STORE_FULL
    await store.commit(Commit(PARTITION, 1, 2, journal=b"settled"))
    await store.commit(Commit(PARTITION, 1, 3, snapshot=b"S"))
    assert (await store.claim(PARTITION, 2)).commit_number == 3
    await store.write([KeyWrite("a", b"1")])
    assert (await store.acquire_lease("leader", "me", 1_000)).holder == "me"
    await store.trim(PARTITION, 2, TrimRule(before_offset=1))
    assert len(await store.read(large, 0, 100)) == 1
    await store.drop(large)

    async def freed() -> bool:
        return (await store.usage()).used_bytes < 3 << 20

    await until(freed, "the server has freed the memory, which it does in the background")
    assert (await store.commit(commit(4)._replace(epoch=2))).next_offset == 2
