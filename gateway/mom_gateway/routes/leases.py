"""Stream-mode subscriptions over REST: members share a topic's partitions.

A member acquires, reads the partitions it was given with ``GET …/partitions/{p}/records``, commits
how far it is, and renews within ``heartbeat_ms``. All of it is kept at the coordinating node, so
no call needs the same replica as the one before.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from mom_client.routing import TopicRoute
from mom_core import limits
from mom_core.access import Action
from mom_core.errors import ErrorCode, FencedError, InvalidArgumentError, MomError
from mom_core.names import check_name
from mom_core.topics import SubscriptionMode, TopicKind, parse_start
from mom_gateway.bodies import DURATION_FORMS, Duration, check_count
from mom_gateway.calls import Call, Route, check_duration, check_range
from mom_gateway.http import Reply, json_bytes
from mom_gateway.operations import Answer, Example, Operation
from mom_gateway.problems import common_error, problem_of, problem_reply
from mom_proto.v1 import broker_pb2

MemberId = Annotated[
    str, Meta(description="Unique among the members, and the same in each of a member's calls.")
]


class AcquireIn(Struct, forbid_unknown_fields=True, kw_only=True):
    """Join, or stay."""

    member_id: MemberId
    session_ms: Annotated[
        Duration | None,
        Meta(description="Silent for longer, the member loses its partitions; 1 s to 5 min: "
             f"{DURATION_FORMS}. Default: the subscription's."),
    ] = None  # fmt: skip


class PartitionLease(Struct):
    """A partition that the member reads."""

    partition: int
    generation: Annotated[
        int, Meta(description="Grows when the partition changes hands. Commits carry it.")
    ]
    committed_offset: Annotated[int, Meta(description="Read on from here.")]
    revoking: Annotated[
        bool, Meta(description="Another member is to have it: finish, commit and release it.")
    ]


class AcquireReply(Struct):
    """What the member reads now."""

    leases: list[PartitionLease]
    members: int
    heartbeat_ms: Annotated[int, Meta(description="Renew within this time.")]


class OffsetIn(Struct, forbid_unknown_fields=True, kw_only=True):
    """How far a partition was handled."""

    partition: int
    generation: int
    offset: Annotated[int, Meta(description="The offset after the last record handled.")]


class CommitIn(Struct, forbid_unknown_fields=True, kw_only=True):
    """Offsets to store."""

    member_id: MemberId
    offsets: list[OffsetIn]


class CommitReply(Struct):
    """A result for each offset, in the order of the request: status ok, or a problem."""

    results: list[Any]


class ReleaseIn(Struct, forbid_unknown_fields=True, kw_only=True):
    """Partitions to give up."""

    member_id: MemberId
    partitions: Annotated[
        list[int], Meta(description="Empty: all of them, and the member leaves.")
    ] = []


class ReleaseReply(Struct):
    """Nothing to say."""


class SeekIn(Struct, forbid_unknown_fields=True, kw_only=True):
    """Where the subscription is to go on."""

    to: Annotated[
        str, Meta(description="earliest, latest, offset:N, timestamp:MILLISECONDS or RFC 3339.")
    ]
    partitions: Annotated[list[int], Meta(description="Only these; empty: all.")] = []
    force: Annotated[bool, Meta(description="Also while members read: they begin again.")] = False
    dry_run: Annotated[bool, Meta(description="Only say what would be set.")] = False


class SeekOffset(Struct):
    """Where a partition goes on."""

    partition: int
    offset: int
    lag: Annotated[int, Meta(description="Messages that are not handled from there.")]
    lag_ms: Annotated[int, Meta(description="Age of the first of them; 0: there is none.")]


class SeekReply(Struct):
    """The offsets that were, or would be, set."""

    offsets: list[SeekOffset]


_acquire_decoder: Final = msgspec.json.Decoder(AcquireIn)
_commit_decoder: Final = msgspec.json.Decoder(CommitIn)
_release_decoder: Final = msgspec.json.Decoder(ReleaseIn)
_seek_decoder: Final = msgspec.json.Decoder(SeekIn)


async def _stream_subscription(call: Call) -> TopicRoute:
    """The topic of the path, after a look that the subscription is of stream mode."""
    topic, name = call.names
    route = await call.service.topic(topic, TopicKind.TOPIC)
    subscription = route.subscriptions.get(name)
    # A table that lacks it may be old: the node that is asked knows better.
    if subscription is not None and subscription.mode is not SubscriptionMode.STREAM:
        raise InvalidArgumentError(
            f"subscription {name!r} of {topic!r} is of mode queue; use its messages:receive",
            field="subscription",
        )
    return route


async def acquire(call: Call) -> Reply:
    """``POST …/leases:acquire`` and ``POST …/leases:renew``."""
    wanted = await call.json(_acquire_decoder)
    check_name(wanted.member_id, "member_id")
    session_ms = 0
    if wanted.session_ms is not None:
        session_ms = check_duration(
            wanted.session_ms, "session_ms", limits.SESSION_MS_MIN, limits.SESSION_MS_MAX
        )
    route = await _stream_subscription(call)
    reply = await call.service.engine.acquire_partitions(
        route.name, call.names[1], wanted.member_id, session_ms=session_ms
    )
    leases = [
        PartitionLease(lease.partition, lease.generation, lease.committed_offset, lease.revoking)
        for lease in reply.leases
    ]
    return Reply(200, json_bytes(AcquireReply(leases, reply.members, reply.heartbeat_ms)))


async def commit(call: Call) -> Reply:
    """``POST …/leases:commit``."""
    wanted = await call.json(_commit_decoder)
    check_name(wanted.member_id, "member_id")
    check_count(wanted.offsets, "offsets", limits.PARTITIONS_MAX)
    route = await _stream_subscription(call)
    results = await _commit_each(call, route, wanted)
    shown = [
        ({"status": "ok"} if result is None else problem_of(result)) | {"partition": one.partition}
        for one, result in zip(wanted.offsets, results, strict=True)
    ]
    error = common_error(results)
    if error is not None:
        return problem_reply(error, results=shown)
    status = 207 if any(isinstance(result, MomError) for result in results) else 200
    return Reply(status, json_bytes(CommitReply(shown)))


async def _commit_each(call: Call, route: TopicRoute, wanted: CommitIn) -> list[MomError | None]:
    """A result for each offset, None is success. One that can't be right fails by itself."""
    results: list[MomError | None] = [None] * len(wanted.offsets)
    commits: list[broker_pb2.OffsetCommit] = []
    places: list[int] = []
    for place, one in enumerate(wanted.offsets):
        try:
            commits.append(_offset_commit(one, route))
        except InvalidArgumentError as error:
            results[place] = error
        else:
            places.append(place)
    if commits:
        found = await call.service.engine.commit_offsets(
            route.name, call.names[1], wanted.member_id, commits
        )
        for place, result in zip(places, found, strict=True):
            results[place] = result
    return results


