"""``mom queue browse`` and ``mom subscription browse``: what waits, without leasing it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mom_cli.command import shared_of
from mom_cli.connection import with_engine
from mom_cli.output import print_json, print_table, shown_text, shown_time
from mom_cli.settings import Within
from mom_core.errors import InvalidArgumentError
from mom_core.positions import Position, parse_position

if TYPE_CHECKING:
    from mom_client.browsing import BrowsedMessage


def browse_options() -> list[click.Parameter]:
    """What is looked at, and how much of it."""
    return [
        click.Option(["--partition"], type=Within(min=0), help="Only this one."),
        click.Option(["--limit"], type=Within(1, 10_000), default=100, show_default=True),
        click.Option(
            ["--from", "start"],
            type=_position,
            metavar="PARTITION:OFFSET",
            help="Begin there: the end of a list before.",
        ),
    ]


def _position(value: str) -> Position:
    try:
        return parse_position(value)
    except InvalidArgumentError as error:
        raise click.BadParameter(error.message.removeprefix("position ")) from None


def browse(
    context: click.Context,
    topic: str,
    subscription: str,
    partition: int | None,
    limit: int,
    start: Position | None,
) -> None:
    """Show messages that are not acknowledged."""
    from mom_client import browsing

    page = with_engine(
        context,
        lambda engine: browsing.browse(
            engine, topic, subscription, limit=limit, partition=partition, start=start
        ),
    )
    following = None if page.next_position is None else str(page.next_position)
    if shared_of(context).as_json:
        from mom_gateway.bodies import show_browsed

        shown = [show_browsed(one) for one in page.messages]
        print_json({"messages": shown, "next_position": following})
        return
    print_table(
        ["POSITION", "STATE", "UNTIL", "DELIVERIES", "APPENDED", "VALUE"],
        [_row(one) for one in page.messages],
        "no messages that are not acknowledged",
    )
    if following:
        click.echo(f"there are more: --from {following}", err=True)


def _row(one: BrowsedMessage) -> list[object]:
    return [
        one.position,
        one.state,
        shown_time(one.until_ms) if one.until_ms else "",
        one.deliveries,
        shown_time(one.append_time_ms),
        shown_text(one.value),
    ]
