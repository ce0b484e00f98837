"""What callers give: a wrong value is refused in the call, and the error names it."""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mom_client
from mom_client import MomApp, Retry, arguments, operations
from mom_core import limits
from mom_core.batch import BatchBuilder, decode
from mom_core.errors import InvalidArgumentError
from mom_core.message import Message
from mom_core.positions import Position

NOW_MS = 1_764_000_000_000
NAN, INFINITE = float("nan"), float("inf")
LONE_SURROGATE = "\ud800"


def made(**given: Any) -> Message:
    """A message as publishing makes it."""
    known = ("key", "headers", "content_type", "timestamp_ms")
    fields = [given.pop(one, None) for one in known]
    return operations.make_message(b"x", *fields, given, lambda: NOW_MS)  # type: ignore[arg-type]


WRONG = [
    ("key", 5, "a str, bytes or None is allowed"),
    ("key", LONE_SURROGATE, "a str without lone surrogates"),
    ("headers", ["a"], "a mapping of str to str"),
    ("headers", {1: "a"}, "a str is allowed"),
    ("headers", {"a": b"b"}, r"headers\['a'\] is b'b', of type bytes; a str is allowed"),
    ("headers", {"a": LONE_SURROGATE}, "lone surrogates"),
    ("content_type", 5, "content_type is 5, of type int; a str is allowed"),
    ("timestamp_ms", "now", "milliseconds since the Unix epoch"),
    ("timestamp_ms", -1, "from 0 to 253402300799999"),
    ("timestamp_ms", 10**30, "from 0 to 253402300799999"),
    ("priority", "1", "priority is '1', of type str; a whole number from 0 to 9 is allowed"),
    ("priority", "high", "a whole number from 0 to 9"),
    ("priority", 1.5, "a whole number from 0 to 9"),
    ("priority", True, "a whole number from 0 to 9"),
    ("priority", None, "a whole number from 0 to 9"),
    ("priority", 10, "a whole number from 0 to 9"),
    ("priority", -1, "a whole number from 0 to 9"),
    ("delay", "5s", "delay is '5s', of type str; a number of seconds from 0 to"),
    ("delay", -1, "a number of seconds from 0"),
    ("delay", NAN, "a number of seconds"),
    ("delay", INFINITE, "a number of seconds"),
    ("delay", 253_000_000_000, "a time before the year 10000"),
    ("deliver_at_ms", "tomorrow", "milliseconds since the Unix epoch"),
    ("deliver_at_ms", NAN, "milliseconds since the Unix epoch"),
    ("deliver_at_ms", 1e30, "from 0 to 253402300799999"),
    ("ttl", "1m", "a number of seconds"),
    ("expires_at_ms", [1], "milliseconds since the Unix epoch"),
    ("dedup_id", 5, "dedup_id is 5, of type int; a str is allowed"),
    ("dedup_id", "", "dedup_id has 0 bytes; 1 to 256 are allowed"),
    ("dedup_id", "x" * 257, "dedup_id has 257 bytes"),
    ("prioriy", 5, "a message has no 'prioriy'; did you mean priority"),
]


@pytest.mark.parametrize(("argument", "value", "said"), WRONG)
def test_a_wrong_argument_of_a_message_is_named(argument: str, value: Any, said: str) -> None:
    with pytest.raises(InvalidArgumentError, match=said) as caught:
        made(**{argument: value})
    assert argument in str(caught.value)


def test_two_ways_of_one_wish_contradict() -> None:
    with pytest.raises(InvalidArgumentError, match="say the same in two ways"):
        made(delay=1, deliver_at_ms=NOW_MS)
    with pytest.raises(InvalidArgumentError, match="say the same in two ways"):
        made(ttl=1, expires_at_ms=NOW_MS)


def test_a_time_as_python_tells_it_is_taken_and_nothing_comes_early() -> None:
    assert made(deliver_at_ms=4e12).deliver_at_ms == 4_000_000_000_000
    assert made(deliver_at_ms=1_764_000_000_000.25).deliver_at_ms == 1_764_000_000_001
    stamped = made(timestamp_ms=1.5, expires_at_ms=4e12)
    assert (stamped.timestamp_ms, stamped.expires_at_ms) == (2, 4_000_000_000_000)
    assert type(made(deliver_at_ms=4e12).deliver_at_ms) is int


