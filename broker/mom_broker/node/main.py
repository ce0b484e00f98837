"""The ``mom-node`` process."""

from __future__ import annotations

from typing import Any

import click

from mom_broker.node.app import Node
from mom_broker.node.settings import NodeSettings
from mom_broker.rpc.flags import server_flags
from mom_broker.rpc.process import ServerStart, run_server
from mom_broker.storage.open import store_from_url
from mom_core import limits
from mom_core.ports import Store
from mom_process.flags import flag, version_flag


@click.command(context_settings={"max_content_width": 100})
@version_flag("mom-node")
@server_flags("127.0.0.1:7071", 7171)
@flag("--masters", default="", metavar="HOST:PORT,...", help="Masters to register with.")
@flag("--rack", default="", help="Failure domain of this node, such as its zone.")
@flag(
    "--cache-bytes",
    default=limits.NODE_CACHE_BYTES_MAX_DEFAULT,
    type=click.IntRange(min=limits.MIB),
    help="Batches kept in memory.",
)
def main(*, masters: str, rack: str, cache_bytes: int, **flags: Any) -> None:
    """Run a MOM node: it owns partitions of topics and queues and serves them over gRPC.

    \b
    Example:
      mom-node --store redis://127.0.0.1:6379 --masters 127.0.0.1:7070 --listen 127.0.0.1:7071
    """

    def make(start: ServerStart, store: Store) -> Node:
        settings = NodeSettings(
            node_id=start.server_id,
            listen=start.listen,
            advertise=start.advertise,
            rack=rack,
            masters=tuple(one.strip() for one in masters.split(",") if one.strip()),
            cluster_token=start.cluster_token,
            open_to_all=start.open_to_all,
            cache_bytes_max=cache_bytes,
        )
        return Node(settings, store, start.clock, start.random)

    run_server(make, store_from_url, **flags)


if __name__ == "__main__":
    main()
