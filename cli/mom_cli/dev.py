"""``mom dev``: store, master, nodes and gateway in one process and one event loop.

The parts are the same as in a cluster and speak gRPC to each other over loopback; only the store is
another one, SQLite in a directory, which one process can hold.
"""

from __future__ import annotations

from pathlib import Path

import click

from mom_cli.command import LocalCommand, examples, shared_of
from mom_cli.settings import Within

_SERVER_EXTRA = "pip install 'mom-mq[server]'"
# Where commands and clients look for nodes unless told otherwise.
MASTER_PORT = 7070
NODE_PORT = 7071


@click.command(
    cls=LocalCommand,
    help="Run all of MOM in this process, for development: a master, nodes and a gateway over an "
    "embedded SQLite store. Ctrl-C stops it; what was acknowledged is there at the next start.\n\n"
    "On 127.0.0.1 callers need no token. On another address they do, and the secret for the first "
    "one is made in the data directory.\n\n"
    "A second one beside it needs --data and --port: where the usual ports of master and nodes are "
    "taken and were not asked for, free ones are chosen and shown. A port that was asked for is "
    "taken or refused, and the process that has it is named.\n\n"
    + examples(
        "mom dev",
        "mom dev --data /tmp/mom --port 9000    a second one",
        "mom dev --host 0.0.0.0 --advertise mom.example.com",
    ),
)
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("mom-data"),
    show_default=True,
    envvar="MOM_DATA",
    show_envvar=True,
    help="The directory that everything is kept in.",
)
@click.option(
    "--port",
    type=Within(0, 65_535),
    default=8080,
    show_default=True,
    help="The gateway's port, for REST. 0 chooses a free one, here and below.",
)
@click.option(
    "--master-port",
    type=Within(0, 65_535),
    help=f"The master's port.  [default: {MASTER_PORT}, or a free one where that is taken]",
)
@click.option(
    "--node-port",
    type=Within(0, 65_535),
    help="The first node's port; the others follow.  "
    f"[default: {NODE_PORT}, or free ones where one is taken]",
)
@click.option(
    "--nodes",
    "nodes_count",
    type=Within(1, 16),
    default=3,
    show_default=True,
    help="How many nodes.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--advertise",
    metavar="HOST",
    default="",
    help="The name or address that clients on other machines reach --host by. Of 0.0.0.0 that is "
    "this machine's address towards the network, unless said here.",
)
@click.option(
    "--allow-unauthenticated-network-access",
    "allow_open",
    is_flag=True,
    help="Serve everyone who can reach --host, without tokens. All data is theirs.",
)
@click.option("--log-format", type=click.Choice(["human", "json"]), default="human")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="warning",
    show_default=True,
)
@click.pass_context
def dev(
    context: click.Context,
    data: Path,
    port: int,
    master_port: int | None,
    node_port: int | None,
    nodes_count: int,
    host: str,
    advertise: str,
    allow_open: bool,
    log_format: str,
    log_level: str,
) -> None:
    """Run all of MOM in this process."""
    try:
        from mom_cli.dev_cluster import DevCluster, DevSettings, run
    except ModuleNotFoundError as error:
        if (error.name or "mom_").startswith("mom_"):
            raise
        raise click.ClickException(
            f"mom dev runs the servers, and their packages are not installed ({error.name} is "
            f"missing): {_SERVER_EXTRA}"
        ) from None
    settings = DevSettings(
        data=data,
        host=host,
        advertise=advertise,
        port=port,
        master_port=master_port,
        node_port=node_port,
        nodes_count=nodes_count,
        allow_open=allow_open,
        log_format=log_format,
        log_level=log_level,
    )
    run(DevCluster(settings), as_json=shared_of(context).as_json)
