"""Within the window a dedup_id is stored once, whoever owns the partition."""

from __future__ import annotations

import asyncio

import pytest

from mom_broker.node.partition import Landed
from mom_broker.storage.memory import MemoryStore
from mom_core import batch, limits, topics
from mom_core.delivery import SettleAction
from mom_core.errors import ErrorCode, OverloadedError, ProducerError, RoutingError, StoreError
from mom_core.message import Message
from mom_core.ports import Commit, CommitResult, TrimRule
from mom_core.topics import TopicKind
from unit.node.opened import PARTITION, HandClock, Owner, encoded, topic_config, values

WINDOW_MS = limits.DEDUP_WINDOW_MS_DEFAULT


def of_ids(*ids: str | None) -> list[Message]:
    return [Message(f"{one}".encode(), dedup_id=one) for one in ids]


async def opened(kind: TopicKind = TopicKind.TOPIC, **wanted: object) -> Owner:
    clock = HandClock()
    config = topic_config(kind, **wanted)
    subscriptions = {}
    if kind is TopicKind.QUEUE:
        subscriptions = {"orders": topics.queue_subscription(config, bytes(32))}
    owner = Owner(MemoryStore(clock), clock, config, subscriptions)
    await owner.open()
    return owner


async def send(owner: Owner, *ids: str | None, **options: int) -> Landed:
    return await owner.log.append(encoded(of_ids(*ids), **options))


async def stored(owner: Owner) -> list[str]:
    batches = await owner.store.read(PARTITION, 0, 1 << 30)
    return [one.value.decode() for found in batches for one in batch.decode(found.data)]


async def test_a_second_one_is_answered_with_the_first_ones_position() -> None:
    owner = await opened()
    await send(owner, "a", "b")
    landed = await send(owner, "c", "b", None, "c", "a", "d")
    assert landed.base_offset == 2
    assert landed.left_out == ((1, 1), (3, 2), (4, 0))
    assert await stored(owner) == ["a", "b", "c", "None", "d"]
    assert (await send(owner, "a")).left_out == ((0, 0),)
    assert owner.log.high_watermark == 5
    owner.clock.time_ms += WINDOW_MS + 1
    assert (await send(owner, "a")).left_out == ()
    assert await stored(owner) == ["a", "b", "c", "None", "d", "a"]


async def test_a_batch_that_is_sent_again_gets_its_first_answer() -> None:
    owner = await opened()
    await send(owner, "a")
    for ids in (("x", "a", "y"), ("a", "a"), ("z",)):
        options = {"producer_id": 9, "sequence": {"x": 0, "a": 1, "z": 2}[ids[0]]}
        first = await send(owner, *ids, **options)
        assert not first.duplicate
        await owner.open()
        again = await send(owner, *ids, **options)
        assert again == first._replace(duplicate=True)
    assert await stored(owner) == ["a", "x", "y", "z"]


async def test_ids_are_told_apart_only_by_what_landed() -> None:
    owner = await opened()
    with pytest.raises(ProducerError):
        await send(owner, "a", producer_id=9, sequence=5)
    # Neither the refused batch nor one in the same commit makes this one a duplicate.
    refused, landed = await asyncio.gather(
        send(owner, "a", producer_id=9, sequence=7), send(owner, "a"), return_exceptions=True
    )
    assert isinstance(refused, ProducerError)
    assert isinstance(landed, Landed)
    assert landed.left_out == ()
    first, second = await asyncio.gather(send(owner, "b"), send(owner, "b", "c"))
    assert (first.left_out, second.left_out) == ((), ((0, 1),))
    assert await stored(owner) == ["a", "b", "c"]


@pytest.mark.parametrize("snapshots", [False, True])
async def test_the_next_owner_knows_the_ids(snapshots: bool) -> None:
    owner = await opened()
    await send(owner, None, None)
    for one in "abc":
        owner.clock.time_ms += WINDOW_MS // 3
        await send(owner, one, None)
        if snapshots:
            await owner.log.write_snapshot()
        await owner.open()
    owner.clock.time_ms += WINDOW_MS // 3 + 2
    landed = await send(owner, "a", "b", "c")
    assert landed.left_out == ((1, 4), (2, 6)), "only a's window is over"
    assert landed.base_offset == 8


async def test_a_window_that_nobody_uses_costs_a_takeover_nothing() -> None:
    owner = await opened()
    await send(owner, None, None)
    reads: list[int] = []
    heads = owner.store.read_heads

    async def counted(*arguments: object, **options: int) -> object:
        reads.append(1)
        return await heads(*arguments, **options)  # type: ignore[arg-type]

    owner.store.read_heads = counted  # type: ignore[method-assign]
    await owner.open()
    assert reads == []
    await send(owner, "a")
    await owner.open()
    assert reads
    assert (await send(owner, "a")).left_out == ((0, 2),)


