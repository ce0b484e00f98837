"""The operations of queues: begun and asked about at any node, done by the queue's owner."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Final

import msgspec

from mom_broker.node.dead_letters import RETRY_MS_MAX, Target
from mom_broker.node.ownership import OwnedPartition, Ownership
from mom_broker.node.progress import Progress
from mom_broker.node.redrive import Redrive
from mom_broker.storage.catalog_view import CatalogView
from mom_core import catalog
from mom_core.catalog import OPERATIONS_PREFIX
from mom_core.errors import ConflictError, MomError, NotFoundError, OverloadedError
from mom_core.limits import OPERATIONS_ENDED_MAX, OPERATIONS_OPEN_MAX
from mom_core.names import PartitionId
from mom_core.operations import OperationRecord, OperationState
from mom_core.ports import Clock, KeyValue, KeyWrite, Store

_log = logging.getLogger(__name__)

# Writers of one record: its owner, and whoever cancels it.
_TRIES_MAX: Final = 20


class Operations:
    """Keeps the operations of a node's queues going, and answers for all."""

    def __init__(
        self, view: CatalogView, ownership: Ownership, store: Store, target: Target, clock: Clock
    ) -> None:
        self._view = view
        self._ownership = ownership
        self._store = store
        self.target = target
        """Where messages are sent."""
        self._clock = clock
        self._working: dict[str, asyncio.Task[None]] = {}
        self._closed = False

    # Doing.

    def start(self) -> None:
        """Begin to follow the operations and the ownership."""
        self._view.subscribe(self._on_change)
        self._ownership.on_opened.append(self._on_opened)
        self._on_change(None)

    async def close(self) -> None:
        """Stop; the next owners go on."""
        self._closed = True
        tasks = list(self._working.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _on_change(self, keys: frozenset[str] | None) -> None:
        if keys is None:
            topic_ids = set(self._view.operations)
        else:
            topic_ids = {one.split("/")[1] for one in keys if one.startswith(OPERATIONS_PREFIX)}
        for topic_id in topic_ids:
            self._look_at(topic_id)

    def _on_opened(self, owned: OwnedPartition) -> None:
        if owned.log.id.index == 0:
            self._look_at(owned.log.id.topic_id)

    def _look_at(self, topic_id: str) -> None:
        """See to a queue's operations, if there are some and nobody does yet."""
        owned = self._ownership.owned.get(PartitionId(topic_id, 0))
        if self._closed or owned is None or topic_id in self._working:
            return
        if not self._has_work(topic_id, owned):
            return
        task = asyncio.create_task(self._work(topic_id, owned), name=f"operations of {topic_id}")
        self._working[topic_id] = task
        task.add_done_callback(lambda _: self._ended(topic_id))

    def _ended(self, topic_id: str) -> None:
        del self._working[topic_id]
        # It may have ended with an ownership, which this node has again already.
        asyncio.get_running_loop().call_soon(self._look_at, topic_id)

    def _has_work(self, topic_id: str, owned: OwnedPartition) -> bool:
        if self._open_of(topic_id):
            return True
        readers = owned.subscriptions.readers.values()
        return any(one.delivery.leaving is not None for one in readers)

    def _open_of(self, topic_id: str) -> list[OperationRecord]:
        found = self._view.operations.get(topic_id, {}).values()
        return sorted(
            (one for one in found if one.state.is_open),
            key=lambda one: (one.created_at_ms, one.operation_id),
        )

    async def _work(self, topic_id: str, owned: OwnedPartition) -> None:
        """Do the operations of a queue one after the other."""
        while owned.log.lost is None and self._has_work(topic_id, owned):
            try:
                await self._next(topic_id, owned)
            except MomError as error:
                if owned.log.lost is None:
                    _log.warning("operations of %s wait: %s", owned.log.config.name, error.message)
                await self._clock.sleep(RETRY_MS_MAX if owned.log.lost is None else 0)
            except Exception:
                # A defect: the operation waits, and the node's other work goes on.
                _log.exception("operations of %s failed by a defect", owned.log.config.name)
                await self._clock.sleep(RETRY_MS_MAX)

    async def _next(self, topic_id: str, owned: OwnedPartition) -> None:
        waiting = self._open_of(topic_id)
        if not waiting:
            await self._only_finish(owned)
            return
        key = catalog.operation_key(topic_id, waiting[0].operation_id)
        stored = await self._store.get(key)
        if stored is None:
            await self._view.changed()
            return
        progress = Progress(stored, self._store, self._clock)
        if progress.record.state.is_open:
            await self._redrive(owned, progress).run()
        await self._view.reached(progress.revision)

    async def _only_finish(self, owned: OwnedPartition) -> None:
        """A batch is on its way whose operation is no more."""
        gone = OperationRecord(
            operation_id="", queue=owned.log.config.name, topic_id=owned.log.id.topic_id,
            created_at_ms=0,
        )  # fmt: skip
        stored = KeyValue(catalog.operation_key(gone.topic_id, ""), catalog.encode(gone), 0)
        progress = Progress(stored, self._store, self._clock)
        await self._redrive(owned, progress).finish_leaving()

    def _redrive(self, owned: OwnedPartition, progress: Progress) -> Redrive:
        reader = owned.subscriptions.readers.get(progress.record.queue)
        if reader is None:
            raise NotFoundError(f"queue {progress.record.queue!r} is not open yet")
        return Redrive(
            owned, reader, progress, view=self._view, target=self.target, clock=self._clock
        )

    # Asking.

    async def begin(self, record: OperationRecord) -> OperationRecord:
        """Begin an operation; the one that stands under its id already is no error.

        Raises OverloadedError when too many go on.
        """
        key = catalog.operation_key(record.topic_id, record.operation_id)
        stored = await self._store.list(OPERATIONS_PREFIX)
        records = [self._shown(one) for one in stored]
        standing = next((one for one in records if one.operation_id == record.operation_id), None)
        if standing is not None:
            return standing
        goes_on = sum(one.state.is_open for one in records)
        if goes_on >= OPERATIONS_OPEN_MAX:
            raise OverloadedError(
                f"{goes_on} operations go on, the most there may be; wait for one, or cancel one",
                retry_after_ms=1_000,
            )
        old = self._forgotten(zip(stored, records, strict=True))
        try:
            await self._store.write([KeyWrite(key, catalog.encode(record), 0), *old])
        except ConflictError:
            return await self.get(record.operation_id)
        return record

    def _forgotten(self, known: Iterable[tuple[KeyValue, OperationRecord]]) -> list[KeyWrite]:
        """Deletions of the oldest that have ended, so that the rest are within the bound."""
        ended = [(one.ended_at_ms, stored.key) for stored, one in known if not one.state.is_open]
        ended.sort()
        return [KeyWrite(key, None) for _, key in ended[:-OPERATIONS_ENDED_MAX]]

    async def all(self) -> list[OperationRecord]:
        """All operations, the newest first."""
        records = [self._shown(one) for one in await self._store.list(OPERATIONS_PREFIX)]
        return sorted(records, key=lambda one: -one.created_at_ms)

    async def get(self, operation_id: str) -> OperationRecord:
        """One operation. Raises NotFoundError."""
        return self._shown(await self._stored(operation_id))

    async def _stored(self, operation_id: str) -> KeyValue:
        for stored in await self._store.list(OPERATIONS_PREFIX):
            if stored.key.endswith(f"/{operation_id}"):
                return stored
        raise NotFoundError(
            f"there is no operation {operation_id!r}; the last {OPERATIONS_ENDED_MAX} that ended "
            "are remembered",
            field="operation_id",
        )

    def _shown(self, stored: KeyValue) -> OperationRecord:
        """An operation as it is told: that of a queue that is no more has failed."""
        record = catalog.decode(stored.value, OperationRecord)
        if record.state.is_open and record.topic_id not in self._view.topics_by_id:
            error = f"queue {record.queue!r} was deleted"
            return msgspec.structs.replace(record, state=OperationState.FAILED, error=error)
        return record

    async def cancel(self, operation_id: str) -> OperationRecord:
        """Ask for the end of an operation. Raises NotFoundError."""
        for _ in range(_TRIES_MAX):
            stored = await self._stored(operation_id)
            record = self._shown(stored)
            if record.state is not OperationState.RUNNING:
                return record
            record = msgspec.structs.replace(record, state=OperationState.CANCELLING)
            write = KeyWrite(stored.key, catalog.encode(record), stored.revision)
            try:
                await self._store.write([write])
            except ConflictError:
                continue
            return record
        raise OverloadedError(f"operation {operation_id} changes all the time; try again")
