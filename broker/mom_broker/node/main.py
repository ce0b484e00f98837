"""The ``mom-node`` process."""

from __future__ import annotations

import logging
import socket
from pathlib import Path
from typing import Any

import click

from mom_broker.node.app import Node
from mom_broker.node.settings import NodeSettings
from mom_broker.rpc.flags import access_of, flag, open_notice, server_flags
from mom_broker.rpc.logging import configure_logging
from mom_broker.rpc.ports import advertised, parse_address
from mom_broker.rpc.process import run_server
from mom_broker.rpc.system import SystemClock, SystemRandom
from mom_broker.storage.open import store_from_url
from mom_core import limits
from mom_core.errors import MomError
from mom_core.ports import Store

_log = logging.getLogger(__name__)


@click.command(context_settings={"max_content_width": 100})
@server_flags("127.0.0.1:7071", 7171)
@flag("--masters", default="", metavar="HOST:PORT,...", help="Masters to register with.")
@flag("--rack", default="", help="Failure domain of this node, such as its zone.")
@flag(
    "--cache-bytes",
    default=limits.NODE_CACHE_BYTES_MAX_DEFAULT,
    type=click.IntRange(min=limits.MIB),
    help="Batches kept in memory.",
)
def main(
    *,
    store: str,
    store_wait_ms: int,
    listen: str,
    advertise: str,
    id: str,
    masters: str,
    rack: str,
    cache_bytes: int,
    http_port: int,
    auth: str,
    cluster_token: str | None,
    cluster_token_file: Path | None,
    allow_unauthenticated_network_access: bool,
    log_format: str,
    log_level: str,
    **store_flags: Any,
) -> None:
    """Run a MOM node: it owns partitions of topics and queues and serves them over gRPC.

    \b
    Example:
      mom-node --store redis://127.0.0.1:6379 --masters 127.0.0.1:7070 --listen 127.0.0.1:7071
    """
    configure_logging(log_format, log_level)
    try:
        address = parse_address(listen)
        access = access_of(
            address,
            auth=auth,
            allow_unauthenticated=allow_unauthenticated_network_access,
            cluster_token=cluster_token,
            cluster_token_file=cluster_token_file,
        )
        settings = NodeSettings(
            node_id=id or f"{socket.gethostname()}-{address.port}",
            listen=listen,
            advertise=advertised(address, advertise),
            rack=rack,
            masters=tuple(one.strip() for one in masters.split(",") if one.strip()),
            cluster_token=access.cluster_token,
            open_to_all=access.open_to_all,
            cache_bytes_max=cache_bytes,
        )
        clock, random = SystemClock(), SystemRandom()
        opened = store_from_url(store, clock, **store_flags)
    except MomError as error:
        raise click.ClickException(error.message) from None
    if access.open_to_all:
        _log.warning(open_notice(address))

    def make(store: Store) -> Node:
        return Node(settings, store, clock, random)

    run_server(
        opened,
        make,
        http_host=address.host,
        http_port=http_port,
        store_wait_ms=store_wait_ms,
    )


if __name__ == "__main__":
    main()
