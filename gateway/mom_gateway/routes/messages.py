"""Messages of a queue, or of a queue-mode subscription: publish, receive, settle.

A lease lives at the node; its receipt is all that a worker needs, so any replica serves any call.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Annotated, Any, Final, NamedTuple

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from mom_core import limits
from mom_core.access import Action
from mom_core.batch import decode, parse_header
from mom_core.errors import ErrorCode, MomError, error_of
from mom_core.ids import id_text
from mom_core.receipts import Receipt, decode_receipt, encode_receipt
from mom_core.topics import TopicKind
from mom_gateway.bodies import (
    DURATION_FORMS,
    Duration,
    MessagesIn,
    ReceivedMessage,
    check_count,
    rfc3339,
    show_value,
)
from mom_gateway.calls import Call, Handler, Route, check_duration, check_range
from mom_gateway.http import Reply, json_bytes
from mom_gateway.operations import Answer, Example, Operation
from mom_gateway.problems import common_error, problem_of, problem_reply
from mom_gateway.publishing import describe_publish, publish
from mom_gateway.service import Service
from mom_proto.v1 import broker_pb2

_log = logging.getLogger(__name__)

_ACK: Final = broker_pb2.SETTLE_ACTION_ACK
_NACK: Final = broker_pb2.SETTLE_ACTION_NACK
_EXTEND: Final = broker_pb2.SETTLE_ACTION_EXTEND
_RELEASE: Final = broker_pb2.SETTLE_ACTION_RELEASE


class ReceiveIn(Struct, forbid_unknown_fields=True, kw_only=True):
    """What to receive. An empty body stands for all defaults."""

    max: Annotated[int, Meta(description="At most so many messages, 1 to 10,000.")] = 1
    wait_ms: Annotated[
        Duration,
        Meta(description=f"How long to wait for the first message, up to 55 s: {DURATION_FORMS}."),
    ] = 0
    lease_ms: Annotated[
        Duration | None,
        Meta(description=f"Length of the leases, 1 s to 12 h: {DURATION_FORMS}. Default: the "
             "queue's."),
    ] = None  # fmt: skip
    max_bytes: Annotated[
        int, Meta(description="About so many bytes, up to 8 MiB. 0 stands for 1 MiB.")
    ] = 0


class ReceiveReply(Struct):
    """The messages leased; empty when none came in time."""

    messages: list[ReceivedMessage]


class ReceiptsIn(Struct, forbid_unknown_fields=True, kw_only=True):
    """Messages under lease, by their receipts."""

    receipts: list[str]


class NackIn(ReceiptsIn, forbid_unknown_fields=True, kw_only=True):
    """Messages to give back."""

    delay_ms: Annotated[
        Duration,
        Meta(description=f"Wait so long before they are delivered again: {DURATION_FORMS}."),
    ] = 0
    count: Annotated[
        bool, Meta(description="false: this delivery does not count towards max_deliveries.")
    ] = True


class ExtendIn(ReceiptsIn, forbid_unknown_fields=True, kw_only=True):
    """Messages to keep for longer."""

    lease_ms: Annotated[
        Duration | None,
        Meta(description="The lease lasts so long from now, 1 s to 12 h: "
             f"{DURATION_FORMS}. Default: the queue's."),
    ] = None  # fmt: skip


class Settled(Struct, omit_defaults=True, kw_only=True):
    """A receipt that was settled."""

    receipt: str
    status: str = msgspec.field(default_factory=lambda: "ok")
    lease_expires_at: Annotated[
        str | UnsetType, Meta(description="When the lease ends now, RFC 3339 (extend only).")
    ] = UNSET


class SettleReply(Struct):
    """A result for each receipt, in the order of the request: settled, or a problem."""

    results: list[Any]


_receive_decoder: Final = msgspec.json.Decoder(ReceiveIn)
_ack_decoder: Final = msgspec.json.Decoder(ReceiptsIn)
_nack_decoder: Final = msgspec.json.Decoder(NackIn)
_extend_decoder: Final = msgspec.json.Decoder(ExtendIn)
_DEFAULT_RECEIVE: Final = ReceiveIn()


class Source(NamedTuple):
    """Where messages are leased from."""

    topic: str
    subscription: str
    topic_id: bytes
    lease_ms: int


async def publish_messages(call: Call) -> Reply:
    """``POST /v1/queues/{queue}/messages``."""
    return await publish(call, TopicKind.QUEUE)


async def source_of(call: Call) -> Source:
    """The queue, or the topic's subscription, that the path names. Raises NotFoundError."""
    name = call.names[0]
    if len(call.names) == 1:
        route, _ = await call.service.topic_or_new(name, TopicKind.QUEUE)
        subscription = name
    else:
        route = await call.service.topic(name, TopicKind.TOPIC)
        subscription = call.names[1]
    config = route.config
    lease_ms = config.queue.lease_ms if config.queue else limits.LEASE_MS_DEFAULT
    return Source(name, subscription, bytes.fromhex(config.topic_id), lease_ms)


