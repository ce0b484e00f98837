"""The data directory of the SQLite engine: its lock, its database file and the schema in it.

A batch's row id is its partition's number in the upper bits and its end offset in the lower 44, so
that a partition's batches lie in order in one b-tree that is appended to at its partitions' ends,
and reading on from an offset is one range scan. Batches are large: a page of 16 KiB keeps the chain
of a blob's overflow pages short.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import sys
from pathlib import Path
from typing import Final

from mom_broker.storage import refusals

DATABASE_NAME: Final = "mom.sqlite3"
LOCK_NAME: Final = "lock"
FORMAT_VERSION: Final = 2
# 17 trillion records a partition, half a million partitions.
OFFSET_BITS: Final = 44
PARTITION_NUMBER_MAX: Final = (1 << (63 - OFFSET_BITS)) - 1

PAGE_BYTES: Final = 16_384
# A checkpoint copies the WAL into the database with two more fsyncs, so it is made rare; the WAL
# file and the time of a recovery stay bounded by it.
CHECKPOINT_BYTES: Final = 64 << 20
CACHE_KIB: Final = 8_192
BUSY_TIMEOUT_MS: Final = 5_000

_SCHEMA: Final = """
CREATE TABLE partitions (
  number INTEGER PRIMARY KEY,
  topic_id TEXT NOT NULL,
  partition_index INTEGER NOT NULL,
  epoch INTEGER NOT NULL,
  next_offset INTEGER NOT NULL DEFAULT 0,
  log_start INTEGER NOT NULL DEFAULT 0,
  commit_number INTEGER NOT NULL DEFAULT 0,
  size_bytes INTEGER NOT NULL DEFAULT 0,
  last_append_time_ms INTEGER NOT NULL DEFAULT 0,
  last_outcomes TEXT,      -- of the last commit of this epoch, NULL before the first
  producers_count INTEGER NOT NULL DEFAULT 0,
  dropped_at_ms INTEGER,   -- a tombstone: late claims and commits are refused by it
  UNIQUE (topic_id, partition_index)
);
CREATE TABLE batches (
  id INTEGER PRIMARY KEY,  -- partition number << 44 | end offset
  record_count INTEGER NOT NULL,
  append_time_ms INTEGER NOT NULL,
  data BLOB NOT NULL
);
CREATE TABLE journal (
  id INTEGER PRIMARY KEY,  -- partition number << 44 | commit number
  data BLOB NOT NULL
);
CREATE TABLE snapshots (
  number INTEGER PRIMARY KEY,
  data BLOB NOT NULL
);
CREATE TABLE producers (
  number INTEGER NOT NULL,
  producer_id INTEGER NOT NULL,   -- as a signed number of 64 bits
  used INTEGER NOT NULL,          -- end offset of its last batch: the order of last use
  state TEXT NOT NULL,
  PRIMARY KEY (number, producer_id)
) WITHOUT ROWID;
CREATE TABLE entries (
  key TEXT PRIMARY KEY,
  value BLOB NOT NULL,
  revision INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE revision (only INTEGER PRIMARY KEY CHECK (only = 1), last INTEGER NOT NULL);
INSERT INTO revision VALUES (1, 0);
CREATE TABLE leases (
  name TEXT PRIMARY KEY,
  holder TEXT NOT NULL,
  token INTEGER NOT NULL,
  expires_at_ms INTEGER NOT NULL
) WITHOUT ROWID;
"""


# What version 2 has beside version 1.
_SCHEMA_2: Final = """
CREATE TABLE kept (
  number INTEGER NOT NULL,
  key TEXT NOT NULL,       -- the owner's own
  data BLOB NOT NULL,
  PRIMARY KEY (number, key)
);
"""


class DirectoryLock:
    """Keeps a data directory to one process, as long as it is held."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file = -1

    def take(self) -> None:
        """Create the directory if needed and lock it.

        Raises StoreError (store_misconfigured) that names the process that has it.
        """
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            self._file = os.open(self._directory / LOCK_NAME, flags, 0o644)
        except OSError as error:
            raise refusals.store_misconfigured(
                f"data directory {self._directory} can't be used: {error.strerror}; choose one "
                "that this user can write to"
            ) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(self._file, 200, 0).decode(errors="replace").strip()
            self.release()
            raise refusals.store_misconfigured(
                f"data directory {self._directory} is held by process {holder or 'unknown'}; stop "
                "it, or choose another directory"
            ) from None
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{os.getpid()} ({_program()})\n".encode(), 0)

    def release(self) -> None:
        """Let go of the directory."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _program() -> str:
    words = [os.path.basename(sys.argv[0]) or "python"]
    words += [word for word in sys.argv[1:2] if not word.startswith("-")]
    return " ".join(words)[:100]


def connect(path: Path) -> sqlite3.Connection:
    """A connection with the settings that durability and speed rest on."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
    connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA secure_delete = OFF")
    connection.execute(f"PRAGMA journal_size_limit = {CHECKPOINT_BYTES}")
    return connection


def connect_writer(path: Path) -> sqlite3.Connection:
    """The writer's connection, over a database that has the schema of this version.

    Raises StoreError (store_misconfigured) when a setting did not take, or the file is newer's.
    """
    connection = connect(path)
    try:
        _verify(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _verify(connection: sqlite3.Connection, path: Path) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > FORMAT_VERSION:
        raise refusals.store_misconfigured(
            f"data directory {path.parent} was written by a newer version of MOM (format {version},"
            f" this one reads up to {FORMAT_VERSION}): upgrade MOM, or choose another directory"
        )
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise refusals.store_misconfigured(
            f"{path}: journal_mode is {mode} where WAL is needed; choose a directory on a local "
            "file system"
        )
    synchronous = connection.execute("PRAGMA synchronous").fetchone()[0]
    if synchronous != 2:
        raise refusals.store_misconfigured(
            f"{path}: synchronous is {synchronous} where 2 (FULL) is needed; use a SQLite build "
            "that allows it"
        )
    pages = CHECKPOINT_BYTES // PAGE_BYTES
    connection.execute(f"PRAGMA wal_autocheckpoint = {pages}")
    missing = (_SCHEMA, _SCHEMA_2)[version:]
    if missing:
        connection.executescript(
            f"BEGIN IMMEDIATE; {' '.join(missing)} PRAGMA user_version = {FORMAT_VERSION}; COMMIT;"
        )


def connect_reader(path: Path) -> sqlite3.Connection:
    """A connection that can only read."""
    connection = connect(path)
    connection.execute("PRAGMA query_only = ON")
    return connection
