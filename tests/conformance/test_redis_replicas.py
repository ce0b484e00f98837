"""Replicas: writes that wait for a replica's fsync, and failovers that keep or lose the tail."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mom_broker.storage import redis as engine
from mom_broker.storage.redis import RedisStore
from mom_core.errors import ErrorCode, StoreError
from mom_core.limits import OFFSET_GAP
from mom_core.names import PartitionId
from mom_core.ports import Commit, Durability, KeyWrite, NewBatch
from mom_process.system import SystemClock
from polling import WAIT_S_MAX, until
from redis_server import RedisServer, valkey_program
from replication import in_sync, promote, replicated

TOPIC_ID = "e" * 32
# Where a replica is not to answer, so that this shows soon.
REPLICA_WAIT_MS = 200
RETRY_MS_MAX = 600


def partition(index: int = 0) -> PartitionId:
    return PartitionId(TOPIC_ID, index)


def commit(number: int, data: bytes, index: int = 0, epoch: int = 1) -> Commit:
    return Commit(partition(index), epoch, number, [NewBatch(data, 1, 1)])


@asynccontextmanager
async def opened(server: RedisServer) -> AsyncIterator[RedisStore]:
    """A store whose writes wait for no replica."""
    store = RedisStore(server.url, SystemClock())
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "REPLICA_WAIT_MS", REPLICA_WAIT_MS)


@pytest.fixture
def primary(own_valkey_server: RedisServer) -> RedisServer:
    own_valkey_server.start(["--repl-diskless-sync-delay", "0"])
    return own_valkey_server


@pytest.fixture
def replica(primary: RedisServer, tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path / "replica", valkey_program())
    server.start(["--replicaof", "127.0.0.1", str(primary.port)])
    yield server
    server.stop()


@pytest.fixture
async def store(primary: RedisServer, replica: RedisServer) -> AsyncIterator[RedisStore]:
    """A store whose writes wait for the replica."""
    await in_sync(primary)
    waiting = RedisStore(primary.url, SystemClock(), replicas_required=1)
    await waiting.open()
    for index in range(20):
        await waiting.claim(partition(index), 1)
    yield waiting
    await waiting.close()


async def test_a_write_that_a_replica_has_is_replicated(
    store: RedisStore, replica: RedisServer
) -> None:
    assert store.capabilities.durability is Durability.REPLICATED
    results = await asyncio.gather(
        *(store.commit(commit(1, b"x", index)) for index in range(20)),
    )
    assert {one.durability for one in results} == {Durability.REPLICATED}
    assert replica.command("KEYS", f"*:{TOPIC_ID}:*:b:1").count(":b:1") == 20
    # A repetition is acknowledged at the same level.
    again = await store.commit(commit(1, b"x", 3))
    assert again == results[3]


async def test_a_replica_that_does_not_answer_is_named_and_forgiven(
    short_waits: None, store: RedisStore, replica: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "RETRY_MS_MAX", RETRY_MS_MAX)
    replica.signal(signal.SIGSTOP)
    failures = await asyncio.gather(
        *(store.commit(commit(1, b"x", index)) for index in range(20)), return_exceptions=True
    )
    for failure in failures:
        assert isinstance(failure, StoreError)
        assert failure.code is ErrorCode.STORE_UNAVAILABLE
        assert failure.retry_after_ms
    # On a busy machine some may be given up before the server has counted.
    assert any("0 replicas fsynced the write" in str(failure) for failure in failures)
    monkeypatch.undo()
    replica.signal(signal.SIGCONT)
    # What was written without the replica is acknowledged once it has it.
    results = await asyncio.gather(*(store.commit(commit(1, b"x", index)) for index in range(20)))
    assert {one.next_offset for one in results} == {1}
    assert {one.durability for one in results} == {Durability.REPLICATED}


async def test_a_replica_without_append_only_file_does_not_count(
    short_waits: None, store: RedisStore, replica: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "RETRY_MS_MAX", RETRY_MS_MAX)
    replica.command("CONFIG", "SET", "appendonly", "no")
    with pytest.raises(StoreError, match="appendonly yes"):
        await store.commit(commit(1, b"x"))
    with pytest.raises(StoreError, match="0 replicas"):
        await store.write([KeyWrite("a", b"1")])
    monkeypatch.undo()
    replica.command("CONFIG", "SET", "appendonly", "yes")
    async with asyncio.timeout(WAIT_S_MAX):
        while True:
            try:
                assert (await store.commit(commit(1, b"x"))).next_offset == 1
                return
            except StoreError:
                continue  # its first append-only file is still being written


async def test_what_was_replicated_survives_a_failover(
    store: RedisStore,
    primary: RedisServer,
    replica: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine, "RETRY_MS_MAX", 2 * RETRY_MS_MAX)
    acknowledged = 0

    async def write() -> None:
        nonlocal acknowledged
        while True:
            await store.commit(commit(acknowledged + 1, b"%d" % acknowledged))
            acknowledged += 1

    writing = asyncio.create_task(write())
    await until(lambda: acknowledged >= 50, "50 acknowledged writes")
    primary.kill()
    with pytest.raises(StoreError):
        await writing
    promote(replica, primary)
    async with opened(replica) as after:
        state = await after.claim(partition(), 2)
        found = await after.read(partition(), 0, 1 << 20)
        assert [one.data for one in found[:acknowledged]] == [
            b"%d" % number for number in range(acknowledged)
        ]
        # Nobody can tell that nothing is missing.
        assert state.tail_lost
        assert state.gaps == ((len(found), len(found) + OFFSET_GAP),)


async def test_an_owner_that_goes_on_at_the_promoted_server_skips_nothing(
    primary: RedisServer, replica: RedisServer
) -> None:
    await in_sync(primary)
    async with opened(primary) as store:
        await store.claim(partition(), 1)
        await store.commit(commit(1, b"x"))
        await replicated(primary, replica)
        primary.kill()
        promote(replica, primary)
        # The number of the commit proves that none before it is missing.
        assert (await store.commit(commit(2, b"y"))).next_offset == 2
        state = await store.claim(partition(), 2)
        assert (state.next_offset, state.gaps, state.tail_lost) == (2, (), False)


async def test_a_lost_tail_is_skipped_and_never_replaced(
    primary: RedisServer, replica: RedisServer
) -> None:
    await in_sync(primary)
    async with opened(primary) as store:
        await store.claim(partition(), 1)
        for number in (1, 2, 3):
            await store.commit(commit(number, b"kept"))
        await store.write([KeyWrite("a", b"kept")])
        await replicated(primary, replica)
        # Cut off, as by a broken network; what follows is acknowledged and will be lost.
        replica.command("REPLICAOF", "NO", "ONE")
        for number in (4, 5, 6, 7, 8):
            await store.commit(commit(number, b"lost"))
        lost_revision = await store.write([KeyWrite("a", b"lost")])
        primary.kill()
        promote(replica, primary)
        entry = await store.get("a")
        assert entry is not None
        assert (entry.value, entry.revision < lost_revision) == (b"kept", True)
        state = await store.claim(partition(), 2)
        assert state.tail_lost
        assert state.gaps == ((3, 3 + OFFSET_GAP),)
        result = await store.commit(commit(state.commit_number + 1, b"new", epoch=2))
        assert result.appended[0].base_offset == 3 + OFFSET_GAP
        found = await store.read(partition(), 0, 1 << 20)
        assert [(one.base_offset, one.data) for one in found] == [
            (0, b"kept"), (1, b"kept"), (2, b"kept"), (3 + OFFSET_GAP, b"new"),
        ]  # fmt: skip
