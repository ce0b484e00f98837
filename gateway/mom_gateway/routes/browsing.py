"""Looking at what a queue, or a queue-mode subscription, holds, without leasing it."""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta, Struct

from mom_client.browsing import browse_page
from mom_core.access import Action
from mom_core.errors import ErrorCode
from mom_core.limits import PARTITIONS_MAX
from mom_core.positions import parse_position
from mom_core.topics import TopicKind
from mom_gateway.bodies import BrowsedOut, show_browsed
from mom_gateway.calls import Call, Route
from mom_gateway.http import Reply, json_bytes
from mom_gateway.operations import Answer, Operation, Parameter, whole
from mom_gateway.routes.control import LIST_LIMIT_DEFAULT, LIST_LIMIT_MAX, LIST_QUERY

_PARTITION: Final = "partition"
_KNOWN: Final = frozenset({_PARTITION, "limit", "page_token"})


class BrowseReply(Struct):
    """What is not acknowledged, partition after partition in the order of offsets."""

    messages: list[BrowsedOut]
    next_page_token: Annotated[str, Meta(description="Empty at the end.")]


async def browse_messages(call: Call) -> Reply:
    """``GET …/messages``."""
    query = call.query(_KNOWN)
    limit = query.number("limit", LIST_LIMIT_DEFAULT, 1, LIST_LIMIT_MAX)
    partition = None
    if query.text(_PARTITION) is not None:
        partition = query.number(_PARTITION, 0, 0, PARTITIONS_MAX - 1)
    token = query.text("page_token")
    name = call.names[0]
    await call.service.topic(name, TopicKind.QUEUE if len(call.names) == 1 else TopicKind.TOPIC)
    page = await browse_page(
        call.service.engine,
        name,
        call.names[-1],
        limit=limit,
        partition=partition,
        start=parse_position(token, "page_token") if token else None,
    )
    next_page_token = "" if page.next_position is None else str(page.next_position)
    shown = [show_browsed(one) for one in page.messages]
    return Reply(200, json_bytes(BrowseReply(shown, next_page_token)))


_EXAMPLE: Final = {
    "offset": 12,
    "timestamp_ms": 1_700_000_000_000,
    "id": "01912d68-783e-7a03-8467-5661c1243ad4",
    "content_type": "text/plain",
    "value": "hello",
    "partition": 0,
    "position": "0:12",
    "state": "delayed",
    "deliveries": 1,
    "append_time_ms": 1_700_000_000_000,
    "until_ms": 1_700_000_060_000,
}
_QUERY: Final = (
    Parameter(
        name=_PARTITION,
        description="Only this one. Left out: all, one after the other.",
        schema=whole(0, PARTITIONS_MAX - 1),
    ),
    *LIST_QUERY,
)


def _route(base: str, prefix: str, tag: str) -> Route:
    return Route(
        method="GET",
        path=f"{base}/messages",
        action=Action.READ,
        handler=browse_messages,
        operation=Operation(
            id=f"{prefix}browse_messages",
            summary="Look at the messages that are not acknowledged",
            tag=tag,
            description="With state, deliveries and position of each. Nothing is leased, and "
            "nobody is disturbed. A page ends at limit, or earlier at about 8 MiB.",
            query=_QUERY,
            answers={
                200: Answer(
                    description="One page.",
                    type=BrowseReply,
                    example={"messages": [_EXAMPLE], "next_page_token": ""},
                )
            },
            errors=(ErrorCode.NOT_FOUND,),
        ),
    )


ROUTES: Final = (
    _route("/v1/queues/{queue}", "", "messages"),
    _route("/v1/topics/{topic}/subscriptions/{subscription}", "subscription_", "subscriptions"),
)
