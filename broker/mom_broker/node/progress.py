"""An operation's record in the store, written by the node that does the work."""

from __future__ import annotations

from typing import Any

import msgspec

from mom_core import catalog
from mom_core.errors import ConflictError, NotFoundError
from mom_core.limits import OPERATION_TELL_MS
from mom_core.operations import OperationRecord, OperationState
from mom_core.ports import Clock, KeyValue, KeyWrite, Store


class Progress:
    """Writes how far an operation is: now and then, and at its ends."""

    def __init__(self, stored: KeyValue, store: Store, clock: Clock) -> None:
        self.record = catalog.decode(stored.value, OperationRecord)
        self.revision = stored.revision
        """Of the last write."""
        self._key = stored.key
        self._store = store
        self._clock = clock
        self._told_ms = 0
        self._stays = self.record.error
        self._waits = ""

    def stays(self, reason: str) -> None:
        """Note why a message has to stay; the last reason is told with the next write."""
        self._stays = reason

    def waits(self, reason: str) -> None:
        """Note what it waits for now; empty: it goes on."""
        self._waits = reason

    async def tell(self, *, done: int, next_offset: int) -> None:
        """Write how far it is, unless that was done a moment ago."""
        if self._clock.monotonic_ms() - self._told_ms < OPERATION_TELL_MS:
            self.record = msgspec.structs.replace(self.record, done=done, next_offset=next_offset)
            return
        await self.write(done=done, next_offset=next_offset)

    async def end(self, state: OperationState, *, done: int, left: int) -> None:
        """Write how it ended."""
        self._stays, self._waits = self._stays if left else "", ""
        ended_at_ms = self._store.now_ms()
        await self.write(state=state, done=done, left=left, ended_at_ms=ended_at_ms)

    async def write(self, **changes: Any) -> None:
        """Write changes of the record.

        Raises NotFoundError when it is no more, and ConflictError when it has ended otherwise.
        """
        self._told_ms = self._clock.monotonic_ms()
        while True:
            self._check_open()
            record = msgspec.structs.replace(
                self.record, error=self._waits or self._stays, **changes
            )
            write = KeyWrite(self._key, catalog.encode(record), self.revision)
            try:
                self.revision = await self._store.write([write])
            except ConflictError:
                await self._read_again()
                if self.record == record:
                    return  # An earlier try of this write.
                continue
            self.record = record
            return

    async def _read_again(self) -> None:
        """Somebody else wrote it: who wishes to end it, or the next owner, who went on from it."""
        stored = await self._store.get(self._key)
        if stored is None:
            raise NotFoundError(f"operation {self.record.operation_id} is no more")
        self.record = catalog.decode(stored.value, OperationRecord)
        self.revision = stored.revision

    def _check_open(self) -> None:
        """What the next owner told at the end stays: this one knows less by then."""
        if not self.record.state.is_open:
            raise ConflictError(
                f"operation {self.record.operation_id} was brought to its end by another node"
            )
