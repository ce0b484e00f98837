"""Random histories of an owner: every engine does what the memory engine does, and each read gives
exactly the batches that were acknowledged, none twice, none left out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs

from mom_broker.storage.memory import MemoryStore
from mom_core.errors import MomError
from mom_core.names import PartitionId
from mom_core.ports import AppendOutcome, Commit, NewBatch, Store, TrimRule
from mom_process.system import SystemClock

new_batches = st.lists(
    st.builds(
        NewBatch,
        data=st.binary(min_size=1, max_size=300),
        count=st.integers(0, 50),
        append_time_ms=st.just(0),
        producer_id=st.integers(0, 2),
        sequence=st.integers(0, 4),
    ),
    max_size=5,
)
values = st.dictionaries(
    st.sampled_from("abc"), st.none() | st.binary(max_size=20), min_size=1, max_size=3
)
rules = st.builds(
    TrimRule,
    before_offset=st.none() | st.integers(0, 600),
    before_time_ms=st.none() | st.integers(0, 40),
    keep_bytes=st.none() | st.integers(0, 2_000),
)
operations = st.lists(
    st.one_of(
        st.tuples(st.just("commit"), new_batches, st.binary(max_size=5)),
        st.tuples(st.just("snapshot"), new_batches, st.binary(max_size=5)),
        st.tuples(st.just("keep"), new_batches, values),
        st.tuples(st.just("repeat")),
        st.tuples(st.just("claim"), st.integers(-1, 2)),
        st.tuples(st.just("trim"), rules),
        st.tuples(st.just("read"), st.integers(0, 700), st.integers(1, 2_000)),
        st.tuples(st.just("offset_at"), st.integers(0, 40)),
    ),
    max_size=20,
)


async def outcome(call: Awaitable[Any]) -> Any:
    """What a call gave, an error by its code, without the engine's durability."""
    try:
        result = await call
    except MomError as error:
        return error.code
    return result[:2] if type(result).__name__ == "CommitResult" else result


class Owner:
    """Does the same to two stores and keeps a list of what was acknowledged."""

    def __init__(self, store: Store, partition: PartitionId) -> None:
        self.stores = (store, MemoryStore(SystemClock()))
        self.partition = partition
        self.epoch = 1
        self.number = 0
        self.time_ms = 0
        self.last: Commit | None = None
        self.log: list[tuple[int, bytes]] = []

    async def both(self, call: Callable[[Store], Awaitable[Any]]) -> Any:
        engine, model = [await outcome(call(store)) for store in self.stores]
        assert engine == model
        return engine

    async def commit(self, batches: list[NewBatch], journal: bytes, **more: Any) -> None:
        self.time_ms += 3
        timed = [
            structs.replace(one, append_time_ms=self.time_ms, data=one.data if one.count else b"")
            for one in batches
        ]
        self.number += 1
        self.last = Commit(self.partition, self.epoch, self.number, timed, journal, **more)
        appended, _ = await self.both(lambda store: store.commit(self.last))
        self.log += [
            (one.base_offset, batch.data)
            for one, batch in zip(appended, timed, strict=True)
            if one.outcome is AppendOutcome.APPENDED and batch.count
        ]

    async def run(self, operation: tuple[Any, ...]) -> None:
        match operation:
            case ("commit", batches, journal):
                await self.commit(batches, journal)
            case ("snapshot", batches, snapshot):
                await self.commit(batches, b"", snapshot=snapshot)
            case ("keep", batches, kept):
                await self.commit(batches, b"", kept=kept)
            case ("repeat",) if self.last is not None:
                await self.both(lambda store: store.commit(self.last))
            case ("claim", step):
                state = await self.both(
                    lambda store: store.claim(self.partition, self.epoch + step)
                )
                self.epoch = getattr(state, "epoch", self.epoch)
            case ("trim", rule):
                await self.both(lambda store: store.trim(self.partition, self.epoch, rule))
            case ("read", offset, max_bytes):
                await self.both(lambda store: store.read(self.partition, offset, max_bytes))
            case ("offset_at", time_ms):
                await self.both(lambda store: store.offset_at(self.partition, time_ms))

    async def check(self) -> None:
        """Walk the log from its start; it must be the end of what was acknowledged."""
        await self.both(lambda store: store.load(self.partition, self.epoch))
        await self.both(lambda store: store.read_kept(self.partition, ["a", "b", "c"]))
        walked: list[tuple[int, bytes]] = []
        offset = 0
        while found := await self.stores[0].read(self.partition, offset, 500):
            walked += [(one.base_offset, one.data) for one in found]
            assert found[-1].end_offset > offset
            offset = found[-1].end_offset
        assert walked == self.log[len(self.log) - len(walked) :]


def test_random_histories(engine: Any, partitions: Callable[[], PartitionId]) -> None:
    with asyncio.Runner() as runner:
        store: Store = engine.make()
        runner.run(store.open())

        @settings(
            max_examples=60,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
        )
        @given(operations)
        def histories(history: list[tuple[Any, ...]]) -> None:
            runner.run(follow(history))

        async def follow(history: list[tuple[Any, ...]]) -> None:
            owner = Owner(store, partitions())
            await owner.both(lambda one: one.claim(owner.partition, 1))
            for operation in history:
                await owner.run(operation)
            await owner.check()

        histories()
        runner.run(store.close())
