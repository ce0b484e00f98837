"""``mom topic`` and ``mom queue``: two faces of one resource.

The commands of both are made by the same functions, so that they can't drift apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

import click
import msgspec

from mom_cli.command import LazyGroup, examples, shared_of
from mom_cli.confirmation import confirm, yes_option
from mom_cli.connection import with_deletion, with_engine
from mom_cli.delivery import delivery_options
from mom_cli.flow import add_flow_commands
from mom_cli.output import (
    print_facts,
    print_json,
    print_table,
    shown_age,
    shown_name,
    shown_rough_bytes,
    shown_setting,
)
from mom_cli.settings import duration, size
from mom_core.errors import NotFoundError
from mom_core.topics import TopicConfig, TopicKind, show_subscription, show_topic
from mom_proto.v1 import broker_pb2, types_pb2

if TYPE_CHECKING:
    from mom_client.engine import Engine


def _settings(kind: TopicKind) -> list[click.Option]:
    options = [
        click.Option(["--partitions"], type=int, help="Partitions: how many can share the work."),
        click.Option(
            ["--retention", "retention_ms"],
            type=duration,
            help="Keep messages this long, such as 168h; 0: no limit by time.",
        ),
        click.Option(
            ["--retention-bytes"],
            type=size,
            help="Keep this much in each partition, such as 10Gi.",
        ),
        click.Option(["--message-bytes-max"], type=size, help="The largest message, up to 8Mi."),
        click.Option(
            ["--dedup-window", "dedup_window_ms"],
            type=duration,
            help="A second message with the same dedup id is not stored within so long; 0: it is.",
        ),
    ]
    if kind is TopicKind.QUEUE:
        options += [
            click.Option(
                ["--lease", "lease_ms"],
                type=duration,
                help="How long a worker has a message to itself, such as 30s.",
            ),
            click.Option(
                ["--messages-max"],
                type=int,
                help="Refuse new messages while the queue holds so many; 0: no bound.",
            ),
            *delivery_options(),
        ]
    else:
        options.append(
            click.Option(
                ["--retain-until-acked/--no-retain-until-acked"],
                default=None,
                help="Keep a message, whatever its age, until all subscriptions have handled it, "
                "then remove it; refuse new ones at --retention-bytes rather than remove old ones. "
                "--retention counts only while there is no subscription.",
            )
        )
    return options


def _given(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


def _create(kind: TopicKind, context: click.Context, name: str, **settings: Any) -> None:
    wanted = _given(settings)

    async def work(engine: Engine) -> tuple[TopicConfig, bool]:
        return await engine.create_topic(name, kind, wanted)

    made, is_new = with_engine(context, work)
    if shared_of(context).as_json:
        print_json(show_topic(made) | {"created": is_new})
    else:
        said = "created" if is_new else "stands already, with the same settings"
        click.echo(f"{kind} {name!r} {said}: {_partitions(made)}")


def _partitions(config: TopicConfig) -> str:
    return f"{config.partitions} partition{'s' if config.partitions != 1 else ''}"


# What fits a line; describe tells the rest.
_LISTED: Final = (
    "name",
    "partitions",
    "retention_ms",
    "retention_bytes",
    "message_bytes_max",
    "lease_ms",
    "ordering",
    "dead_letter",
    "created_at_ms",
)


def _list(kind: TopicKind, context: click.Context) -> None:
    async def work(engine: Engine) -> list[TopicConfig]:
        from mom_client.operations import list_all

        return await list_all(engine, kind)

    found = with_engine(context, work)
    shown = [show_topic(config) for config in found]
    if shared_of(context).as_json:
        print_json(shown)
        return
    names = [name for name in _LISTED if name in (shown[0] if shown else ())]
    print_table(
        [shown_name(name).upper() for name in names],
        ([shown_setting(name, one[name]) for name in names] for one in shown),
        f"no {kind}s yet; `mom {kind} create NAME` makes one",
    )


def _describe(kind: TopicKind, context: click.Context, name: str) -> None:
    async def work(engine: Engine) -> dict[str, Any]:
        route = await engine.get_topic(name)
        if route.config.kind is not kind:
            raise NotFoundError(
                f"{name!r} is a {route.config.kind}, not a {kind}; "
                f"use `mom {route.config.kind} describe {name}`"
            )
        partitions = await engine.describe(name)
        subscriptions = [show_subscription(one) for one in route.subscriptions.values()]
        return show_topic(route.config) | {
            "partition_list": [partition_document(one) for one in partitions],
            "subscriptions": [one for one in subscriptions if one["name"] != name],
        }

    document = with_engine(context, work)
    if shared_of(context).as_json:
        print_json(document)
    else:
        _print_description(kind, document)


def _print_description(kind: TopicKind, document: dict[str, Any]) -> None:
    partitions = document.pop("partition_list")
    subscriptions = document.pop("subscriptions")
    print_facts((shown_name(name), shown_setting(name, value)) for name, value in document.items())
    click.echo()
    titles = ["PARTITION", "NODE", "EPOCH", "FIRST", "NEXT", "SIZE"]
    columns = list(QUEUE_COLUMNS) if kind is TopicKind.QUEUE else []
    print_table(
        titles + [column_title(column) for column in columns],
        (
            [
                one["partition"],
                one["node_id"] or "(no owner)",
                one["epoch"],
                one["log_start"],
                one["high_watermark"],
                shown_rough_bytes(one["size_bytes"]),
                *_counts(one["subscriptions"], document["name"], columns),
            ]
            for one in partitions
        ),
        "no partitions",
    )
    if subscriptions:
        click.echo()
        print_table(
            ["SUBSCRIPTION", "MODE", "START"],
            ([one["name"], one["mode"], one["start"]] for one in subscriptions),
            "",
        )


QUEUE_COLUMNS: Final = (
    "ready",
    "delayed",
    "leased",
    "dead",
    "oldest_ready_ms",
    "workers",
    "stalled_since_ms",
)


def column_title(column: str) -> str:
    """The title of a count's or an age's column."""
    return shown_name(column).replace("_", " ").upper()


def column_value(column: str, value: object) -> object:
    """A count as it is, and a moment or an age for people."""
    if column == "stalled_since_ms":
        return shown_setting(column, value)
    return shown_age(value) if column.endswith("_ms") else value


def _counts(
    subscriptions: Iterable[Mapping[str, Any]], name: str, columns: Iterable[str]
) -> list[object]:
    mine = next((one for one in subscriptions if one["name"] == name), {})
    return [column_value(column, mine.get(column, 0)) for column in columns]


def partition_document(partition: broker_pb2.PartitionDescription) -> dict[str, Any]:
    """The shown form of a partition's counts."""
    return {
        "partition": partition.partition,
        "node_id": partition.node_id,
        "epoch": partition.epoch,
        "log_start": partition.log_start,
        "high_watermark": partition.high_watermark,
        "size_bytes": partition.size_bytes,
        "subscriptions": [subscription_document(one) for one in partition.subscriptions],
    }


