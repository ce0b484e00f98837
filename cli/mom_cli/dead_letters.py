"""``mom dead``: messages that could not be handled, looked at and sent back."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from mom_cli.command import LazyGroup, examples, shared_of
from mom_cli.connection import with_engine
from mom_cli.failures import PartFailed
from mom_cli.operations import print_operation, shown_progress
from mom_cli.output import print_json, print_table, shown_text, shown_time
from mom_cli.settings import Within
from mom_core.dead_letters import REASONS, DeadLetterFilter
from mom_core.errors import InvalidArgumentError, NotFoundError
from mom_core.ids import id_text, parse_id
from mom_core.operations import parse_rate

if TYPE_CHECKING:
    from mom_client.engine import Engine
    from mom_client.results import DeadLetter, Operation

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

_QUEUE = click.argument("queue", metavar="QUEUE")


@click.group(
    cls=LazyGroup,
    help="Dead letters: messages that could not be handled. QUEUE is the queue that holds them, "
    "which --dead-letter of another one names.\n\n"
    + examples(
        "mom dead list mail.dlq",
        "mom dead redrive mail.dlq --rate 100/s --wait",
    ),
)
def dead() -> None:
    """The group of commands."""


def _choosing(command: FunctionT) -> FunctionT:
    """Options that choose dead letters."""
    for option in (
        click.option("--id", "ids", multiple=True, metavar="UUID", help="Only this one; repeat."),
        click.option("--offset", "offsets", type=int, multiple=True, help="Only this one; repeat."),
        click.option("--subscription", default="", help="Only those of this subscription."),
        click.option("--topic", default="", help="Only those that died in this queue or topic."),
        click.option("--reason", type=click.Choice(REASONS), help="Only those that died of it."),
    ):
        command = option(command)
    return command


def _filter(
    reason: str | None,
    topic: str,
    subscription: str,
    offsets: tuple[int, ...],
    ids: tuple[str, ...],
) -> DeadLetterFilter:
    wanted = DeadLetterFilter(
        reason=reason or "",
        topic=topic,
        subscription=subscription,
        offsets=offsets,
        ids=tuple(parse_id(one).hex() for one in ids),
    )
    wanted.check()
    return wanted


@dead.command(
    "list",
    help="List the dead letters that a queue holds. Nothing is leased, and nobody is disturbed.\n\n"
    + examples(
        "mom dead list mail.dlq",
        "mom dead list mail.dlq --topic mail --reason expired",
        "mom dead list mail.dlq -o json | jq '.dead_letters[].value'",
    ),
)
@_QUEUE
@_choosing
@click.option("--limit", type=Within(1, 10_000), default=100, show_default=True)
@click.option("--from-offset", type=int, default=0, help="Begin there: the end of a list before.")
@click.pass_context
def list_dead_letters(
    context: click.Context, /, queue: str, limit: int, from_offset: int, **chosen: Any
) -> None:
    """List dead letters."""
    wanted = _filter(**chosen)
    page = with_engine(
        context,
        lambda engine: engine.dead_letters(queue, wanted, offset=from_offset, limit=limit),
    )
    if shared_of(context).as_json:
        from mom_gateway.bodies import show_dead_letter

        shown = [show_dead_letter(one) for one in page.dead_letters]
        print_json({"dead_letters": shown, "next_offset": page.next_offset or None})
        return
    print_table(
        ["OFFSET", "STATE", "REASON", "TRIES", "REDRIVES", "DIED AT", "FROM", "VALUE"],
        [_row(one) for one in page.dead_letters],
        f"{queue!r} holds no such dead letters",
    )
    if page.next_offset:
        click.echo(f"there are more: --from-offset {page.next_offset}", err=True)


def _row(one: DeadLetter) -> list[object]:
    facts = one.facts
    origin = facts.topic
    if facts.subscription != facts.topic:
        origin = f"{facts.topic}/{facts.subscription}"
    return [
        one.offset,
        one.state,
        facts.reason,
        facts.deliveries,
        facts.redrives,
        shown_time(facts.died_at_ms),
        f"{origin}@{facts.partition}:{facts.offset}",
        shown_text(one.message.value),
    ]


def _rate(value: str) -> float:
    try:
        return parse_rate(value)
    except InvalidArgumentError as error:
        raise click.BadParameter(error.message.removeprefix("rate ")) from None


@dead.command(
    help="Send dead letters back to where they died, or elsewhere. Each arrives once, whatever "
    "fails on the way. It goes on by itself: `mom operation show ID` tells how far it is. Those of "
    "a topic's subscription go back only if the topic has no other one; name a place with --to "
    "else.\n\n"
    + examples(
        "mom dead redrive mail.dlq",
        "mom dead redrive mail.dlq --rate 100/s --wait",
        "mom dead redrive mail.dlq --topic mail --reason expired --to mail.again",
        "mom dead redrive mail.dlq --offset 12 --offset 15",
    )
)
@_QUEUE
@_choosing
@click.option("--to", default="", metavar="NAME", help="Send all of them to this topic or queue.")
@click.option(
    "--rate",
    type=_rate,
    default="0",
    metavar="RATE",
    help="At most so many, such as 100/s, 30/m or 5/h; 0, the default: as fast as it goes.",
)
@click.option("--wait", is_flag=True, help="Show how far it is until it has ended.")
@click.pass_context
def redrive(
    context: click.Context, /, queue: str, to: str, rate: float, wait: bool, **chosen: Any
) -> None:
    """Send dead letters back."""
    wanted = _filter(**chosen)

    missing: list[str] = []

    async def work(engine: Engine) -> Operation:
        missing.extend(await _missing(engine, queue, wanted))
        begun = await engine.redrive(queue, wanted, to=to, rate=rate)
        if not wait:
            return begun
        from mom_client.operations import ended

        with shown_progress(begun.operation_id) as told:
            return await ended(engine, begun.operation_id, told)

    operation = with_engine(context, work)
    if shared_of(context).as_json:
        print_json(msgspec.to_builtins(operation) | {"not_found": missing})
    else:
        print_operation(operation)
    for one in missing:
        click.echo(f"mom: {_not_held(queue, one)}", err=True)
    if missing or (wait and (operation.state != "done" or operation.left)):
        raise PartFailed


async def _missing(engine: Engine, queue: str, wanted: DeadLetterFilter) -> list[str]:
    """The offsets and ids that were named and are of no dead letter which is meant.

    Raises NotFoundError when that is true of all of them.
    """
    if not wanted.offsets and not wanted.ids:
        return []
    picks = len(wanted.offsets) + len(wanted.ids)
    page = await engine.dead_letters(queue, wanted, limit=picks)
    offsets = {one.offset for one in page.dead_letters}
    ids = {(one.message.id or b"").hex() for one in page.dead_letters}
    missing = [f"offset {one}" for one in wanted.offsets if one not in offsets]
    missing += [f"id {id_text(bytes.fromhex(one))}" for one in wanted.ids if one not in ids]
    if not page.dead_letters:
        raise NotFoundError(_not_held(queue, ", ".join(missing)), field="offsets")
    return missing


def _not_held(queue: str, what: str) -> str:
    return (
        f"{queue!r} holds no such dead letter: {what}; `mom dead list {queue}` shows those that "
        "are there"
    )
