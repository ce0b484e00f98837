"""Publishing what a request brought: one message, a batch, or a stream of lines of any length.

A batch answers 200 when all items landed and 207 when some did not. When every item failed with
the same code (an unknown topic, a full store) the answer is that problem, with ``results`` added:
a client that looks at the status alone is not misled.

A stream is never held whole: while one chunk of lines is under way the next one gathers, and when
it is full reading stops, which TCP passes on to the sender. One chunk at a time keeps the lines in
order. Whatever has come is sent on as soon as nothing is under way, so a slow stream is not held
back. It stops early when a whole chunk fails for a reason that further lines would share.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Annotated, Any, Final

from msgspec import UNSET, Meta, Struct, UnsetType

from mom_client.results import Published
from mom_core import limits
from mom_core.errors import ErrorCode, InvalidArgumentError, MomError, TooLargeError
from mom_core.ids import id_text, message_id
from mom_core.message import TEXT, Message
from mom_core.topics import TopicKind
from mom_gateway.bodies import (
    RECORDS_IN_MAX,
    Item,
    MessageIn,
    check_count,
    check_utf8,
    decode_item,
    decode_items,
    message_of,
)
from mom_gateway.calls import Call
from mom_gateway.http import Header, Reply, json_bytes
from mom_gateway.operations import Answer, Example, Operation
from mom_gateway.problems import common_error, problem_of, problem_reply
from mom_gateway.service import Service

NDJSON: Final = "application/x-ndjson"
MEDIA_TYPES: Final = ("application/json", NDJSON, TEXT)


class PublishedOut(Struct, omit_defaults=True, gc=False):
    """Where a message landed. It is durable at the level that durability names."""

    partition: int
    offset: int
    durability: Annotated[str, Meta(description="memory, os, fsync, replicated or provider.")]
    id: Annotated[str, Meta(description="Absent for a message that was not stored.")] = ""
    duplicate: Annotated[
        bool,
        Meta(description="An earlier try, or a message with the same dedup_id, had landed there."),
    ] = False


class PublishReply(Struct, omit_defaults=True):
    """A result for each message, in the order of the request: where it landed, or a problem."""

    results: list[Any]
    created: Annotated[
        str | UnsetType,
        Meta(description="topic or queue: this request created it (development only)."),
    ] = UNSET


class StreamReply(Struct, omit_defaults=True):
    """What became of a stream of lines."""

    accepted: Annotated[int, Meta(description="Messages that landed.")]
    failed: Annotated[int, Meta(description="Lines that did not.")]
    errors: Annotated[
        list[dict[str, Any]],
        Meta(description="The problems of the first 100 failed lines, each with line, from 1."),
    ]
    created: str | UnsetType = UNSET


async def publish(call: Call, kind: TopicKind) -> Reply:
    """Publish the body of a call to the topic or queue that it names."""
    media_type = call.media_type(MEDIA_TYPES)
    name = call.names[0]
    route, created = await call.service.topic_or_new(name, kind)
    target = Target(call.service, name, route.config.partitions, kind if created else None)
    if media_type == "application/json":
        return await _publish_body(call, target, queue=kind is TopicKind.QUEUE)
    decode = decode_line if media_type == NDJSON else decode_text
    return await StreamPublisher(target, decode, _line_bytes_max(call)).run(call)


class Target:
    """The topic or queue that a request publishes to."""

    def __init__(
        self, service: Service, name: str, partitions: int, created: TopicKind | None
    ) -> None:
        self.name = name
        self.created: str | UnsetType = created.value if created else UNSET
        self.headers: tuple[Header, ...] = ()
        if created:
            self.headers = ((b"mom-created", f"{created.value} {name}".encode()),)
        self._engine = service.engine
        self._metrics = service.metrics
        self._clock = service.clock
        self._partitions = partitions

    async def publish(self, items: Sequence[Item | Message]) -> list[Published | MomError]:
        """Publish items; a result for each in its place. Raises nothing for a single item."""
        results: list[Any] = [None] * len(items)
        by_partition: dict[int | None, tuple[list[int], list[Message]]] = {}
        for index, item in enumerate(items):
            try:
                partition, message = self._prepare(item)
            except MomError as error:
                results[index] = error
                continue
            indexes, messages = by_partition.setdefault(partition, ([], []))
            indexes.append(index)
            messages.append(message)
        if len(by_partition) == 1:  # nearly always, and without the tasks of a gather
            ((partition, (_, messages)),) = by_partition.items()
            groups = [await self._publish_group(messages, partition)]
        else:
            groups = await asyncio.gather(
                *(
                    self._publish_group(messages, partition)
                    for partition, (_, messages) in by_partition.items()
                )
            )
        for (indexes, _), published in zip(by_partition.values(), groups, strict=True):
            for index, result in zip(indexes, published, strict=True):
                results[index] = result
        self._metrics.messages_in += sum(type(result) is Published for result in results)
        return results

    def _prepare(self, item: Item | Message) -> tuple[int | None, Message]:
        if isinstance(item, MessageIn):
            partition = item.partition
            if partition is not None and not 0 <= partition < self._partitions:
                raise InvalidArgumentError(
                    f"partition is {partition}; {self.name!r} has 0 to {self._partitions - 1}",
                    field="partition",
                )
            return partition, message_of(item, self._clock.now_ms())
        if isinstance(item, MomError):
            raise item
        return None, item

    async def _publish_group(
        self, messages: list[Message], partition: int | None
    ) -> Sequence[Published | MomError]:
        try:
            if len(messages) == 1:
                return [await self._engine.publish(self.name, messages[0], partition)]
            return await self._engine.publish_many(self.name, messages, partition)
        except MomError as error:
            return [error] * len(messages)


async def _publish_body(call: Call, target: Target, *, queue: bool) -> Reply:
    body = await call.body.read()
    items, single = decode_items(body, queue=queue)
    check_count(items, "messages" if queue else "records", RECORDS_IN_MAX)
    results = await target.publish(items)
    error = common_error(results)
    if error is not None and single:
        return problem_reply(error)
    shown = show_results(results)
    if error is not None:
        return problem_reply(error, results=shown)
    failed = any(isinstance(result, MomError) for result in results)
    body = json_bytes(PublishReply(shown, target.created))
    return Reply(207 if failed else 200, body, target.headers)


def show_results(
    results: Sequence[Published | MomError],
) -> list[PublishedOut | dict[str, Any]]:
    """The results as the answer shows them."""
    shown: list[PublishedOut | dict[str, Any]] = []
    batch, ids = None, None
    for result in results:
        if isinstance(result, MomError):
            shown.append(problem_of(result))
            continue
        if result.batch is not batch:
            batch = result.batch
            ids = None if batch.own_ids or batch.places else BatchIds(batch.base_id)
        shown.append(
            PublishedOut(
                batch.partition,
                result.offset,
                batch.durability,
                ids.text(result.index) if ids else result.id_text,
                result.duplicate,
            )
        )
    return shown


class BatchIds:
    """The texts of a batch's ids, several times as fast as one at a time."""

    __slots__ = ("_base_id", "_head", "_tail")

    def __init__(self, base_id: bytes) -> None:
        self._base_id = base_id
        self._head = id_text(base_id)[:24]
        self._tail = int.from_bytes(base_id[8:], "big")

    def text(self, index: int) -> str:
        """The text of the id of message ``index``."""
        tail = self._tail + index
        if tail >> _SHARED_BITS != self._tail >> _SHARED_BITS:
            return id_text(message_id(self._base_id, index))
        return f"{self._head}{tail & _TAIL_MASK:012x}"


