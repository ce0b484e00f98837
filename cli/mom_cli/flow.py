"""What both ``mom queue`` and ``mom subscription`` have: browsing, pausing, purging."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from mom_cli.browse import browse, browse_options
from mom_cli.command import LazyGroup, examples, shared_of
from mom_cli.confirmation import check_can_ask, confirm, yes_option
from mom_cli.connection import with_engine
from mom_cli.output import print_json, shown_count

if TYPE_CHECKING:
    from mom_client.engine import Engine


def add_flow_commands(group: LazyGroup, arguments: Sequence[str], sample: str) -> None:
    """Add the commands to a group whose commands take these arguments: a queue, or a topic and a
    subscription. ``sample`` stands for them in the examples."""
    for verb, run, options, said in (
        (
            "browse",
            browse,
            browse_options(),
            "Look at the messages that are not acknowledged. Nothing is leased, and nobody is "
            "disturbed.",
        ),
        (
            "pause",
            _pause,
            (),
            "Deliver nothing for now. Receivers wait, publishing and acks go on.",
        ),
        ("resume", _resume, [], "Deliver again."),
        ("purge", _purge, _purge_options(), "Take away all messages that wait. There is no undo."),
    ):
        words = f"mom {group.name} {verb} {sample}"
        shown = [words, f"{words} --yes"] if run is _purge else [words]
        parameters = [click.Argument([name], metavar=name.upper()) for name in arguments]
        group.add_command(
            group.command_class(
                verb,
                params=[*parameters, *options],
                callback=click.pass_context(_bound(run, arguments)),
                help=f"{said}\n\n{examples(*shown)}",
            )
        )


def _purge_options() -> list[click.Parameter]:
    return [
        click.Option(
            ["--leased"],
            is_flag=True,
            help="Also what workers have: they are told when they acknowledge.",
        ),
        yes_option(),
    ]


def _bound(run: Any, arguments: Sequence[str]) -> Any:
    def callback(context: click.Context, /, **values: Any) -> None:
        names = [values.pop(name) for name in arguments]
        # A queue's one subscription has its name.
        run(context, names[0], names[-1], **values)

    return callback


def _shown(topic: str, subscription: str) -> str:
    if topic == subscription:
        return f"queue {topic!r}"
    return f"subscription {subscription!r} of {topic!r}"


def _pause(context: click.Context, topic: str, subscription: str) -> None:
    _set_paused(context, topic, subscription, True)


def _resume(context: click.Context, topic: str, subscription: str) -> None:
    _set_paused(context, topic, subscription, False)


def _set_paused(context: click.Context, topic: str, subscription: str, paused: bool) -> None:
    from mom_client.operations import set_paused

    with_engine(context, lambda engine: set_paused(engine, topic, subscription, paused))
    if shared_of(context).as_json:
        print_json({"topic": topic, "subscription": subscription, "paused": paused})
    else:
        click.echo(f"{_shown(topic, subscription)} {'paused' if paused else 'resumed'}")


def _purge(context: click.Context, topic: str, subscription: str, leased: bool, yes: bool) -> None:
    said = _shown(topic, subscription)
    check_can_ask(f"take away the messages of {said}", yes)
    if not yes:
        waiting = with_engine(context, lambda engine: _count(engine, topic, subscription, leased))
        confirm(f"take away {shown_count(waiting, 'message')} of {said}", yes)
    purged = with_engine(context, lambda engine: engine.purge(topic, subscription, leased=leased))
    if shared_of(context).as_json:
        print_json({"topic": topic, "subscription": subscription, "purged": purged})
    else:
        click.echo(f"{said}: {shown_count(purged, 'message')} purged")


async def _count(engine: Engine, topic: str, subscription: str, leased: bool) -> int:
    found = [one for each in await engine.describe(topic) for one in each.subscriptions]
    mine = [one for one in found if one.name == subscription]
    return sum(one.ready + one.delayed + (one.leased if leased else 0) for one in mine)
