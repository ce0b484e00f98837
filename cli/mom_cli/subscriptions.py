"""``mom subscription``: the durable, named readers of a topic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import msgspec

from mom_cli.command import LazyGroup, examples, shared_of
from mom_cli.confirmation import confirm
from mom_cli.connection import with_deletion, with_engine
from mom_cli.delivery import with_delivery_options
from mom_cli.flow import add_flow_commands
from mom_cli.output import (
    print_facts,
    print_json,
    print_table,
    shown_age,
    shown_name,
    shown_setting,
)
from mom_cli.settings import POSITION_HELP, duration, position
from mom_cli.topics import QUEUE_COLUMNS, column_title, column_value, subscription_document
from mom_core.topics import SubscriptionConfig, show_subscription
from mom_proto.v1 import broker_pb2

if TYPE_CHECKING:
    from mom_client.engine import Engine
    from mom_client.results import Sought

_TOPIC = click.argument("topic", metavar="TOPIC")
_NAME = click.argument("name", metavar="NAME")


@click.group(
    cls=LazyGroup,
    help="Subscriptions: durable, named readers of a topic.\n\n"
    "Mode stream keeps an offset for each partition, which the members share; mode queue leases "
    "each message to one worker.\n\n"
    + examples(
        "mom subscription create orders billing",
        "mom consume orders --subscription billing",
        "mom subscription describe orders billing",
    ),
)
def subscription() -> None:
    """The group of commands."""


@subscription.command(
    help="Create a subscription. The same again is no error; another under that name is one.\n\n"
    + examples(
        "mom subscription create orders billing",
        "mom subscription create orders mail --mode queue --lease 30s",
    )
)
@_TOPIC
@_NAME
@click.option("--mode", type=click.Choice(["stream", "queue"]), default="stream", show_default=True)
@click.option("--from", "start", type=position, help=f"Where it begins: {POSITION_HELP}.")
@click.option(
    "--session",
    "session_ms",
    type=duration,
    help="Stream mode: a member that is silent for longer loses its partitions.",
)
@click.option("--lease", "lease_ms", type=duration, help="Queue mode: the length of a lease.")
@with_delivery_options
@click.pass_context
def create(context: click.Context, /, topic: str, name: str, **settings: Any) -> None:
    """Create a subscription."""
    wanted = {key: value for key, value in settings.items() if value is not None}

    async def work(engine: Engine) -> tuple[SubscriptionConfig, bool]:
        return await engine.create_subscription(topic, name, wanted)

    made, is_new = with_engine(context, work)
    if shared_of(context).as_json:
        print_json(show_subscription(made) | {"created": is_new})
    else:
        said = "created" if is_new else "stands already, with the same settings"
        click.echo(f"subscription {name!r} of {topic!r} {said}: mode {made.mode}")


@subscription.command(
    "list",
    help="List the subscriptions of a topic.\n\n" + examples("mom subscription list orders"),
)
@_TOPIC
@click.pass_context
def list_subscriptions(context: click.Context, topic: str) -> None:
    """List the subscriptions of a topic."""

    async def work(engine: Engine) -> list[SubscriptionConfig]:
        return list((await engine.get_topic(topic)).subscriptions.values())

    shown = [show_subscription(one) for one in with_engine(context, work)]
    if shared_of(context).as_json:
        print_json(shown)
        return
    names = ("name", "mode", "start", "created_at_ms")
    print_table(
        [shown_name(name).upper() for name in names],
        ([shown_setting(name, one[name]) for name in names] for one in shown),
        f"{topic!r} has no subscriptions; `mom subscription create {topic} NAME` makes one",
    )


@subscription.command(
    help="Show a subscription: settings, and how far it is in each partition.\n\n"
    + examples("mom subscription describe orders billing"),
)
@_TOPIC
@_NAME
@click.pass_context
def describe(context: click.Context, topic: str, name: str) -> None:
    """Show a subscription and its progress."""

    async def work(engine: Engine) -> dict[str, Any]:
        route = await engine.get_topic(topic)
        config = route.subscription(name)
        partitions = await engine.describe(topic)
        progress = [_progress(one, name) for one in partitions]
        return show_subscription(config) | {"partition_list": progress}

    document = with_engine(context, work)
    if shared_of(context).as_json:
        print_json(document)
        return
    progress = document.pop("partition_list")
    print_facts((shown_name(key), shown_setting(key, value)) for key, value in document.items())
    click.echo()
    columns: tuple[str, ...] = QUEUE_COLUMNS
    if document["mode"] == "stream":
        columns = (
            "committed_offset",
            "high_watermark",
            "lag",
            "lag_ms",
            "member_id",
            "stalled_since_ms",
        )
    titles = {"lag_ms": "LAG IN TIME"}
    print_table(
        ["PARTITION", *(titles.get(one) or column_title(one) for one in columns)],
        (
            [one["partition"], *(column_value(column, one.get(column)) for column in columns)]
            for one in progress
        ),
        "no partitions",
    )


def _progress(partition: broker_pb2.PartitionDescription, name: str) -> dict[str, Any]:
    found = next((one for one in partition.subscriptions if one.name == name), None)
    document: dict[str, Any] = {"partition": partition.partition}
    if found is None:
        # What the coordinator of a stream-mode subscription knows is not at this partition's owner.
        return document
    document |= subscription_document(found)
    del document["name"], document["mode"]
    if "committed_offset" in document:
        document["high_watermark"] = partition.high_watermark
    return document


@subscription.command(
    help="Change settings of a subscription.\n\n"
    + examples("mom subscription alter orders mail --dead-letter mail.dlq --max-deliveries 3"),
)
@_TOPIC
@_NAME
@click.option("--session", "session_ms", type=duration, help="Stream mode; see create.")
@click.option("--lease", "lease_ms", type=duration, help="Queue mode: the length of a lease.")
@with_delivery_options
@click.pass_context
def alter(context: click.Context, /, topic: str, name: str, **settings: Any) -> None:
    """Change settings of a subscription."""
    patch = {key: value for key, value in settings.items() if value is not None}
    if not patch:
        raise click.UsageError("nothing to alter: give at least one setting", context)
    changes = msgspec.json.encode(patch)
    made = with_engine(context, lambda engine: engine.alter_subscription(topic, name, changes))
    altered = show_subscription(made)
    if shared_of(context).as_json:
        print_json(altered)
    else:
        said = ", ".join(f"{shown_name(one)} {shown_setting(one, altered[one])}" for one in patch)
        click.echo(f"subscription {name!r} of {topic!r} altered: {said}")


add_flow_commands(subscription, ("topic", "name"), "orders mail")


@subscription.command(
    help="Set where a stream-mode subscription reads on: to replay, or to skip.\n\n"
    + examples(
        "mom subscription seek orders billing --to earliest",
        "mom subscription seek orders billing --to timestamp:2026-01-31T08:00:00Z --dry-run",
    ),
)
@_TOPIC
@_NAME
@click.option("--to", required=True, type=position, help=f"{POSITION_HELP}.")
@click.option("--partition", "partitions", type=int, multiple=True, help="Only this one; repeat.")
@click.option("--force", is_flag=True, help="Also while members read; they start again from there.")
@click.option("--dry-run", is_flag=True, help="Only show what would be set.")
@click.pass_context
def seek(
    context: click.Context,
    topic: str,
    name: str,
    to: str,
    partitions: tuple[int, ...],
    force: bool,
    dry_run: bool,
) -> None:
    """Set a subscription's offsets."""

    async def work(engine: Engine) -> list[Sought]:
        return await engine.seek(
            topic, name, to, partitions=partitions, force=force, dry_run=dry_run
        )

    found = sorted(with_engine(context, work))
    if shared_of(context).as_json:
        offsets = [one._asdict() for one in found]
        print_json({"topic": topic, "name": name, "dry_run": dry_run, "offsets": offsets})
        return
    click.echo(f"subscription {name!r} of {topic!r} {'would read' if dry_run else 'reads'} on at")
    print_table(
        ["PARTITION", "OFFSET", "LAG", "LAG IN TIME"],
        ([*one[:3], shown_age(one.lag_ms)] for one in found),
        "no partitions",
    )


@subscription.command(
    help="Delete a subscription and what it remembers. The topic's messages stay.\n\n"
    + examples(
        "mom subscription delete orders billing",
        "mom subscription delete orders billing --yes    in a script",
    ),
)
@_TOPIC
@_NAME
@click.option("--if-exists", is_flag=True, help="Not there is no error.")
@click.option("--yes", is_flag=True, help="Do not ask; needed where nobody can answer.")
@click.pass_context
def delete(context: click.Context, topic: str, name: str, if_exists: bool, yes: bool) -> None:
    """Delete a subscription."""
    confirm(f"delete subscription {name!r} of {topic!r}", yes)
    deleted = with_deletion(
        context, lambda engine: engine.delete_subscription(topic, name), if_exists
    )
    if shared_of(context).as_json:
        print_json({"topic": topic, "name": name, "deleted": deleted})
    else:
        said = "deleted" if deleted else "was not there"
        click.echo(f"subscription {name!r} of {topic!r} {said}")
