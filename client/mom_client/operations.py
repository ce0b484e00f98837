"""What both faces of the SDK do, as coroutines over an engine."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypedDict

import msgspec

from mom_client import arguments
from mom_client.received import Origin, ReceivedMessage, messages_of_lease
from mom_client.results import DeadLetter, Operation, Published
from mom_core import limits
from mom_core.dead_letters import DeadLetterFilter
from mom_core.errors import ErrorCode, InvalidArgumentError, MomError, SettleError, error_of
from mom_core.ids import parse_id
from mom_core.message import Message, check_dedup_id, encode_value
from mom_core.receipts import why_not_settled
from mom_core.suggestions import known_instead
from mom_core.topics import (
    SubscriptionConfig,
    SubscriptionMode,
    TopicConfig,
    TopicKind,
    parse_start,
)
from mom_process.wire_errors import from_proto
from mom_proto.v1 import broker_pb2

if TYPE_CHECKING:
    from mom_client.engine import Engine

# Between two questions how far an operation is.
_POLL_MS_MIN: Final = 50
_POLL_MS_MAX: Final = 1_000


class Wishes(TypedDict, total=False):
    """What a message wishes of the queue that it goes to."""

    priority: int
    """0 to 9; higher ones come first."""
    delay: float
    """Seconds before which it is not delivered."""
    deliver_at_ms: int
    """The same as a time, milliseconds since the Unix epoch."""
    ttl: float
    """Seconds after which it is not delivered any more."""
    expires_at_ms: int
    """The same as a time, milliseconds since the Unix epoch."""
    dedup_id: str
    """A second message with it is answered as a duplicate, and not stored, within the topic's
    dedup_window_ms. Without a key it also chooses the partition."""


_WISHES: Final = frozenset(Wishes.__annotations__)
_MESSAGE_ARGUMENTS: Final = (
    "key",
    "headers",
    "partition",
    "content_type",
    "timestamp_ms",
    *_WISHES,
)


def make_message(
    value: Any,
    key: str | bytes | None,
    headers: Mapping[str, str] | None,
    content_type: str | None,
    timestamp_ms: int | None,
    wishes: Wishes,
    now_ms: Callable[[], int],
) -> Message:
    """A message of Python values. Raises InvalidArgumentError."""
    data, own_type = encode_value(value)
    if key is not None and type(key) is not bytes:
        key = arguments.key_bytes(key)
    if content_type is not None:
        own_type = arguments.text(content_type, "content_type") or own_type
    if timestamp_ms is not None:
        timestamp_ms = arguments.time_ms(timestamp_ms, "timestamp_ms")
    message = Message(
        data,
        key,
        None if headers is None else arguments.headers_of(headers),
        own_type,
        timestamp_ms,
    )
    if wishes:
        if not wishes.keys() <= _WISHES:
            raise _unknown_wish(wishes)
        _wish(message, now_ms(), **wishes)
    return message


def _unknown_wish(wishes: Mapping[str, object]) -> InvalidArgumentError:
    unknown = next(name for name in wishes if name not in _WISHES)
    return InvalidArgumentError(
        f"a message has no {unknown!r}{known_instead(unknown, _MESSAGE_ARGUMENTS)}", field=unknown
    )


def _wish(
    message: Message,
    now_ms: int,
    priority: int = 0,
    delay: float = 0,
    deliver_at_ms: int = 0,
    ttl: float = 0,
    expires_at_ms: int = 0,
    dedup_id: str | None = None,
) -> None:
    if priority != 0:
        message.priority = arguments.whole(priority, "priority", 0, 9)
    if dedup_id is not None:
        message.dedup_id = check_dedup_id(arguments.text(dedup_id, "dedup_id"))
    if deliver_at_ms != 0 or delay != 0:
        message.deliver_at_ms = arguments.moment(
            "deliver_at_ms", deliver_at_ms, "delay", delay, now_ms
        )
    if expires_at_ms != 0 or ttl != 0:
        message.expires_at_ms = arguments.moment("expires_at_ms", expires_at_ms, "ttl", ttl, now_ms)


def message_of(value: Any) -> Message:
    """A message, or a value as a message without key. Raises InvalidArgumentError."""
    if isinstance(value, Message):
        return arguments.message_fields(value)
    data, content_type = encode_value(value)
    return Message(data, None, None, content_type)


class Chunk:
    """Some of the messages that are published together, without those that can't be sent."""

    def __init__(self) -> None:
        self.messages: Sequence[Message] = []
        self._refused: list[tuple[int, MomError]] = []
        """By their places among all."""
        self.count = 0

    def add(self, value: Any) -> None:
        """Add a message, or a value as one."""
        try:
            message = message_of(value)
        except InvalidArgumentError as error:
            self._refused.append((self.count, error))
        else:
            assert isinstance(self.messages, list), "a chunk that is on its way"
            self.messages.append(message)
        self.count += 1

    async def publish(
        self, engine: Engine, topic: str, partition: int | None
    ) -> list[Published | MomError]:
        """Publish them; a result for each that was added, in order."""
        results = await engine.publish_many(topic, self.messages, partition)
        for place, error in self._refused:
            results.insert(place, error)
        return results