def test_what_counts_as_a_number_is_taken() -> None:
    class Level(enum.IntEnum):
        HIGH = 9

    message = made(priority=Level.HIGH, delay=Decimal("0.5"), ttl=2.5)
    assert (message.priority, type(message.priority)) == (9, int)
    assert (message.deliver_at_ms, message.expires_at_ms) == (NOW_MS + 500, NOW_MS + 2500)


OWN_WRONG = [
    {"value": "text"},
    {"key": "text"},
    {"headers": [("a", "b")]},
    {"content_type": 5},
    {"timestamp_ms": "now"},
    {"id": "x" * 16},
    {"deliver_at_ms": "now"},
    {"expires_at_ms": None},
    {"priority": "high"},
    {"priority": True},
    {"dedup_id": 5},
]


@pytest.mark.parametrize("wrong", OWN_WRONG)
def test_a_message_of_ones_own_with_a_wrong_field_is_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError, match=next(iter(wrong))):
        operations.message_of(Message(**{"value": b"x", **wrong}))


def test_a_message_of_ones_own_stays_as_it_is() -> None:
    given = Message(b"x", deliver_at_ms=4e12, priority=3)  # type: ignore[arg-type]
    sent = operations.message_of(given)
    assert (sent.deliver_at_ms, given.deliver_at_ms) == (4_000_000_000_000, 4e12)
    assert type(sent.deliver_at_ms) is int
    plain = Message(b"x", b"k")
    assert operations.message_of(plain) is plain
    blob = operations.message_of(Message(bytearray(b"x")))  # type: ignore[arg-type]
    assert type(blob.value) is bytes


JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2),
    st.builds(bytearray), st.characters(categories=["Cs"]), st.decimals(), st.fractions(),
)  # fmt: skip


OPTIONAL = dict.fromkeys(Message.__struct_fields__[1:], JUNK)


@given(st.fixed_dictionaries({"value": JUNK}, optional=OPTIONAL))
def test_whatever_passes_can_be_read_again(fields: dict[str, Any]) -> None:
    """A message that is taken never makes its batch unreadable."""
    try:
        message = operations.message_of(Message(**fields))
    except InvalidArgumentError:
        return
    builder = BatchBuilder()
    builder.add(message, None)
    [read] = decode(builder.build(base_id=bytes(16), timestamp_ms=1))
    assert read.value == message.value
    assert read.dedup_id == message.dedup_id


# What is not published.


@pytest.fixture
async def client() -> AsyncIterator[mom_client.Client]:
    """One that nobody answers: what is wrong shows before anything is sent."""
    client = mom_client.Client("127.0.0.1:1")
    yield client
    await client.close()