def _offset_commit(one: OffsetIn, route: TopicRoute) -> broker_pb2.OffsetCommit:
    route.check_partition(one.partition)
    return broker_pb2.OffsetCommit(
        partition=one.partition,
        generation=check_range(one.generation, "generation", 0),
        offset=check_range(one.offset, "offset", 0),
    )


async def release(call: Call) -> Reply:
    """``POST …/leases:release``."""
    wanted = await call.json(_release_decoder)
    check_name(wanted.member_id, "member_id")
    route = await _stream_subscription(call)
    for partition in wanted.partitions:
        route.check_partition(partition)
    await call.service.engine.release_partitions(
        route.name, call.names[1], wanted.member_id, wanted.partitions
    )
    return Reply(200, json_bytes(ReleaseReply()))


async def seek(call: Call) -> Reply:
    """``POST …/offsets:seek``."""
    wanted = await call.json(_seek_decoder)
    to = str(parse_start(wanted.to, "to"))
    route = await _stream_subscription(call)
    for partition in wanted.partitions:
        route.check_partition(partition)
    offsets = await call.service.engine.seek(
        route.name,
        call.names[1],
        to,
        partitions=wanted.partitions,
        force=wanted.force,
        dry_run=wanted.dry_run,
    )
    shown = [SeekOffset(*one) for one in offsets]
    return Reply(200, json_bytes(SeekReply(shown)))


