"""Records of a topic: publish them, read a partition."""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta, Struct

from mom_client.results import Fetched
from mom_core import limits
from mom_core.access import Action
from mom_core.batch import decode
from mom_core.errors import ErrorCode, InvalidArgumentError, NotFoundError
from mom_core.topics import Start, StartKind, TopicKind, parse_start
from mom_gateway.bodies import RecordOut, RecordsIn, show_record
from mom_gateway.calls import Call, Route
from mom_gateway.http import Query, Reply, json_bytes, whole_number
from mom_gateway.operations import Answer, Operation, Parameter, whole
from mom_gateway.publishing import describe_publish, publish

READ_PARAMETERS: Final = frozenset({"offset", "timestamp", "max", "max_bytes", "wait_ms"})


class ReadReply(Struct):
    """Records in the order of the partition."""

    records: list[RecordOut]
    next_offset: Annotated[int, Meta(description="Read on from here.")]
    high_watermark: Annotated[int, Meta(description="The offset after the last record.")]
    log_start: Annotated[int, Meta(description="The lowest offset that retention has kept.")]


async def publish_records(call: Call) -> Reply:
    """``POST /v1/topics/{topic}/records``."""
    return await publish(call, TopicKind.TOPIC)


async def read_records(call: Call) -> Reply:
    """``GET /v1/topics/{topic}/partitions/{partition}/records``."""
    service = call.service
    topic, partition_text = call.names
    query = call.query(READ_PARAMETERS)
    start = _start_of(query)
    most = query.number("max", limits.GATEWAY_RECORDS_MAX, 1, limits.GATEWAY_RECORDS_MAX)
    max_bytes = query.number("max_bytes", 0, 0, limits.FETCH_BYTES_MAX)
    wait_ms = query.number("wait_ms", 0, 0, limits.WAIT_MS_MAX)
    route = await service.topic(topic, TopicKind.TOPIC)
    partition = check_partition(partition_text, topic, route.config.partitions)
    fetched = None
    if wait_ms and not service.draining:
        work = service.engine.fetch(topic, partition, start, max_bytes=max_bytes, wait_ms=wait_ms)
        fetched = await service.wait(work, call.receive, None)
    if fetched is None:
        fetched = await service.engine.fetch(topic, partition, start, max_bytes=max_bytes)
    reply = show_fetched(fetched, most)
    service.metrics.messages_out += len(reply.records)
    return Reply(200, json_bytes(reply))


def check_partition(text: str, topic: str, partitions: int) -> int:
    """The partition of a path. Raises NotFoundError that names those that exist."""
    if text.isascii() and text.isdigit() and len(text) <= 5 and int(text) < partitions:
        return int(text)
    raise NotFoundError(
        f"partition {text[:32]!r} does not exist; {topic!r} has partitions 0 to {partitions - 1}",
        field="partition",
        details={"partitions": str(partitions)},
    )


def _start_of(query: Query) -> Start:
    offset, timestamp = query.text("offset"), query.text("timestamp")
    if timestamp is not None:
        if offset is not None:
            raise InvalidArgumentError(
                "give offset or timestamp, not both: each says where to begin", field="timestamp"
            )
        return parse_start(f"timestamp:{timestamp}", "timestamp")
    if offset is None:
        return Start(StartKind.EARLIEST)
    if offset in (StartKind.EARLIEST, StartKind.LATEST):
        return Start(StartKind(offset))
    return Start(StartKind.OFFSET, whole_number(offset, "offset", 0, limits.OFFSET_MAX))


def show_fetched(fetched: Fetched, most: int) -> ReadReply:
    """At most ``most`` records of a fetch; next_offset follows the last one shown."""
    records: list[RecordOut] = []
    next_offset = fetched.next_offset
    for batch in fetched.batches:
        for offset, message in enumerate(decode(batch.data), batch.base_offset):
            if offset < fetched.start_offset:
                continue
            if len(records) == most:
                return ReadReply(records, offset, fetched.high_watermark, fetched.log_start)
            records.append(show_record(offset, message))
    return ReadReply(records, next_offset, fetched.high_watermark, fetched.log_start)


_READ_QUERY: Final = (
    Parameter(
        name="offset",
        description="Begin here: an offset, earliest (the default) or latest.",
        schema={
            "oneOf": [
                whole(0, limits.OFFSET_MAX),
                {"type": "string", "enum": ["earliest", "latest"]},
            ]
        },
        example=0,
    ),
    Parameter(
        name="timestamp",
        description="Begin with the first record appended at or after this time: milliseconds "
        "since the Unix epoch, or RFC 3339. Instead of offset.",
        schema={
            "oneOf": [whole(0, limits.TIMESTAMP_MS_MAX), {"type": "string", "format": "date-time"}]
        },
    ),
    Parameter(
        name="max",
        description="At most so many records.",
        schema=whole(1, limits.GATEWAY_RECORDS_MAX, limits.GATEWAY_RECORDS_MAX),
        example=100,
    ),
    Parameter(
        name="max_bytes",
        description="About so many bytes of records; at least one batch comes whatever its size. 0 "
        "stands for 1 MiB.",
        schema=whole(0, limits.FETCH_BYTES_MAX, 0),
    ),
    Parameter(
        name="wait_ms",
        description="How long to wait for the first record when there is none yet.",
        schema=whole(0, limits.WAIT_MS_MAX, 0),
    ),
)

ROUTES: Final = (
    Route(
        method="POST",
        path="/v1/topics/{topic}/records",
        action=Action.WRITE,
        handler=publish_records,
        operation=describe_publish("publish_records", "records", "Publish records", RecordsIn),
    ),
    Route(
        method="GET",
        path="/v1/topics/{topic}/partitions/{partition}/records",
        action=Action.READ,
        handler=read_records,
        operation=Operation(
            id="read_records",
            summary="Read a partition",
            tag="records",
            description="Records from an offset or a time on. Read on with offset=next_offset; "
            "with wait_ms the answer comes as soon as there is a record (a long poll).",
            query=_READ_QUERY,
            answers={
                200: Answer(
                    description="Records, possibly none.",
                    type=ReadReply,
                    example={
                        "records": [
                            {
                                "offset": 0,
                                "timestamp_ms": 1700000000000,
                                "id": "01912d68-783e-7a03-8467-5661c1243ad4",
                                "content_type": "text/plain",
                                "key": "user-7",
                                "headers": {"source": "web"},
                                "value": "hello",
                            }
                        ],
                        "next_offset": 1,
                        "high_watermark": 1,
                        "log_start": 0,
                    },
                )
            },
            errors=(
                ErrorCode.NOT_FOUND,
                ErrorCode.OFFSET_TRIMMED,
                ErrorCode.OFFSET_OUT_OF_RANGE,
                ErrorCode.DATA_LOSS,
            ),
        ),
    ),
)
