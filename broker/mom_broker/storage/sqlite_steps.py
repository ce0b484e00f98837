"""What each call of the Store port does to the database. Synchronous: runs in the engine's threads.

Steps that write run inside the writer's transaction; steps that read run on a reader's connection.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from mom_broker.storage import refusals
from mom_broker.storage.outcomes import outcomes_of_text, outcomes_to_text
from mom_broker.storage.sqlite_files import OFFSET_BITS, PARTITION_NUMBER_MAX
from mom_core import limits, producers
from mom_core.errors import ErrorCode, StoreError
from mom_core.names import PartitionId
from mom_core.ports import (
    Appended,
    AppendOutcome,
    BatchHead,
    Commit,
    CommitResult,
    Durability,
    KeyEvent,
    KeySnapshot,
    KeyValue,
    KeyWrite,
    LeaseGrant,
    Loaded,
    NewBatch,
    PartitionState,
    StoredBatch,
    Trimmed,
    TrimRule,
)
from mom_core.trimming import BatchExtent, plan_trim

# A tombstone is against stragglers of the dropped partition; none lives this long.
TOMBSTONE_MS: Final = 24 * 3600 * 1000
_OFFSET_LIMIT: Final = 1 << OFFSET_BITS
_OFFSET_MASK: Final = _OFFSET_LIMIT - 1


class _Row(NamedTuple):
    number: int
    epoch: int
    next_offset: int
    log_start: int
    commit_number: int
    size_bytes: int
    last_append_time_ms: int
    last_outcomes: str | None
    producers_count: int
    dropped_at_ms: int | None


_SELECT_ROW: Final = (
    f"SELECT {', '.join(_Row._fields)} FROM partitions WHERE topic_id = ? AND partition_index = ?"
)


def _key(partition: PartitionId) -> tuple[str, int]:
    return partition.topic_id, partition.index


def _row(connection: sqlite3.Connection, partition: PartitionId) -> _Row | None:
    found = connection.execute(_SELECT_ROW, _key(partition)).fetchone()
    row = _Row(*found) if found else None
    if row is not None and row.dropped_at_ms is not None:
        raise refusals.dropped(partition)
    return row


def _owned(connection: sqlite3.Connection, partition: PartitionId, epoch: int) -> _Row:
    row = _row(connection, partition)
    if row is None or row.epoch != epoch:
        raise refusals.stale_epoch(partition, epoch, row.epoch if row else 0)
    return row


def _range(number: int) -> tuple[int, int]:
    """The ids of a partition's batches and journal entries: first (excluded) and last."""
    return number << OFFSET_BITS, (number << OFFSET_BITS) | _OFFSET_MASK


# Partitions: steps that write.


def claim(connection: sqlite3.Connection, partition: PartitionId, epoch: int) -> PartitionState:
    """See :meth:`mom_core.ports.Store.claim`, and so on for each step."""
    row = _row(connection, partition)
    if row is None:
        if epoch <= 0:
            raise refusals.stale_epoch(partition, epoch, 0)
        cursor = connection.execute(
            "INSERT INTO partitions (topic_id, partition_index, epoch) VALUES (?, ?, ?)",
            (*_key(partition), epoch),
        )
        if (cursor.lastrowid or 0) > PARTITION_NUMBER_MAX:
            raise StoreError(
                f"the store holds {PARTITION_NUMBER_MAX} partitions, the most it can",
                code=ErrorCode.STORE_FULL,
            )
        return PartitionState(epoch, 0, 0, 0, 0, 0, (), tail_lost=False)
    if epoch <= row.epoch:
        raise refusals.stale_epoch(partition, epoch, row.epoch)
    connection.execute(
        "UPDATE partitions SET epoch = ?, last_outcomes = NULL WHERE number = ?",
        (epoch, row.number),
    )
    return PartitionState(
        epoch=epoch,
        next_offset=row.next_offset,
        log_start=row.log_start,
        commit_number=row.commit_number,
        size_bytes=row.size_bytes,
        last_append_time_ms=row.last_append_time_ms,
        gaps=(),
        tail_lost=False,
    )