# Receive.


async def receive_messages(call: Call) -> Reply:
    """``POST …/messages:receive``."""
    wanted = await call.json(_receive_decoder, _DEFAULT_RECEIVE)
    check_range(wanted.max, "max", 1, limits.RECEIVE_MESSAGES_MAX)
    wait_ms = check_duration(wanted.wait_ms, "wait_ms", 0, limits.WAIT_MS_MAX)
    check_range(wanted.max_bytes, "max_bytes", 0, limits.FETCH_BYTES_MAX)
    lease_ms = _lease_ms(wanted.lease_ms)
    source = await source_of(call)
    service = call.service
    releases = Releases(service, source)
    work = service.engine.receive(
        source.topic,
        source.subscription,
        max_messages=wanted.max,
        max_bytes=wanted.max_bytes,
        wait_ms=0 if service.draining else wait_ms,
        lease_ms=lease_ms or 0,
    )
    batches = await service.wait(work, call.receive, [], releases.release)
    try:
        messages = show_leased(source, batches)
    except BaseException:
        releases.release(batches)
        raise
    service.metrics.messages_out += len(messages)
    return Reply(200, json_bytes(ReceiveReply(messages)))


def show_leased(source: Source, batches: Sequence[broker_pb2.LeasedBatch]) -> list[ReceivedMessage]:
    """The messages of leased batches, each with its receipt."""
    shown = []
    for batch in batches:
        partition, lease_id = batch.partition.index, batch.lease_id
        expires_at = rfc3339(batch.lease_expires_at_ms)
        for offset, message in enumerate(decode(batch.batch), batch.base_offset):
            out = ReceivedMessage(
                receipt=encode_receipt(
                    source.topic_id, source.subscription, partition, offset, lease_id
                ),
                partition=partition,
                offset=offset,
                id=id_text(message.id) if message.id else "",
                timestamp_ms=message.timestamp_ms or 0,
                deliveries=batch.deliveries,
                lease_expires_at=expires_at,
                lease_ms=batch.lease_ms,
            )
            show_value(message, out)
            shown.append(out)
    return shown


class Releases:
    """Gives back what was leased for a client that is gone, so that others get it at once."""

    # The loop keeps only weak references to tasks.
    _tasks: Final[set[asyncio.Task[None]]] = set()

    def __init__(self, service: Service, source: Source) -> None:
        self._service = service
        self._source = source

    def release(self, batches: Sequence[broker_pb2.LeasedBatch]) -> None:
        """Start to give the batches back. At worst their leases run out."""
        if batches:
            task = asyncio.create_task(self._release(batches))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _release(self, batches: Sequence[broker_pb2.LeasedBatch]) -> None:
        ranges = [
            broker_pb2.SettleRange(
                partition=batch.partition.index,
                first_offset=batch.base_offset,
                count=parse_header(batch.batch).count,
                lease_id=batch.lease_id,
                action=_RELEASE,
            )
            for batch in batches
        ]
        source = self._source
        try:
            await self._service.engine.settle(source.topic, source.subscription, ranges)
        except MomError as error:
            _log.warning(
                "leases of a client that is gone could not be given back; they will run out",
                extra={"topic": source.topic, "error": error.message},
            )


# Settle.


async def ack_messages(call: Call) -> Reply:
    """``POST …/messages:ack``."""
    wanted = await call.json(_ack_decoder)
    return await _settle(call, wanted.receipts, _ACK, 0)


