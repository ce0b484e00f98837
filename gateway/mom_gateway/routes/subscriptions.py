"""Subscriptions of a topic as resources."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from fastapi import Response
from msgspec import Meta, Struct

from mom_client.routing import TopicRoute
from mom_core.access import Action
from mom_core.errors import ErrorCode, MomError, NotFoundError
from mom_core.names import check_name
from mom_core.topics import (
    SECRET_BYTES,
    SubscriptionConfig,
    SubscriptionMode,
    TopicKind,
    show_subscription,
)
from mom_gateway.calls import Call
from mom_gateway.operations import Answer, Described, Example, Operation
from mom_gateway.routes.control import CallOf, Name, answer, document_decoder
from mom_gateway.routes.topics import (
    MERGE_PATCH_TYPES,
    DeliverySettings,
    Duration,
    QueueCounts,
    count_messages,
)
from mom_gateway.service import check_kind

SUBSCRIPTIONS: Final = Described()
# The cluster makes the real one.
_NO_SECRET: Final = bytes(SECRET_BYTES)


class SubscriptionSettings(DeliverySettings, omit_defaults=True, kw_only=True):
    """Settings of a subscription. What is left out has its default; all but mode, start and
    session_ms are of mode queue."""

    mode: Annotated[
        str,
        Meta(description="stream: offsets, members share partitions. queue: leases of messages.",
             extra_json_schema={"enum": ["stream", "queue"]}),
    ] = "stream"  # fmt: skip
    start: Annotated[
        str,
        Meta(
            description="earliest, latest, offset:N, timestamp:MILLISECONDS or RFC 3339; looked up "
            "when it is made, within what each partition holds then."
        ),
    ] = "earliest"
    session_ms: Annotated[Duration, Meta(description="Stream mode.")] = 10_000


class Subscription(Struct, omit_defaults=True, kw_only=True):
    """A subscription."""

    name: str
    topic: str
    mode: str
    start: str
    created_at_ms: int
    session_ms: Annotated[int | None, Meta(description="Stream mode.")] = None
    lease_ms: Annotated[int | None, Meta(description="Queue mode, as what follows.")] = None
    ordering: str | None = None
    dead_letter: str | None = None
    max_deliveries: int | None = None
    dead_letter_expired: bool | None = None
    retry_backoff_ms: int | None = None
    retry_backoff_multiplier: float | None = None
    retry_backoff_max_ms: int | None = None
    message_ttl_ms: int | None = None
    paused: bool | None = None
    messages: Annotated[
        QueueCounts | None, Meta(description="Queue mode, when one subscription is asked for.")
    ] = None
    lag: Annotated[
        int | None,
        Meta(description="Stream mode, when one is asked for: records that it has not handled."),
    ] = None
    lag_ms: Annotated[
        int | None, Meta(description="Age of the first of them; 0: there is none.")
    ] = None
    rate_per_s: float | None = None
    fair_by: str | None = None


class SubscriptionList(Struct):
    """All subscriptions of a topic, by name."""

    subscriptions: list[Subscription]


_EXAMPLE: Final = {
    "name": "billing",
    "topic": "orders",
    "mode": "stream",
    "start": "earliest",
    "created_at_ms": 1_700_000_000_000,
    "session_ms": 10_000,
}
_PATH: Final = "/v1/topics/{topic}/subscriptions/{subscription}"


async def _topic(call: Call, name: str) -> TopicRoute:
    """The topic as the master knows it, so that a change just made is seen."""
    check_name(name, "topic")
    route = await call.service.engine.get_topic(name)
    check_kind(name, route.config.kind, TopicKind.TOPIC)
    return route


@SUBSCRIPTIONS.route(
    "GET",
    "/v1/topics/{topic}/subscriptions",
    Operation(
        id="list_subscriptions",
        summary="List the subscriptions of a topic",
        tag="subscriptions",
        answers={
            200: Answer(
                description="All of them.",
                type=SubscriptionList,
                example={"subscriptions": [_EXAMPLE]},
            )
        },
        errors=(ErrorCode.NOT_FOUND,),
    ),
)
async def _list(call: CallOf, topic: Name) -> Response:
    call.service.require(call.identity, Action.DESCRIBE, topic)
    route = await _topic(call, topic)
    shown = [show_subscription(one) for _, one in sorted(route.subscriptions.items())]
    return answer({"subscriptions": shown})


@SUBSCRIPTIONS.route(
    "PUT",
    _PATH,
    Operation(
        id="put_subscription",
        summary="Create a subscription",
        tag="subscriptions",
        description="Repeating it is safe: 200 when the same stands already, 409 with the "
        "differences when another does.",
        body=SubscriptionSettings,
        body_required=False,
        examples=(
            Example(summary="A consumer group", value={"mode": "stream", "start": "earliest"}),
            Example(summary="Leases and acks", value={"mode": "queue", "lease_ms": "1m"}),
        ),
        answers={
            201: Answer(description="Created.", type=Subscription, example=_EXAMPLE),
            200: Answer(description="Stood already.", type=Subscription, example=_EXAMPLE),
        },
        errors=(ErrorCode.NOT_FOUND, ErrorCode.CONFLICT, ErrorCode.UNSUPPORTED_MEDIA_TYPE),
    ),
)
async def _put(call: CallOf, topic: Name, subscription: Name) -> Response:
    call.service.require(call.identity, Action.ADMIN)
    wanted = await call.json(document_decoder, {})
    await _topic(call, topic)
    engine = call.service.engine
    made, created = await engine.create_subscription(topic, subscription, wanted)
    return answer(show_subscription(made), 201 if created else 200)


@SUBSCRIPTIONS.route(
    "GET",
    _PATH,
    Operation(
        id="get_subscription",
        summary="Describe a subscription",
        tag="subscriptions",
        answers={200: Answer(description="Found.", type=Subscription, example=_EXAMPLE)},
        errors=(ErrorCode.NOT_FOUND,),
    ),
)
async def _get(call: CallOf, topic: Name, subscription: Name) -> Response:
    call.service.require(call.identity, Action.DESCRIBE, topic)
    check_name(subscription, "subscription")
    found = (await _topic(call, topic)).subscription(subscription)
    return answer(show_subscription(found) | await _progress(call, found))


async def _progress(call: Call, found: SubscriptionConfig) -> dict[str, object]:
    """How far a subscription is; nothing while a node can't be reached."""
    try:
        partitions = await call.service.engine.describe(found.topic)
    except MomError:
        return {}
    if not all(partition.node_id for partition in partitions):
        return {}
    if found.mode is SubscriptionMode.QUEUE:
        return {"messages": count_messages(partitions, found.name)}
    lags = [one.lag for each in partitions for one in each.subscriptions if one.name == found.name]
    return {
        "lag": sum(one.messages for one in lags),
        "lag_ms": max((one.behind_ms for one in lags), default=0),
    }


