"""The one thread that writes to SQLite, and its group commit.

While one transaction waits for its fsync, the next writes gather in the queue; then all of them go
into one transaction with one fsync. Each runs inside a savepoint, so that one that is refused (a
stale epoch, a full store) takes back its own changes only. The results of a transaction go back to
the event loop in one wake-up.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Final, NamedTuple, TypeVar

from mom_broker.storage import refusals
from mom_broker.storage.sqlite_files import connect_writer
from mom_core.errors import ErrorCode, MomError, StoreError

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")

# One transaction: its pages stay in memory until the commit, and its waiters wait for all of it.
TRANSACTION_BYTES_MAX: Final = 16 << 20
TRANSACTION_WRITES_MAX: Final = 1_024


class _Write(NamedTuple):
    step: Callable[[sqlite3.Connection], Any]
    size_bytes: int
    future: asyncio.Future[Any]
    after: Callable[[Any], None] | None


class _Outcome(NamedTuple):
    write: _Write
    result: Any
    error: Exception | None


class SqliteWriter:
    """Runs write steps in order, many to a transaction. What waits is bounded by the callers."""

    def __init__(self, path: Path, loop: asyncio.AbstractEventLoop) -> None:
        self._path = path
        self._loop = loop
        self._connection = connect_writer(path)
        self._queue: SimpleQueue[_Write | None] = SimpleQueue()
        self._held: _Write | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="mom-sqlite-writer", daemon=True)
        self._thread.start()

    async def run(
        self,
        step: Callable[[sqlite3.Connection], _Result],
        size_bytes: int = 0,
        after: Callable[[_Result], None] | None = None,
    ) -> _Result:
        """Run ``step`` in a transaction; return its result once that is on disk.

        ``after`` is called in the event loop with the result, in the order of the writes. Raises
        what the step raised, or StoreError when the database failed.
        """
        if self._closed:
            raise refusals.store_unavailable(f"the store {self._path} is closed")
        future: asyncio.Future[_Result] = self._loop.create_future()
        self._queue.put(_Write(step, size_bytes, future, after))
        return await future

    def stop(self) -> None:
        """Finish all writes, bring the WAL into the database and close it. Blocks."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)
            self._thread.join()

    def _run(self) -> None:
        while writes := self._gather():
            outcomes = self._transact(writes)
            try:
                self._loop.call_soon_threadsafe(_deliver, outcomes)
            except RuntimeError:  # the loop was closed without closing the store
                _log.warning("%s: results of %d writes had no taker", self._path, len(outcomes))
        try:
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:
            _log.warning("%s: the last checkpoint failed: %s", self._path, error)
        self._connection.close()

    def _gather(self) -> list[_Write]:
        """All writes that wait, up to a transaction's bounds. Empty when the writer stops."""
        first = self._held or self._queue.get()
        self._held = None
        if first is None:
            return []
        writes, size_bytes = [first], first.size_bytes
        while len(writes) < TRANSACTION_WRITES_MAX:
            try:
                write = self._queue.get_nowait()
            except Empty:
                break
            if write is None:
                self._queue.put(None)
                break
            size_bytes += write.size_bytes
            if size_bytes > TRANSACTION_BYTES_MAX:
                self._held = write
                break
            writes.append(write)
        return writes

    def _transact(self, writes: Sequence[_Write]) -> list[_Outcome]:
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            outcomes = [self._run_one(write) for write in writes]
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            if len(writes) > 1:
                # One of them may be at fault, say a large one on a full disk: each by itself.
                return [outcome for write in writes for outcome in self._transact([write])]
            _log.error("%s: a write failed: %s", self._path, error)
            return [_Outcome(writes[0], None, database_error(self._path, error))]
        return outcomes

    def _run_one(self, write: _Write) -> _Outcome:
        connection = self._connection
        connection.execute("SAVEPOINT write")
        try:
            outcome = _Outcome(write, write.step(connection), None)
        except sqlite3.Error:
            raise
        except Exception as error:
            if not isinstance(error, MomError):
                _log.exception("%s: a defect in a write", self._path)
            connection.execute("ROLLBACK TO write")
            outcome = _Outcome(write, None, error)
        connection.execute("RELEASE write")
        return outcome


def _deliver(outcomes: Sequence[_Outcome]) -> None:
    for write, result, error in outcomes:
        if error is None and write.after is not None:
            write.after(result)
        if write.future.done():  # its caller was cancelled; the write stands all the same
            continue
        if error is None:
            write.future.set_result(result)
        else:
            write.future.set_exception(error)


def database_error(path: Path, error: sqlite3.Error) -> StoreError:
    """The StoreError for a failure of SQLite itself."""
    if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
        return StoreError(
            f"the disk of {path} is full; make room, or shorten retention",
            code=ErrorCode.STORE_FULL,
            retry_after_ms=refusals.STORE_FULL_RETRY_AFTER_MS,
        )
    return refusals.store_unavailable(f"the database {path} failed: {error}; see to its disk")
