"""Fixtures for all tests: a real redis-server, started here and stopped here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from redis_server import RedisServer, valkey_program


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One redis-server for the session, with the settings that MOM asks for."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """The same with Valkey."""
    server = RedisServer(tmp_path_factory.mktemp("valkey"), valkey_program())
    server.start()
    yield server
    server.stop()


@pytest.fixture
def own_redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A redis-server of the test's own, which it may stop, kill and configure."""
    server = RedisServer(tmp_path / "redis")
    yield server
    server.stop()


@pytest.fixture
def own_valkey_server(tmp_path: Path) -> Iterator[RedisServer]:
    """The same with Valkey."""
    server = RedisServer(tmp_path / "valkey", valkey_program())
    yield server
    server.stop()
