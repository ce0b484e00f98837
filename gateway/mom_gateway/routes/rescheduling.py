"""Cancelling messages that wait to be delivered, and moving them to another time."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from mom_core import limits
from mom_core.access import Action
from mom_core.errors import ErrorCode, InvalidArgumentError, MomError
from mom_core.positions import parse_position
from mom_gateway.bodies import DURATION_FORMS, Duration, check_count, moment_of
from mom_gateway.calls import Call, Handler, Route
from mom_gateway.http import Reply, json_bytes
from mom_gateway.operations import Answer, Example, Operation
from mom_gateway.problems import common_error, problem_of, problem_reply
from mom_gateway.routes.messages import source_of
from mom_proto.v1 import broker_pb2

Positions = Annotated[
    list[str],
    Meta(description="partition:offset of each message, as publishing answered them; 1 to 1,000."),
]


class CancelIn(Struct, forbid_unknown_fields=True, kw_only=True):
    """Messages not to deliver any more."""

    positions: Positions


class RescheduleIn(Struct, forbid_unknown_fields=True, kw_only=True):
    """Messages to deliver at another time; at once when neither is said."""

    positions: Positions
    delay_ms: Annotated[
        Duration, Meta(description=f"So much later than now: {DURATION_FORMS}.")
    ] = 0
    deliver_at_ms: Annotated[
        int, Meta(description="Not before, milliseconds since the Unix epoch.")
    ] = 0


class RescheduleReply(Struct):
    """A result for each position, in the order of the request: status ok, or a problem."""

    results: list[Any]


_cancel_decoder: Final = msgspec.json.Decoder(CancelIn)
_reschedule_decoder: Final = msgspec.json.Decoder(RescheduleIn)


async def cancel_messages(call: Call) -> Reply:
    """``POST …/messages:cancel``."""
    wanted = await call.json(_cancel_decoder)
    return await _reschedule(call, wanted.positions, None)


async def reschedule_messages(call: Call) -> Reply:
    """``POST …/messages:reschedule``."""
    wanted = await call.json(_reschedule_decoder)
    now_ms = call.service.clock.now_ms()
    fields = ("deliver_at_ms", "delay_ms")
    at_ms = moment_of(wanted.deliver_at_ms, wanted.delay_ms, fields, now_ms)
    if not 0 <= at_ms <= limits.TIMESTAMP_MS_MAX:
        raise InvalidArgumentError(
            f"deliver_at_ms is {at_ms}; 0 to {limits.TIMESTAMP_MS_MAX} is allowed",
            field="deliver_at_ms",
        )
    return await _reschedule(call, wanted.positions, at_ms)


async def _reschedule(call: Call, positions: list[str], deliver_at_ms: int | None) -> Reply:
    check_count(positions, "positions", limits.RESCHEDULE_MESSAGES_MAX)
    source = await source_of(call)
    results: list[Any] = [None] * len(positions)
    items: list[broker_pb2.RescheduleItem] = []
    places: list[int] = []
    for place, text in enumerate(positions):
        try:
            position = parse_position(text)
        except MomError as error:
            results[place] = error
            continue
        items.append(
            broker_pb2.RescheduleItem(
                partition=position.partition,
                offset=position.offset,
                cancel=deliver_at_ms is None,
                deliver_at_ms=deliver_at_ms or 0,
            )
        )
        places.append(place)
    found = await call.service.engine.reschedule(source.topic, source.subscription, items)
    for place, result in zip(places, found, strict=True):
        results[place] = result
    shown = [
        {"position": text} | (problem_of(one) if isinstance(one, MomError) else {"status": "ok"})
        for text, one in zip(positions, results, strict=True)
    ]
    common = common_error(results)
    if common is not None:
        return problem_reply(common, results=shown)
    status = 207 if any(isinstance(one, MomError) for one in results) else 200
    return Reply(status, json_bytes(RescheduleReply(shown)))


_ERRORS: Final = (
    ErrorCode.NOT_FOUND,
    ErrorCode.CONFLICT,
    ErrorCode.ALREADY_SETTLED,
    ErrorCode.UNSUPPORTED_MEDIA_TYPE,
)
_Verb = tuple[str, Handler, str, str, type[Struct], dict[str, Any]]
_VERBS: Final[tuple[_Verb, ...]] = (
    ("cancel", cancel_messages, "Cancel messages that wait",
     "They are not delivered any more.", CancelIn, {}),
    ("reschedule", reschedule_messages, "Move messages to another time",
     "Messages that wait are delivered then, whatever they came with.", RescheduleIn,
     {"delay_ms": 60_000}),
)  # fmt: skip


def _describe(prefix: str, tag: str, verb: _Verb) -> Operation:
    name, _, summary, description, body, members = verb
    done = {"position": "0:12", "status": "ok"}
    leased = {"position": "0:13"} | problem_of(
        MomError("a worker has it under lease now", code=ErrorCode.CONFLICT, field="position")
    )
    return Operation(
        id=f"{prefix}{name}_messages",
        summary=summary,
        tag=tag,
        description=f"{description} A result for each position: a message that a worker has, or "
        "that is gone, stays as it is. When all failed with the same code, the answer is that "
        "problem, with the results added.",
        body=body,
        examples=(Example(summary=summary, value={"positions": ["0:12"]} | members),),
        answers={
            200: Answer(description="All done.", type=RescheduleReply, example={"results": [done]}),
            207: Answer(
                description="Some done; the others have a problem in their place.",
                type=RescheduleReply,
                example={"results": [done, leased]},
            ),
        },
        errors=_ERRORS,
    )


def _routes(base: str, prefix: str, tag: str) -> tuple[Route, ...]:
    return tuple(
        Route(
            method="POST",
            path=f"{base}/messages:{verb[0]}",
            action=Action.READ,
            handler=verb[1],
            operation=_describe(prefix, tag, verb),
        )
        for verb in _VERBS
    )


ROUTES: Final = (
    *_routes("/v1/queues/{queue}", "", "messages"),
    *_routes("/v1/topics/{topic}/subscriptions/{subscription}", "subscription_", "subscriptions"),
)
