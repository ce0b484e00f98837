"""The data directory of the SQLite engine: one process, one format, a disk that may be full."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from mom_broker.storage import sqlite as engine
from mom_broker.storage.sqlite import SqliteStore
from mom_broker.storage.sqlite_files import DATABASE_NAME, FORMAT_VERSION
from mom_core.errors import ErrorCode, StoreError
from mom_core.names import PartitionId
from mom_core.ports import Commit, NewBatch
from mom_process.system import SystemClock


async def refusal(directory: Path) -> StoreError:
    with pytest.raises(StoreError) as refused:
        await SqliteStore(directory, SystemClock()).open()
    assert refused.value.code is ErrorCode.STORE_MISCONFIGURED
    return refused.value


async def test_a_directory_is_one_processs(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "data", SystemClock())
    await store.open()
    error = await refusal(tmp_path / "data")
    assert f"data directory {tmp_path}/data is held by process {os.getpid()} (" in error.message
    await store.close()
    again = SqliteStore(tmp_path / "data", SystemClock())
    await again.open()
    await again.close()


async def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path, SystemClock())
    await store.open()
    await store.close()
    with sqlite3.connect(tmp_path / DATABASE_NAME) as database:
        database.execute(f"PRAGMA user_version = {FORMAT_VERSION + 1}")
    database.close()
    error = await refusal(tmp_path)
    assert "newer version" in error.message
    assert str(FORMAT_VERSION + 1) in error.message
    await refusal(tmp_path)  # the lock was given back


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / DATABASE_NAME).write_bytes(b"not a database at all" * 1000)
    assert DATABASE_NAME in (await refusal(tmp_path)).message


async def test_a_path_that_is_no_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "can't be used" in (await refusal(tmp_path / "file")).message


async def test_a_disk_near_its_end_takes_no_messages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SqliteStore(tmp_path, SystemClock())
    await store.open()
    partition = PartitionId("f" * 32, 0)
    await store.claim(partition, 1)
    monkeypatch.setattr(engine, "DISK_RESERVE_BYTES", 1 << 60)
    with pytest.raises(StoreError, match="the disk of") as refused:
        await store.commit(Commit(partition, 1, 1, [NewBatch(b"x", 1, 1)]))
    assert refused.value.code is ErrorCode.STORE_FULL
    await store.commit(Commit(partition, 1, 1, journal=b"settled"))
    await store.close()


async def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path, SystemClock())
    await store.open()
    await store.close()
    with pytest.raises(StoreError, match="not open"):
        await store.get("a")
    with pytest.raises(StoreError, match="not open"):
        await store.write([])


async def test_a_directory_of_the_first_format_is_brought_up(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path, SystemClock())
    await store.open()
    partition = PartitionId("e" * 32, 0)
    await store.claim(partition, 1)
    await store.commit(Commit(partition, 1, 1, [NewBatch(b"x", 1, 1)]))
    await store.close()
    with sqlite3.connect(tmp_path / DATABASE_NAME) as database:
        database.executescript("DROP TABLE kept; PRAGMA user_version = 1;")
    database.close()
    again = SqliteStore(tmp_path, SystemClock())
    await again.open()
    await again.commit(Commit(partition, 1, 2, kept={"a": b"1"}))
    assert await again.read_kept(partition, ["a"]) == (b"1",)
    assert (await again.read(partition, 0, 10))[0].data == b"x"
    await again.close()