def commit(connection: sqlite3.Connection, commit: Commit) -> CommitResult:
    row = _owned(connection, commit.partition, commit.epoch)
    if commit.number == row.commit_number and row.last_outcomes is not None:
        return CommitResult(outcomes_of_text(row.last_outcomes), row.next_offset, Durability.FSYNC)
    if commit.number != row.commit_number + 1:
        raise refusals.stale_commit(commit.partition, row.epoch, commit.number, row.commit_number)
    appending = _Appending(connection, row)
    appended = tuple(map(appending.append, commit.batches))
    _keep_delivery(connection, row.number, commit)
    _keep_beside(connection, row.number, commit)
    connection.execute(
        "UPDATE partitions SET next_offset = ?, commit_number = ?, size_bytes = ?,"
        " last_append_time_ms = ?, last_outcomes = ?, producers_count = ? WHERE number = ?",
        (
            appending.next_offset,
            commit.number,
            appending.size_bytes,
            appending.last_append_time_ms,
            outcomes_to_text(appended),
            appending.producers_count,
            row.number,
        ),
    )
    return CommitResult(appended, appending.next_offset, Durability.FSYNC)


def _keep_delivery(connection: sqlite3.Connection, number: int, commit: Commit) -> None:
    if commit.snapshot is not None:
        connection.execute(
            "INSERT OR REPLACE INTO snapshots VALUES (?, ?)", (number, commit.snapshot)
        )
        connection.execute("DELETE FROM journal WHERE id BETWEEN ? AND ?", _range(number))
    elif commit.journal:
        connection.execute(
            "INSERT INTO journal VALUES (?, ?)",
            ((number << OFFSET_BITS) | commit.number, commit.journal),
        )


def _keep_beside(connection: sqlite3.Connection, number: int, commit: Commit) -> None:
    for key, value in commit.kept.items():
        if value is None:
            connection.execute("DELETE FROM kept WHERE number = ? AND key = ?", (number, key))
        else:
            connection.execute("INSERT OR REPLACE INTO kept VALUES (?, ?, ?)", (number, key, value))


