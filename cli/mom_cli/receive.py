"""``mom receive``: lease messages, and be a worker with ``--follow``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from mom_cli.command import MomCommand, examples, shared_of
from mom_cli.connection import with_engine
from mom_cli.creation import topic_or_create
from mom_cli.failures import PartFailed
from mom_cli.records import FORMAT_HELP, FORMATS, finish, received_line, write_lines
from mom_cli.settings import Within, duration
from mom_core import limits
from mom_core.batch import decode
from mom_core.errors import InvalidArgumentError
from mom_core.ids import id_text
from mom_core.quantities import format_duration
from mom_core.receipts import encode_receipt
from mom_core.topics import TopicKind
from mom_gateway.bodies import ReceivedMessage, rfc3339
from mom_proto.v1 import broker_pb2

if TYPE_CHECKING:
    from mom_client.engine import Engine
    from mom_client.routing import TopicRoute

# A worker takes at most this many at a time: the rest is there for the other workers.
MESSAGES_AT_ONCE_MAX: Final = 1_000


class Worker:
    """Receives, prints and, if asked to, acknowledges."""

    def __init__(
        self, engine: Engine, route: TopicRoute, subscription: str, form: str, ack: bool
    ) -> None:
        self._engine = engine
        self._route = route
        self._subscription = subscription
        self._form = form
        self._ack = ack
        self.received = 0
        self.not_acked = 0

    async def step(self, max_messages: int, wait_ms: int, lease_ms: int) -> int:
        """Receive once; returns how many came."""
        batches = await self._engine.receive(
            self._route.name,
            self._subscription,
            max_messages=max_messages,
            wait_ms=wait_ms,
            lease_ms=lease_ms,
        )
        return await finish(self._handle(batches)) if batches else 0

    async def _handle(self, batches: list[broker_pb2.LeasedBatch]) -> int:
        count = 0
        for batch in batches:
            lines = self._lines(batch)
            count += len(lines)
            await write_lines(lines)
        self.received += count
        if self._ack:
            await self._acknowledge(batches)
        return count

    def _lines(self, batch: broker_pb2.LeasedBatch) -> list[bytes]:
        if self._form == "value":
            return [message.value + b"\n" for message in decode(batch.batch)]
        lines = []
        partition = batch.partition.index
        for offset, message in enumerate(decode(batch.batch), start=batch.base_offset):
            receipt = encode_receipt(
                self._route.topic_id, self._subscription, partition, offset, batch.lease_id
            )
            out = ReceivedMessage(
                receipt=receipt,
                partition=partition,
                offset=offset,
                timestamp_ms=message.timestamp_ms or 0,
                id=id_text(message.id) if message.id else "",
                deliveries=batch.deliveries,
                lease_expires_at=rfc3339(batch.lease_expires_at_ms),
                lease_ms=batch.lease_ms,
            )
            lines.append(received_line(message, out))
        return lines

    async def _acknowledge(self, batches: list[broker_pb2.LeasedBatch]) -> None:
        ranges = [
            broker_pb2.SettleRange(
                partition=batch.partition.index,
                first_offset=batch.base_offset,
                count=len(decode(batch.batch)),
                lease_id=batch.lease_id,
                action=broker_pb2.SETTLE_ACTION_ACK,
            )
            for batch in batches
        ]
        results = await self._engine.settle(self._route.name, self._subscription, ranges)
        for failure in (one for result in results for one in result.failures):
            self.not_acked += failure.count
            click.echo(
                f"mom: {failure.count} from offset {failure.first_offset} not acknowledged: "
                f"{failure.error.message}",
                err=True,
            )


@click.command(
    cls=MomCommand,
    help="Lease messages of a queue and print them. A message is yours until its lease ends: then "
    "it goes to the next worker, unless it was acknowledged.\n\nNothing came: exit code 0 as well. "
    "With --format json, `receipt` is what `mom ack` takes.\n\n"
    + examples(
        "mom receive jobs --max 10 --ack",
        "mom receive jobs --ack --follow                work until Ctrl-C",
        "mom receive jobs --format json | jq -r .receipt | mom ack jobs",
        "mom receive orders --subscription mail         a queue-mode subscription",
    ),
)
@click.argument("queue", metavar="QUEUE")
@click.option("--subscription", help="A queue-mode subscription of the topic QUEUE.")
@click.option("--max", "max_messages", type=Within(min=1), help="[default: 1; --follow: no end]")
@click.option(
    "--wait",
    "wait_ms",
    type=duration,
    default="1s",
    show_default=True,
    help="How long to wait for the first message.",
)
@click.option("--lease", "lease_ms", type=duration, default=0, help="[default: the queue's]")
@click.option(
    "--ack/--no-ack", default=False, show_default=True, help="Acknowledge what is printed."
)
@click.option("--follow", is_flag=True, help="Go on for more, as a worker does.")
@click.option("--format", "form", type=click.Choice(FORMATS), help=FORMAT_HELP)
@click.pass_context
def receive(
    context: click.Context,
    queue: str,
    subscription: str | None,
    max_messages: int | None,
    wait_ms: int,
    lease_ms: int,
    ack: bool,
    follow: bool,
    form: str | None,
) -> None:
    """Lease messages and print them."""
    chosen = form or ("json" if shared_of(context).as_json else "value")
    if follow and not ack and chosen == "value":
        raise click.UsageError(
            "--follow without --ack would print the same messages again and again: add --ack, or "
            "--format json and acknowledge by receipt",
            context,
        )

    async def work(engine: Engine) -> Worker:
        if subscription is None:
            route, _ = await topic_or_create(engine, queue, TopicKind.QUEUE, None)
            if route.config.kind is not TopicKind.QUEUE:
                raise InvalidArgumentError(
                    f"{queue!r} is a topic: `mom consume {queue}` reads it, and --subscription "
                    "receives from a queue-mode subscription of it",
                    field="queue",
                )
        else:
            route = await engine.topic(queue)
            route.subscription(subscription)
        worker = Worker(engine, route, subscription or queue, chosen, ack)
        await _work(worker, max_messages, wait_ms, lease_ms, follow)
        return worker

    worker = with_engine(context, work)
    _say_end(context, worker, queue, ack, chosen, lease_ms)
    if worker.not_acked:
        raise PartFailed


async def _work(
    worker: Worker, max_messages: int | None, wait_ms: int, lease_ms: int, follow: bool
) -> None:
    left = max_messages if max_messages is not None else (None if follow else 1)
    wait_left_ms = min(wait_ms, limits.WAIT_MS_MAX)
    while left is None or left > 0:
        wanted = MESSAGES_AT_ONCE_MAX if left is None else min(left, MESSAGES_AT_ONCE_MAX)
        count = await worker.step(wanted, wait_left_ms, lease_ms)
        if not follow:
            if not count:
                return
            wait_left_ms = 0  # What is there now, and not what may come.
        if left is not None:
            left -= count


def _say_end(
    context: click.Context, worker: Worker, queue: str, ack: bool, form: str, lease_ms: int
) -> None:
    if shared_of(context).as_json:
        return
    if not worker.received:
        click.echo(f"{queue}: no message is ready", err=True)
    elif not ack and form == "value":
        length = f"{format_duration(lease_ms)} lease" if lease_ms else "lease"
        click.echo(
            f"{queue}: {worker.received:,} leased and not acknowledged: they come again after the "
            f"{length}. --ack acknowledges, --format json shows receipts",
            err=True,
        )
