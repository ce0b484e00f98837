"""The ``mom-gateway`` process."""

from __future__ import annotations

import logging
from pathlib import Path

import click
import uvloop

from mom_core import limits
from mom_core.errors import MomError
from mom_gateway.app import Gateway
from mom_gateway.settings import DEFAULT_LISTEN, DEFAULT_NODE, GatewaySettings
from mom_process.addresses import parse_address
from mom_process.flags import (
    access_flags,
    access_of,
    flag,
    log_flags,
    open_notice,
    options,
    version_flag,
)
from mom_process.log_lines import configure_logging
from mom_process.stopping import stop_event

_log = logging.getLogger(__name__)


@click.command(context_settings={"max_content_width": 100})
@flag("--listen", default=str(DEFAULT_LISTEN), metavar="HOST:PORT", help="Serve REST here.")
@flag(
    "--nodes",
    default=DEFAULT_NODE,
    metavar="HOST:PORT,...",
    help="Some nodes or masters; the others are learnt from them.",
)
@options(*access_flags())
@flag(
    "--auto-create",
    is_flag=True,
    default=False,
    help="Make unknown topics and queues at their first use. For development.",
)
@flag(
    "--body-bytes-max",
    type=click.IntRange(limits.KIB, limits.GATEWAY_BODIES_BYTES_MAX),
    default=limits.GATEWAY_BODY_BYTES_MAX_DEFAULT,
    help="The largest JSON body. Streamed bodies have no limit.",
)
@flag(
    "--drain-ms",
    type=click.IntRange(0, 600_000),
    default=1_000,
    help="After SIGTERM, serve so long on with Connection: close.",
)
@flag(
    "--try-ms",
    type=click.IntRange(100, 600_000),
    default=10_000,
    help="How long a request is tried while nodes or the store are in trouble, before it is "
    "answered 503.",
)
@options(*log_flags())
@version_flag("mom-gateway")
def main(
    *,
    listen: str,
    nodes: str,
    auth: str,
    cluster_token: str | None,
    cluster_token_file: Path | None,
    allow_unauthenticated_network_access: bool,
    auto_create: bool,
    body_bytes_max: int,
    drain_ms: int,
    try_ms: int,
    log_format: str,
    log_level: str,
) -> None:
    """Run a MOM gateway: REST for topics and queues. It keeps nothing; run as many as you like.

    /healthz, /readyz and /metrics are on the same port, and /docs shows what it offers.

    \b
    Example:
      mom-gateway --nodes 127.0.0.1:7071 --listen 127.0.0.1:8080
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
        settings = GatewaySettings(
            listen=address,
            nodes=tuple(one.strip() for one in nodes.split(",") if one.strip()),
            cluster_token=access.cluster_token,
            auth_disabled=access.open_to_all,
            allow_unauthenticated_network_access=allow_unauthenticated_network_access,
            auto_create=auto_create,
            body_bytes_max=body_bytes_max,
            drain_ms=drain_ms,
            try_ms=try_ms,
        )
        if access.open_to_all:
            _log.warning(open_notice(address))
        uvloop.run(_run(settings))
    except MomError as error:
        raise click.ClickException(error.message) from None


async def _run(settings: GatewaySettings) -> None:
    """Serve until SIGTERM or SIGINT, then drain. A second signal ends the process at once."""
    stop = stop_event()
    gateway = Gateway(settings)
    await gateway.start()
    await stop.wait()
    _log.info("stopping: finishing the requests under way")
    await gateway.stop()
    _log.info("stopped")


if __name__ == "__main__":
    main()