def subscription_document(counts: broker_pb2.SubscriptionDescription) -> dict[str, Any]:
    """The shown form of a subscription's counts in one partition."""
    if counts.mode == types_pb2.SUBSCRIPTION_MODE_QUEUE:
        return {
            "name": counts.name,
            "mode": "queue",
            "ready": counts.ready,
            "delayed": counts.delayed,
            "leased": counts.leased,
            "dead": counts.dead,
            "oldest_ready_ms": age_of(counts, "oldest_ready_ms"),
            "oldest_unacked_ms": age_of(counts, "oldest_unacked_ms"),
            "paused": counts.paused,
            "workers": counts.workers,
            "stalled_since_ms": counts.stalled_since_ms,
        }
    return {
        "name": counts.name,
        "mode": "stream",
        "committed_offset": counts.committed_offset,
        "member_id": counts.member_id,
        "members": counts.members,
        "lag": counts.lag.messages,
        "lag_ms": counts.lag.behind_ms,
        "stalled_since_ms": counts.stalled_since_ms,
    }


def age_of(
    counts: broker_pb2.SubscriptionDescription,
    field: Literal["oldest_ready_ms", "oldest_unacked_ms"],
) -> int | None:
    """An age, None where there is nothing to be old."""
    age: int | None = getattr(counts, field) if counts.HasField(field) else None
    return age