# The last group of an id's text; the ones before it rarely change within a batch.
_SHARED_BITS: Final = 48
_TAIL_MASK: Final = (1 << _SHARED_BITS) - 1


# Streams.


def decode_line(line: bytes) -> Item | None:
    """A line of NDJSON; None for a blank one."""
    if not line.strip():
        return None
    try:
        check_utf8(line, "the line")
    except InvalidArgumentError as error:
        return error
    return decode_item(line)


def decode_text(line: bytes) -> Message | InvalidArgumentError:
    """A line of text: one message, without its line feed. A blank line is an empty message."""
    try:
        check_utf8(line, "the line")
    except InvalidArgumentError as error:
        return error
    return Message(line, None, None, TEXT)


def _line_bytes_max(call: Call) -> int:
    return call.service.settings.body_bytes_max


class LineSplitter:
    """Cuts pieces of a stream into lines, holding at most one line of ``limit_bytes``.

    A longer line is skipped to its end and comes out as None.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._skipping = False

    def feed(self, piece: bytes) -> list[bytes | None]:
        """The lines that end in this piece, without their line feeds."""
        first, *others = piece.split(b"\n")
        if not others:
            self._hold(first)
            return []
        last = others.pop()
        self._hold(first)
        lines: list[bytes | None] = [self._take(), *others]
        self._hold(last)
        return lines

    def finish(self) -> list[bytes | None]:
        """The last line, if the stream did not end with a line feed."""
        return [self._take()] if self._held_bytes or self._skipping else []

    def _hold(self, part: bytes) -> None:
        if self._held_bytes + len(part) > self._limit_bytes:
            self._skipping = True
            self._held = []
        self._held_bytes += len(part)
        if part and not self._skipping:
            self._held.append(part)

    def _take(self) -> bytes | None:
        line = None if self._skipping else b"".join(self._held)
        self._held = []
        self._held_bytes = 0
        self._skipping = False
        return line


# Reasons that the lines to come would share; any retriable one is another.
_COMMON_CODES: Final = (ErrorCode.NOT_FOUND, ErrorCode.INTERNAL)


class StreamPublisher:
    """Publishes one stream of lines."""

    def __init__(
        self,
        target: Target,
        decode: Callable[[bytes], Item | Message | None],
        line_bytes_max: int,
    ) -> None:
        self._target = target
        self._decode = decode
        self._line_bytes_max = line_bytes_max
        self._items: list[Item | Message] = []
        self._lines: list[int] = []
        self._gathered_bytes = 0
        self._line = 0
        self._under_way: asyncio.Task[None] | None = None
        self._accepted = 0
        self._failed = 0
        self._errors: list[dict[str, Any]] = []
        self._codes: dict[ErrorCode, MomError] = {}
        self._stopped_by: MomError | None = None

    async def run(self, call: Call) -> Reply:
        """Read the body to its end and answer with a summary. Raises ClientGoneError."""
        try:
            await self._read(call.body.chunks())
            await self._flush()
        finally:
            # Also when the client is gone: what was sent on ends by itself. The last line may be
            # cut off then, and is dropped.
            if self._under_way is not None:
                await self._under_way
        return self._answer()

    async def _read(self, chunks: AsyncIterator[bytes]) -> None:
        splitter = LineSplitter(self._line_bytes_max)
        async for chunk in chunks:
            await self._gather(splitter.feed(chunk))
            if self._under_way is None or self._under_way.done():
                await self._flush()
            if self._stopped_by is not None:
                return
        await self._gather(splitter.finish())

    async def _gather(self, lines: list[bytes | None]) -> None:
        for line in lines:
            self._line += 1
            item = self._too_long() if line is None else self._decode(line)
            if item is None:
                continue
            self._items.append(item)
            self._lines.append(self._line)
            self._gathered_bytes += len(line or b"")
            if (
                self._gathered_bytes >= limits.STREAM_CHUNK_BYTES
                or len(self._items) >= limits.STREAM_CHUNK_MESSAGES
            ):
                await self._flush()

    async def _flush(self) -> None:
        """Send the gathered lines on, once those before them are settled."""
        if self._under_way is not None:
            await self._under_way
            self._under_way = None
        if self._items and self._stopped_by is None:
            self._under_way = asyncio.create_task(self._publish(self._items, self._lines))
        self._items, self._lines, self._gathered_bytes = [], [], 0

    async def _publish(self, items: list[Item | Message], lines: list[int]) -> None:
        results = await self._target.publish(items)
        for line, result in zip(lines, results, strict=True):
            if isinstance(result, MomError):
                self._count_failure(line, result)
            else:
                self._accepted += 1
        error = common_error(results)
        if error is not None and (error.retriable or error.code in _COMMON_CODES):
            self._stopped_by = error

    def _count_failure(self, line: int, error: MomError) -> None:
        self._failed += 1
        self._codes.setdefault(error.code, error)
        if len(self._errors) < limits.STREAM_ERRORS_SHOWN_MAX:
            self._errors.append(problem_of(error) | {"line": line})

    def _answer(self) -> Reply:
        self._errors.sort(key=lambda problem: problem["line"])
        summary = StreamReply(self._accepted, self._failed, self._errors, self._target.created)
        error = self._stopped_by
        if error is None and not self._accepted and len(self._codes) == 1:
            error = next(iter(self._codes.values()))
        if error is not None:
            return problem_reply(
                error,
                accepted=self._accepted,
                failed=self._failed,
                errors=self._errors,
                lines_read=self._line,
            )
        status = 207 if self._failed else 200
        return Reply(status, json_bytes(summary), self._target.headers)

    def _too_long(self) -> TooLargeError:
        return TooLargeError(
            f"the line has more than {self._line_bytes_max} bytes",
            field="value",
            details={"limit_bytes": str(self._line_bytes_max)},
        )


# The description of both publishing routes.


def describe_publish(
    operation_id: str, word: str, summary: str, body: type[MessageIn]
) -> Operation:
    """The operation of POST …/records and POST …/messages."""
    result = {
        "partition": 0,
        "offset": 12,
        "durability": "fsync",
        "id": "01912d68-783e-7a03-8467-5661c1243ad4",
    }
    return Operation(
        id=operation_id,
        summary=summary,
        tag=word,
        description=f"Publishes one message, a batch of {word}, or, as application/x-ndjson or "
        "text/plain (a message a line), a stream of any length. It answers when everything is "
        "durable. 207: some items failed, and only those. When all failed with the same code, the "
        "answer is that problem, with the results added.",
        body=body,
        examples=(
            Example(
                summary="A batch with text, JSON and bytes",
                value={
                    word: [
                        {"value": "hello", "key": "user-7", "headers": {"source": "web"}},
                        {"value": {"order": 17, "paid": True}},
                        {"value_base64": "AAECAw==", "content_type": "application/octet-stream"},
                    ]
                },
            ),
            Example(summary="One message", value={"value": "hello"}),
            Example(
                summary="A stream of messages",
                value='{"value": "one"}\n{"value": {"two": 2}}\n',
                media_type=NDJSON,
            ),
            Example(summary="A message a line", value="one\ntwo\n", media_type=TEXT),
        ),
        answers={
            200: Answer(
                description="All landed. A stream is answered with a summary.",
                type=(PublishReply, StreamReply),
                example={"results": [result]},
            ),
            207: Answer(
                description="Some landed; the others have a problem in their place.",
                type=(PublishReply, StreamReply),
                example={
                    "results": [
                        result,
                        problem_of(
                            InvalidArgumentError("partition is 9; 0 to 2", field="partition")
                        ),
                    ]
                },
            ),
        },
        errors=(
            ErrorCode.NOT_FOUND,
            ErrorCode.TOO_LARGE,
            ErrorCode.UNSUPPORTED_MEDIA_TYPE,
            ErrorCode.STORE_FULL,
        ),
    )
