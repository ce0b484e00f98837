"""A Redis primary with a replica: waiting for it, and letting it take over."""

from __future__ import annotations

from polling import until
from redis_server import RedisServer


async def in_sync(primary: RedisServer, replicas: int = 1) -> None:
    """Wait until that many replicas follow the primary's stream of writes."""
    await until(
        lambda: primary.command("INFO", "replication").count("state=online") >= replicas,
        "replicas follow the primary",
    )


def promote(replica: RedisServer, primary: RedisServer) -> None:
    """Let the replica take over the role, and the address, of a primary that is dead."""
    assert not primary.running
    replica.command("REPLICAOF", "NO", "ONE")
    replica.command("CONFIG", "SET", "port", str(primary.port))
    replica.port = primary.port


async def replicated(primary: RedisServer, replica: RedisServer) -> None:
    """Wait until the replica has all that the primary has."""

    def offset(server: RedisServer) -> str:
        return server.command("INFO", "replication").partition("master_repl_offset:")[2].split()[0]

    await until(lambda: offset(primary) == offset(replica), "the replica has all")
