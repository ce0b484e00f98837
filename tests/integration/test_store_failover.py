"""A store that fails over without its newest writes: they are missed, and never replaced."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import mom_client
from integration.cluster_processes import ClusterProcesses
from mom_core.errors import ErrorCode
from mom_core.limits import OFFSET_GAP
from redis_server import RedisServer, valkey_program
from replication import in_sync, promote, replicated

KEPT = 50
LOST = 20


@pytest.fixture
def pair(tmp_path: Path) -> tuple[RedisServer, RedisServer]:
    """A primary and a replica of it."""
    primary = RedisServer(tmp_path / "primary", valkey_program())
    primary.start(["--repl-diskless-sync-delay", "0"])
    replica = RedisServer(tmp_path / "replica", valkey_program())
    replica.start(["--replicaof", "127.0.0.1", str(primary.port)])
    return primary, replica


def test_a_lost_tail_is_shown_and_its_offsets_are_not_used_again(
    pair: tuple[RedisServer, RedisServer], tmp_path: Path
) -> None:
    try:
        with ClusterProcesses(tmp_path, pair[0].url, nodes=1) as cluster:
            asyncio.run(fail_over(cluster, *pair))
    finally:
        for server in pair:
            server.stop()


async def fail_over(cluster: ClusterProcesses, primary: RedisServer, replica: RedisServer) -> None:
    (node,) = cluster.nodes.values()
    async with mom_client.connect(cluster.addresses) as client, cluster.rest() as rest:
        await in_sync(primary)
        await client.create_topic("orders")
        await client.publish_many("orders", [f"kept {number}" for number in range(KEPT)])
        await replicated(primary, replica)
        # Cut off; what is acknowledged from now on is on the primary's disk alone.
        replica.command("REPLICAOF", "NO", "ONE")
        await client.publish_many("orders", [f"lost {number}" for number in range(LOST)])
        reader = aiter(client.read("orders", follow=True))
        for _ in range(KEPT + LOST):
            await anext(reader)
        following = asyncio.ensure_future(anext(reader))
        primary.kill()
        promote(replica, primary)
        published = await client.publish("orders", "new")
        assert published.offset >= KEPT + OFFSET_GAP
        assert await node.gauge("mom_node_tails_lost") >= 1
        assert "data loss: the store lost the end of partition" in node.log()
        # Whoever stands in what was lost is told so, and where to go on.
        with pytest.raises(mom_client.OffsetError) as caught:
            await following
        assert caught.value.code is ErrorCode.DATA_LOSS
        path = "/v1/topics/orders/partitions/0/records"
        for offset in (KEPT + 1, KEPT + LOST):
            response = await rest.get(path, params={"offset": offset})
            problem = response.json()
            assert (response.status_code, problem["code"]) == (410, "data_loss"), problem
            assert published.offset >= problem["next_offset"] > KEPT + LOST
        # From the begin, and from where the gap ends, all goes on.
        found = [one.text() async for one in client.read("orders")]
        assert found == [*(f"kept {number}" for number in range(KEPT)), "new"]
        start = f"offset:{problem['next_offset']}"
        found = [one.text() async for one in client.read("orders", partition=0, start=start)]
        assert found == ["new"]
