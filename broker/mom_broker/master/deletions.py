"""Topics that were deleted and whose messages still have to go.

Deleting a topic is one atomic write: its keys go, and ``deletions/<topic_id>`` says how many
partitions are left to drop. The leader works these off; one that dies in the middle leaves the key
to the next, and dropping twice is dropping once.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

import msgspec

from mom_broker.master.writer import ControlWriter
from mom_core import catalog
from mom_core.errors import MomError
from mom_core.names import PartitionId
from mom_core.ports import Clock, KeyWrite, Store

DELETIONS_PREFIX: Final = "deletions/"
RETRY_MS: Final = 500

_log = logging.getLogger(__name__)


class Deletion(msgspec.Struct, frozen=True, kw_only=True):
    """A deleted topic."""

    topic_id: str
    partitions: int


def deletion_write(topic_id: str, partitions: int) -> KeyWrite:
    """How to ask for a topic's messages to be dropped."""
    record = Deletion(topic_id=topic_id, partitions=partitions)
    return KeyWrite(DELETIONS_PREFIX + topic_id, catalog.encode(record))


class Deletions:
    """Drops the partitions of deleted topics while its master leads."""

    def __init__(self, store: Store, writer: ControlWriter, clock: Clock) -> None:
        self._store = store
        self._writer = writer
        self._clock = clock
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Look for work now."""
        self._wake.set()

    async def run(self) -> None:
        """Work off what there is, now and whenever woken, until cancelled."""
        self._wake.set()
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self._work_off()
            except MomError as error:
                _log.warning("dropping a deleted topic failed, tried again: %s", error.message)
                self._wake.set()
                await self._clock.sleep(RETRY_MS)

    async def _work_off(self) -> None:
        for entry in await self._store.list(DELETIONS_PREFIX):
            deletion = catalog.decode(entry.value, Deletion)
            for index in range(deletion.partitions):
                await self._store.drop(PartitionId(deletion.topic_id, index))
            done = KeyWrite(entry.key, None)
            async with self._writer.turn():
                await self._writer.write([done])
            _log.info("deleted topic dropped", extra={"topic_id": deletion.topic_id})
