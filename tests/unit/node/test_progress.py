"""The record of an operation, with two owners of its queue who both write it for a moment."""

from __future__ import annotations

import pytest

from mom_broker.node.progress import Progress
from mom_broker.storage.memory import MemoryStore
from mom_core import catalog
from mom_core.errors import ConflictError
from mom_core.operations import OperationRecord, OperationState
from mom_core.ports import KeyWrite
from mom_process.system import SystemClock

KEY = catalog.operation_key("t", "1")
RECORD = OperationRecord(
    operation_id="1", queue="dead", topic_id="t", created_at_ms=1, end_offset=9, total=5
)


class Owners:
    """An operation as two owners know it."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store

    async def begin(self) -> tuple[Progress, Progress]:
        await self.store.write([KeyWrite(KEY, catalog.encode(RECORD), 0)])
        return await self.another(), await self.another()

    async def another(self) -> Progress:
        stored = await self.store.get(KEY)
        assert stored is not None
        return Progress(stored, self.store, SystemClock())

    async def told(self) -> OperationRecord:
        return (await self.another()).record


@pytest.fixture
def owners() -> Owners:
    return Owners(MemoryStore(SystemClock()))


async def test_an_end_stays_whatever_the_owner_before_still_writes(owners: Owners) -> None:
    old, new = await owners.begin()
    await new.end(OperationState.DONE, done=5, left=0)
    ended = await owners.told()
    with pytest.raises(ConflictError, match="by another node"):
        await old.tell(done=3, next_offset=3)
    with pytest.raises(ConflictError, match="by another node"):
        await old.end(OperationState.DONE, done=3, left=2)
    assert await owners.told() == ended
    assert (ended.done, ended.left) == (5, 0)
    assert ended.ended_at_ms


async def test_whoever_wrote_meanwhile_an_open_one_is_told_on(owners: Owners) -> None:
    old, new = await owners.begin()
    await new.write(done=2, total=4)
    await old.write(done=3, next_offset=3)
    told = await owners.told()
    assert (told.done, told.next_offset, told.total) == (3, 3, 4)


async def test_a_wish_to_end_it_is_heard(owners: Owners) -> None:
    owner, canceller = await owners.begin()
    await canceller.write(state=OperationState.CANCELLING)
    await owner.write(done=1)
    assert owner.record.state is OperationState.CANCELLING


async def test_a_write_that_landed_in_an_earlier_try_is_done(owners: Owners) -> None:
    owner, earlier_try = await owners.begin()
    await earlier_try.write(state=OperationState.DONE, done=5, ended_at_ms=7)
    await owner.write(state=OperationState.DONE, done=5, ended_at_ms=7)
    assert owner.revision == earlier_try.revision
