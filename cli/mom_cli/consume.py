"""``mom consume``: read the messages of a topic."""

from __future__ import annotations

import os
import secrets
import socket
from typing import TYPE_CHECKING

import click

from mom_cli.command import MomCommand, examples, shared_of
from mom_cli.connection import with_engine
from mom_cli.creation import subscription_or_create
from mom_cli.reading import GroupReader, PartitionReader, Sink, read_all
from mom_cli.records import FORMAT_HELP, FORMATS
from mom_cli.settings import POSITION_HELP, Within, position
from mom_core.topics import parse_start

if TYPE_CHECKING:
    from mom_client.engine import Engine


@click.command(
    cls=MomCommand,
    help="Read the messages of a topic, and go on as more come; Ctrl-C ends.\n\nWithout "
    "--subscription all partitions are read from where --from says, and nothing is remembered. "
    "As a member of a subscription, it shares the partitions with the other members, and goes "
    "on where the subscription was left. Messages of one partition come in their order.\n\n"
    + examples(
        "mom consume logs --until-end",
        "mom consume logs --from timestamp:2026-01-31T08:00:00Z --format json",
        "mom consume logs --from latest --max 10",
        "mom consume logs --subscription billing     run it twice: the partitions are shared",
    ),
)
@click.argument("topic", metavar="TOPIC")
@click.option("--from", "start", type=position, help=f"{POSITION_HELP}. [default: earliest]")
@click.option("--partition", "partitions", type=int, multiple=True, help="Only this one; repeat.")
@click.option("--subscription", metavar="NAME", help="Read as a member of this subscription.")
@click.option("--max", "limit", type=Within(min=1), help="End after so many messages.")
@click.option("--until-end", is_flag=True, help="End when all that is there now was read.")
@click.option("--format", "form", type=click.Choice(FORMATS), help=FORMAT_HELP)
@click.pass_context
def consume(
    context: click.Context,
    topic: str,
    start: str | None,
    partitions: tuple[int, ...],
    subscription: str | None,
    limit: int | None,
    until_end: bool,
    form: str | None,
) -> None:
    """Read the messages of a topic."""
    if subscription is not None and partitions:
        raise click.UsageError("a member of a subscription can't choose partitions", context)
    chosen = form or ("json" if shared_of(context).as_json else "value")

    async def work(engine: Engine) -> None:
        sink = Sink(topic, chosen, limit)
        if subscription is None:
            await _read(engine, topic, start or "earliest", partitions, sink, until_end)
        else:
            await _read_as_member(context, engine, topic, subscription, start, sink, until_end)

    with_engine(context, work)


async def _read(
    engine: Engine,
    topic: str,
    start: str,
    partitions: tuple[int, ...],
    sink: Sink,
    until_end: bool,
) -> None:
    route = await engine.topic(topic)
    wanted = [route.check_partition(one) for one in partitions] or range(len(route.owners))
    readers = [
        PartitionReader(engine, topic, partition, parse_start(start), until_end=until_end)
        for partition in wanted
    ]
    await read_all(readers, sink)


async def _read_as_member(
    context: click.Context,
    engine: Engine,
    topic: str,
    subscription: str,
    start: str | None,
    sink: Sink,
    until_end: bool,
) -> None:
    route = await engine.topic(topic)
    is_new = await subscription_or_create(engine, route, subscription, start or "earliest")
    if start is not None and not is_new:
        raise click.UsageError(
            f"subscription {subscription!r} stands already and reads on where it was left; "
            f"`mom subscription seek {topic} {subscription} --to {start}` sets it",
            context,
        )
    member_id = f"mom-{socket.gethostname()[:40]}-{os.getpid()}-{secrets.token_hex(4)}"
    reader = GroupReader(engine, topic, subscription, member_id, sink, until_end=until_end)
    await reader.run()