async def test_acknowledged_messages_of_a_queue_are_remembered_when_the_log_is_gone() -> None:
    owner = await opened(TopicKind.QUEUE)
    for round_number in range(3):
        await send(owner, f"a{round_number}", None, f"b{round_number}")
        await owner.settle(await owner.receive(), SettleAction.ACK)
        await owner.retention.sweep()
        assert owner.log.size_bytes == 0
        if round_number == 1:
            await owner.log.write_snapshot()
        owner.clock.time_ms += WINDOW_MS // 4
    await owner.open()
    assert (await send(owner, "b0", "a1", "b2")).left_out == ((0, 2), (1, 3), (2, 8))
    assert values(await owner.receive()) == []
    owner.clock.time_ms += WINDOW_MS // 4 + 1
    await owner.open()
    assert (await send(owner, "b0", "a1")).left_out == ((1, 3),)
    # When all windows are over nothing is left beside the log.
    owner.clock.time_ms += WINDOW_MS + 1
    await owner.settle(await owner.receive(), SettleAction.ACK)
    await owner.retention.sweep()
    await owner.log.finish()
    keys = [f"d{number}" for number in range(1, 9)]
    assert set(await owner.store.read_kept(PARTITION, keys)) == {None}
    assert owner.dedup_budget.ids == 0


async def test_what_comes_while_ids_are_kept_lets_no_others_be_trimmed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    owner = await opened(retention_bytes=1 << 20)
    half = bytes(1 << 19)
    for one in "abc":
        await owner.log.append(encoded([Message(half, dedup_id=one)]))
    keep = owner.log.keep_ids

    async def keep_and_append(below: int) -> None:
        await keep(below)
        await owner.log.append(encoded([Message(half), Message(half)]))

    monkeypatch.setattr(owner.log, "keep_ids", keep_and_append)
    await owner.retention._trim_once(owner.log, TrimRule(None, None, 1 << 20))
    await owner.open()
    assert (await send(owner, "a", "b", "c")).left_out == ((0, 0), (1, 1), (2, 2))


async def test_a_topics_retention_shorter_than_the_window_forgets_no_id() -> None:
    owner = await opened(retention_ms=1_000)
    await send(owner, "a")
    owner.clock.time_ms += 2_000
    await send(owner, "b")
    await owner.sweep()
    assert owner.log.log_start == 1
    await owner.open()
    assert (await send(owner, "a", "b")).left_out == ((0, 0), (1, 1))


async def test_small_segments_join_into_few() -> None:
    owner = await opened(TopicKind.QUEUE)
    for number in range(50):
        await send(owner, f"{number}")
        await owner.settle(await owner.receive(), SettleAction.ACK)
        await owner.retention.sweep()
    await owner.log.finish()
    found = await owner.store.read_kept(PARTITION, ["d1", "d2"])
    assert [one is not None for one in found] == [True, False]
    await owner.open()
    assert (await send(owner, "0", "49")).left_out == ((0, 0), (1, 49))


async def test_more_ids_than_a_node_remembers_are_refused_until_some_are_over() -> None:
    owner = await opened()
    owner.dedup_budget.ids_max = 3
    await send(owner, "a", "b")
    with pytest.raises(OverloadedError, match="dedup_window_ms") as refused:
        await send(owner, "c", "d")
    assert refused.value.retry_after_ms
    await send(owner, None, None)
    await send(owner, "c")
    owner.clock.time_ms += WINDOW_MS + 1
    await send(owner, "d", "e", "f")
    owner.log.lose(ProducerError("over"))
    assert owner.dedup_budget.ids == 0


async def test_no_window_stores_everything() -> None:
    owner = await opened(dedup_window_ms=0)
    await send(owner, "a")
    assert (await send(owner, "a")).left_out == ()
    assert len(owner.log.dedup.window) == 0


async def test_what_a_full_store_refused_is_no_duplicate_later() -> None:
    owner = await opened()
    store = owner.store
    commit = store.commit

    async def refuse(wanted: Commit) -> CommitResult:
        if wanted.batches:
            store.commit = commit  # type: ignore[method-assign]
            raise StoreError("full", code=ErrorCode.STORE_FULL)
        return await commit(wanted)

    store.commit = refuse  # type: ignore[method-assign]
    with pytest.raises(StoreError):
        await send(owner, "a")
    assert (await send(owner, "a")).left_out == ()
    assert await stored(owner) == ["a"]


async def test_an_ownership_that_ends_under_way_answers_and_keeps_no_room() -> None:
    owner = await opened()
    await send(owner, "a")
    commit = owner.store.commit

    async def end_meanwhile(wanted: Commit) -> CommitResult:
        owner.log.lose(RoutingError("moved"))
        return await commit(wanted)

    owner.store.commit = end_meanwhile  # type: ignore[method-assign]
    landed = await send(owner, "b", "a")
    assert (landed.base_offset, landed.left_out) == (1, ((1, 0),))
    assert owner.dedup_budget.ids == 0
