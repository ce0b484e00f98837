"""At the memory limit: no new messages, but acks, claims, trims and the control plane go on."""

from __future__ import annotations

from collections.abc import Callable

from mom_core.errors import ErrorCode, StoreError
from mom_core.names import PartitionId
from mom_core.ports import AppendOutcome, Commit, KeyWrite, NewBatch, Store, TrimRule
from polling import until

COMMITS_MAX = 1_000
BATCH = NewBatch(bytes(100_000), 10, 1)


async def fill(store: Store, partition: PartitionId) -> tuple[int, StoreError]:
    """Append until the store refuses; how many commits landed, and the refusal."""
    await store.claim(partition, 1)
    for number in range(1, COMMITS_MAX):
        try:
            await store.commit(Commit(partition, 1, number, [BATCH], journal=b"j"))
        except StoreError as error:
            return number - 1, error
    raise AssertionError(f"{COMMITS_MAX} commits did not fill the store")


async def test_a_full_store_refuses_messages_and_nothing_else(
    limited_store: Store, partition: PartitionId
) -> None:
    store = limited_store
    number, refusal = await fill(store, partition)
    assert refusal.code is ErrorCode.STORE_FULL
    assert refusal.retry_after_ms

    # Nothing of the refused commit landed, so its number is free for the journal-only one.
    assert len((await store.load(partition, 1)).journal) == number
    for _ in range(50):
        number += 1
        await store.commit(Commit(partition, 1, number, journal=b"settled"))
    state = await store.claim(partition, 2)
    assert state.commit_number == number
    number += 1
    await store.commit(Commit(partition, 2, number, snapshot=b"S"))
    await store.write([KeyWrite("topics/a", b"value")])
    assert (await store.acquire_lease("leader", "me", 1_000)).holder == "me"
    usage = await store.usage()
    assert usage.limit_bytes
    assert usage.used_bytes > usage.limit_bytes // 2

    trimmed = await store.trim(partition, 2, TrimRule(keep_bytes=0))
    while trimmed.more:
        trimmed = await store.trim(partition, 2, TrimRule(keep_bytes=0))
    await store.usage()
    result = await store.commit(Commit(partition, 2, number + 1, [BATCH]))
    assert result.appended[0].outcome is AppendOutcome.APPENDED


async def test_a_full_store_can_be_emptied_by_deleting(
    limited_store: Store, partitions: Callable[[], PartitionId]
) -> None:
    store = limited_store
    deleted, kept = partitions(), partitions()
    await fill(store, deleted)
    await store.claim(kept, 1)
    before = (await store.usage()).used_bytes
    await store.drop(deleted)

    async def freed() -> bool:
        return (await store.usage()).used_bytes < before // 2

    await until(freed, "the memory is free, which Redis does in the background")
    result = await store.commit(Commit(kept, 1, 1, [BATCH]))
    assert result.appended[0].outcome is AppendOutcome.APPENDED