@SUBSCRIPTIONS.route(
    "PATCH",
    _PATH,
    Operation(
        id="patch_subscription",
        summary="Alter a subscription",
        tag="subscriptions",
        description="A JSON merge patch (RFC 7396): what is left out stays, null returns to the "
        "default.",
        body=SubscriptionSettings,
        examples=(
            Example(summary="One setting", value={"session_ms": "30s"}),
            Example(
                summary="As a merge patch",
                value={"session_ms": "30s"},
                media_type="application/merge-patch+json",
            ),
        ),
        answers={200: Answer(description="Altered.", type=Subscription, example=_EXAMPLE)},
        errors=(ErrorCode.NOT_FOUND, ErrorCode.UNSUPPORTED_MEDIA_TYPE),
    ),
)
async def _patch(call: CallOf, topic: Name, subscription: Name) -> Response:
    call.service.require(call.identity, Action.ADMIN)
    patch = await call.json(document_decoder, media_types=MERGE_PATCH_TYPES)
    await _topic(call, topic)
    engine = call.service.engine
    altered = await engine.alter_subscription(topic, subscription, msgspec.json.encode(patch))
    return answer(show_subscription(altered))


@SUBSCRIPTIONS.route(
    "DELETE",
    _PATH,
    Operation(
        id="delete_subscription",
        summary="Delete a subscription",
        tag="subscriptions",
        description="What it has read and leased is forgotten; the topic's records stay.",
        answers={204: Answer(description="Deleted.")},
        errors=(ErrorCode.NOT_FOUND,),
    ),
)
async def _delete(call: CallOf, topic: Name, subscription: Name) -> Response:
    call.service.require(call.identity, Action.ADMIN)
    check_name(subscription, "subscription")
    route = await _topic(call, topic)
    if subscription not in route.subscriptions:
        raise NotFoundError(f"{topic!r} has no subscription {subscription!r}", field="subscription")
    await call.service.engine.delete_subscription(topic, subscription)
    return Response(status_code=204)
