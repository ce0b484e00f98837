"""One cluster of processes for the tests that leave it as they found it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from integration.cluster_processes import ClusterProcesses
from redis_server import RedisServer

# As long as the gateway tries a request. Nodes try the store for 5 s and then say what is wrong.
TRY_MS = 7_000


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
