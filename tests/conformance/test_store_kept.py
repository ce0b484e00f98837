"""What an owner keeps beside the log, over every engine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from mom_core.errors import ErrorCode, StaleEpochError, StoreError
from mom_core.names import PartitionId
from mom_core.ports import Appended, AppendOutcome, Commit, NewBatch, Store, TrimRule

VALUE = bytes(100_000)


async def test_values_are_put_replaced_and_removed_with_the_commit(
    store: Store, partition: PartitionId
) -> None:
    await store.claim(partition, 1)
    assert await store.read_kept(partition, ["a"]) == (None,)
    await store.commit(Commit(partition, 1, 1, kept={"a": b"1", "b": b"2", "c": b""}))
    assert await store.read_kept(partition, ["b", "x", "a", "c"]) == (b"2", None, b"1", b"")
    await store.commit(
        Commit(partition, 1, 2, journal=b"j", kept={"a": b"9", "b": None, "x": None})
    )
    assert await store.read_kept(partition, ["a", "b"]) == (b"9", None)
    assert (await store.load(partition, 1)).journal == (b"j",)
    assert await store.read_kept(partition, []) == ()


async def test_an_old_owner_keeps_and_removes_nothing(store: Store, partition: PartitionId) -> None:
    await store.claim(partition, 1)
    await store.commit(Commit(partition, 1, 1, kept={"a": b"1"}))
    await store.claim(partition, 2)
    with pytest.raises(StaleEpochError):
        await store.commit(Commit(partition, 1, 2, kept={"a": None, "b": b"2"}))
    assert await store.read_kept(partition, ["a", "b"]) == (b"1", None)


async def test_a_repeated_commit_keeps_nothing_again(store: Store, partition: PartitionId) -> None:
    await store.claim(partition, 1)
    batches = [NewBatch(b"data", 3, 1, 7, 0)]
    commit = Commit(partition, 1, 1, batches, kept={"a": b"1"})
    first = await store.commit(commit)
    assert await store.commit(commit) == first
    assert await store.read_kept(partition, ["a"]) == (b"1",)
    read = await store.read(partition, 0, 1_000)
    assert [(one.base_offset, one.data) for one in read] == [(0, b"data")]


async def test_values_go_with_their_partition_and_stay_with_trims(
    store: Store, partitions: Callable[[], PartitionId]
) -> None:
    gone, other = partitions(), partitions()
    for one in (gone, other):
        await store.claim(one, 1)
        await store.commit(Commit(one, 1, 1, [NewBatch(b"x", 1, 1)], kept={"a": b"1"}))
        await store.trim(one, 1, TrimRule(before_offset=1))
        assert await store.read_kept(one, ["a"]) == (b"1",)
    await store.drop(gone)
    assert await store.read_kept(gone, ["a"]) == (None,)
    assert await store.read_kept(other, ["a"]) == (b"1",)


async def test_values_outlive_a_restart(
    store: Store, partition: PartitionId, reopen: Callable[[], Awaitable[Store]]
) -> None:
    await store.claim(partition, 1)
    await store.commit(Commit(partition, 1, 1, kept={"a": b"\x00\xff\r\n"}))
    again = await reopen()
    assert await again.read_kept(partition, ["a"]) == (b"\x00\xff\r\n",)


async def test_an_empty_batch_counts_its_sequence_and_appends_nothing(
    store: Store, partition: PartitionId
) -> None:
    await store.claim(partition, 1)
    batches = [
        NewBatch(b"one", 2, 1, 7, 0),
        NewBatch(b"", 0, 1, 7, 1),
        NewBatch(b"two", 1, 1, 7, 2),
    ]
    result = await store.commit(Commit(partition, 1, 1, batches))
    assert [one.outcome for one in result.appended] == [AppendOutcome.APPENDED] * 3
    assert [one.base_offset for one in result.appended] == [0, 2, 2]
    assert result.next_offset == 3
    again = await store.commit(Commit(partition, 1, 2, [NewBatch(b"", 0, 1, 7, 1)]))
    assert again.appended == (Appended(AppendOutcome.DUPLICATE, 2),)
    read = await store.read(partition, 0, 1_000)
    assert [(one.base_offset, one.count, one.data) for one in read] == [
        (0, 2, b"one"),
        (2, 1, b"two"),
    ]
    state = await store.claim(partition, 2)
    assert (state.next_offset, state.size_bytes) == (3, 6)


async def fill(store: Store, partition: PartitionId) -> int:
    """Keep values until the store refuses; how many commits landed."""
    for number in range(1_000):
        try:
            await store.commit(Commit(partition, 1, number + 1, kept={f"k{number}": VALUE}))
        except StoreError as error:
            if error.code is ErrorCode.STORE_FULL:
                return number
            raise
    raise AssertionError("a thousand values did not fill the store")


async def test_a_full_store_takes_what_makes_room_and_removals(
    limited_store: Store, partition: PartitionId
) -> None:
    store = limited_store
    await store.claim(partition, 1)
    number = await fill(store, partition)
    assert await store.read_kept(partition, [f"k{number}"]) == (None,)
    needed = {"needed": VALUE}
    await store.commit(Commit(partition, 1, number + 1, kept=needed, makes_room=True))
    removed: dict[str, bytes | None] = dict.fromkeys(f"k{one}" for one in range(number))
    await store.commit(Commit(partition, 1, number + 2, kept=removed))
    await store.usage()
    await store.commit(Commit(partition, 1, number + 3, kept={"again": VALUE}))
    assert await store.read_kept(partition, ["needed", "k0"]) == (VALUE, None)
