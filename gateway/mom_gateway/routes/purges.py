"""Purging: all that waits in a queue or queue-mode subscription is taken away."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from fastapi import Response
from msgspec import Meta, Struct

from mom_core.access import Action
from mom_core.errors import ErrorCode
from mom_core.topics import TopicKind
from mom_gateway.calls import Call
from mom_gateway.operations import Answer, Described, Example, Operation
from mom_gateway.routes.control import CallOf, Name, answer

PURGES: Final = Described()


class PurgeIn(Struct, forbid_unknown_fields=True, kw_only=True):
    """What to take away. An empty body stands for what waits."""

    leased: Annotated[
        bool,
        Meta(description="Also what workers have: they are told when they acknowledge."),
    ] = False


class PurgeReply(Struct):
    """What was taken away."""

    purged: Annotated[int, Meta(description="Messages.")]


_decoder: Final = msgspec.json.Decoder(PurgeIn)
_WAITING: Final = PurgeIn()


def _operation(name: str, tag: str, what: str) -> Operation:
    return Operation(
        id=name,
        summary=f"Take away all that waits in a {what}",
        tag=tag,
        description="There is no undo. What comes in meanwhile stays.",
        body=PurgeIn,
        body_required=False,
        examples=(Example(summary="What waits", value={"leased": False}),),
        answers={200: Answer(description="Purged.", type=PurgeReply, example={"purged": 12})},
        errors=(ErrorCode.NOT_FOUND, ErrorCode.UNSUPPORTED_MEDIA_TYPE),
    )


async def _purge(call: Call, topic: str, kind: TopicKind, subscription: str) -> Response:
    call.service.require(call.identity, Action.ADMIN, topic)
    asked = await call.json(_decoder, _WAITING)
    await call.service.topic(topic, kind)
    purged = await call.service.engine.purge(topic, subscription, leased=asked.leased)
    return answer(PurgeReply(purged))


@PURGES.route(
    "POST",
    "/v1/queues/{queue}/messages:purge",
    _operation("purge_messages", "messages", "queue"),
)
async def _of_queue(call: CallOf, queue: Name) -> Response:
    return await _purge(call, queue, TopicKind.QUEUE, queue)


@PURGES.route(
    "POST",
    "/v1/topics/{topic}/subscriptions/{subscription}/messages:purge",
    _operation("subscription_purge_messages", "subscriptions", "queue-mode subscription"),
)
async def _of_subscription(call: CallOf, topic: Name, subscription: Name) -> Response:
    return await _purge(call, topic, TopicKind.TOPIC, subscription)