class _Appending:
    """The batches of one commit going into the log, one after the other."""

    def __init__(self, connection: sqlite3.Connection, row: _Row) -> None:
        self._connection = connection
        self._number = row.number
        self.next_offset = row.next_offset
        self.size_bytes = row.size_bytes
        self.last_append_time_ms = row.last_append_time_ms
        self.producers_count = row.producers_count

    def append(self, batch: NewBatch) -> Appended:
        if batch.producer_id:
            state = self._producer(batch.producer_id)
            check = producers.check_sequence(state, batch.sequence)
            if check.outcome is not AppendOutcome.APPENDED:
                return Appended(check.outcome, check.base_offset)
            base_offset = self._insert(batch)
            self._remember(batch, state, base_offset)
            return Appended(AppendOutcome.APPENDED, base_offset)
        return Appended(AppendOutcome.APPENDED, self._insert(batch))

    def _insert(self, batch: NewBatch) -> int:
        base_offset = self.next_offset
        end_offset = base_offset + batch.count
        if end_offset >= _OFFSET_LIMIT:
            raise StoreError(
                f"a partition of this store ends at offset {_OFFSET_LIMIT}: use a new topic",
                code=ErrorCode.STORE_FULL,
            )
        if batch.count:
            self._connection.execute(
                "INSERT INTO batches VALUES (?, ?, ?, ?)",
                (
                    (self._number << OFFSET_BITS) | end_offset,
                    batch.count,
                    batch.append_time_ms,
                    batch.data,
                ),
            )
        self.next_offset = end_offset
        self.size_bytes += len(batch.data)
        self.last_append_time_ms = batch.append_time_ms
        return base_offset

    def _producer(self, producer_id: int) -> producers.ProducerState | None:
        found = self._connection.execute(
            "SELECT state FROM producers WHERE number = ? AND producer_id = ?",
            (self._number, _signed(producer_id)),
        ).fetchone()
        return producers.state_of_text(found[0]) if found else None

    def _remember(
        self, batch: NewBatch, state: producers.ProducerState | None, base_offset: int
    ) -> None:
        after = producers.appended(state, batch.sequence, base_offset)
        self._connection.execute(
            "INSERT OR REPLACE INTO producers VALUES (?, ?, ?, ?)",
            (self._number, _signed(batch.producer_id), self.next_offset, after.to_text()),
        )
        if state is None and batch.producer_id < producers.LASTING_PRODUCER:
            self.producers_count += 1
            if self.producers_count > limits.PRODUCERS_PER_PARTITION_MAX:
                self._forget_oldest()

    def _forget_oldest(self) -> None:
        # A tenth at once: the scan for the oldest is then rare, and no index has to be kept.
        count = max(1, limits.PRODUCERS_PER_PARTITION_MAX // 10)
        self._connection.execute(
            # A lasting one's id is negative as SQLite has it.
            "DELETE FROM producers WHERE number = ? AND producer_id IN"
            " (SELECT producer_id FROM producers WHERE number = ? AND producer_id >= 0"
            " ORDER BY used LIMIT ?)",
            (self._number, self._number, count),
        )
        self.producers_count -= count


def _signed(unsigned: int) -> int:
    return unsigned - (1 << 64) if unsigned >= 1 << 63 else unsigned


def trim(
    connection: sqlite3.Connection, partition: PartitionId, epoch: int, rule: TrimRule
) -> Trimmed:
    row = _owned(connection, partition, epoch)
    plan = plan_trim(
        _extents(connection, row.number),
        rule,
        log_start=row.log_start,
        next_offset=row.next_offset,
        size_bytes=row.size_bytes,
        batches_max=limits.TRIM_BATCHES_MAX,
    )
    first = row.number << OFFSET_BITS
    if plan.removed:
        connection.execute(
            "DELETE FROM batches WHERE id > ? AND id <= ?", (first, first | plan.end_offset)
        )
    if plan.removed or plan.log_start != row.log_start:
        connection.execute(
            "UPDATE partitions SET log_start = ?, size_bytes = ? WHERE number = ?",
            (plan.log_start, plan.size_bytes, row.number),
        )
    return Trimmed(plan.log_start, plan.size_bytes, plan.more)


def _extents(connection: sqlite3.Connection, number: int) -> Iterator[BatchExtent]:
    rows = connection.execute(
        "SELECT id, append_time_ms, length(data) FROM batches"
        " WHERE id > ? AND id <= ? ORDER BY id LIMIT ?",
        (*_range(number), limits.TRIM_BATCHES_MAX + 1),
    )
    for row_id, append_time_ms, size_bytes in rows:
        yield BatchExtent(row_id & _OFFSET_MASK, append_time_ms, size_bytes)


def drop(connection: sqlite3.Connection, partition: PartitionId, now_ms: int) -> int | None:
    """Leave a tombstone and return the partition's number; None when it was dropped before."""
    found = connection.execute(_SELECT_ROW, _key(partition)).fetchone()
    if found is None:
        connection.execute(
            "INSERT INTO partitions (topic_id, partition_index, epoch, dropped_at_ms)"
            " VALUES (?, ?, 0, ?)",
            (*_key(partition), now_ms),
        )
        return None
    row = _Row(*found)
    if row.dropped_at_ms is None:
        connection.execute(
            "UPDATE partitions SET dropped_at_ms = ?, size_bytes = 0 WHERE number = ?",
            (now_ms, row.number),
        )
    return row.number


def clear(connection: sqlite3.Connection, number: int) -> bool:
    """Delete some of what a dropped partition held; return whether there is more."""
    deleted = connection.execute(
        "DELETE FROM batches WHERE id IN"
        " (SELECT id FROM batches WHERE id > ? AND id <= ? ORDER BY id LIMIT ?)",
        (*_range(number), limits.TRIM_BATCHES_MAX),
    ).rowcount
    if deleted == limits.TRIM_BATCHES_MAX:
        return True
    deleted = connection.execute(
        "DELETE FROM kept WHERE rowid IN (SELECT rowid FROM kept WHERE number = ? LIMIT ?)",
        (number, limits.TRIM_BATCHES_MAX),
    ).rowcount
    if deleted == limits.TRIM_BATCHES_MAX:
        return True
    connection.execute("DELETE FROM journal WHERE id BETWEEN ? AND ?", _range(number))
    connection.execute("DELETE FROM snapshots WHERE number = ?", (number,))
    connection.execute("DELETE FROM producers WHERE number = ?", (number,))
    return False


def dropped_numbers(connection: sqlite3.Connection) -> list[int]:
    """The partitions with a tombstone, whose contents a crash may have left behind."""
    rows = connection.execute("SELECT number FROM partitions WHERE dropped_at_ms IS NOT NULL")
    return [number for (number,) in rows]


def forget_tombstones(connection: sqlite3.Connection, now_ms: int) -> None:
    """Remove tombstones that no straggler can meet any more. Their contents must be cleared."""
    connection.execute("DELETE FROM partitions WHERE dropped_at_ms < ?", (now_ms - TOMBSTONE_MS,))


# Partitions: steps that read.


def load(connection: sqlite3.Connection, partition: PartitionId, epoch: int) -> Loaded:
    # One transaction, so that snapshot and journal are of the same moment.
    connection.execute("BEGIN")
    try:
        row = _owned(connection, partition, epoch)
        snapshot = connection.execute(
            "SELECT data FROM snapshots WHERE number = ?", (row.number,)
        ).fetchone()
        journal = connection.execute(
            "SELECT data FROM journal WHERE id BETWEEN ? AND ? ORDER BY id", _range(row.number)
        ).fetchall()
    finally:
        connection.execute("COMMIT")
    return Loaded(snapshot[0] if snapshot else None, tuple(data for (data,) in journal))


def number_of(connection: sqlite3.Connection, partition: PartitionId) -> int | None:
    """The partition's number; None when it is gone."""
    found = connection.execute(
        "SELECT number FROM partitions"
        " WHERE topic_id = ? AND partition_index = ? AND dropped_at_ms IS NULL",
        _key(partition),
    ).fetchone()
    return found[0] if found else None


def read(
    connection: sqlite3.Connection, partition: PartitionId, offset: int, max_bytes: int
) -> tuple[StoredBatch, ...]:
    number = number_of(connection, partition)
    if number is None or offset >= _OFFSET_LIMIT:
        return ()
    first, last = _range(number)
    cursor = connection.execute(
        "SELECT id, record_count, append_time_ms, length(data), data FROM batches"
        " WHERE id > ? AND id <= ? ORDER BY id",
        (first | max(0, offset), last),
    )
    batches: list[StoredBatch] = []
    room = max_bytes
    for row_id, count, append_time_ms, size_bytes, data in cursor:
        room -= size_bytes
        if room < 0 and batches:
            break
        batches.append(StoredBatch((row_id & _OFFSET_MASK) - count, count, append_time_ms, data))
    cursor.close()
    return tuple(batches)


def read_heads(
    connection: sqlite3.Connection,
    partition: PartitionId,
    offset: int,
    batches_max: int,
    bytes_each: int,
    bytes_per_record: int,
) -> tuple[BatchHead, ...]:
    number = number_of(connection, partition)
    if number is None or offset >= _OFFSET_LIMIT:
        return ()
    first, last = _range(number)
    rows = connection.execute(
        "SELECT id, record_count, append_time_ms, substr(data, 1, ? + ? * record_count)"
        " FROM batches WHERE id > ? AND id <= ? ORDER BY id LIMIT ?",
        (bytes_each, bytes_per_record, first | max(0, offset), last, batches_max),
    )
    return tuple(
        BatchHead((row_id & _OFFSET_MASK) - count, count, append_time_ms, head)
        for row_id, count, append_time_ms, head in rows
    )


def read_kept(
    connection: sqlite3.Connection, partition: PartitionId, keys: Sequence[str]
) -> tuple[bytes | None, ...]:
    number = number_of(connection, partition)
    if number is None:
        return (None,) * len(keys)
    found = (
        connection.execute(
            "SELECT data FROM kept WHERE number = ? AND key = ?", (number, key)
        ).fetchone()
        for key in keys
    )
    return tuple(row[0] if row else None for row in found)


def offset_at(connection: sqlite3.Connection, partition: PartitionId, timestamp_ms: int) -> int:
    connection.execute("BEGIN")
    try:
        row = _row(connection, partition)
        return _bisect_time(connection, row, timestamp_ms) if row else 0
    finally:
        connection.execute("COMMIT")


def _bisect_time(connection: sqlite3.Connection, row: _Row, timestamp_ms: int) -> int:
    # Append times ascend with offsets: search by offset, since no index by time is kept.
    first, last = _range(row.number)
    low, high, found = 0, row.next_offset, row.next_offset
    while low < high:
        middle = (low + high) // 2
        batch = connection.execute(
            "SELECT id, record_count, append_time_ms FROM batches"
            " WHERE id > ? AND id <= ? ORDER BY id LIMIT 1",
            (first | middle, last),
        ).fetchone()
        if batch is None:
            high = middle
        elif batch[2] >= timestamp_ms:
            found = (batch[0] & _OFFSET_MASK) - batch[1]
            high = min(middle, found)
        else:
            low = batch[0] & _OFFSET_MASK
    return max(row.log_start, found)


# The control plane.


def get(connection: sqlite3.Connection, key: str) -> KeyValue | None:
    found = connection.execute(
        "SELECT key, value, revision FROM entries WHERE key = ?", (key,)
    ).fetchone()
    return KeyValue(*found) if found else None


def entries_under(connection: sqlite3.Connection, prefix: str) -> tuple[KeyValue, ...]:
    """All entries under a prefix, sorted by key."""
    rows = connection.execute(
        "SELECT key, value, revision FROM entries WHERE key >= ? AND key < ? ORDER BY key",
        (prefix, prefix + "\U0010ffff"),
    )
    return tuple(KeyValue(*row) for row in rows)


def snapshot_of(connection: sqlite3.Connection, prefix: str) -> KeySnapshot:
    """All entries under a prefix and the revision they are of."""
    connection.execute("BEGIN")
    try:
        entries = entries_under(connection, prefix)
        return KeySnapshot(entries, _revision(connection))
    finally:
        connection.execute("COMMIT")


def _revision(connection: sqlite3.Connection) -> int:
    last: int = connection.execute("SELECT last FROM revision").fetchone()[0]
    return last


class Written(NamedTuple):
    """The outcome of a control-plane write."""

    revision: int
    events: tuple[KeyEvent, ...]


def write(connection: sqlite3.Connection, writes: Sequence[KeyWrite]) -> Written:
    for one in writes:
        if one.expected_revision is not None:
            held = get(connection, one.key)
            revision = held.revision if held else 0
            if revision != one.expected_revision:
                raise refusals.conflict(one.key, one.expected_revision, revision)
    revision = _revision(connection)
    if not writes:
        return Written(revision, ())
    revision += 1
    connection.execute("UPDATE revision SET last = ?", (revision,))
    for one in writes:
        if one.value is None:
            connection.execute("DELETE FROM entries WHERE key = ?", (one.key,))
        else:
            connection.execute(
                "INSERT OR REPLACE INTO entries VALUES (?, ?, ?)", (one.key, one.value, revision)
            )
    return Written(revision, tuple(KeyEvent(one.key, one.value, revision) for one in writes))


def acquire_lease(
    connection: sqlite3.Connection, name: str, holder: str, ttl_ms: int, now_ms: int
) -> LeaseGrant:
    found = connection.execute(
        "SELECT holder, token, expires_at_ms FROM leases WHERE name = ?", (name,)
    ).fetchone()
    lease = LeaseGrant(*found) if found else LeaseGrant("", 0, 0)
    if lease.holder != holder and lease.expires_at_ms > now_ms:
        return lease
    token = lease.token + (lease.holder != holder)
    grant = LeaseGrant(holder, token, now_ms + ttl_ms)
    connection.execute("INSERT OR REPLACE INTO leases VALUES (?, ?, ?, ?)", (name, *grant))
    return grant


def release_lease(connection: sqlite3.Connection, name: str, holder: str) -> None:
    connection.execute(
        "UPDATE leases SET holder = '', expires_at_ms = 0 WHERE name = ? AND holder = ?",
        (name, holder),
    )


# Room.


def used_bytes(connection: sqlite3.Connection) -> int:
    """Bytes of the database's pages that hold something."""
    pages: int = connection.execute("PRAGMA page_count").fetchone()[0]
    free: int = connection.execute("PRAGMA freelist_count").fetchone()[0]
    size: int = connection.execute("PRAGMA page_size").fetchone()[0]
    return (pages - free) * size
