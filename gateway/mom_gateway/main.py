"""The ``mom-gateway`` process."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click
import uvloop

from mom_core import limits
from mom_core.errors import InvalidArgumentError, MomError
from mom_gateway.app import Gateway
from mom_gateway.listening import Address, parse_address
from mom_gateway.log_lines import LOG_FORMATS, LOG_LEVELS, configure_logging
from mom_gateway.settings import DEFAULT_LISTEN, DEFAULT_NODE, GatewaySettings

_log = logging.getLogger(__name__)

ALLOW_FLAG: Final = "--allow-unauthenticated-network-access"
AUTH_MODES: Final = ("auto", "required", "disabled")
CommandT = TypeVar("CommandT", bound=Callable[..., Any])

_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


def _flag(name: str, **settings: Any) -> Callable[[CommandT], CommandT]:
    """An option ``--name`` that the environment variable ``MOM_NAME`` may give, too."""
    variable = "MOM_" + name.removeprefix("--").replace("-", "_").upper()
    settings.setdefault("show_default", True)
    return click.option(name, envvar=variable, show_envvar=True, **settings)


@click.command(context_settings={"max_content_width": 100})
@_flag("--listen", default=str(DEFAULT_LISTEN), metavar="HOST:PORT", help="Serve REST here.")
@_flag(
    "--nodes",
    default=DEFAULT_NODE,
    metavar="HOST:PORT,...",
    help="Some nodes or masters; the others are learnt from them.",
)
@_flag(
    "--auth",
    type=click.Choice(AUTH_MODES),
    default="auto",
    help="Whether callers need a token. auto: yes beyond loopback.",
)
@_flag(
    "--cluster-token-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=None,
    help="A file with the secret that the cluster's processes share. The variable "
    "MOM_CLUSTER_TOKEN may hold the secret itself.",
)
@click.option("--cluster-token", envvar="MOM_CLUSTER_TOKEN", hidden=True, default=None)
@_flag(
    ALLOW_FLAG,
    is_flag=True,
    default=False,
    help="Serve everyone who can reach this host, without tokens. All data is theirs.",
)
@_flag(
    "--auto-create",
    is_flag=True,
    default=False,
    help="Make unknown topics and queues at their first use. For development.",
)
@_flag(
    "--body-bytes-max",
    type=click.IntRange(limits.KIB, limits.GATEWAY_BODIES_BYTES_MAX),
    default=limits.GATEWAY_BODY_BYTES_MAX_DEFAULT,
    help="The largest JSON body. Streamed bodies have no limit.",
)
@_flag(
    "--drain-ms",
    type=click.IntRange(0, 600_000),
    default=1_000,
    help="After SIGTERM, serve so long on with Connection: close.",
)
@_flag(
    "--try-ms",
    type=click.IntRange(100, 600_000),
    default=10_000,
    help="How long a request is tried while nodes or the store are in trouble, before it is "
    "answered 503.",
)
@_flag("--log-format", type=click.Choice(LOG_FORMATS), default="human", help="Log lines.")
@_flag("--log-level", type=click.Choice(LOG_LEVELS), default="info", help="How much to log.")
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
        if cluster_token_file is not None:
            cluster_token = cluster_token_file.read_text().strip()
        is_open = _is_open(address, auth, allow_unauthenticated_network_access)
        if not is_open and not cluster_token:
            raise InvalidArgumentError(
                "with authentication on, the gateway asks nodes who a token stands for, and needs "
                "the cluster's own secret for that: set MOM_CLUSTER_TOKEN or --cluster-token-file",
                field="cluster-token",
            )
        settings = GatewaySettings(
            listen=address,
            nodes=tuple(one.strip() for one in nodes.split(",") if one.strip()),
            cluster_token=cluster_token or None,
            auth_disabled=is_open,
            allow_unauthenticated_network_access=allow_unauthenticated_network_access,
            auto_create=auto_create,
            body_bytes_max=body_bytes_max,
            drain_ms=drain_ms,
            try_ms=try_ms,
        )
        if is_open:
            _log.warning(_open_notice(address))
        uvloop.run(_run(settings))
    except MomError as error:
        raise click.ClickException(error.message) from None


def _is_open(address: Address, auth: str, allowed: bool) -> bool:
    """Whether callers need no token. Raises InvalidArgumentError when that is not allowed."""
    if auth == "required":
        return False
    if address.is_loopback or allowed:
        return True
    if auth == "disabled":
        raise InvalidArgumentError(
            f"{address} can be reached from the network, and --auth=disabled would give everyone "
            f"all data. Listen on 127.0.0.1, turn authentication on, or say {ALLOW_FLAG}",
            field="auth",
        )
    return False


def _open_notice(address: Address) -> str:
    if address.is_loopback:
        return f"authentication is off: any process of this machine may use {address}"
    return f"authentication is off: EVERYONE who can reach {address} may read and delete everything"


async def _run(settings: GatewaySettings) -> None:
    """Serve until SIGTERM or SIGINT, then drain. A second signal ends the process at once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        stop.set()
        for one in _STOP_SIGNALS:
            loop.remove_signal_handler(one)
            signal.signal(one, signal.SIG_DFL)

    for one in _STOP_SIGNALS:
        loop.add_signal_handler(one, on_signal)
    gateway = Gateway(settings)
    await gateway.start()
    await stop.wait()
    _log.info("stopping: finishing the requests under way")
    await gateway.stop()
    _log.info("stopped")


if __name__ == "__main__":
    main()
