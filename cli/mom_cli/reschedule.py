"""``mom cancel`` and ``mom reschedule``: what becomes of messages that wait, by position."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from mom_cli.command import MomCommand, examples, shared_of
from mom_cli.connection import with_engine
from mom_cli.failures import PartFailed
from mom_cli.output import print_json
from mom_cli.settings import duration, moment
from mom_core.errors import MomError

if TYPE_CHECKING:
    from mom_client.engine import Engine

_QUEUE = click.argument("queue", metavar="QUEUE")
_POSITIONS = click.argument("positions", nargs=-1, metavar="[PARTITION:OFFSET]...")
_SUBSCRIPTION = click.option("--subscription", help="A queue-mode subscription of the topic QUEUE.")
_INPUT = "Positions, as publishing answered them, are arguments, or lines of standard input."


@click.command(
    cls=MomCommand,
    help=f"Cancel messages that wait: they are not delivered any more. {_INPUT}\n\n"
    + examples("mom cancel jobs 0:42", "mom cancel jobs 0:42 3:7 -o json"),
)
@_QUEUE
@_POSITIONS
@_SUBSCRIPTION
@click.pass_context
def cancel(
    context: click.Context, queue: str, positions: tuple[str, ...], subscription: str | None
) -> None:
    """Cancel."""
    _change(context, queue, subscription, positions, None)


@click.command(
    cls=MomCommand,
    help="Deliver messages that wait at another time; at once when none is given. "
    f"{_INPUT}\n\n"
    + examples("mom reschedule jobs 0:42 --delay 2h", "mom reschedule jobs 0:42 0:43"),
)
@_QUEUE
@_POSITIONS
@_SUBSCRIPTION
@click.option("--delay", "delay_ms", type=duration, default=0, help="This long from now.")
@click.option(
    "--at",
    "at_ms",
    type=moment,
    default=0,
    help="Not before this time: 2026-01-31T08:00:00Z, or milliseconds since the Unix epoch.",
)
@click.pass_context
def reschedule(
    context: click.Context,
    queue: str,
    positions: tuple[str, ...],
    subscription: str | None,
    delay_ms: int,
    at_ms: int,
) -> None:
    """Move to another time."""
    from mom_client import arguments
    from mom_process.system import SystemClock

    if delay_ms and at_ms:
        raise click.UsageError("give --delay or --at, not both", context)
    now_ms = SystemClock().now_ms()
    deliver_at_ms = arguments.moment("--at", at_ms, "--delay", delay_ms / 1000, now_ms)
    _change(context, queue, subscription, positions, deliver_at_ms)


def _change(
    context: click.Context,
    queue: str,
    subscription: str | None,
    positions: tuple[str, ...],
    deliver_at_ms: int | None,
) -> None:
    texts = list(positions) or [line.strip() for line in sys.stdin if line.strip()]
    if not texts:
        raise click.UsageError("no positions: give some, or pipe them in", context)

    async def work(engine: Engine) -> list[MomError | None]:
        from mom_client.rescheduling import change

        return await change(engine, queue, subscription, texts, deliver_at_ms)

    results = with_engine(context, work)
    _report(context, queue, texts, results)
    if any(results):
        raise PartFailed


def _report(
    context: click.Context,
    queue: str,
    positions: list[str],
    results: list[MomError | None],
) -> None:
    failed = [one for one in results if one is not None]
    if shared_of(context).as_json:
        shown = [
            {"position": position, "status": "ok"}
            if error is None
            else {
                "position": position,
                "status": "failed",
                "error": {"code": error.code.value, "message": error.message},
            }
            for position, error in zip(positions, results, strict=True)
        ]
        print_json({"results": shown})
        return
    for one in failed:
        click.echo(f"mom: {one.message}", err=True)
    click.echo(
        f"{queue}: {len(results) - len(failed):,} done"
        + (f", {len(failed):,} failed" if failed else ""),
        err=True,
    )
