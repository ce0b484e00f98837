"""Dead letters of a queue: looked at, and sent back."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from fastapi import Query, Response
from msgspec import Meta, Struct

from mom_core.access import Action
from mom_core.dead_letters import REASONS, REASONS_TEXT, DeadLetterFilter
from mom_core.errors import ErrorCode, InvalidArgumentError
from mom_core.ids import parse_id
from mom_core.limits import OFFSET_MAX
from mom_core.topics import TopicKind
from mom_gateway.bodies import DeadLetterOut, show_dead_letter
from mom_gateway.operations import Answer, Described, Example, Operation, Parameter
from mom_gateway.routes.control import (
    LIST_LIMIT_DEFAULT,
    LIST_QUERY,
    CallOf,
    Limit,
    Name,
    PageToken,
    answer,
)
from mom_gateway.routes.operations import WORK_EXAMPLE, WorkShown

DEAD_LETTERS: Final = Described()

_Text = Annotated[str, Query(max_length=256)]


class DeadLetterList(Struct):
    """Dead letters in their order."""

    dead_letters: list[DeadLetterOut]
    next_page_token: Annotated[str, Meta(description="Empty at the end.")]


class RedriveIn(Struct, forbid_unknown_fields=True, kw_only=True):
    """Which dead letters, where to, and how fast. An empty body stands for all, back to where
    they died, as fast as it goes."""

    to: Annotated[
        str, Meta(description="A topic or queue; empty: each goes back to where it died.")
    ] = ""
    rate: Annotated[
        str | float, Meta(description="100/s, 30/m, 5/h or messages a second. 0: no bound.")
    ] = 0
    reason: Annotated[str, Meta(description=f"Only those: {REASONS_TEXT}.")] = ""
    topic: Annotated[str, Meta(description="Only those that died there.")] = ""
    subscription: Annotated[str, Meta(description="Only those of this subscription.")] = ""
    offsets: Annotated[list[int], Meta(description="Only these, at most 1,000.")] = []
    ids: Annotated[list[str], Meta(description="Only these, at most 1,000.")] = []


_redrive_decoder: Final = msgspec.json.Decoder(RedriveIn)
_ALL: Final = RedriveIn()
_EXAMPLE: Final = {
    "offset": 7,
    "timestamp_ms": 1_700_000_000_000,
    "id": "01912d68-783e-7a03-8467-5661c1243ad4",
    "content_type": "application/json",
    "value": {"to": "someone"},
    "state": "ready",
    "reason": "max_deliveries",
    "deliveries": 5,
    "first_delivered_at_ms": 1_700_000_000_000,
    "died_at_ms": 1_700_000_060_000,
    "topic": "mail",
    "subscription": "mail",
    "origin_partition": 0,
    "origin_offset": 41,
    "redrives": 0,
}
_QUERY: Final = (
    Parameter(
        name="reason",
        description="Only those that died of it.",
        schema={"type": "string", "enum": [*REASONS]},
    ),
    Parameter(
        name="topic",
        description="Only those that died in this queue or topic.",
        schema={"type": "string"},
    ),
    Parameter(
        name="subscription",
        description="Only those of this subscription.",
        schema={"type": "string"},
    ),
    *LIST_QUERY,
)


@DEAD_LETTERS.route(
    "GET",
    "/v1/queues/{queue}/dead-letters",
    Operation(
        id="list_dead_letters",
        summary="Look at the dead letters that a queue holds",
        tag="dead letters",
        description="The queue is the one that holds them, such as mail.dlq. Nothing is leased, "
        "and nobody is disturbed.",
        query=_QUERY,
        answers={
            200: Answer(
                description="One page.",
                type=DeadLetterList,
                example={"dead_letters": [_EXAMPLE], "next_page_token": ""},
            )
        },
        errors=(ErrorCode.NOT_FOUND,),
    ),
)
async def _list(
    call: CallOf,
    queue: Name,
    reason: _Text = "",
    topic: _Text = "",
    subscription: _Text = "",
    limit: Limit = LIST_LIMIT_DEFAULT,
    page_token: PageToken = "",
) -> Response:
    call.service.require(call.identity, Action.READ, queue)
    await call.service.topic(queue, TopicKind.QUEUE)
    wanted = DeadLetterFilter(reason=reason, topic=topic, subscription=subscription)
    page = await call.service.engine.dead_letters(
        queue, wanted, offset=_offset_of(page_token), limit=limit
    )
    shown = [show_dead_letter(one) for one in page.dead_letters]
    return answer(DeadLetterList(shown, str(page.next_offset) if page.next_offset else ""))


def _offset_of(page_token: str) -> int:
    if not page_token:
        return 0
    if page_token.isascii() and page_token.isdigit() and int(page_token[:20]) <= OFFSET_MAX:
        return int(page_token)
    raise InvalidArgumentError(
        "page_token is none that a list call answered; leave it out to begin anew",
        field="page_token",
    )


@DEAD_LETTERS.route(
    "POST",
    "/v1/queues/{queue}/dead-letters:redrive",
    Operation(
        id="redrive_dead_letters",
        summary="Send dead letters back to where they died, or elsewhere",
        tag="dead letters",
        description="Each arrives once, whatever fails on the way. The work goes on by itself: "
        "ask for the operation that the Location header names.",
        body=RedriveIn,
        body_required=False,
        examples=(
            Example(summary="All, slowly", value={"rate": "100/s"}),
            Example(summary="The expired ones", value={"reason": "expired", "topic": "mail"}),
        ),
        answers={202: Answer(description="Begun.", type=WorkShown, example=WORK_EXAMPLE)},
        errors=(ErrorCode.NOT_FOUND, ErrorCode.UNSUPPORTED_MEDIA_TYPE),
    ),
)
async def _redrive(call: CallOf, queue: Name) -> Response:
    call.service.require(call.identity, Action.ADMIN, queue)
    asked = await call.json(_redrive_decoder, _ALL)
    await call.service.topic(queue, TopicKind.QUEUE)
    wanted = DeadLetterFilter(
        reason=asked.reason,
        topic=asked.topic,
        subscription=asked.subscription,
        offsets=tuple(asked.offsets),
        ids=tuple(parse_id(one).hex() for one in asked.ids),
    )
    begun = await call.service.engine.redrive(queue, wanted, to=asked.to, rate=asked.rate)
    return answer(begun, 202, {"location": f"/v1/operations/{begun.operation_id}"})
