"""The engines that the suite runs over, each behind the same few verbs."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Protocol

import pytest

from mom_broker.storage.memory import MemoryStore
from mom_broker.storage.redis import RedisStore
from mom_broker.storage.sqlite import SqliteStore
from mom_core.names import PartitionId
from mom_core.ports import Store
from mom_process.system import SystemClock
from redis_server import RedisServer

_numbers = itertools.count(1)
MIB = 1 << 20


class Engine(Protocol):
    """How to make stores over one and the same data."""

    durable: bool
    full_after_bytes: int

    def make(self) -> Store:
        """A store, not yet opened."""

    def make_limited(self) -> Store:
        """A store that is full after about ``full_after_bytes``."""


class MemoryEngine:
    durable = False
    full_after_bytes = 2 * MIB

    def make(self) -> Store:
        return MemoryStore(SystemClock())

    def make_limited(self) -> Store:
        return MemoryStore(SystemClock(), capacity_bytes=self.full_after_bytes)


class SqliteEngine:
    durable = True
    full_after_bytes = 8 * MIB

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def make(self) -> Store:
        return SqliteStore(self._directory, SystemClock())

    def make_limited(self) -> Store:
        return SqliteStore(self._directory, SystemClock(), capacity_bytes=self.full_after_bytes)


class RedisEngine:
    """Over the session's Redis or Valkey."""

    durable = True
    full_after_bytes = 16 * MIB

    def __init__(self, request: pytest.FixtureRequest, program: str) -> None:
        self._request = request
        self._program = program
        self._namespace = f"test{next(_numbers)}"

    def make(self) -> Store:
        server: RedisServer = self._request.getfixturevalue(f"{self._program}_server")
        return RedisStore(server.url, SystemClock(), namespace=self._namespace)

    def make_limited(self) -> Store:
        server: RedisServer = self._request.getfixturevalue(f"own_{self._program}_server")
        server.start(["--maxmemory", str(self.full_after_bytes)])
        return RedisStore(server.url, SystemClock(), namespace=self._namespace)


@pytest.fixture(params=["memory", "sqlite", "redis", "valkey"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Engine:
    """Each engine in turn."""
    if request.param == "memory":
        return MemoryEngine()
    if request.param == "sqlite":
        return SqliteEngine(tmp_path / "data")
    return RedisEngine(request, request.param)


@pytest.fixture
async def store(engine: Engine) -> AsyncIterator[Store]:
    """An open store over nothing yet."""
    opened = engine.make()
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
async def limited_store(engine: Engine) -> AsyncIterator[Store]:
    """An open store that a few MiB fill."""
    opened = engine.make_limited()
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
async def reopen(engine: Engine, store: Store) -> AsyncIterator[Callable[[], Awaitable[Store]]]:
    """Closes ``store`` and opens another over the same data; skips an engine that keeps none."""
    if not engine.durable:
        pytest.skip("the engine keeps nothing")
    opened: list[Store] = []

    async def again() -> Store:
        await (opened[-1] if opened else store).close()
        opened.append(engine.make())
        await opened[-1].open()
        return opened[-1]

    yield again
    for one in opened:
        await one.close()


@pytest.fixture
def partition() -> PartitionId:
    """A partition that nothing was written to."""
    return new_partition()


def new_partition(index: int = 0) -> PartitionId:
    """A partition of a topic that no other test knows."""
    return PartitionId(f"{next(_numbers):032x}", index)


@pytest.fixture
def partitions() -> Callable[[], PartitionId]:
    """Makes partitions that nothing was written to."""
    return new_partition
