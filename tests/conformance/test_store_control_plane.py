"""Keys with compare-and-set, watches and leases, over every engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing

import pytest

from mom_core.errors import ConflictError
from mom_core.ports import KeyEvent, KeySnapshot, KeyValue, KeyWrite, Store

Watch = AsyncIterator[KeySnapshot | KeyEvent]


async def following(watch: Watch) -> KeySnapshot | KeyEvent:
    """The next thing a watch tells; a watch that stays silent fails the test."""
    return await asyncio.wait_for(anext(watch), 10)


async def test_write_read_delete(store: Store) -> None:
    assert await store.get("a") is None
    revision = await store.write([KeyWrite("a", b"1"), KeyWrite("b", b"\0\xff")])
    assert await store.get("a") == KeyValue("a", b"1", revision)
    later = await store.write([KeyWrite("a", b"2")])
    assert later > revision
    assert await store.list("") == (KeyValue("a", b"2", later), KeyValue("b", b"\0\xff", revision))
    await store.write([KeyWrite("a", None)])
    assert await store.get("a") is None


async def test_list_is_by_prefix_and_sorted(store: Store) -> None:
    keys = ["t/b", "t/a", "t", "u", "t0", "t/é", "s/z", "t/%", "t/*", "t/a/1"]
    await store.write([KeyWrite(key, b"") for key in keys])
    found = [one.key for one in await store.list("t/")]
    assert found == sorted(key for key in keys if key.startswith("t/"))
    assert await store.list("t/*") == (await store.get("t/*"),)
    assert await store.list("none") == ()


async def test_expectations(store: Store) -> None:
    revision = await store.write([KeyWrite("a", b"1", expected_revision=0)])
    for wrong in (0, revision + 1, revision - 1):
        with pytest.raises(ConflictError) as refused:
            await store.write([KeyWrite("a", b"2", expected_revision=wrong)])
        assert refused.value.details["key"] == "a"
    later = await store.write([KeyWrite("a", b"2", expected_revision=revision)])
    with pytest.raises(ConflictError):
        await store.write([KeyWrite("a", None, expected_revision=revision)])
    await store.write([KeyWrite("a", None, expected_revision=later)])
    with pytest.raises(ConflictError):
        await store.write([KeyWrite("a", b"3", expected_revision=later)])


async def test_a_set_of_writes_is_all_or_nothing(store: Store) -> None:
    await store.write([KeyWrite("a", b"1")])
    with pytest.raises(ConflictError):
        await store.write([KeyWrite("b", b"x"), KeyWrite("a", b"x", expected_revision=0)])
    assert [one.value for one in await store.list("")] == [b"1"]


async def test_one_of_many_equal_expectations_wins(store: Store) -> None:
    outcomes = await asyncio.gather(
        *(store.write([KeyWrite("a", b"%d" % n, expected_revision=0)]) for n in range(20)),
        return_exceptions=True,
    )
    assert sum(isinstance(one, ConflictError) for one in outcomes) == 19


async def test_a_watch_tells_what_is_and_what_changes(store: Store) -> None:
    revision = await store.write([KeyWrite("t/a", b"1"), KeyWrite("u/a", b"1")])
    async with aclosing(store.watch("t/")) as watch:
        first = await following(watch)
        assert isinstance(first, KeySnapshot)
        assert first.entries == (KeyValue("t/a", b"1", revision),)
        assert first.revision >= revision
        await store.write([KeyWrite("u/b", b"2")])
        second = await store.write([KeyWrite("t/b", b"2"), KeyWrite("t/c", b"3")])
        third = await store.write([KeyWrite("t/a", None)])
        assert await following(watch) == KeyEvent("t/b", b"2", second)
        assert await following(watch) == KeyEvent("t/c", b"3", second)
        assert await following(watch) == KeyEvent("t/a", None, third)


async def test_watches_tell_the_same_order(store: Store) -> None:
    async with aclosing(store.watch("")) as one, aclosing(store.watch("")) as two:
        assert isinstance(await following(one), KeySnapshot)
        assert isinstance(await following(two), KeySnapshot)
        await asyncio.gather(*(store.write([KeyWrite(f"k{n}", b"%d" % n)]) for n in range(50)))
        seen = [[await following(watch) for _ in range(50)] for watch in (one, two)]
    assert seen[0] == seen[1]
    revisions = [event.revision for event in seen[0] if isinstance(event, KeyEvent)]
    assert revisions == sorted(set(revisions))


async def test_a_slow_watch_begins_again_and_ends_up_right(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mom_broker.storage.watching.WATCH_EVENTS_MAX", 10)
    monkeypatch.setattr("mom_broker.storage.redis.CHANGES_KEPT", 10)
    async with aclosing(store.watch("k")) as watch:
        state = {one.key: one.value for one in snapshot(await following(watch)).entries}
        for number in range(500):
            await store.write([KeyWrite(f"k{number % 7}", b"%d" % number)])
        await store.write([KeyWrite("k-last", b"")])
        snapshots = 0
        while "k-last" not in state:
            told = await following(watch)
            if isinstance(told, KeySnapshot):
                snapshots += 1
                state = {one.key: one.value for one in told.entries}
            else:
                assert told.value is not None
                state[told.key] = told.value
    assert state == {one.key: one.value for one in await store.list("k")}
    assert snapshots >= 1


def snapshot(told: KeySnapshot | KeyEvent) -> KeySnapshot:
    assert isinstance(told, KeySnapshot)
    return told


async def test_keys_outlive_a_restart(store: Store, reopen: Callable[[], Awaitable[Store]]) -> None:
    revision = await store.write([KeyWrite("a", b"1")])
    grant = await store.acquire_lease("leader", "one", 60_000)
    again = await reopen()
    assert await again.get("a") == KeyValue("a", b"1", revision)
    assert await again.write([KeyWrite("b", b"1")]) > revision
    held = await again.acquire_lease("leader", "two", 60_000)
    assert (held.holder, held.token) == ("one", grant.token)


async def test_a_lease_is_one_holders(store: Store) -> None:
    first = await store.acquire_lease("leader", "one", 60_000)
    assert first.holder == "one"
    assert first.expires_at_ms > store.now_ms()
    assert await store.acquire_lease("leader", "two", 60_000) == first
    renewed = await store.acquire_lease("leader", "one", 90_000)
    assert (renewed.holder, renewed.token) == ("one", first.token)
    assert renewed.expires_at_ms > first.expires_at_ms
    other = await store.acquire_lease("other", "two", 60_000)
    assert other.holder == "two"


async def test_a_released_lease_is_free(store: Store) -> None:
    first = await store.acquire_lease("leader", "one", 60_000)
    await store.release_lease("leader", "two")
    assert (await store.acquire_lease("leader", "two", 60_000)).holder == "one"
    await store.release_lease("leader", "one")
    second = await store.acquire_lease("leader", "two", 60_000)
    assert (second.holder, second.token) == ("two", first.token + 1)
    await store.release_lease("none", "one")


async def test_an_expired_lease_is_free(store: Store) -> None:
    first = await store.acquire_lease("leader", "one", 1)
    grant = first
    async with asyncio.timeout(10):
        while grant.holder == "one":
            grant = await store.acquire_lease("leader", "two", 60_000)
    assert (grant.holder, grant.token) == ("two", first.token + 1)


async def test_one_of_many_takes_a_free_lease(store: Store) -> None:
    grants = await asyncio.gather(
        *(store.acquire_lease("leader", f"holder {n}", 60_000) for n in range(20))
    )
    assert len(set(grants)) == 1
