"""Claims, commits, reads and delivery state of a partition, over every engine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest

from mom_core.errors import NotFoundError, StaleEpochError
from mom_core.names import PartitionId
from mom_core.ports import (
    NEVER_MS,
    Appended,
    AppendOutcome,
    Commit,
    Loaded,
    NewBatch,
    Store,
    TrimRule,
)

APPENDED = AppendOutcome.APPENDED


def batch(data: bytes, count: int = 1, time_ms: int = 1_000) -> NewBatch:
    return NewBatch(data, count, time_ms)


async def fill(store: Store, partition: PartitionId, batches: Sequence[NewBatch]) -> None:
    """One commit a batch, under epoch 1."""
    await store.claim(partition, 1)
    for number, one in enumerate(batches, 1):
        await store.commit(Commit(partition, 1, number, [one]))


async def test_a_new_partition_begins_at_zero(store: Store, partition: PartitionId) -> None:
    state = await store.claim(partition, 7)
    assert state._asdict() == {
        "epoch": 7,
        "next_offset": 0,
        "log_start": 0,
        "commit_number": 0,
        "size_bytes": 0,
        "last_append_time_ms": 0,
        "gaps": (),
        "tail_lost": False,
    }
    assert await store.read(partition, 0, 1000) == ()
    assert await store.load(partition, 7) == Loaded(None, ())


async def test_a_claim_tells_what_the_last_owner_left(store: Store, partition: PartitionId) -> None:
    await store.claim(partition, 1)
    await store.commit(Commit(partition, 1, 1, [batch(b"abc", 10, 5), batch(b"de", 5, 8)]))
    state = await store.claim(partition, 2)
    assert (state.next_offset, state.commit_number, state.size_bytes) == (15, 1, 5)
    assert (state.last_append_time_ms, state.log_start, state.tail_lost) == (8, 0, False)


@pytest.mark.parametrize("epoch", [4, 5])
async def test_a_claim_needs_a_greater_epoch(
    store: Store, partition: PartitionId, epoch: int
) -> None:
    await store.claim(partition, 5)
    with pytest.raises(StaleEpochError) as refused:
        await store.claim(partition, epoch)
    assert refused.value.details["epoch"] == "5"
    assert (await store.claim(partition, 6)).epoch == 6


async def test_one_of_many_equal_claims_wins(store: Store, partition: PartitionId) -> None:
    for epoch in range(1, 6):
        outcomes = await asyncio.gather(
            *(store.claim(partition, epoch) for _ in range(20)), return_exceptions=True
        )
        refused = [one for one in outcomes if isinstance(one, StaleEpochError)]
        assert len(refused) == 19, outcomes


async def test_racing_claims_leave_the_highest_epoch(store: Store, partition: PartitionId) -> None:
    epochs = [3, 9, 1, 10, 7, 2, 8, 4, 6, 5]
    await asyncio.gather(*(store.claim(partition, one) for one in epochs), return_exceptions=True)
    with pytest.raises(StaleEpochError) as refused:
        await store.claim(partition, 10)
    assert refused.value.details["epoch"] == "10"


async def test_an_old_owner_writes_nothing(store: Store, partition: PartitionId) -> None:
    await fill(store, partition, [batch(b"first")])
    await store.claim(partition, 2)
    for stale in (1, 3):
        with pytest.raises(StaleEpochError):
            await store.commit(Commit(partition, stale, 2, [batch(b"late")], journal=b"late"))
        with pytest.raises(StaleEpochError):
            await store.load(partition, stale)
        with pytest.raises(StaleEpochError):
            await store.trim(partition, stale, TrimRule(before_offset=1))
    assert [one.data for one in await store.read(partition, 0, 1000)] == [b"first"]
    assert await store.load(partition, 2) == Loaded(None, ())
    await store.commit(Commit(partition, 2, 2, [batch(b"second")]))


async def test_a_commit_to_an_unclaimed_partition_is_stale(
    store: Store, partition: PartitionId
) -> None:
    with pytest.raises(StaleEpochError):
        await store.commit(Commit(partition, 1, 1, [batch(b"x")]))


async def test_batches_land_in_order(store: Store, partition: PartitionId) -> None:
    await store.claim(partition, 1)
    result = await store.commit(Commit(partition, 1, 1, [batch(b"a", 3), batch(b"b", 2)]))
    assert result.appended == (Appended(APPENDED, 0), Appended(APPENDED, 3))
    assert result.next_offset == 5
    assert result.durability is store.capabilities.durability
    result = await store.commit(Commit(partition, 1, 2, [batch(b"c", 1)]))
    assert result.appended == (Appended(APPENDED, 5),)


async def test_a_repeated_commit_gets_its_first_result(
    store: Store, partition: PartitionId
) -> None:
    await store.claim(partition, 1)
    commit = Commit(partition, 1, 1, [batch(b"a", 3), batch(b"b", 2)], journal=b"j")
    first = await store.commit(commit)
    assert await store.commit(commit) == first
    assert len(await store.read(partition, 0, 1000)) == 2
    assert await store.load(partition, 1) == Loaded(None, (b"j",))
    journal_only = Commit(partition, 1, 2, journal=b"k")
    assert await store.commit(journal_only) == await store.commit(journal_only)
    assert (await store.load(partition, 1)).journal == (b"j", b"k")


@pytest.mark.parametrize("number", [1, 4, 9])
async def test_a_commit_that_does_not_follow_is_stale(
    store: Store, partition: PartitionId, number: int
) -> None:
    await fill(store, partition, [batch(b"a"), batch(b"b")])
    with pytest.raises(StaleEpochError):
        await store.commit(Commit(partition, 1, number, [batch(b"c")]))
    assert len(await store.read(partition, 0, 1000)) == 2


async def test_a_number_of_an_older_epoch_is_no_repetition(
    store: Store, partition: PartitionId
) -> None:
    await fill(store, partition, [batch(b"a")])
    await store.claim(partition, 2)
    with pytest.raises(StaleEpochError):
        await store.commit(Commit(partition, 2, 1, [batch(b"b")]))


async def test_a_read_begins_at_the_batch_that_holds_the_offset(
    store: Store, partition: PartitionId
) -> None:
    await fill(store, partition, [batch(b"a", 3, 1), batch(b"b", 2, 2), batch(b"c", 4, 3)])
    for offset, expected in enumerate([b"abc"] * 3 + [b"bc"] * 2 + [b"c"] * 4 + [b""] * 2):
        found = await store.read(partition, offset, 1000)
        assert b"".join(one.data for one in found) == expected, offset
    last = (await store.read(partition, 8, 1000))[0]
    assert (last.base_offset, last.count, last.append_time_ms) == (5, 4, 3)


async def test_a_read_stops_at_its_bytes_but_gives_one(
    store: Store, partition: PartitionId
) -> None:
    await fill(store, partition, [batch(bytes([index]) * 100) for index in range(10)])
    for max_bytes, expected in ((1, 1), (100, 1), (199, 1), (200, 2), (550, 5), (10_000, 10)):
        assert len(await store.read(partition, 0, max_bytes)) == expected, max_bytes


async def test_a_read_of_many_small_batches(store: Store, partition: PartitionId) -> None:
    await store.claim(partition, 1)
    batches = [batch(index.to_bytes(4, "big")) for index in range(500)]
    await store.commit(Commit(partition, 1, 1, batches))
    found = await store.read(partition, 0, 1 << 20)
    assert [one.data for one in found] == [one.data for one in batches[: len(found)]]
    assert found


async def test_any_bytes_come_back_as_they_were(store: Store, partition: PartitionId) -> None:
    data = bytes(range(256)) * 1024 + b"\r\n\0"
    await store.claim(partition, 1)
    await store.commit(Commit(partition, 1, 1, [batch(data)], journal=data))
    assert (await store.read(partition, 0, 1))[0].data == data
    assert (await store.load(partition, 1)).journal == (data,)
    await store.commit(Commit(partition, 1, 2, snapshot=data))
    assert await store.load(partition, 1) == Loaded(data, ())


async def test_a_snapshot_replaces_the_journal(store: Store, partition: PartitionId) -> None:
    await store.claim(partition, 1)
    await store.commit(Commit(partition, 1, 1, journal=b"one"))
    await store.commit(Commit(partition, 1, 2, journal=b"two"))
    assert await store.load(partition, 1) == Loaded(None, (b"one", b"two"))
    await store.commit(Commit(partition, 1, 3, journal=b"three", snapshot=b"S"))
    assert await store.load(partition, 1) == Loaded(b"S", ())
    await store.commit(Commit(partition, 1, 4, journal=b"four"))
    await store.claim(partition, 2)
    assert await store.load(partition, 2) == Loaded(b"S", (b"four",))
    await store.commit(Commit(partition, 2, 5, snapshot=b""))
    assert await store.load(partition, 2) == Loaded(b"", ())


async def test_offset_at_a_time(store: Store, partition: PartitionId) -> None:
    times = [10, 10, 20, 30, 30, 50]
    await fill(store, partition, [batch(b"x", 3, time_ms) for time_ms in times])
    expected = {0: 0, 10: 0, 11: 6, 20: 6, 21: 9, 30: 9, 31: 15, 50: 15, 51: 18}
    for time_ms, offset in expected.items():
        assert await store.offset_at(partition, time_ms) == offset, time_ms
    await store.trim(partition, 1, TrimRule(before_offset=6))
    assert await store.offset_at(partition, 0) == 6
    await store.trim(partition, 1, TrimRule(before_offset=8))
    assert [await store.offset_at(partition, time_ms) for time_ms in (0, 20, 21)] == [8, 8, 9]
    assert await store.offset_at(partition, NEVER_MS) == 18


async def test_what_was_committed_is_there_after_a_restart(
    store: Store, partition: PartitionId, reopen: Callable[[], Awaitable[Store]]
) -> None:
    await store.claim(partition, 3)
    last = Commit(partition, 3, 1, [NewBatch(b"a", 2, 9, producer_id=1 << 63)], journal=b"j")
    result = await store.commit(last)
    again = await reopen()
    assert [one.data for one in await again.read(partition, 0, 100)] == [b"a"]
    assert await again.load(partition, 3) == Loaded(None, (b"j",))
    assert await again.commit(last) == result
    with pytest.raises(StaleEpochError):
        await again.claim(partition, 3)
    state = await again.claim(partition, 4)
    assert (state.next_offset, state.commit_number, state.tail_lost) == (2, 1, False)
    repeated = [NewBatch(b"a", 2, 9, producer_id=1 << 63)]
    result = await again.commit(Commit(partition, 4, 2, repeated))
    assert result.appended == (Appended(AppendOutcome.DUPLICATE, 0),)


async def test_a_dropped_partition_is_gone_for_good(store: Store, partition: PartitionId) -> None:
    await store.claim(partition, 1)
    await store.commit(Commit(partition, 1, 1, [batch(b"x")], journal=b"j"))
    await store.drop(partition)
    await store.drop(partition)
    with pytest.raises(NotFoundError):
        await store.claim(partition, 2)
    with pytest.raises(NotFoundError):
        await store.commit(Commit(partition, 1, 2, [batch(b"y")]))
    with pytest.raises(NotFoundError):
        await store.trim(partition, 1, TrimRule(before_offset=1))
    with pytest.raises(NotFoundError):
        await store.load(partition, 1)
    assert await store.read(partition, 0, 100) == ()


async def test_drop_reaches_a_partition_that_was_never_claimed(
    store: Store, partition: PartitionId
) -> None:
    await store.drop(partition)
    with pytest.raises(NotFoundError):
        await store.claim(partition, 1)


async def test_a_drop_outlives_a_restart(
    store: Store, partition: PartitionId, reopen: Callable[[], Awaitable[Store]]
) -> None:
    await fill(store, partition, [batch(b"x")])
    await store.drop(partition)
    again = await reopen()
    with pytest.raises(NotFoundError):
        await again.claim(partition, 2)


async def test_partitions_and_topics_do_not_mix(
    store: Store, partitions: Callable[[], PartitionId]
) -> None:
    first = partitions()
    second = PartitionId(first.topic_id, 1)
    recreated = partitions()
    for name, one in ((b"1", first), (b"2", second)):
        await fill(store, one, [batch(name)])
    await store.drop(first)
    assert (await store.claim(recreated, 1)).next_offset == 0
    assert await store.read(recreated, 0, 100) == ()
    assert [one.data for one in await store.read(second, 0, 100)] == [b"2"]


async def test_commits_of_many_partitions_at_once(
    store: Store, partitions: Callable[[], PartitionId]
) -> None:
    owned = [partitions() for _ in range(20)]
    stale = partitions()
    await asyncio.gather(*(store.claim(one, 1) for one in owned))
    await store.claim(stale, 2)

    async def write(one: PartitionId) -> None:
        for number in range(1, 6):
            await store.commit(Commit(one, 1, number, [batch(b"%d" % number)]))

    *_, refused = await asyncio.gather(
        *map(write, owned),
        store.commit(Commit(stale, 1, 1, [batch(b"x")])),
        return_exceptions=True,
    )
    assert isinstance(refused, StaleEpochError)
    for one in owned:
        found = await store.read(one, 0, 1000)
        assert [kept.data for kept in found] == [b"1", b"2", b"3", b"4", b"5"]


async def test_usage_grows_with_what_is_kept(store: Store, partition: PartitionId) -> None:
    before = await store.usage()
    await fill(store, partition, [batch(bytes(500_000)) for _ in range(4)])
    after = await store.usage()
    assert after.used_bytes >= before.used_bytes + 1_500_000


async def test_the_clock_of_the_store_goes_on(store: Store) -> None:
    first = store.now_ms()
    assert first > 1_700_000_000_000
    assert store.now_ms() >= first


async def test_the_beginnings_of_batches_are_read_alone(
    store: Store, partition: PartitionId
) -> None:
    await fill(
        store,
        partition,
        [batch(b"abcdefgh", 3, 5), batch(b"ijklmnop", 2, 6), batch(b"qr", 1, 7)],
    )
    heads = await store.read_heads(partition, 0, 10, bytes_each=2)
    assert [(one.base_offset, one.count, one.append_time_ms, one.head) for one in heads] == [
        (0, 3, 5, b"ab"),
        (3, 2, 6, b"ij"),
        (5, 1, 7, b"qr"),
    ]
    heads = await store.read_heads(partition, 4, 10, bytes_each=1, bytes_per_record=2)
    assert [(one.base_offset, one.head) for one in heads] == [(3, b"ijklm"), (5, b"qr")]
    assert len(await store.read_heads(partition, 0, 2, bytes_each=1)) == 2
    assert await store.read_heads(partition, 6, 10, bytes_each=1) == ()


async def test_many_beginnings_are_read_in_order(store: Store, partition: PartitionId) -> None:
    await store.claim(partition, 1)
    for number in range(1, 14):
        batches = [batch(b"%d" % one, 1, number) for one in range(100)]
        await store.commit(Commit(partition, 1, number, batches))
    heads = await store.read_heads(partition, 0, 2_000, bytes_each=4)
    assert [one.base_offset for one in heads] == list(range(1_300))
    assert len(await store.read_heads(partition, 0, 700, bytes_each=4)) == 700
