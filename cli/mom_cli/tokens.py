"""``mom token``: who may do what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from mom_cli.command import LazyGroup, examples, shared_of
from mom_cli.connection import with_engine
from mom_cli.output import print_json, print_table, shown_time
from mom_cli.settings import duration
from mom_proto.v1 import master_pb2

if TYPE_CHECKING:
    from mom_client.engine import Engine


@click.group(
    cls=LazyGroup,
    help="Access tokens. A cluster that listens beyond loopback asks every caller for one.\n\n"
    + examples("mom token create ci --scope admin --expires 90d", "mom token list"),
)
def token() -> None:
    """The group of commands."""


def _document(made: master_pb2.Token) -> dict[str, Any]:
    return {
        "token_id": made.token_id,
        "name": made.name,
        "scopes": list(made.scopes),
        "created_at_ms": made.created_at_ms,
        "expires_at_ms": made.expires_at_ms or None,
    }


@token.command(
    help="Make a token. It is shown once, on standard output: MOM keeps only a hash of it.\n\n"
    + examples(
        "mom token create ci --scope admin --expires 90d",
        "mom token create mailer --scope read:mail --scope 'write:mail.*'",
    )
)
@click.argument("name", metavar="NAME")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    required=True,
    metavar="SCOPE",
    help="admin, read:PATTERN or write:PATTERN; a pattern is one name, or * for all, or orders.* "
    "for the names that begin so. Repeat for several.",
)
@click.option("--expires", "lifetime_ms", type=duration, default=0, help="Void after this long.")
@click.pass_context
def create(context: click.Context, name: str, scopes: tuple[str, ...], lifetime_ms: int) -> None:
    """Make a token."""

    async def work(engine: Engine) -> tuple[master_pb2.Token, str]:
        return await engine.create_token(name, scopes, lifetime_ms)

    made, secret = with_engine(context, work)
    if shared_of(context).as_json:
        print_json(_document(made) | {"token": secret})
        return
    click.echo(secret)
    until = f"until {shown_time(made.expires_at_ms)}" if made.expires_at_ms else "with no end"
    click.echo(
        f"token {name!r} ({made.token_id}) with {', '.join(made.scopes)}, valid {until}. "
        "It can't be shown again",
        err=True,
    )


@token.command("list", help="List the tokens.\n\n" + examples("mom token list"))
@click.pass_context
def list_tokens(context: click.Context) -> None:
    """List the tokens."""

    async def work(engine: Engine) -> list[master_pb2.Token]:
        return await engine.list_tokens()

    found = with_engine(context, work)
    if shared_of(context).as_json:
        print_json([_document(one) for one in found])
        return
    print_table(
        ["ID", "NAME", "SCOPES", "CREATED", "EXPIRES"],
        (
            [
                one.token_id,
                one.name,
                ", ".join(one.scopes),
                shown_time(one.created_at_ms),
                shown_time(one.expires_at_ms) if one.expires_at_ms else "never",
            ]
            for one in found
        ),
        "no tokens; `mom token create NAME --scope SCOPE` makes one",
    )


@token.command(
    help="Make a token void. Nodes and gateways follow within 10 seconds.\n\n"
    + examples("mom token revoke 4f1c22d0a9e1")
)
@click.argument("token_id", metavar="ID")
@click.pass_context
def revoke(context: click.Context, token_id: str) -> None:
    """Make a token void."""

    async def work(engine: Engine) -> None:
        await engine.revoke_token(token_id)

    with_engine(context, work)
    if shared_of(context).as_json:
        print_json({"token_id": token_id, "revoked": True})
    else:
        click.echo(f"token {token_id} revoked")
