"""``mom ack``, ``mom nack`` and ``mom extend``: what becomes of leased messages, by receipt."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from mom_cli.command import MomCommand, examples, shared_of
from mom_cli.connection import with_engine
from mom_cli.failures import PartFailed
from mom_cli.output import print_json
from mom_cli.settings import duration
from mom_core import limits
from mom_core.errors import MomError
from mom_core.positions import Position
from mom_core.receipts import Receipt, decode_receipt
from mom_proto.v1 import broker_pb2

if TYPE_CHECKING:
    from mom_client.engine import Engine


# The end of a receipt, where those of a queue differ.
_END_CHARACTERS: Final = 16


class _Outcome(NamedTuple):
    receipt: str
    place: str
    """What tells it from others, for people."""
    error: dict[str, Any] | None


_QUEUE = click.argument("queue", metavar="QUEUE")
_RECEIPTS = click.argument("receipts", nargs=-1, metavar="[RECEIPT]...")
_SUBSCRIPTION = click.option("--subscription", help="A queue-mode subscription of the topic QUEUE.")
_INPUT = "Receipts are arguments, or lines of standard input."


@click.command(
    cls=MomCommand,
    help=f"Acknowledge messages: they are done and never come again. {_INPUT}\n\n"
    + examples("mom ack jobs RECEIPT", "mom receive jobs -o json | jq -r .receipt | mom ack jobs"),
)
@_QUEUE
@_RECEIPTS
@_SUBSCRIPTION
@click.pass_context
def ack(
    context: click.Context, queue: str, receipts: tuple[str, ...], subscription: str | None
) -> None:
    """Acknowledge."""
    _settle(context, queue, subscription, receipts, broker_pb2.SETTLE_ACTION_ACK, 0)


@click.command(
    cls=MomCommand,
    help="Give messages back, for another try. The delivery counts, unless --no-count is given. "
    f"{_INPUT}\n\n"
    + examples(
        "mom nack jobs RECEIPT",
        "mom nack jobs RECEIPT --delay 30s",
        "mom nack jobs RECEIPT --no-count",
    ),
)
@_QUEUE
@_RECEIPTS
@_SUBSCRIPTION
@click.option(
    "--delay", "delay_ms", type=duration, default=0, help="Not before this long from now."
)
@click.option(
    "--count/--no-count",
    default=True,
    help="Whether this delivery counts towards the queue's --max-deliveries.  [default: count]",
)
@click.pass_context
def nack(
    context: click.Context,
    queue: str,
    receipts: tuple[str, ...],
    subscription: str | None,
    delay_ms: int,
    count: bool,
) -> None:
    """Give back."""
    action = broker_pb2.SETTLE_ACTION_NACK if count else broker_pb2.SETTLE_ACTION_RELEASE
    _settle(context, queue, subscription, receipts, action, delay_ms)


@click.command(
    cls=MomCommand,
    help=f"Keep messages for longer: their leases last LEASE from now. {_INPUT}\n\n"
    + examples("mom extend jobs RECEIPT --lease 2m"),
)
@_QUEUE
@_RECEIPTS
@_SUBSCRIPTION
@click.option("--lease", "lease_ms", type=duration, required=True, help="Such as 2m.")
@click.pass_context
def extend(
    context: click.Context,
    queue: str,
    receipts: tuple[str, ...],
    subscription: str | None,
    lease_ms: int,
) -> None:
    """Extend leases."""
    _settle(context, queue, subscription, receipts, broker_pb2.SETTLE_ACTION_EXTEND, lease_ms)


def _settle(
    context: click.Context,
    queue: str,
    subscription: str | None,
    receipts: Sequence[str],
    action: broker_pb2.SettleAction.ValueType,
    delay_ms: int,
) -> None:
    texts = list(receipts) or [line.strip() for line in sys.stdin if line.strip()]
    if not texts:
        raise click.UsageError("no receipts: give some, or pipe them in", context)

    async def work(engine: Engine) -> list[_Outcome]:
        outcomes = []
        for first in range(0, len(texts), limits.SETTLE_RANGES_MAX):
            part = texts[first : first + limits.SETTLE_RANGES_MAX]
            outcomes += await _settle_part(
                engine, queue, subscription or queue, part, action, delay_ms
            )
        return outcomes

    outcomes = with_engine(context, work)
    _report(context, queue, outcomes)
    if any(outcome.error for outcome in outcomes):
        raise PartFailed


async def _settle_part(
    engine: Engine,
    queue: str,
    subscription: str,
    texts: Sequence[str],
    action: broker_pb2.SettleAction.ValueType,
    delay_ms: int,
) -> list[_Outcome]:
    topic_id = (await engine.topic(queue)).topic_id
    decoded: list[Receipt | MomError] = []
    for text in texts:
        try:
            decoded.append(decode_receipt(text, topic_id, subscription))
        except MomError as error:
            decoded.append(error)
    ranges = [
        broker_pb2.SettleRange(
            partition=one.partition,
            first_offset=one.offset,
            count=1,
            lease_id=one.lease_id,
            action=action,
            delay_ms=delay_ms,
        )
        for one in decoded
        if isinstance(one, Receipt)
    ]
    results = iter(await engine.settle(queue, subscription, ranges) if ranges else [])
    outcomes = []
    for text, one in zip(texts, decoded, strict=True):
        if isinstance(one, Receipt):
            errors = [
                {"code": failure.error.code, "message": failure.error.message}
                for failure in next(results).failures
            ]
            place = str(Position(one.partition, one.offset))
            outcomes.append(_Outcome(text, place, errors[0] if errors else None))
        else:
            why = {"code": one.code.value, "message": one.message}
            outcomes.append(_Outcome(text, f"...{text[-_END_CHARACTERS:]}", why))
    return outcomes


def _report(context: click.Context, queue: str, outcomes: Sequence[_Outcome]) -> None:
    if shared_of(context).as_json:
        results = [
            {"receipt": one.receipt, "status": "ok"}
            if one.error is None
            else {"receipt": one.receipt, "status": "failed", "error": one.error}
            for one in outcomes
        ]
        print_json({"results": results})
        return
    failed = [one for one in outcomes if one.error is not None]
    for one in failed:
        assert one.error is not None
        click.echo(f"mom: {one.place}: {one.error['message']}", err=True)
    click.echo(
        f"{queue}: {len(outcomes) - len(failed):,} done"
        + (f", {len(failed):,} failed" if failed else ""),
        err=True,
    )
