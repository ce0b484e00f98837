"""Idempotent producers, over every engine."""

from __future__ import annotations

import pytest

from mom_core import limits
from mom_core.names import PartitionId
from mom_core.ports import Appended, AppendOutcome, Commit, NewBatch, Store, TrimRule
from mom_core.producers import LASTING_PRODUCER

APPENDED, DUPLICATE = AppendOutcome.APPENDED, AppendOutcome.DUPLICATE
OUT_OF_ORDER, UNKNOWN = AppendOutcome.OUT_OF_ORDER, AppendOutcome.UNKNOWN_PRODUCER


class Writer:
    """Commits batches of producers and returns what became of them."""

    def __init__(self, store: Store, partition: PartitionId) -> None:
        self.store = store
        self.partition = partition
        self.epoch = self.number = 0

    async def claim(self) -> None:
        self.epoch += 1
        self.number = (await self.store.claim(self.partition, self.epoch)).commit_number

    async def send(self, *batches: tuple[int, int]) -> tuple[Appended, ...]:
        self.number += 1
        new = [NewBatch(b"data", 10, 1, producer, sequence) for producer, sequence in batches]
        commit = Commit(self.partition, self.epoch, self.number, new, journal=b"j")
        return (await self.store.commit(commit)).appended


@pytest.fixture
async def writer(store: Store, partition: PartitionId) -> Writer:
    made = Writer(store, partition)
    await made.claim()
    return made


async def test_sequences_append_in_order(writer: Writer) -> None:
    assert await writer.send((1, 0), (2, 0), (1, 1)) == (
        Appended(APPENDED, 0),
        Appended(APPENDED, 10),
        Appended(APPENDED, 20),
    )
    assert await writer.send((1, 2)) == (Appended(APPENDED, 30),)


async def test_the_last_batches_are_known_again(writer: Writer) -> None:
    window = limits.PRODUCER_WINDOW_BATCHES
    for sequence in range(window + 2):
        await writer.send((1, sequence))
    for sequence in range(2, window + 2):
        assert await writer.send((1, sequence)) == (Appended(DUPLICATE, sequence * 10),)
    assert await writer.send((1, 1)) == (Appended(OUT_OF_ORDER, -1),)
    assert len(await writer.store.read(writer.partition, 0, 10_000)) == window + 2


async def test_a_duplicate_within_one_commit(writer: Writer) -> None:
    assert await writer.send((1, 0), (1, 0)) == (Appended(APPENDED, 0), Appended(DUPLICATE, 0))


async def test_a_new_producer_begins_with_zero(writer: Writer) -> None:
    assert await writer.send((5, 3)) == (Appended(UNKNOWN, -1),)
    assert await writer.send((5, 0)) == (Appended(APPENDED, 0),)


async def test_a_hole_is_out_of_order_and_the_rest_lands(writer: Writer) -> None:
    assert await writer.send((1, 0), (1, 2), (2, 0)) == (
        Appended(APPENDED, 0),
        Appended(OUT_OF_ORDER, -1),
        Appended(APPENDED, 10),
    )
    assert (await writer.store.load(writer.partition, 1)).journal == (b"j",)
    assert await writer.send((1, 1)) == (Appended(APPENDED, 20),)


async def test_a_commit_of_refused_batches_only_still_counts(writer: Writer) -> None:
    await writer.send((1, 7))
    state = await writer.store.claim(writer.partition, 2)
    assert (state.commit_number, state.next_offset) == (1, 0)


async def test_a_new_owner_knows_the_producers(writer: Writer) -> None:
    await writer.send((1, 0), (1, 1))
    await writer.claim()
    assert await writer.send((1, 1)) == (Appended(DUPLICATE, 10),)
    assert await writer.send((1, 2)) == (Appended(APPENDED, 20),)


async def test_a_trim_forgets_no_producer(writer: Writer) -> None:
    await writer.send((1, 0), (1, 1))
    await writer.store.trim(writer.partition, 1, TrimRule(before_offset=20))
    assert await writer.send((1, 1)) == (Appended(DUPLICATE, 10),)


async def test_ids_and_sequences_of_64_bits(writer: Writer) -> None:
    largest = (1 << 64) - 1
    assert await writer.send((largest, 0)) == (Appended(APPENDED, 0),)
    assert await writer.send((largest - 1, 0)) == (Appended(APPENDED, 10),)
    assert await writer.send((largest, 0)) == (Appended(DUPLICATE, 0),)
    assert await writer.send((largest, largest)) == (Appended(OUT_OF_ORDER, -1),)


async def test_the_producers_longest_silent_are_forgotten(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PRODUCERS_PER_PARTITION_MAX", 20)
    for producer in range(1, 21):
        await writer.send((producer, 0))
    await writer.send((1, 1))
    await writer.send((100, 0))
    assert await writer.send((2, 1)) == (Appended(UNKNOWN, -1),)
    assert (await writer.send((1, 2), (20, 1), (100, 1)))[0].outcome is APPENDED
    for producer in range(200, 260):
        await writer.send((producer, 0))
    assert (await writer.send((259, 1), (1, 3)))[1] == Appended(UNKNOWN, -1)


async def test_a_lasting_producer_is_never_forgotten(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PRODUCERS_PER_PARTITION_MAX", 20)
    lasting = LASTING_PRODUCER + 5
    await writer.send((lasting, 0))
    for producer in range(1, 80):
        await writer.send((producer, 0))
    assert await writer.send((1, 1)) == (Appended(UNKNOWN, -1),)
    assert await writer.send((lasting, 0)) == (Appended(DUPLICATE, 0),)
    assert (await writer.send((lasting, 1)))[0].outcome is APPENDED
