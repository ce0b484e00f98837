"""The store in one SQLite database: for ``mom dev`` and single processes.

Writes go through one thread with group commit (:mod:`mom_broker.storage.sqlite_writer`), reads
through a small pool of threads with connections of their own; WAL lets both go on at once. The
event loop never waits for the disk. The directory is locked: a second process gets a clear refusal.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Concatenate, Final, ParamSpec, TypeVar

from mom_broker.storage import refusals
from mom_broker.storage import sqlite_steps as steps
from mom_broker.storage.sqlite_files import DATABASE_NAME, DirectoryLock, connect_reader
from mom_broker.storage.sqlite_writer import SqliteWriter, database_error
from mom_broker.storage.watching import WatchHub
from mom_core import limits
from mom_core.errors import StoreError
from mom_core.names import PartitionId
from mom_core.ports import (
    BatchHead,
    Clock,
    Commit,
    CommitResult,
    Durability,
    KeyEvent,
    KeySnapshot,
    KeyValue,
    KeyWrite,
    LeaseGrant,
    Loaded,
    PartitionState,
    StoreCapabilities,
    StoredBatch,
    StoreUsage,
    Trimmed,
    TrimRule,
)

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")
_Args = ParamSpec("_Args")

_CAPABILITIES: Final = StoreCapabilities("sqlite", Durability.FSYNC, shared=False)
READER_THREADS: Final = 2
# Room that produces leave on the disk, so that acks, trims and checkpoints still work.
DISK_RESERVE_BYTES: Final = 64 * limits.MIB


class SqliteStore:
    """A Store in ``directory``, which is created when missing.

    ``capacity_bytes`` bounds the database; None leaves that to the disk, less a reserve.
    """

    def __init__(self, directory: Path, clock: Clock, capacity_bytes: int | None = None) -> None:
        self._directory = directory
        self._path = directory / DATABASE_NAME
        self._clock = clock
        self._capacity_bytes = capacity_bytes
        self._lock = DirectoryLock(directory)
        self._writer: SqliteWriter | None = None
        self._readers: ThreadPoolExecutor | None = None
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._hub = WatchHub(self._snapshot)
        self._clearing: set[asyncio.Task[None]] = set()

    @property
    def capabilities(self) -> StoreCapabilities:
        """See :class:`mom_core.ports.Store`, as for every method here."""
        return _CAPABILITIES

    def now_ms(self) -> int:
        return self._clock.now_ms()

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        self._lock.take()
        try:
            self._writer = await asyncio.to_thread(SqliteWriter, self._path, loop)
        except sqlite3.Error as error:
            self._lock.release()
            raise refusals.store_misconfigured(
                f"{self._path} can't be opened: {error}; restore it from a copy, or choose another "
                "directory"
            ) from error
        except BaseException:
            self._lock.release()
            raise
        self._readers = ThreadPoolExecutor(READER_THREADS, "mom-sqlite-reader")
        await self._finish_drops()

    async def _finish_drops(self) -> None:
        for number in await self._write(steps.dropped_numbers):
            await self._clear(number)
        await self._write(steps.forget_tombstones, self.now_ms())

    async def close(self) -> None:
        self._hub.close()
        if self._writer is None or self._readers is None:
            return
        writer, readers = self._writer, self._readers
        if self._clearing:
            await asyncio.wait(self._clearing)
        await asyncio.to_thread(readers.shutdown)
        for connection in self._connections:
            connection.close()
        self._connections.clear()
        await asyncio.to_thread(writer.stop)
        self._writer = self._readers = None
        self._lock.release()

    async def usage(self) -> StoreUsage:
        return StoreUsage(await self._read(steps.used_bytes), self._capacity_bytes)

    # Partitions.

    async def claim(self, partition: PartitionId, epoch: int) -> PartitionState:
        return await self._write(steps.claim, partition, epoch)

    async def load(self, partition: PartitionId, epoch: int) -> Loaded:
        return await self._read(steps.load, partition, epoch)

    async def commit(self, commit: Commit) -> CommitResult:
        size_bytes = sum(len(batch.data) for batch in commit.batches) + commit.kept_bytes
        return await self._opened.run(partial(self._commit, commit, size_bytes), size_bytes)

    def _commit(
        self, commit: Commit, size_bytes: int, connection: sqlite3.Connection
    ) -> CommitResult:
        result = steps.commit(connection, commit)
        if commit.grows:
            # After the rules, so that a repeated commit gets its answer; the savepoint undoes it.
            self._check_room(connection)
        return result

    async def read(
        self, partition: PartitionId, offset: int, max_bytes: int
    ) -> tuple[StoredBatch, ...]:
        return await self._read(steps.read, partition, offset, max_bytes)

    async def read_heads(
        self,
        partition: PartitionId,
        offset: int,
        batches_max: int,
        *,
        bytes_each: int,
        bytes_per_record: int = 0,
    ) -> tuple[BatchHead, ...]:
        return await self._read(
            steps.read_heads, partition, offset, batches_max, bytes_each, bytes_per_record
        )

    async def read_kept(
        self, partition: PartitionId, keys: Sequence[str]
    ) -> tuple[bytes | None, ...]:
        return await self._read(steps.read_kept, partition, tuple(keys))

    async def offset_at(self, partition: PartitionId, timestamp_ms: int) -> int:
        return await self._read(steps.offset_at, partition, timestamp_ms)

    async def trim(self, partition: PartitionId, epoch: int, rule: TrimRule) -> Trimmed:
        return await self._write(steps.trim, partition, epoch, rule)

    async def drop(self, partition: PartitionId) -> None:
        number = await self._write(steps.drop, partition, self.now_ms())
        if number is not None:
            task = asyncio.get_running_loop().create_task(self._clear(number))
            self._clearing.add(task)
            task.add_done_callback(self._clearing.discard)

    async def _clear(self, number: int) -> None:
        """Delete what a dropped partition held, in small steps between other writes."""
        try:
            while await self._write(steps.clear, number):
                pass
        except StoreError as error:
            _log.warning("a dropped partition is cleared at the next start: %s", error)

    def _check_room(self, connection: sqlite3.Connection) -> None:
        if self._capacity_bytes is not None:
            used = steps.used_bytes(connection)
            limit = int(self._capacity_bytes * limits.STORE_HIGH_WATER_RATIO)
            if used > limit:
                raise refusals.store_full(
                    f"the store in {self._directory}",
                    used,
                    limit,
                    "shorten retention or raise its capacity",
                )
        disk = os.statvfs(self._directory)
        if disk.f_bavail * disk.f_frsize < DISK_RESERVE_BYTES:
            total = disk.f_blocks * disk.f_frsize
            raise refusals.store_full(
                f"the disk of {self._directory}",
                total - disk.f_bavail * disk.f_frsize,
                total - DISK_RESERVE_BYTES,
                "shorten retention or make room on it",
            )

    # The control plane.

    async def get(self, key: str) -> KeyValue | None:
        return await self._read(steps.get, key)

    async def list(self, prefix: str) -> tuple[KeyValue, ...]:
        return await self._read(steps.entries_under, prefix)

    async def write(self, writes: Sequence[KeyWrite]) -> int:
        def publish(written: steps.Written) -> None:
            self._hub.publish(written.events)

        copied = tuple(writes)
        written = await self._opened.run(lambda one: steps.write(one, copied), after=publish)
        return written.revision

    def watch(self, prefix: str) -> AsyncIterator[KeySnapshot | KeyEvent]:
        return self._hub.watch(prefix)

    async def _snapshot(self, prefix: str) -> KeySnapshot:
        return await self._read(steps.snapshot_of, prefix)

    async def acquire_lease(self, name: str, holder: str, ttl_ms: int) -> LeaseGrant:
        return await self._write(steps.acquire_lease, name, holder, ttl_ms, self.now_ms())

    async def release_lease(self, name: str, holder: str) -> None:
        await self._write(steps.release_lease, name, holder)

    # Threads.

    @property
    def _opened(self) -> SqliteWriter:
        if self._writer is None:
            raise refusals.store_unavailable(f"the store in {self._directory} is not open")
        return self._writer

    async def _write(
        self,
        step: Callable[Concatenate[sqlite3.Connection, _Args], _Result],
        *args: _Args.args,
        **kwargs: _Args.kwargs,
    ) -> _Result:
        return await self._opened.run(lambda connection: step(connection, *args, **kwargs))

    async def _read(
        self,
        step: Callable[Concatenate[sqlite3.Connection, _Args], _Result],
        *args: _Args.args,
        **kwargs: _Args.kwargs,
    ) -> _Result:
        if self._readers is None:
            raise refusals.store_unavailable(f"the store in {self._directory} is not open")

        def run() -> _Result:
            return step(self._reader(), *args, **kwargs)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._readers, run)
        except sqlite3.Error as error:
            raise database_error(self._path, error) from error

    def _reader(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = connect_reader(self._path)
            self._local.connection = connection
            self._connections.append(connection)
        return connection
