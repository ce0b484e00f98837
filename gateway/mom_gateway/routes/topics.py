"""Topics and queues as resources: the same routes for both, since they differ in kind alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Final, Literal

import msgspec
from fastapi import Response
from msgspec import Meta, Struct

from mom_client.results import TopicPage
from mom_core.access import Action
from mom_core.errors import ErrorCode, MomError
from mom_core.names import check_name
from mom_core.topics import TopicConfig, TopicKind, show_topic
from mom_gateway.calls import JSON_TYPES, Call
from mom_gateway.operations import Answer, Described, Example, Operation
from mom_gateway.routes.control import (
    LIST_LIMIT_DEFAULT,
    LIST_QUERY,
    CallOf,
    Limit,
    Name,
    PageToken,
    answer,
    document_decoder,
)
from mom_gateway.service import check_kind
from mom_proto.v1 import broker_pb2

MERGE_PATCH_TYPES: Final = ("application/merge-patch+json", *JSON_TYPES)

Duration = Annotated[
    int | str, Meta(description="Milliseconds, or text such as 168h, 30s or 1h30m.")
]
Rate = Annotated[float | str, Meta(description="A second, or text such as 100/s or 6000/m.")]
Size = Annotated[int | str, Meta(description="Bytes, or text such as 10Gi or 500M.")]


DedupWindow = Annotated[
    Duration,
    Meta(description="A second message with the same dedup_id is not stored within so long, up to "
         "24h; 0: it is stored."),
]  # fmt: skip


class TopicSettings(Struct, omit_defaults=True, kw_only=True):
    """Settings of a topic. What is left out has its default."""

    partitions: Annotated[int, Meta(description="1 to 1024. May grow, never shrink.")] = 1
    retention_ms: Duration = 604_800_000
    retention_bytes: Size = 1_073_741_824
    message_bytes_max: Size = 1_048_576
    retain_until_acked: Annotated[
        bool,
        Meta(description="Keep a record, whatever its age, until all subscriptions have handled "
             "it, then remove it; refuse new ones at retention_bytes rather than remove old ones. "
             "retention_ms counts only while there is no subscription."),
    ] = False  # fmt: skip
    dedup_window_ms: DedupWindow = 300_000


class DeliverySettings(Struct, omit_defaults=True, kw_only=True):
    """How messages are leased, of a queue or a queue-mode subscription."""

    lease_ms: Duration = 30_000
    ordering: Annotated[
        str,
        Meta(description="priority: higher ones first. fifo: of each key one at a time, in order. "
             "fair: of each key one in turn. Can't change.",
             extra_json_schema={"enum": ["priority", "fifo", "fair"]}),
    ] = "priority"  # fmt: skip
    dead_letter: Annotated[
        str,
        Meta(description="Where messages go that can't be handled; made as a queue if it is "
             "missing. Empty: they come again for ever."),
    ] = ""  # fmt: skip
    max_deliveries: Annotated[
        int, Meta(description="Failed deliveries before that, 1 to 1000. Needs dead_letter.")
    ] = 5
    dead_letter_expired: Annotated[
        bool, Meta(description="Whether expired messages go there too; else they are dropped.")
    ] = False
    retry_backoff_ms: Annotated[
        Duration,
        Meta(description="The wait after the first failed delivery, up to a day and below "
             "message_ttl_ms."),
    ] = 0  # fmt: skip
    retry_backoff_multiplier: Annotated[
        float,
        Meta(description="The wait grows by it with each further one, 1 to 100. Needs "
             "retry_backoff_ms."),
    ] = 1.0  # fmt: skip
    retry_backoff_max_ms: Annotated[
        Duration,
        Meta(description="The longest wait, below message_ttl_ms; 0: no bound but the "
             "multiplier's. Needs retry_backoff_ms."),
    ] = 0  # fmt: skip
    message_ttl_ms: Annotated[
        Duration, Meta(description="Messages expire so long after they came; 0: never by that.")
    ] = 0
    paused: Annotated[
        bool, Meta(description="Deliver nothing for now. Publishing and acks go on.")
    ] = False
    rate_per_s: Annotated[
        Rate,
        Meta(description="Messages that are leased at the most, over all workers, such as 100/s or "
             "6000/m; a plain number is a second's. 0: no limit."),
    ] = 0.0  # fmt: skip
    fair_by: Annotated[
        str,
        Meta(description="With ordering fair, what has a turn: key, or header:NAME, the value of a "
             "header. Can't change."),
    ] = "key"  # fmt: skip


class QueueSettings(DeliverySettings, omit_defaults=True, kw_only=True):
    """Settings of a queue. What is left out has its default."""

    partitions: Annotated[int, Meta(description="1 to 1024. May grow, never shrink.")] = 1
    retention_ms: Annotated[Duration, Meta(description="0: until acknowledged.")] = 0
    retention_bytes: Size = 1_073_741_824
    message_bytes_max: Size = 1_048_576
    messages_max: Annotated[
        int,
        Meta(description="While it holds so many, new messages are refused (429). 0: no bound."),
    ] = 0
    dedup_window_ms: DedupWindow = 300_000


class TopicBase(Struct, kw_only=True):
    """What topics and queues have both."""

    name: str
    kind: str
    topic_id: Annotated[str, Meta(description="A topic made again under its name has another.")]
    partitions: int
    retention_ms: Annotated[int, Meta(description="0: no limit by time.")]
    retention_bytes: Annotated[int, Meta(description="For each partition.")]
    message_bytes_max: int
    dedup_window_ms: int
    created_at_ms: int


class Topic(TopicBase, kw_only=True):
    """A topic."""

    retain_until_acked: bool


class QueueCounts(Struct):
    """Messages of a queue, over all partitions."""

    ready: Annotated[int, Meta(description="A receive would get them now.")]
    delayed: Annotated[int, Meta(description="Their time has not come.")]
    leased: Annotated[int, Meta(description="A worker has them.")]
    dead: Annotated[int, Meta(description="On their way to the dead letters.")] = 0
    oldest_ready_ms: Annotated[
        int | None, Meta(description="Age of the oldest ready one; null: there is none.")
    ] = None
    oldest_unacked_ms: Annotated[
        int | None, Meta(description="Age of the oldest of all; null: there is none.")
    ] = None
    stalled_since_ms: Annotated[
        int,
        Meta(description="Since when nothing moves in a partition though it has messages and "
             "workers, milliseconds since the Unix epoch. 0: it moves, or there is nothing to do."),
    ] = 0  # fmt: skip


class Queue(TopicBase, kw_only=True):
    """A queue."""

    messages_max: int
    lease_ms: int
    ordering: str
    dead_letter: str
    max_deliveries: int
    dead_letter_expired: bool
    retry_backoff_ms: int
    retry_backoff_multiplier: float
    retry_backoff_max_ms: int
    message_ttl_ms: int
    paused: bool
    rate_per_s: Annotated[float, Meta(description="0: no limit.")]
    fair_by: str
    messages: Annotated[
        QueueCounts | None,
        Meta(description="When one queue is asked for; null while a node can't be reached."),
    ] = None


class TopicList(Struct):
    """Topics in the order of their names."""

    topics: list[Topic]
    next_page_token: Annotated[str, Meta(description="Empty at the end.")]


class QueueList(Struct):
    """Queues in the order of their names."""

    queues: list[Queue]
    next_page_token: str


class SubscriptionCounts(Struct):
    """A subscription as one partition has it."""

    name: str
    mode: str
    ready: int
    delayed: int
    leased: int
    dead: int
    committed_offset: int
    member_id: str
    lag: Annotated[int, Meta(description="Stream mode: messages not handled.")] = 0
    lag_ms: Annotated[int, Meta(description="Stream mode: age of the first of them.")] = 0
    oldest_ready_ms: Annotated[
        int | None, Meta(description="Queue mode: age of the oldest ready message.")
    ] = None
    oldest_unacked_ms: Annotated[
        int | None, Meta(description="Queue mode: age of the oldest message.")
    ] = None
    paused: Annotated[bool, Meta(description="Queue mode: nothing is delivered for now.")] = False
    stalled_since_ms: Annotated[
        int,
        Meta(description="Since when nothing moves though there are messages and workers, "
             "milliseconds since the Unix epoch. 0: it moves, or there is nothing to do."),
    ] = 0  # fmt: skip
    workers: Annotated[int, Meta(description="Workers that wait at it or have a stream.")] = 0


class PartitionInfo(Struct):
    """A partition: who owns it, and what is in it."""

    partition: int
    node_id: Annotated[str, Meta(description="Empty: no owner that answers.")]
    epoch: int
    log_start: int
    high_watermark: int
    size_bytes: int
    subscriptions: list[SubscriptionCounts]


class PartitionList(Struct):
    """All partitions, in order."""

    partitions: list[PartitionInfo]


TOPICS: Final = Described()


async def put_topic(call: Call, name: str, kind: TopicKind) -> Response:
    """Create, or answer 200 when the same stands and 409 with the differences otherwise."""
    call.service.require(call.identity, Action.ADMIN)
    wanted = await call.json(document_decoder, {})
    made, created = await call.service.engine.create_topic(name, kind, wanted)
    return answer(show(made), 201 if created else 200)


async def get_topic(call: Call, name: str, kind: TopicKind) -> Response:
    """One topic or queue; a queue with its counts."""
    call.service.require(call.identity, Action.DESCRIBE, name)
    route = await call.service.topic(name, kind)
    shown = show(route.config)
    if kind is TopicKind.QUEUE:
        shown["messages"] = await _counts(call, name)
    return answer(shown)


async def _counts(call: Call, queue: str) -> QueueCounts | None:
    try:
        partitions = await call.service.engine.describe(queue)
    except MomError:
        return None
    if not all(partition.node_id for partition in partitions):
        return None
    return count_messages(partitions, queue)


def count_messages(
    partitions: Iterable[broker_pb2.PartitionDescription], subscription: str
) -> QueueCounts:
    """The counts of a queue-mode subscription over all partitions."""
    found = [one for each in partitions for one in each.subscriptions if one.name == subscription]
    return QueueCounts(
        sum(one.ready for one in found),
        sum(one.delayed for one in found),
        sum(one.leased for one in found),
        sum(one.dead for one in found),
        _oldest(found, "oldest_ready_ms"),
        _oldest(found, "oldest_unacked_ms"),
        min((one.stalled_since_ms for one in found if one.stalled_since_ms), default=0),
    )


def _oldest(
    found: Iterable[broker_pb2.SubscriptionDescription],
    field: Literal["oldest_ready_ms", "oldest_unacked_ms"],
) -> int | None:
    return max((age_of(one, field) or 0 for one in found if one.HasField(field)), default=None)


def age_of(
    one: broker_pb2.SubscriptionDescription,
    field: Literal["oldest_ready_ms", "oldest_unacked_ms"],
) -> int | None:
    """An age, None where there is nothing to be old."""
    age: int | None = getattr(one, field) if one.HasField(field) else None
    return age


async def patch_topic(call: Call, name: str, kind: TopicKind) -> Response:
    """Apply a JSON merge patch."""
    call.service.require(call.identity, Action.ADMIN)
    patch = await call.json(document_decoder, media_types=MERGE_PATCH_TYPES)
    check_name(name)
    altered = await call.service.engine.alter_topic(name, kind, msgspec.json.encode(patch))
    check_kind(name, altered.kind, kind)
    return answer(show(altered))


async def delete_topic(call: Call, name: str, kind: TopicKind) -> Response:
    """Delete with all messages."""
    call.service.require(call.identity, Action.ADMIN)
    check_name(name)
    await call.service.engine.delete_topic(name, kind)
    return Response(status_code=204)


async def list_topics(call: Call, kind: TopicKind, limit: int, page_token: str) -> TopicPage:
    """One page of those that the caller may describe; a page may have fewer than ``limit``."""
    page = await call.service.engine.list_topics(kind, limit, page_token)
    visible = [one for one in page.topics if call.service.may_describe(call.identity, one.name)]
    return TopicPage(visible, page.next_page_token)


async def list_partitions(call: Call, name: str, kind: TopicKind) -> Response:
    """Placement and counts of all partitions."""
    call.service.require(call.identity, Action.DESCRIBE, name)
    await call.service.topic(name, kind)
    described = await call.service.engine.describe(name)
    return answer(PartitionList([show_partition(one) for one in described]))


def show(config: TopicConfig) -> dict[str, Any]:
    """A topic or queue as REST shows it."""
    return show_topic(config)


def show_partition(one: broker_pb2.PartitionDescription) -> PartitionInfo:
    """A partition as REST shows it."""
    return PartitionInfo(
        one.partition,
        one.node_id,
        one.epoch,
        one.log_start,
        one.high_watermark,
        one.size_bytes,
        [
            SubscriptionCounts(
                each.name,
                "queue" if each.mode == 2 else "stream",
                each.ready,
                each.delayed,
                each.leased,
                each.dead,
                each.committed_offset,
                each.member_id,
                each.lag.messages,
                each.lag.behind_ms,
                age_of(each, "oldest_ready_ms"),
                age_of(each, "oldest_unacked_ms"),
                each.paused,
                each.stalled_since_ms,
                each.workers,
            )
            for each in one.subscriptions
        ],
    )


# Routes and their descriptions, for a kind.

_COMMON_EXAMPLE: Final = {
    "name": "orders",
    "kind": "topic",
    "topic_id": "01912d68783e7a0384675661c1243ad4",
    "partitions": 6,
    "retention_ms": 604_800_000,
    "retention_bytes": 1_073_741_824,
    "message_bytes_max": 1_048_576,
    "dedup_window_ms": 300_000,
    "created_at_ms": 1_700_000_000_000,
}
_TOPIC_EXAMPLE: Final = _COMMON_EXAMPLE | {"retain_until_acked": False}
_QUEUE_EXAMPLE: Final = _COMMON_EXAMPLE | {
    "name": "mail",
    "kind": "queue",
    "partitions": 1,
    "retention_ms": 0,
    "messages_max": 0,
    "lease_ms": 30_000,
    "ordering": "priority",
    "dead_letter": "mail.dlq",
    "max_deliveries": 5,
    "dead_letter_expired": False,
    "retry_backoff_ms": 1_000,
    "retry_backoff_multiplier": 2.0,
    "retry_backoff_max_ms": 60_000,
    "message_ttl_ms": 0,
    "paused": False,
    "messages": {
        "ready": 3,
        "delayed": 0,
        "leased": 1,
        "dead": 0,
        "oldest_ready_ms": 1_200,
        "oldest_unacked_ms": 8_000,
        "stalled_since_ms": 0,
    },
    "rate_per_s": 100.0,
    "fair_by": "key",
}
_PARTITIONS_EXAMPLE: Final = {
    "partitions": [
        {
            "partition": 0,
            "node_id": "my-mom-node-0",
            "epoch": 3,
            "log_start": 0,
            "high_watermark": 12,
            "size_bytes": 4096,
            "subscriptions": [],
        }
    ]
}


class _Words:
    """How the descriptions of a kind read."""

    def __init__(self, kind: TopicKind) -> None:
        queue = kind is TopicKind.QUEUE
        self.kind = kind.value
        self.tag = f"{kind.value}s"
        self.settings = QueueSettings if queue else TopicSettings
        self.type = Queue if queue else Topic
        self.list_type = QueueList if queue else TopicList
        self.example = _QUEUE_EXAMPLE if queue else _TOPIC_EXAMPLE
        self.put = (
            {"lease_ms": "30s", "retention_bytes": "1Gi"}
            if queue
            else {"partitions": 6, "retention_ms": "168h", "retention_bytes": "1Gi"}
        )
        self.patch = {"lease_ms": "1m"} if queue else {"retention_ms": "24h"}


def put_operation(kind: TopicKind) -> Operation:
    """The description of PUT."""
    words = _Words(kind)
    return Operation(
        id=f"put_{kind.value}",
        summary=f"Create a {kind.value}",
        tag=words.tag,
        description="Repeating it is safe: when the same stands already the answer is 200, and "
        "when another does it is 409 with the differences. Only settings in the body are compared.",
        body=words.settings,
        body_required=False,
        examples=(Example(summary="With settings", value=words.put),),
        answers={
            201: Answer(description="Created.", type=words.type, example=words.example),
            200: Answer(description="Stood already.", type=words.type, example=words.example),
        },
        errors=(ErrorCode.CONFLICT, ErrorCode.UNSUPPORTED_MEDIA_TYPE),
    )


def get_operation(kind: TopicKind) -> Operation:
    """The description of GET."""
    words = _Words(kind)
    return Operation(
        id=f"get_{kind.value}",
        summary=f"Describe a {kind.value}",
        tag=words.tag,
        answers={200: Answer(description="Found.", type=words.type, example=words.example)},
        errors=(ErrorCode.NOT_FOUND,),
    )


def patch_operation(kind: TopicKind) -> Operation:
    """The description of PATCH."""
    words = _Words(kind)
    return Operation(
        id=f"patch_{kind.value}",
        summary=f"Alter a {kind.value}",
        tag=words.tag,
        description="A JSON merge patch (RFC 7396): what is left out stays, null returns to the "
        "default.",
        body=words.settings,
        examples=(
            Example(summary="One setting", value=words.patch),
            Example(
                summary="As a merge patch",
                value=words.patch,
                media_type="application/merge-patch+json",
            ),
        ),
        answers={200: Answer(description="Altered.", type=words.type, example=words.example)},
        errors=(ErrorCode.NOT_FOUND, ErrorCode.UNSUPPORTED_MEDIA_TYPE),
    )


def delete_operation(kind: TopicKind) -> Operation:
    """The description of DELETE."""
    return Operation(
        id=f"delete_{kind.value}",
        summary=f"Delete a {kind.value} with all its messages",
        tag=f"{kind.value}s",
        answers={204: Answer(description="Deleted.")},
        errors=(ErrorCode.NOT_FOUND,),
    )


def list_operation(kind: TopicKind) -> Operation:
    """The description of GET of the collection."""
    words = _Words(kind)
    return Operation(
        id=f"list_{words.tag}",
        summary=f"List {words.tag}",
        tag=words.tag,
        description="Those that the token may read or write. A page may be short: go on until "
        "next_page_token is empty.",
        query=LIST_QUERY,
        answers={
            200: Answer(
                description="One page.",
                type=words.list_type,
                example={words.tag: [words.example], "next_page_token": ""},
            )
        },
    )


def partitions_operation(kind: TopicKind) -> Operation:
    """The description of GET …/partitions."""
    return Operation(
        id=f"list_{kind.value}_partitions",
        summary="Show where the partitions are, and what is in them",
        tag=f"{kind.value}s",
        answers={
            200: Answer(
                description="All partitions.", type=PartitionList, example=_PARTITIONS_EXAMPLE
            )
        },
        errors=(ErrorCode.NOT_FOUND,),
    )


_KIND: Final = TopicKind.TOPIC


@TOPICS.route("GET", "/v1/topics", list_operation(_KIND))
async def _list(
    call: CallOf, limit: Limit = LIST_LIMIT_DEFAULT, page_token: PageToken = ""
) -> Response:
    page = await list_topics(call, _KIND, limit, page_token)
    return answer({"topics": [*map(show, page.topics)], "next_page_token": page.next_page_token})


@TOPICS.route("PUT", "/v1/topics/{topic}", put_operation(_KIND))
async def _put(call: CallOf, topic: Name) -> Response:
    return await put_topic(call, topic, _KIND)


@TOPICS.route("GET", "/v1/topics/{topic}", get_operation(_KIND))
async def _get(call: CallOf, topic: Name) -> Response:
    return await get_topic(call, topic, _KIND)


@TOPICS.route("PATCH", "/v1/topics/{topic}", patch_operation(_KIND))
async def _patch(call: CallOf, topic: Name) -> Response:
    return await patch_topic(call, topic, _KIND)


@TOPICS.route("DELETE", "/v1/topics/{topic}", delete_operation(_KIND))
async def _delete(call: CallOf, topic: Name) -> Response:
    return await delete_topic(call, topic, _KIND)


@TOPICS.route("GET", "/v1/topics/{topic}/partitions", partitions_operation(_KIND))
async def _partitions(call: CallOf, topic: Name) -> Response:
    return await list_partitions(call, topic, _KIND)