def _alter(kind: TopicKind, context: click.Context, name: str, **settings: Any) -> None:
    patch = _given(settings)
    if not patch:
        raise click.UsageError("nothing to alter: give at least one setting", context)

    async def work(engine: Engine) -> TopicConfig:
        return await engine.alter_topic(name, kind, msgspec.json.encode(patch))

    altered = show_topic(with_engine(context, work))
    if shared_of(context).as_json:
        print_json(altered)
    else:
        said = ", ".join(f"{shown_name(one)} {shown_setting(one, altered[one])}" for one in patch)
        click.echo(f"{kind} {name!r} altered: {said}")


def _delete(kind: TopicKind, context: click.Context, name: str, if_exists: bool, yes: bool) -> None:
    confirm(f"delete {kind} {name!r} with all its messages", yes)
    deleted = with_deletion(context, lambda engine: engine.delete_topic(name, kind), if_exists)
    if shared_of(context).as_json:
        print_json({"name": name, "deleted": deleted})
    else:
        click.echo(f"{kind} {name!r} " + ("deleted" if deleted else "was not there"))


def _help(kind: TopicKind, verb: str) -> str:
    sample = "orders" if kind is TopicKind.TOPIC else "jobs"
    texts = {
        "create": (
            f"Create a {kind}. The same again is no error; another under that name is one.",
            f"mom {kind} create {sample} --partitions 3"
            + (" --retention 168h" if kind is TopicKind.TOPIC else " --lease 30s"),
        ),
        "list": (f"List the {kind}s.", f"mom {kind} list --output json"),
        "describe": (
            f"Show a {kind}: settings, partitions and their owners, and what is in them.",
            f"mom {kind} describe {sample}",
        ),
        "alter": (
            f"Change settings of a {kind}. Partitions may grow, and never become fewer.",
            f"mom {kind} alter {sample} --retention 24h --retention-bytes 10Gi",
        ),
        "delete": (
            f"Delete a {kind} with all its messages. There is no undo.",
            f"mom {kind} delete {sample}",
            f"mom {kind} delete {sample} --yes    in a script",
        ),
    }
    said, *shown = texts[verb]
    return f"{said}\n\n{examples(*shown)}"


def _group(kind: TopicKind) -> LazyGroup:
    said = {
        TopicKind.TOPIC: "Topics: messages in partitions, kept for a time, to be replayed.\n\n"
        + examples("mom topic create orders --partitions 3", "mom topic describe orders"),
        TopicKind.QUEUE: "Queues: each message leased to one worker until it is acknowledged.\n\n"
        + examples(
            "mom queue create jobs --lease 30s",
            "mom queue create mail --dead-letter mail.dlq --max-deliveries 5 --retry-backoff 1s",
            "mom queue describe jobs",
        ),
    }
    group = LazyGroup(kind.value, help=said[kind])
    name = click.Argument(["name"], metavar="NAME")
    settings = _settings(kind)
    missing = click.Option(["--if-exists"], is_flag=True, help="Not there is no error.")
    for verb, run, parameters in (
        ("create", _create, [name, *settings]),
        ("list", _list, []),
        ("describe", _describe, [name]),
        ("alter", _alter, [name, *settings]),
        ("delete", _delete, [name, missing, yes_option()]),
    ):
        callback = _bound(run, kind)
        group.add_command(
            group.command_class(verb, params=parameters, callback=callback, help=_help(kind, verb))
        )
    return group


def _bound(run: Any, kind: TopicKind) -> Any:
    @click.pass_context
    def callback(context: click.Context, /, **values: Any) -> None:
        run(kind, context, **values)

    return callback


topic = _group(TopicKind.TOPIC)
queue = _group(TopicKind.QUEUE)
add_flow_commands(queue, ("name",), "jobs")