_BASE: Final = "/v1/topics/{topic}/subscriptions/{subscription}"
_ACQUIRED: Final = {
    "leases": [{"partition": 0, "generation": 3, "committed_offset": 12, "revoking": False}],
    "members": 2,
    "heartbeat_ms": 3000,
}
_ERRORS: Final = (ErrorCode.NOT_FOUND, ErrorCode.UNSUPPORTED_MEDIA_TYPE)


def _acquire_operation(verb: str, summary: str, description: str) -> Operation:
    return Operation(
        id=f"{verb}_partitions",
        summary=summary,
        tag="subscriptions",
        description=description,
        body=AcquireIn,
        examples=(Example(summary=summary, value={"member_id": "worker-1"}),),
        answers={
            200: Answer(description="What to read.", type=AcquireReply, example=_ACQUIRED),
        },
        errors=_ERRORS,
    )


_COMMIT: Final = Operation(
    id="commit_offsets",
    summary="Commit how far partitions were handled",
    tag="subscriptions",
    description="A commit of a partition that another member holds now is refused (fenced).",
    body=CommitIn,
    examples=(
        Example(
            summary="One partition",
            value={
                "member_id": "worker-1",
                "offsets": [{"partition": 0, "generation": 3, "offset": 12}],
            },
        ),
    ),
    answers={
        200: Answer(
            description="All stored.",
            type=CommitReply,
            example={"results": [{"partition": 0, "status": "ok"}]},
        ),
        207: Answer(
            description="Some stored; the others have a problem in their place.",
            type=CommitReply,
            example={
                "results": [
                    {"partition": 0, "status": "ok"},
                    {"partition": 1}
                    | problem_of(FencedError("another member holds partition 1 now")),
                ]
            },
        ),
    },
    errors=(*_ERRORS, ErrorCode.FENCED),
)
_RELEASE: Final = Operation(
    id="release_partitions",
    summary="Give partitions up, or leave",
    tag="subscriptions",
    body=ReleaseIn,
    examples=(Example(summary="Leave", value={"member_id": "worker-1"}),),
    answers={200: Answer(description="Given up.", type=ReleaseReply, example={})},
    errors=_ERRORS,
)
_SEEK: Final = Operation(
    id="seek_subscription",
    summary="Set where a subscription goes on",
    tag="subscriptions",
    description="To replay a topic: to=earliest. With dry_run nothing is set, and the answer tells "
    "how far behind the subscription would be.",
    body=SeekIn,
    examples=(Example(summary="Replay from the start", value={"to": "earliest", "force": True}),),
    answers={
        200: Answer(
            description="The new offsets.",
            type=SeekReply,
            example={"offsets": [{"partition": 0, "offset": 0, "lag": 12, "lag_ms": 60_000}]},
        )
    },
    errors=(*_ERRORS, ErrorCode.CONFLICT),
)

_OPERATIONS: Final = (
    ("leases:acquire", acquire, _acquire_operation(
        "acquire", "Join and get partitions", "The first call makes the member.")),
    ("leases:renew", acquire, _acquire_operation(
        "renew", "Stay, and learn of changes", "The heartbeat: at least every heartbeat_ms.")),
    ("leases:commit", commit, _COMMIT),
    ("leases:release", release, _RELEASE),
    ("offsets:seek", seek, _SEEK),
)  # fmt: skip

ROUTES: Final = tuple(
    Route(
        method="POST",
        path=f"{_BASE}/{word}",
        action=Action.READ,
        handler=handler,
        operation=operation,
    )
    for word, handler, operation in _OPERATIONS
)
