"""Every setting that durability rests on is verified; a wrong one is refused with the fix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from mom_broker.storage.redis import RedisStore
from mom_core.errors import ErrorCode, StoreError
from mom_core.limits import OFFSET_GAP
from mom_core.names import PartitionId
from mom_core.ports import Commit, Durability, NewBatch
from mom_process.system import SystemClock
from redis_server import RedisServer

PARTITION = PartitionId("d" * 32, 0)
WRONG = [
    (["--appendonly", "no"], "appendonly is no", "set `appendonly yes`"),
    (["--appendfsync", "everysec"], "appendfsync is everysec", "set `appendfsync always`"),
    (["--appendfsync", "no"], "appendfsync is no", "set `appendfsync always`"),
    (
        ["--no-appendfsync-on-rewrite", "yes"],
        "no-appendfsync-on-rewrite is yes",
        "set `no-appendfsync-on-rewrite no`",
    ),
    (
        ["--maxmemory-policy", "allkeys-lru"],
        "maxmemory-policy is allkeys-lru",
        "set `maxmemory-policy noeviction`",
    ),
    (
        ["--maxmemory-policy", "volatile-ttl"],
        "maxmemory-policy is volatile-ttl",
        "set `maxmemory-policy noeviction`",
    ),
]
FORBID_CONFIG = ["--rename-command", "CONFIG", ""]


async def opened(server: RedisServer, **options: Any) -> RedisStore:
    store = RedisStore(server.url, SystemClock(), **options)
    await store.open()
    return store


async def refusal(server: RedisServer, **options: Any) -> StoreError:
    with pytest.raises(StoreError) as refused:
        await opened(server, **options)
    assert server.url.split("/")[2] in refused.value.message
    return refused.value


async def durability_of_a_commit(store: RedisStore) -> Durability:
    state = await store.claim(PARTITION, 1)
    commit = Commit(PARTITION, 1, state.commit_number + 1, [NewBatch(b"x", 1, 1)])
    return (await store.commit(commit)).durability


@pytest.mark.parametrize(("setting", "named", "fix"), WRONG)
async def test_a_wrong_setting_is_refused(
    own_redis_server: RedisServer, setting: Sequence[str], named: str, fix: str
) -> None:
    own_redis_server.start(setting)
    error = await refusal(own_redis_server)
    assert error.code is ErrorCode.STORE_MISCONFIGURED
    assert named in error.message
    assert fix in error.message


@pytest.mark.parametrize(
    ("setting", "accepted", "level"),
    [
        (["--appendonly", "no"], Durability.MEMORY, Durability.MEMORY),
        (["--appendfsync", "everysec"], Durability.OS, Durability.OS),
        (["--appendfsync", "everysec"], Durability.MEMORY, Durability.OS),
        (["--no-appendfsync-on-rewrite", "yes"], Durability.OS, Durability.OS),
        ([], Durability.MEMORY, Durability.FSYNC),
    ],
)
async def test_an_accepted_weaker_level_is_named_in_each_result(
    own_redis_server: RedisServer, setting: Sequence[str], accepted: Durability, level: Durability
) -> None:
    own_redis_server.start(setting)
    store = await opened(own_redis_server, accept_durability=accepted)
    assert store.capabilities.durability is level
    assert await durability_of_a_commit(store) is level
    await store.close()


async def test_accepting_one_level_does_not_accept_a_weaker_one(
    own_redis_server: RedisServer,
) -> None:
    own_redis_server.start(["--appendonly", "no"])
    error = await refusal(own_redis_server, accept_durability=Durability.OS)
    assert "appendonly is no" in error.message


async def test_eviction_is_never_acceptable(own_redis_server: RedisServer) -> None:
    own_redis_server.start(["--maxmemory-policy", "allkeys-lru", *FORBID_CONFIG])
    for options in ({"accept_durability": Durability.MEMORY}, {"declared_durability": "fsync"}):
        assert "allkeys-lru" in (await refusal(own_redis_server, **options)).message


async def test_without_config_the_level_must_be_declared(own_redis_server: RedisServer) -> None:
    own_redis_server.start(FORBID_CONFIG)
    error = await refusal(own_redis_server)
    assert "CONFIG is forbidden" in error.message
    assert "declare" in error.message
    store = await opened(own_redis_server, declared_durability=Durability.FSYNC)
    assert await durability_of_a_commit(store) is Durability.PROVIDER
    await store.close()


async def test_a_declaration_is_held_against_what_info_tells(own_redis_server: RedisServer) -> None:
    own_redis_server.start([*FORBID_CONFIG, "--appendonly", "no"])
    error = await refusal(own_redis_server, declared_durability=Durability.FSYNC)
    assert "aof_enabled is 0" in error.message


async def test_a_replica_is_refused(
    redis_server: RedisServer, own_redis_server: RedisServer
) -> None:
    own_redis_server.start(["--replicaof", "127.0.0.1", str(redis_server.port)])
    error = await refusal(own_redis_server)
    assert "role is slave" in error.message or "loading" in error.message


async def test_replicas_need_a_server_that_can_wait_for_them(redis_server: RedisServer) -> None:
    version = redis_server.command("INFO", "server").partition("redis_version:")[2].split("\r")[0]
    if tuple(map(int, version.split(".")[:2])) >= (7, 2):
        pytest.skip("this server has WAITAOF")
    error = await refusal(redis_server, replicas_required=1)
    assert f"redis_version is {version}" in error.message
    assert "7.2" in error.message


async def test_a_wrong_password_is_refused(own_redis_server: RedisServer) -> None:
    own_redis_server.start(["--requirepass", "secret"])
    error = await refusal(own_redis_server)
    assert error.code is ErrorCode.STORE_MISCONFIGURED
    url = own_redis_server.url.replace("//", "//:wrong@")
    with pytest.raises(StoreError) as refused:
        await RedisStore(url, SystemClock()).open()
    assert refused.value.code is ErrorCode.STORE_MISCONFIGURED
    assert "wrong@" not in refused.value.message
    store = RedisStore(own_redis_server.url.replace("//", "//:secret@"), SystemClock())
    await store.open()
    await store.close()


async def test_settings_are_verified_again_on_each_connection(
    own_redis_server: RedisServer,
) -> None:
    own_redis_server.start()
    store = await opened(own_redis_server)
    assert await durability_of_a_commit(store) is Durability.FSYNC
    own_redis_server.kill()
    own_redis_server.start(["--appendfsync", "everysec"])
    with pytest.raises(StoreError, match="appendfsync is everysec") as refused:
        await store.commit(Commit(PARTITION, 1, 2, [NewBatch(b"x", 1, 1)]))
    assert refused.value.code is ErrorCode.STORE_MISCONFIGURED
    await store.close()


async def test_a_restart_with_fsync_loses_no_tail(own_redis_server: RedisServer) -> None:
    own_redis_server.start()
    store = await opened(own_redis_server)
    await durability_of_a_commit(store)
    own_redis_server.kill()
    own_redis_server.start()
    state = await store.claim(PARTITION, 2)
    assert (state.next_offset, state.tail_lost, state.gaps) == (1, False, ())
    await store.close()


async def test_a_restart_of_a_weaker_server_skips_a_gap(own_redis_server: RedisServer) -> None:
    everysec = ["--appendfsync", "everysec"]
    own_redis_server.start(everysec)
    store = await opened(own_redis_server, accept_durability=Durability.OS)
    await durability_of_a_commit(store)
    for restart in (1, 2):
        own_redis_server.kill()
        own_redis_server.start(everysec)
        state = await store.claim(PARTITION, 1 + restart)
        assert state.tail_lost
        assert state.gaps == ((1, 1 + restart * OFFSET_GAP),)
        assert state.next_offset == 1 + restart * OFFSET_GAP
    assert not (await store.claim(PARTITION, 4)).tail_lost
    result = await store.commit(Commit(PARTITION, 4, 2, [NewBatch(b"y", 1, 1)]))
    assert result.appended[0].base_offset == 1 + 2 * OFFSET_GAP
    found = await store.read(PARTITION, 1, 100)
    assert [one.data for one in found] == [b"y"]
    await store.close()


@pytest.mark.parametrize(
    ("setting", "wrong", "right"),
    [
        ("maxmemory-policy", "allkeys-lru", "noeviction"),
        ("appendfsync", "everysec", "always"),
        ("no-appendfsync-on-rewrite", "yes", "no"),
    ],
)
async def test_a_setting_that_is_changed_under_a_connection(
    own_redis_server: RedisServer, setting: str, wrong: str, right: str
) -> None:
    own_redis_server.start()
    store = await opened(own_redis_server)
    assert await durability_of_a_commit(store) is Durability.FSYNC
    own_redis_server.command("CONFIG", "SET", setting, wrong)
    await store.usage()  # looks, as is done every second
    with pytest.raises(StoreError, match=f"{setting} is {wrong}") as refused:
        await store.commit(Commit(PARTITION, 1, 2, [NewBatch(b"x", 1, 1)]))
    assert refused.value.code is ErrorCode.STORE_MISCONFIGURED
    own_redis_server.command("CONFIG", "SET", setting, right)
    result = await store.commit(Commit(PARTITION, 1, 2, [NewBatch(b"x", 1, 1)]))
    assert (result.next_offset, result.durability) == (2, Durability.FSYNC)
    await store.close()


async def test_a_level_that_changes_under_a_connection_is_named(
    own_redis_server: RedisServer,
) -> None:
    own_redis_server.start()
    store = await opened(own_redis_server, accept_durability=Durability.OS)
    assert await durability_of_a_commit(store) is Durability.FSYNC
    own_redis_server.command("CONFIG", "SET", "appendfsync", "everysec")
    await store.usage()
    result = await store.commit(Commit(PARTITION, 1, 2, [NewBatch(b"x", 1, 1)]))
    assert result.durability is Durability.OS
    await store.close()
