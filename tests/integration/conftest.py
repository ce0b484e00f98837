"""A broker for each module of tests, one cluster for those that leave it as they found it, and the
ways to them. A module that needs another broker or client has a fixture of that name of its own."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

import mom_client
from integration.broker_process import BrokerProcess
from integration.cluster_processes import ClusterProcesses
from mom_gateway.app import Gateway
from mom_gateway.settings import GatewaySettings
from mom_process.addresses import Address
from redis_server import RedisServer

# As long as the gateway tries a request. Nodes try the store for 5 s and then say what is wrong.
TRY_MS = 7_000
# Longer than any long poll.
REST_TIMEOUT_S = 60


class StoredCluster(ClusterProcesses):
    """A cluster and its Redis."""

    redis: RedisServer


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoredCluster]:
    """Three nodes, a master and a gateway over a Redis of their own."""
    directory = tmp_path_factory.mktemp("cluster")
    server = RedisServer(directory / "redis")
    server.start()
    gateway = {"MOM_TRY_MS": str(TRY_MS)}
    with StoredCluster(directory, server.url, nodes=3, gateway=gateway) as running:
        running.redis = server
        yield running
    server.stop()


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    """A master and two nodes over SQLite."""
    with BrokerProcess(2, tmp_path_factory.mktemp("broker")) as process:
        yield process


@pytest.fixture
async def client(broker: BrokerProcess) -> AsyncIterator[mom_client.Client]:
    """A client of the broker."""
    async with mom_client.connect(broker.addresses[0]) as connected:
        yield connected


@pytest.fixture
async def rest(broker: BrokerProcess) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway before the broker."""
    settings = GatewaySettings(
        listen=Address("127.0.0.1", 0),
        nodes=tuple(broker.addresses),
        auth_disabled=True,
        drain_ms=0,
    )
    gateway = Gateway(settings)
    await gateway.start()
    async with httpx.AsyncClient(base_url=gateway.url, timeout=REST_TIMEOUT_S) as connected:
        yield connected
    await gateway.stop()


@pytest.fixture
def name() -> str:
    """Of a topic or queue that no other test has."""
    return f"t-{uuid.uuid4().hex[:8]}"