# Topics, queues, subscriptions.


async def create(
    engine: Engine, name: str, kind: TopicKind, settings: Mapping[str, object]
) -> TopicConfig:
    """Create a topic or queue, or find the same standing."""
    made, _ = await engine.create_topic(name, kind, settings)
    return made


async def alter(
    engine: Engine, name: str, kind: TopicKind | None, settings: Mapping[str, object]
) -> TopicConfig:
    """Change some settings."""
    return await engine.alter_topic(name, kind, msgspec.json.encode(settings))


async def list_all(engine: Engine, kind: TopicKind | None) -> list[TopicConfig]:
    """All topics or queues, page by page."""
    found: list[TopicConfig] = []
    page_token = ""
    while True:
        page = await engine.list_topics(kind, 1_000, page_token)
        found += page.topics
        page_token = page.next_page_token
        if not page_token:
            return found


async def create_subscription(
    engine: Engine, topic: str, name: str, settings: Mapping[str, object]
) -> SubscriptionConfig:
    """Create a subscription, or find the same standing."""
    made, _ = await engine.create_subscription(topic, name, settings)
    return made


async def ensure_stream(engine: Engine, topic: str, name: str, *, create: bool, start: str) -> None:
    """Check that a stream-mode subscription stands, creating it if asked to."""
    route = await engine.topic(topic)
    if name not in route.subscriptions and create:
        parse_start(start)
        await create_subscription(engine, topic, name, {"mode": "stream", "start": start})
        route = await engine.topic(topic)
    if route.subscription(name).mode is not SubscriptionMode.STREAM:
        raise InvalidArgumentError(
            f"subscription {name!r} of {topic!r} is a queue: use receive or consume",
            field="subscription",
        )


class Chosen(TypedDict, total=False):
    """Which dead letters are meant; each that is given has to hold."""

    reason: str
    """One of :data:`mom_core.dead_letters.REASONS`: ``max_deliveries``, ``expired``, and of
    subscribers ``handler_failed`` and ``payload``."""
    topic: str
    """Where they died: a queue or topic."""
    subscription: str
    offsets: Sequence[int]
    """Only these, by their offsets in the queue that holds them."""
    ids: Sequence[str | bytes]
    """Only these, by their ids."""


def filter_of(
    reason: str = "",
    topic: str = "",
    subscription: str = "",
    offsets: Sequence[int] = (),
    ids: Sequence[str | bytes] = (),
) -> DeadLetterFilter:
    """The filter of a choice. Raises InvalidArgumentError."""
    given = arguments.iterable(ids, "ids")
    parsed = [one if isinstance(one, bytes) else parse_id(one) for one in given]
    numbers = arguments.iterable(offsets, "offsets")
    return DeadLetterFilter(
        reason=reason,
        topic=topic,
        subscription=subscription,
        offsets=tuple(
            arguments.whole(one, "one of offsets", 0, limits.OFFSET_MAX) for one in numbers
        ),
        ids=tuple(one.hex() for one in parsed),
    )


async def all_dead_letters(
    engine: Engine, queue: str, wanted: DeadLetterFilter
) -> list[DeadLetter]:
    """The dead letters of a queue, page by page."""
    found: list[DeadLetter] = []
    offset = 0
    while True:
        page = await engine.dead_letters(queue, wanted, offset=offset, limit=1_000)
        found += page.dead_letters
        offset = page.next_offset
        if not offset:
            return found


async def ended(
    engine: Engine, operation_id: str, told: Callable[[Operation], None] = lambda operation: None
) -> Operation:
    """Wait for the end of an operation; ``told`` hears how far it is, now and then."""
    pause_ms = _POLL_MS_MIN
    while True:
        operation = await engine.operation(operation_id)
        told(operation)
        if not operation.goes_on:
            return operation
        await asyncio.sleep(pause_ms / 1000)
        pause_ms = min(2 * pause_ms, _POLL_MS_MAX)


async def set_paused(engine: Engine, queue: str, subscription: str | None, paused: bool) -> None:
    """Pause or resume a queue, or a queue-mode subscription of a topic."""
    patch = msgspec.json.encode({"paused": paused})
    if subscription is None or subscription == queue:
        await engine.alter_topic(queue, TopicKind.QUEUE, patch)
        return
    route = await engine.topic(queue)
    known = route.subscriptions.get(subscription)
    # A table that lacks it may be old: the master knows better.
    if known is not None and known.mode is SubscriptionMode.STREAM:
        raise InvalidArgumentError(
            f"subscription {subscription!r} of {queue!r} is of stream mode, and only queues and "
            "subscriptions of queue mode can be paused and resumed. Stop its members: they go on "
            "from their committed offsets",
            field="subscription",
        )
    await engine.alter_subscription(queue, subscription, patch)


