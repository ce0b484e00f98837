"""``kubectl mom connect``: from a laptop to a cluster, with a token that ends by itself."""

from __future__ import annotations

import asyncio
import getpass
from typing import Any, Final

import click

from mom_cli.command import LocalCommand, examples, shared_of
from mom_cli.kubectl import Kubectl, Tunnel, kubectl_options
from mom_cli.output import print_json
from mom_cli.settings import Within, duration

GATEWAY_PORT: Final = 8080
LIFETIME_MS_DEFAULT: Final = 8 * 3600 * 1000


@click.command(
    cls=LocalCommand,
    help="Open a tunnel to a cluster's gateway and print its URL and a token for it.\n\n"
    "The token is made for this connection and ends after --expires. The tunnel stays open until "
    "Ctrl-C; kubectl must be set up for the Kubernetes cluster.\n\n"
    + examples(
        "kubectl mom connect",
        "kubectl mom connect my-mom -n messaging --port 8080",
        "kubectl mom connect --scope 'read:orders' --expires 1h",
    ),
)
@click.argument("name", metavar="[CLUSTER]", required=False)
@kubectl_options
@click.option("--port", type=Within(0, 65_535), default=0, help="Local port. [default: a free one]")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    default=("admin",),
    show_default=True,
    metavar="SCOPE",
    help="admin, read:PREFIX or write:PREFIX. Repeat for several.",
)
@click.option(
    "--expires",
    "lifetime_ms",
    type=duration,
    default=LIFETIME_MS_DEFAULT,
    help="The token is void after this long. [default: 8h]",
)
@click.pass_context
def connect(
    context: click.Context,
    name: str | None,
    namespace: str | None,
    kube_context: str | None,
    kubeconfig: str | None,
    port: int,
    scopes: tuple[str, ...],
    lifetime_ms: int,
) -> None:
    """Open a tunnel and make a token."""
    kubectl = Kubectl(namespace, kube_context, kubeconfig)
    cluster = kubectl.the_cluster(name)
    name = cluster["metadata"]["name"]
    gateway = cluster.get("spec", {}).get("gateway", {})
    admin = None
    if gateway.get("auth") != "Disabled":
        admin = kubectl.secret(f"{name}-admin-token", "token")
    with kubectl.forward(f"{name}-gateway", GATEWAY_PORT, port) as tunnel:
        token = asyncio.run(_token(tunnel, admin, scopes, lifetime_ms)) if admin else None
        if shared_of(context).as_json:
            print_json({"url": tunnel.url, "token": token})
        else:
            click.echo(_banner(name, tunnel.url, token))
        tunnel.wait()


async def _token(tunnel: Tunnel, admin: str, scopes: tuple[str, ...], lifetime_ms: int) -> str:
    """A token of its own for this connection, so that the cluster's stays in the cluster."""
    # Here and not above, so that help is quick.
    from mom_client.engine import Engine

    engine = Engine([tunnel.url], token=admin)
    await engine.start()
    try:
        _, secret = await engine.create_token(_token_name(), scopes, lifetime_ms)
    finally:
        await engine.close()
    return secret


def _token_name() -> str:
    try:
        return f"connect-{getpass.getuser()}"
    except (OSError, KeyError):
        return "connect"


def _banner(name: Any, url: str, token: str | None) -> str:
    lines = [f"Connected to {name}; Ctrl-C ends it. In another terminal:", ""]
    lines += [f"  export MOM_URL={url}"]
    if token is None:
        lines += ["", "This gateway has auth: Disabled; everyone who reaches it may do everything."]
    else:
        lines += [f"  export MOM_TOKEN={token}"]
    lines += ["  mom cluster status", ""]
    return "\n".join(lines)