CALLS: list[tuple[str, tuple[Any, ...], dict[str, Any], str]] = [
    ("publish", (5, b"x"), {}, "topic is 5, of type int; a str"),
    ("publish", ("q", b"x"), {"partition": "0"}, "partition is '0', of type str; a whole number"),
    ("publish", ("q", b"x"), {"partition": -1}, "partition is -1"),
    ("publish", ("q", b"x"), {"partition": True}, "partition is True"),
    ("publish", ("q", b"x"), {"dedup_id": 5}, "dedup_id is 5"),
    ("publish", ("q", LONE_SURROGATE), {}, "the text has no UTF-8 form"),
    ("publish_many", ("q", "text"), {}, "values is 'text', of type str; an iterable"),
    ("publish_many", ("q", 5), {}, "values is 5, of type int; an iterable"),
    ("publish_many", (None, []), {}, "topic is None"),
    ("publish_many", ("q", []), {"partition": 1.0}, "partition is 1.0"),
    ("receive", ("q",), {"lease": "30s"}, "lease is '30s', of type str; a number of seconds"),
    ("receive", ("q",), {"lease": 0.1}, "lease is 0.1, .* from 1 to 43200, or 0 for the queue's"),
    ("receive", ("q",), {"wait": "1"}, "wait is '1'"),
    ("receive", ("q",), {"wait": 56}, "wait is 56, .* from 0 to 55 is allowed"),
    ("receive", ("q", "10"), {}, "max_messages is '10'"),
    ("receive", ("q", 0), {}, "max_messages is 0, .* from 1 to 10000"),
    ("receive", ("q",), {"subscription": 5}, "subscription is 5"),
    ("receive", (5,), {}, "queue is 5"),
    ("ack", ("text",), {}, "messages is 'text', of type str; a message that was received, or an"),
    ("ack", ([5],), {}, "one of messages is 5"),
    ("ack", (None,), {}, "messages is None"),
    ("nack", ([],), {"delay": "5s"}, "delay is '5s', of type str; a number of seconds"),
    ("nack", ([],), {"delay": 8 * 86_400}, "from 0 to 604800"),
    ("extend", ([], "30s"), {}, "lease is '30s'"),
    ("extend", ([], 0), {}, "lease is 0, of type int; a number of seconds from 1 to 43200"),
    ("cancel", ("q", 5), {}, "messages is 5, .* or a position .'0:42'., or an iterable"),
    ("cancel", ("q", [(0, 42)]), {}, r"one of messages is \(0, 42\), of type tuple"),
    ("cancel", ("q", "0-42"), {}, "'0-42' is not PARTITION:OFFSET"),
    ("cancel", ("q", Position("0", 1)), {}, "partition is '0'"),  # type: ignore[arg-type]
    ("reschedule", ("q", "0:1"), {"delay": "5s"}, "delay is '5s'"),
    ("reschedule", ("q", "0:1"), {"deliver_at_ms": "x"}, "deliver_at_ms is 'x'"),
    ("seek", ("t", "s", "earliest"), {"partitions": ["0"]}, "one of partitions is '0'"),
    ("seek", ("t", "s", "earliest"), {"dry_run": "no"}, "dry_run is 'no', of type str; True or"),
    ("nack", ([],), {"count": "no"}, "count is 'no'"),
    ("purge", ("q",), {"leased": "no"}, "leased is 'no'"),
    ("browse", ("q",), {"limit": "x"}, "limit is 'x'"),
    ("browse", ("q",), {"partition": "0"}, "partition is '0'"),
    ("browse", ("q",), {"start": 5}, "start is 5, of type int; a position"),
    ("dead_letters", ("q",), {"offsets": 5}, "offsets is 5"),
    ("operation", (5,), {}, "operation_id is 5"),
]  # fmt: skip
OPENED: list[tuple[str, tuple[Any, ...], dict[str, Any], str]] = [
    ("consume", ("q",), {"lease": "30s"}, "lease is '30s'"),
    ("consume", ("q",), {"lease": 0.1}, "lease is 0.1"),
    ("consume", ("q",), {"at_once_max": "5"}, "at_once_max is '5'"),
    ("consume", ("q",), {"at_once_max": 0}, "at_once_max is 0"),
    ("consume", (5,), {}, "queue is 5"),
    ("subscribe", ("t", 5), {}, "subscription is 5"),
    ("subscribe", ("t", "s"), {"session": "10s"}, "session is '10s'"),
    ("subscribe", ("t", "s"), {"session": 0.5}, "session is 0.5, .* from 1 to 300, or 0 for the"),
    ("subscribe", ("t", "s"), {"create": "no"}, "create is 'no', of type str; True or False"),
    ("subscribe", ("t", "s"), {"start": 5}, "start 5 is not a start position"),
    ("subscribe", ("t", "s"), {"member": 5}, "member is 5"),
]


@pytest.mark.parametrize(("method", "given_arguments", "named", "said"), CALLS + OPENED)
async def test_a_wrong_argument_is_refused_in_the_call(
    client: mom_client.Client, method: str, given_arguments: tuple[Any, ...], named: Any, said: str
) -> None:
    async def call() -> None:
        called = getattr(client, method)(*given_arguments, **named)
        if method not in ("consume", "subscribe"):
            await called

    with pytest.raises(InvalidArgumentError, match=said):
        await call()