async def nack_messages(call: Call) -> Reply:
    """``POST …/messages:nack``."""
    wanted = await call.json(_nack_decoder)
    delay_ms = check_duration(wanted.delay_ms, "delay_ms", 0, limits.SETTLE_DELAY_MS_MAX)
    return await _settle(call, wanted.receipts, _NACK if wanted.count else _RELEASE, delay_ms)


async def extend_messages(call: Call) -> Reply:
    """``POST …/messages:extend``."""
    wanted = await call.json(_extend_decoder)
    return await _settle(call, wanted.receipts, _EXTEND, _lease_ms(wanted.lease_ms))


def _lease_ms(wanted: Duration | None) -> int | None:
    if wanted is None:
        return None
    return check_duration(wanted, "lease_ms", limits.LEASE_MS_MIN, limits.LEASE_MS_MAX)


async def _settle(
    call: Call,
    receipts: list[str],
    action: broker_pb2.SettleAction.ValueType,
    delay_ms: int | None,
) -> Reply:
    check_count(receipts, "receipts", limits.SETTLE_RANGES_MAX)
    source = await source_of(call)
    read = [_read_receipt(text, source) for text in receipts]
    ranges = ranges_of(
        [receipt for receipt in read if isinstance(receipt, Receipt)],
        action,
        source.lease_ms if delay_ms is None else delay_ms,
    )
    outcomes: dict[Receipt, MomError | int] = {}
    if ranges:
        settled = await call.service.engine.settle(source.topic, source.subscription, ranges)
        for one, result in zip(ranges, settled, strict=True):
            _note_outcomes(one, result, outcomes)
    results = [receipt if isinstance(receipt, MomError) else outcomes[receipt] for receipt in read]
    shown = [_show(text, result) for text, result in zip(receipts, results, strict=True)]
    error = common_error(results)
    if error is not None:
        return problem_reply(error, results=shown)
    status = 207 if any(isinstance(result, MomError) for result in results) else 200
    return Reply(status, json_bytes(SettleReply(shown)))


def _read_receipt(text: str, source: Source) -> Receipt | MomError:
    try:
        return decode_receipt(text, source.topic_id, source.subscription)
    except MomError as error:
        return error


def ranges_of(
    receipts: Sequence[Receipt], action: broker_pb2.SettleAction.ValueType, delay_ms: int
) -> list[broker_pb2.SettleRange]:
    """The ranges that cover these receipts: one for consecutive offsets of one lease."""
    ranges: list[broker_pb2.SettleRange] = []
    by_lease: dict[tuple[int, int], set[int]] = {}
    for partition, offset, lease_id in receipts:
        by_lease.setdefault((partition, lease_id), set()).add(offset)
    for (partition, lease_id), offsets in by_lease.items():
        end = -1
        for offset in sorted(offsets):
            if offset == end:
                ranges[-1].count += 1
            else:
                ranges.append(
                    broker_pb2.SettleRange(
                        partition=partition,
                        first_offset=offset,
                        count=1,
                        lease_id=lease_id,
                        action=action,
                        delay_ms=delay_ms,
                    )
                )
            end = offset + 1
    return ranges


def _note_outcomes(
    one: broker_pb2.SettleRange,
    result: broker_pb2.SettleResult,
    outcomes: dict[Receipt, MomError | int],
) -> None:
    """For each message of a range the end of its lease, or its error."""
    for offset in range(one.first_offset, one.first_offset + one.count):
        outcomes[Receipt(one.partition, offset, one.lease_id)] = result.lease_expires_at_ms
    for failure in result.failures:
        error = failure.error
        reason = error_of(
            error.code,
            error.message,
            field=error.field or "receipt",
            retry_after_ms=error.retry_after_ms or None,
            details=dict(error.details),
        )
        for offset in range(failure.first_offset, failure.first_offset + failure.count):
            outcomes[Receipt(one.partition, offset, one.lease_id)] = reason


def _show(receipt: str, result: MomError | int) -> Settled | dict[str, Any]:
    if isinstance(result, MomError):
        return {"receipt": receipt} | problem_of(result)
    return Settled(receipt=receipt, lease_expires_at=rfc3339(result) if result else UNSET)


# Descriptions.

EXAMPLE_RECEIPT: Final = "AQ" + "A" * 64
_SETTLE_ERRORS: Final = (
    ErrorCode.NOT_FOUND,
    ErrorCode.INVALID_RECEIPT,
    ErrorCode.LEASE_LOST,
    ErrorCode.ALREADY_SETTLED,
    ErrorCode.UNSUPPORTED_MEDIA_TYPE,
)