async def check_queue(engine: Engine, topic: str, name: str) -> None:
    """Check that a queue, or a queue-mode subscription, stands."""
    route = await engine.topic(topic)
    if name == topic and name not in route.subscriptions:
        raise InvalidArgumentError(
            f"{topic!r} is a topic: name a queue-mode subscription of it, or read it as a stream",
            field="queue",
        )
    if route.subscription(name).mode is not SubscriptionMode.QUEUE:
        raise InvalidArgumentError(
            f"subscription {name!r} of {topic!r} is a stream: read it as a subscriber",
            field="subscription",
        )


# Receiving and settling.


RECEIVED: Final = "a message that was received"


class Receiving:
    """One receive, and what it leased until the caller has it.

    A caller may be cancelled while the messages are on their way from the I/O thread: then
    :meth:`give_back` releases them.
    """

    def __init__(self, queue: str, subscription: str | None) -> None:
        self._queue = queue
        self._subscription = subscription or queue
        self._leased: list[broker_pb2.LeasedBatch] = []

    async def run(self, engine: Engine, *, max_messages: int, wait_ms: int, lease_ms: int) -> None:
        """Lease messages."""
        self._leased = await engine.receive(
            self._queue,
            self._subscription,
            max_messages=max_messages,
            wait_ms=wait_ms,
            lease_ms=lease_ms,
        )

    def messages(self) -> list[ReceivedMessage]:
        """What was leased, decoded by whoever calls."""
        return [
            message
            for one in self._leased
            for message in messages_of_lease(self._queue, self._subscription, one)
        ]

    async def give_back(self, engine: Engine) -> None:
        """Release what was leased. What fails ends with its lease."""
        with contextlib.suppress(MomError):
            await settle(engine, self.messages(), broker_pb2.SETTLE_ACTION_RELEASE)


async def settle(
    engine: Engine, messages: Sequence[ReceivedMessage], action: int, delay_ms: int = 0
) -> list[MomError | None]:
    """Settle messages, of one or several queues; a result for each, None is success."""
    results: list[MomError | None] = [None] * len(messages)
    by_queue: dict[tuple[str, str], list[int]] = {}
    for place, message in enumerate(messages):
        origin = message.origin
        if not origin.subscription:
            results[place] = InvalidArgumentError(
                f"{message!r} was read or browsed, not received, and has no lease", field="message"
            )
            continue
        by_queue.setdefault((origin.topic, origin.subscription), []).append(place)
    for (topic, subscription), places in by_queue.items():
        await _settle_of(engine, topic, subscription, messages, places, action, delay_ms, results)
    return results


async def _settle_of(
    engine: Engine,
    topic: str,
    subscription: str,
    messages: Sequence[ReceivedMessage],
    places: Sequence[int],
    action: int,
    delay_ms: int,
    results: list[MomError | None],
) -> None:
    route = await engine.topic(topic)
    current = []
    for place in places:
        if messages[place].origin.topic_id == route.topic_id:
            current.append(place)
        else:
            results[place] = SettleError(
                f"{topic!r} was deleted and made again since its message {messages[place].offset} "
                f"of partition {messages[place].partition} was received",
                code=ErrorCode.INVALID_RECEIPT,
            )
    ranges, members = _merge(messages, current, action, delay_ms)
    settled = await engine.settle(topic, subscription, ranges) if ranges else []
    for one, result in zip(members, settled, strict=True):
        for failure in result.failures:
            error = from_proto(failure.error)
            end = failure.first_offset + failure.count
            for place in one:
                if failure.first_offset <= messages[place].offset < end:
                    results[place] = _of_message(error, messages[place], subscription)


def _of_message(error: MomError, message: ReceivedMessage, subscription: str) -> MomError:
    """The error of one of the messages that were settled together."""
    partition, offset = message.partition, message.offset
    why = why_not_settled(error.code, subscription, partition, offset)
    return error_of(
        error.code.value,
        why or f"message {offset} of {subscription!r} partition {partition}: {error.message}",
        field=error.field,
        retry_after_ms=error.retry_after_ms,
        details={**error.details, "partition": str(partition), "offset": str(offset)},
    )


def _merge(
    messages: Sequence[ReceivedMessage], places: Sequence[int], action: int, delay_ms: int
) -> tuple[list[broker_pb2.SettleRange], list[list[int]]]:
    """Neighbours of one lease become one range; and which messages each range is."""
    ranges: list[broker_pb2.SettleRange] = []
    members: list[list[int]] = []
    last: Origin | None = None
    end = -1
    ordered = sorted(places, key=lambda at: (_lease_of(messages[at].origin), messages[at].offset))
    for place in ordered:
        message = messages[place]
        origin = message.origin
        same = last is not None and _lease_of(last) == _lease_of(origin)
        if same and message.offset == end:
            ranges[-1].count += 1
            members[-1].append(place)
        else:
            ranges.append(
                broker_pb2.SettleRange(
                    partition=origin.partition,
                    first_offset=message.offset,
                    count=1,
                    lease_id=origin.lease_id,
                    action=action,  # type: ignore[arg-type]
                    delay_ms=delay_ms,
                )
            )
            members.append([place])
        last = origin
        end = message.offset + 1
    return ranges, members


def _lease_of(origin: Origin) -> tuple[int, int]:
    return origin.partition, origin.lease_id
