"""The ``mom-master`` process."""

from __future__ import annotations

import logging
import socket
from pathlib import Path
from typing import Any

import click

from mom_broker.master.app import Master
from mom_broker.master.settings import MasterSettings
from mom_broker.rpc.flags import access_of, open_notice, server_flags
from mom_broker.rpc.logging import configure_logging
from mom_broker.rpc.ports import advertised, parse_address
from mom_broker.rpc.process import run_server
from mom_broker.rpc.system import SystemClock, SystemRandom
from mom_broker.storage.open import store_from_url
from mom_core.errors import MomError
from mom_core.ports import Store

_log = logging.getLogger(__name__)


@click.command(context_settings={"max_content_width": 100})
@server_flags("127.0.0.1:7070", 7170)
def main(
    *,
    store: str,
    store_wait_ms: int,
    listen: str,
    advertise: str,
    id: str,
    http_port: int,
    auth: str,
    cluster_token: str | None,
    cluster_token_file: Path | None,
    allow_unauthenticated_network_access: bool,
    log_format: str,
    log_level: str,
    **store_flags: Any,
) -> None:
    """Run a MOM master: it registers nodes, places partitions on them and serves administration.

    Several may run over one store; one leads, and another takes over within three seconds.

    \b
    Example:
      mom-master --store redis://127.0.0.1:6379 --listen 127.0.0.1:7070
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
        settings = MasterSettings(
            master_id=id or f"{socket.gethostname()}-{address.port}",
            listen=listen,
            advertise=advertised(address, advertise),
            cluster_token=access.cluster_token,
            open_to_all=access.open_to_all,
        )
        clock, random = SystemClock(), SystemRandom()
        opened = store_from_url(store, clock, **store_flags)
    except MomError as error:
        raise click.ClickException(error.message) from None
    if access.open_to_all:
        _log.warning(open_notice(address))

    def make(store: Store) -> Master:
        return Master(settings, store, clock, random)

    run_server(
        opened,
        make,
        http_host=address.host,
        http_port=http_port,
        store_wait_ms=store_wait_ms,
    )


if __name__ == "__main__":
    main()