def _describe_receive(prefix: str, tag: str) -> Operation:
    return Operation(
        id=f"{prefix}receive_messages",
        summary="Receive messages under lease",
        tag=tag,
        description="Each message is yours until its lease ends: then it is delivered again, "
        "unless it was acknowledged. With wait_ms the answer comes as soon as there is a message.",
        body=ReceiveIn,
        body_required=False,
        examples=(
            Example(
                summary="Up to ten, waiting a second",
                value={"max": 10, "wait_ms": 1000, "lease_ms": 30000},
            ),
        ),
        answers={
            200: Answer(
                description="The messages; an empty list when none came in time.",
                type=ReceiveReply,
                example={
                    "messages": [
                        {
                            "receipt": EXAMPLE_RECEIPT,
                            "partition": 0,
                            "offset": 12,
                            "timestamp_ms": 1700000000000,
                            "id": "01912d68-783e-7a03-8467-5661c1243ad4",
                            "content_type": "text/plain",
                            "value": "hello",
                            "deliveries": 1,
                            "lease_expires_at": "2026-01-31T08:00:30.000Z",
                            "lease_ms": 30000,
                        }
                    ]
                },
            )
        },
        errors=(ErrorCode.NOT_FOUND, ErrorCode.UNSUPPORTED_MEDIA_TYPE),
    )


_Settling = tuple[str, Handler, str, str, type[ReceiptsIn], dict[str, Any]]
_SETTLING: Final[tuple[_Settling, ...]] = (
    ("ack", ack_messages, "Acknowledge messages", "They are done, and never come again.",
     ReceiptsIn, {}),
    ("nack", nack_messages, "Give messages back",
     "They are delivered again, after delay_ms. The delivery counts, unless count is false.",
     NackIn, {"delay_ms": 5000, "count": False}),
    ("extend", extend_messages, "Extend leases", "The leases last lease_ms from now.", ExtendIn,
     {"lease_ms": 60000}),
)  # fmt: skip


def _describe_settle(prefix: str, tag: str, settling: _Settling) -> Operation:
    verb, _, summary, description, body, members = settling
    done: dict[str, Any] = {"receipt": EXAMPLE_RECEIPT, "status": "ok"}
    if verb == "extend":
        done["lease_expires_at"] = "2026-01-31T08:01:00.000Z"
    lost = {"receipt": EXAMPLE_RECEIPT} | problem_of(
        MomError("the lease ended before this call", code=ErrorCode.LEASE_LOST, field="receipt")
    )
    return Operation(
        id=f"{prefix}{verb}_messages",
        summary=summary,
        tag=tag,
        description=f"{description} A result for each receipt. When all failed with the same code, "
        "the answer is that problem, with the results added.",
        body=body,
        examples=(Example(summary=summary, value={"receipts": [EXAMPLE_RECEIPT]} | members),),
        answers={
            200: Answer(description="All settled.", type=SettleReply, example={"results": [done]}),
            207: Answer(
                description="Some settled; the others have a problem in their place.",
                type=SettleReply,
                example={"results": [done, lost]},
            ),
        },
        errors=_SETTLE_ERRORS,
    )


def _reading_routes(base: str, prefix: str, tag: str) -> tuple[Route, ...]:
    receive = Route(
        method="POST",
        path=f"{base}/messages:receive",
        action=Action.READ,
        handler=receive_messages,
        operation=_describe_receive(prefix, tag),
    )
    settle = (
        Route(
            method="POST",
            path=f"{base}/messages:{settling[0]}",
            action=Action.READ,
            handler=settling[1],
            operation=_describe_settle(prefix, tag, settling),
        )
        for settling in _SETTLING
    )
    return (receive, *settle)


ROUTES: Final = (
    Route(
        method="POST",
        path="/v1/queues/{queue}/messages",
        action=Action.WRITE,
        handler=publish_messages,
        operation=describe_publish("publish_messages", "messages", "Send messages", MessagesIn),
    ),
    *_reading_routes("/v1/queues/{queue}", "", "messages"),
    *_reading_routes(
        "/v1/topics/{topic}/subscriptions/{subscription}", "subscription_", "subscriptions"
    ),
)
