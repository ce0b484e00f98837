"""At the memory limit: no new messages, but acks, claims, trims and the control plane go on."""

from __future__ import annotations

from mom_core.errors import ErrorCode, StoreError
from mom_core.names import PartitionId
from mom_core.ports import AppendOutcome, Commit, KeyWrite, NewBatch, Store, TrimRule

COMMITS_MAX = 1_000


async def test_a_full_store_refuses_messages_and_nothing_else(
    limited_store: Store, partition: PartitionId
) -> None:
    store = limited_store
    batch = NewBatch(bytes(100_000), 10, 1)
    await store.claim(partition, 1)
    number, refusal = 0, None
    while refusal is None and number < COMMITS_MAX:
        try:
            await store.commit(Commit(partition, 1, number + 1, [batch], journal=b"j"))
            number += 1
        except StoreError as error:
            refusal = error
    assert refusal is not None
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
    result = await store.commit(Commit(partition, 2, number + 1, [batch]))
    assert result.appended[0].outcome is AppendOutcome.APPENDED