@pytest.mark.parametrize(("method", "given_arguments", "named", "said"), CALLS + OPENED)
def test_a_wrong_argument_is_refused_in_the_sync_call(
    method: str, given_arguments: tuple[Any, ...], named: Any, said: str
) -> None:
    with (
        closing(mom_client.sync.Client("127.0.0.1:1")) as client,
        pytest.raises(InvalidArgumentError, match=said),
    ):
        getattr(client, method)(*given_arguments, **named)


# Handlers.


WORKERS: list[tuple[dict[str, Any], str]] = [
    ({"queue": 5}, "queue 5 is not a valid name"),
    ({"subscription": 5}, "subscription 5 is not a valid name"),
    ({"subscription": ""}, "subscription '' is not a valid name"),
    ({"retry": 3}, r"retry is 3, of type int; a Retry, such as mom_client.Retry\(tries=3\)"),
    ({"retry": None}, "retry is None"),
    ({"lease": 0.1}, "lease is 0.1, of type float; a number of seconds from 1 to 43200, or 0"),
    ({"lease": "30s"}, "lease is '30s'"),
    ({"concurrency": "10"}, "concurrency is '10'"),
    ({"concurrency": 1.5}, "concurrency is 1.5"),
    ({"concurrency": 0}, "concurrency is 0, of type int; a whole number from 1 to 1000"),
    ({"prefetch": -1}, "prefetch is -1"),
]
SUBSCRIBERS: list[tuple[dict[str, Any], str]] = [
    ({"topic": None}, "topic None is not a valid name"),
    ({"subscription": 5}, "subscription 5 is not a valid name"),
    ({"retry": 3}, "retry is 3"),
    ({"session": 0.1}, "session is 0.1"),
    ({"concurrency": None}, "concurrency is None"),
    ({"create": 1}, "create is 1, of type int; True or False"),
    ({"stop_on_failure": "yes"}, "stop_on_failure is 'yes'"),
    ({"dead_letter": 5}, "dead_letter 5 is not a valid name"),
    ({"start": None}, "start None is not a start position"),
    ({"member": 5}, "member is 5"),
]


@pytest.mark.parametrize(("settings", "said"), WORKERS)
def test_a_worker_with_a_wrong_setting_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidArgumentError, match=said):
        MomApp().worker(**{"queue": "q", **settings})


@pytest.mark.parametrize(("settings", "said"), SUBSCRIBERS)
def test_a_subscriber_with_a_wrong_setting_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidArgumentError, match=said):
        MomApp().subscriber(**{"topic": "t", "subscription": "s", **settings})


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tries": "3"}, "tries is '3'"),
        ({"tries": 2.5}, "tries is 2.5"),
        ({"tries": True}, "tries is True"),
        ({"backoff": "1s"}, "backoff is '1s', of type str; a number from"),
        ({"backoff": NAN}, "backoff is nan"),
        ({"backoff_max": None}, "backoff_max is None"),
        ({"multiplier": 0}, "multiplier is 0"),
    ],
)
def test_a_wrong_retry_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidArgumentError, match=said):
        Retry(**settings)


def test_the_grace_of_an_application_is_a_time() -> None:
    with pytest.raises(InvalidArgumentError, match="grace is '25s'"):
        MomApp(grace="25s")  # type: ignore[arg-type]


def test_a_long_value_is_shown_shortened() -> None:
    error = arguments.wrong("key", "x" * 1_000, "less")
    assert len(error.message) < 200


def test_several_takes_what_is_iterated_once() -> None:
    def positions() -> Iterator[Position]:
        yield Position(0, 1)
        yield Position(0, 2)

    assert arguments.several(positions(), Position, "messages", "a position") == [(0, 1), (0, 2)]
    assert arguments.several(Position(0, 1), Position, "messages", "a position") == [(0, 1)]


def test_limits_are_those_of_the_server() -> None:
    assert arguments.lease_ms(limits.LEASE_MS_MAX / 1000) == limits.LEASE_MS_MAX
    assert arguments.extension_ms(1) == limits.LEASE_MS_MIN
    assert arguments.session_ms(0) == 0
