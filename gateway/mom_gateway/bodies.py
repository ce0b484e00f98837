"""Messages as JSON, in both directions.

In: ``value`` is any JSON value. A string is stored as its UTF-8 text (``text/plain``), anything
else as the JSON text that was sent (``application/json``), byte for byte. ``value_base64`` carries
bytes. With a ``content_type`` that is JSON, ``value`` is stored as JSON whatever it is; with
another one it must be a string.

Out: the content type decides. Text comes back as a string and JSON as JSON, both in ``value``; the
rest, and what does not hold what its content type says, as base64 in ``value_base64``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from mom_client.browsing import BrowsedMessage
from mom_client.results import DeadLetter
from mom_core import limits
from mom_core.dead_letters import REASONS_TEXT
from mom_core.errors import InvalidArgumentError, MomError
from mom_core.ids import id_text, parse_id
from mom_core.message import JSON, TEXT, Message
from mom_core.quantities import parse_duration_ms
from mom_core.suggestions import known_instead
from mom_gateway.shapes import fields_at

Duration = int | str
"""A length of time in a body."""
DURATION_FORMS: Final = "milliseconds, or text such as 30s or 1h30m"


class MessageIn(Struct, forbid_unknown_fields=True, kw_only=True, gc=False):
    """A record or message to publish: exactly one of value and value_base64."""

    value: Annotated[
        Raw | UnsetType,
        Meta(description="Any JSON value. A string is stored as text, anything else as JSON."),
    ] = UNSET
    value_base64: Annotated[
        bytes | UnsetType, Meta(description="The value's bytes in standard base64.")
    ] = UNSET
    key: Annotated[
        str | None,
        Meta(description="Messages with the same key go to the same partition and stay in order."),
    ] = None
    key_base64: Annotated[
        bytes | None, Meta(description="The key's bytes, for keys that are not text.")
    ] = None
    headers: Annotated[dict[str, str] | None, Meta(description="At most 64.")] = None
    content_type: Annotated[
        str | None,
        Meta(description="Media type of the value; by default that of the value's form."),
    ] = None
    partition: Annotated[
        int | None, Meta(description="This partition, instead of the one the key chooses.")
    ] = None
    timestamp_ms: Annotated[
        int | None,
        Meta(description="The producer's time, milliseconds since the Unix epoch. Default: now."),
    ] = None
    id: Annotated[str | None, Meta(description="A UUID. Default: a new UUIDv7.")] = None
    priority: Annotated[
        int, Meta(description="Of a queue's messages, 0 to 9; higher ones come first.")
    ] = 0
    delay_ms: Annotated[
        Duration, Meta(description=f"A queue delivers it so much later: {DURATION_FORMS}.")
    ] = 0
    deliver_at_ms: Annotated[
        int,
        Meta(description="A queue does not deliver it before, milliseconds since the Unix epoch."),
    ] = 0
    ttl_ms: Annotated[
        Duration,
        Meta(description=f"A queue does not deliver it any more after so long: {DURATION_FORMS}."),
    ] = 0
    expires_at_ms: Annotated[
        int,
        Meta(description="A queue does not deliver it from then on, milliseconds since the epoch."),
    ] = 0
    dedup_id: Annotated[
        str | None,
        Meta(description="A second message with it is answered as a duplicate and not stored "
             "within the dedup window. Without key it also chooses the partition."),
    ] = None  # fmt: skip


class RecordsIn(MessageIn, forbid_unknown_fields=True, kw_only=True):
    """Records to publish to a topic, or the members of a single one."""

    records: Annotated[list[MessageIn] | UnsetType, Meta(description="In this order.")] = UNSET


class MessagesIn(MessageIn, forbid_unknown_fields=True, kw_only=True):
    """Messages to publish to a queue, or the members of a single one."""

    messages: Annotated[list[MessageIn] | UnsetType, Meta(description="In this order.")] = UNSET


class _RawRecords(Struct, forbid_unknown_fields=True):
    records: list[Raw]


class _RawMessages(Struct, forbid_unknown_fields=True):
    messages: list[Raw]


class MessageOut(Struct, omit_defaults=True, kw_only=True, gc=False):
    """What a message holds, as its reader gets it."""

    offset: int
    timestamp_ms: int
    id: str
    content_type: str | None = None
    key: str | None = None
    key_base64: bytes | None = None
    headers: dict[str, str] | None = None
    value: Annotated[Any, Meta(description="A string, or any JSON value.")] = UNSET
    value_base64: bytes | UnsetType = UNSET


class RecordOut(MessageOut, omit_defaults=True, kw_only=True):
    """A record of a partition."""


class ReceivedMessage(MessageOut, omit_defaults=True, kw_only=True):
    """A message under lease."""

    receipt: str
    partition: int
    deliveries: Annotated[
        int, Meta(description="How many times it was delivered, this time included.")
    ]
    lease_expires_at: Annotated[
        str, Meta(description="When the lease ends, RFC 3339, by the server's clock.")
    ]
    lease_ms: Annotated[
        int, Meta(description="The lease's length. Count it from when you sent the request.")
    ]


class BrowsedOut(MessageOut, omit_defaults=True, kw_only=True):
    """A message as it waits in its queue; nobody has leased it by this."""

    partition: int
    position: Annotated[str, Meta(description="By it, it is cancelled or moved.")]
    state: Annotated[str, Meta(description="ready, delayed, leased, dead or leaving.")]
    deliveries: Annotated[int, Meta(description="How often it was delivered.")]
    append_time_ms: Annotated[int, Meta(description="When the server took it.")]
    until_ms: Annotated[
        int,
        Meta(description="When a delayed one may be delivered, or a lease ends, by the server's "
             "clock; absent for the others."),
    ] = 0  # fmt: skip


class DeadLetterOut(MessageOut, omit_defaults=True, kw_only=True):
    """A dead letter; its offset is that in the queue which holds it."""

    state: Annotated[str, Meta(description="ready, delayed, leased, dead or leaving.")]
    reason: Annotated[str, Meta(description=f"Why it died: {REASONS_TEXT}.")]
    deliveries: Annotated[int, Meta(description="How often it was tried.")]
    first_delivered_at_ms: Annotated[int, Meta(description="0: it was never delivered.")]
    died_at_ms: int
    topic: Annotated[str, Meta(description="Where it died: a queue or topic.")]
    subscription: str
    origin_partition: int
    origin_offset: int
    redrives: Annotated[int, Meta(description="How often it was sent back before.")]


Item = MessageIn | MomError
"""A message to publish, or why the text in its place is none."""

_message_decoder: Final = msgspec.json.Decoder(MessageIn)
_records_decoder: Final = msgspec.json.Decoder(RecordsIn)
_messages_decoder: Final = msgspec.json.Decoder(MessagesIn)
_raw_records_decoder: Final = msgspec.json.Decoder(_RawRecords)
_raw_messages_decoder: Final = msgspec.json.Decoder(_RawMessages)
_raw_decoder: Final = msgspec.json.Decoder(Raw)
_text_decoder: Final = msgspec.json.Decoder(str)


# In.


def decode_items(body: bytes, *, queue: bool) -> tuple[list[Item], bool]:
    """The messages of a JSON body, and whether it was a single one.

    An item that is no message becomes the error that says so. Raises InvalidArgumentError when the
    body as a whole is wrong.
    """
    check_utf8(body)
    word = "messages" if queue else "records"
    try:
        decoded = (_messages_decoder if queue else _records_decoder).decode(body)
    except msgspec.ValidationError as error:
        return _decode_each(body, word, error), False
    except msgspec.DecodeError as error:
        raise malformed_json(body, error) from None
    items: list[Item] | UnsetType = getattr(decoded, word)
    if items is UNSET:
        return [decoded], True
    if decoded.value is not UNSET or decoded.value_base64 is not UNSET:
        raise InvalidArgumentError(f"the body has {word} and a value; send one of them", field=word)
    return items, False


def _decode_each(body: bytes, word: str, error: msgspec.ValidationError) -> list[Item]:
    """Decode the items one by one, after the body as a whole was refused with ``error``."""
    try:
        if word == "messages":
            raws = _raw_messages_decoder.decode(body).messages
        else:
            raws = _raw_records_decoder.decode(body).records
    except msgspec.ValidationError:
        raise invalid_json(error, MessagesIn if word == "messages" else RecordsIn) from None
    return [decode_item(raw) for raw in raws]


def decode_item(text: bytes | Raw) -> Item:
    """The message that a JSON text is, or the error that says why it is none."""
    try:
        return _message_decoder.decode(text)
    except msgspec.ValidationError as error:
        return invalid_json(error, MessageIn)
    except msgspec.DecodeError as error:
        return malformed_json(bytes(text), error)


def message_of(item: MessageIn, now_ms: int) -> Message:
    """The message to publish. Raises InvalidArgumentError that names the field."""
    value, content_type = _value_of(item)
    key = item.key_base64 if item.key is None else item.key.encode()
    if item.timestamp_ms is not None and not 0 <= item.timestamp_ms <= limits.TIMESTAMP_MS_MAX:
        raise InvalidArgumentError(
            f"timestamp_ms is {item.timestamp_ms}; 0 to {limits.TIMESTAMP_MS_MAX} is allowed",
            field="timestamp_ms",
        )
    return Message(
        value,
        key,
        item.headers,
        content_type,
        item.timestamp_ms,
        None if item.id is None else parse_id(item.id),
        moment_of(item.deliver_at_ms, item.delay_ms, ("deliver_at_ms", "delay_ms"), now_ms),
        moment_of(item.expires_at_ms, item.ttl_ms, ("expires_at_ms", "ttl_ms"), now_ms),
        item.priority,
        item.dedup_id,
    )


def moment_of(at_ms: int, after: Duration, fields: tuple[str, str], now_ms: int) -> int:
    """A time that is given as such, or as a wait from now; 0: neither."""
    after_ms = parse_duration_ms(after, fields[1]) if after else 0
    if not after_ms:
        return at_ms
    if at_ms:
        raise InvalidArgumentError(
            f"{fields[0]} and {fields[1]} say the same in two ways; send one of them",
            field=fields[1],
        )
    longest_ms = limits.TIMESTAMP_MS_MAX - now_ms
    if not 0 < after_ms <= longest_ms:
        raise InvalidArgumentError(
            f"{fields[1]} is {after_ms}; 0 to {longest_ms} is allowed", field=fields[1]
        )
    return now_ms + after_ms


def _value_of(item: MessageIn) -> tuple[bytes, str | None]:
    raw = item.value
    if raw is UNSET:
        if item.value_base64 is UNSET:
            raise InvalidArgumentError(
                "a message needs value (any JSON value) or value_base64 (bytes)", field="value"
            )
        return item.value_base64, item.content_type
    if item.value_base64 is not UNSET:
        raise InvalidArgumentError(
            "a message has value or value_base64, not both", field="value_base64"
        )
    text = bytes(raw)
    content_type = item.content_type
    if content_type is None:
        return (string_bytes(text), TEXT) if text[0] == _QUOTE else (text, JSON)
    if is_json(content_type):
        return text, content_type
    if text[0] != _QUOTE:
        raise InvalidArgumentError(
            f"value must be a string where content_type is {content_type[:64]!r}; use value_base64 "
            "for bytes",
            field="value",
        )
    return string_bytes(text), content_type


_QUOTE: Final = ord('"')


def string_bytes(text: bytes) -> bytes:
    """The UTF-8 bytes of a JSON string that was decoded before as part of a body."""
    if b"\\" not in text:
        return text[1:-1]
    try:
        return _text_decoder.decode(text).encode()
    except msgspec.DecodeError as error:
        raise InvalidArgumentError(f"value is not a string: {error}", field="value") from None


def is_json(content_type: str) -> bool:
    """Whether a media type says JSON."""
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type == JSON or media_type.endswith("+json")


def check_utf8(body: bytes, what: str = "the body") -> None:
    """Raise InvalidArgumentError with the position unless the bytes are UTF-8."""
    if body.isascii():
        return
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise InvalidArgumentError(
            f"{what} is not UTF-8: byte {body[error.start]:#04x} at position {error.start}. Send "
            "bytes that are not text in value_base64",
            field="body",
            details={"position": str(error.start)},
        ) from None


_POSITION: Final = re.compile(r"\(byte (\d+)\)")
_PATH: Final = re.compile(r" - at `\$\.?(.*?)`$")
_UNKNOWN_FIELD: Final = re.compile(r"Object contains unknown field `(.*?)`")
_MISSING_FIELD: Final = re.compile(r"Object missing required field `(.*?)`")


def malformed_json(body: bytes, error: msgspec.DecodeError) -> InvalidArgumentError:
    """The error of a body that is no JSON, with the byte where it ends to be."""
    found = _POSITION.search(str(error))
    position = int(found[1]) if found else len(body)
    reason = _POSITION.sub("", str(error)).strip()
    line = body.count(b"\n", 0, position) + 1
    column = position - body.rfind(b"\n", 0, position)
    return InvalidArgumentError(
        f"the body is not valid JSON: {reason} at byte {position} (line {line}, column {column})",
        field="body",
        details={"position": str(position)},
    )


def invalid_json(error: msgspec.ValidationError, kind: Any) -> InvalidArgumentError:
    """The error of JSON of another shape than ``kind`` has; the field is the path of the value at
    fault."""
    text = str(error)
    found = _PATH.search(text)
    path = found[1] if found else ""
    reason = _PATH.sub("", text)
    unknown = _UNKNOWN_FIELD.search(reason)
    known = fields_at(kind, path) if unknown else []
    named = unknown or _MISSING_FIELD.search(reason)
    if named:
        path = f"{path}.{named[1]}" if path else named[1]
    # Of a member whose name msgspec does not tell.
    field = path.removesuffix("[...]") or "body"
    if unknown and known:
        name = unknown[1]
        return InvalidArgumentError(
            f"unknown field {name[:64]!r}{known_instead(name, known)}", field=field
        )
    if "base64" in reason:
        return InvalidArgumentError(
            f"{field} is no base64: write the standard alphabet with padding, such as AAEC",
            field=field,
        )
    return InvalidArgumentError(f"{field}: {reason[0].lower()}{reason[1:]}", field=field)


# Out.


def show_value(message: Message, out: MessageOut) -> None:
    """Put the value, key and content type of a message into its shown form."""
    value = message.value
    content_type = message.content_type
    out.content_type = content_type
    if content_type is None:
        out.value_base64 = value
    elif content_type == TEXT or content_type.startswith("text/"):
        try:
            out.value = value.decode()
        except UnicodeDecodeError:
            out.value_base64 = value
    elif is_json(content_type) and _is_json_text(value):
        out.value = Raw(value)
    else:
        out.value_base64 = value
    if message.key is not None:
        try:
            out.key = message.key.decode()
        except UnicodeDecodeError:
            out.key_base64 = message.key
    if message.headers:
        out.headers = message.headers


def _is_json_text(value: bytes) -> bool:
    try:
        if not value.isascii():
            value.decode()
        _raw_decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return True


def show_record(offset: int, message: Message) -> RecordOut:
    """A record as a read of its partition shows it."""
    out = RecordOut(
        offset=offset,
        timestamp_ms=message.timestamp_ms or 0,
        id=id_text(message.id) if message.id else "",
    )
    show_value(message, out)
    return out


def show_browsed(one: BrowsedMessage) -> BrowsedOut:
    """A message that was looked at in its queue."""
    out = BrowsedOut(
        offset=one.offset,
        timestamp_ms=one.timestamp_ms,
        id=one.id,
        partition=one.partition,
        position=one.position,
        state=one.state,
        deliveries=one.deliveries,
        append_time_ms=one.append_time_ms,
        until_ms=one.until_ms,
    )
    show_value(one.message, out)
    return out


def show_dead_letter(one: DeadLetter) -> DeadLetterOut:
    """A dead letter as REST shows it."""
    message, facts = one.message, one.facts
    out = DeadLetterOut(
        offset=one.offset,
        timestamp_ms=message.timestamp_ms or 0,
        id=id_text(message.id) if message.id else "",
        state=one.state,
        reason=facts.reason,
        deliveries=facts.deliveries,
        first_delivered_at_ms=facts.first_delivered_at_ms,
        died_at_ms=facts.died_at_ms,
        topic=facts.topic,
        subscription=facts.subscription,
        origin_partition=facts.partition,
        origin_offset=facts.offset,
        redrives=facts.redrives,
    )
    show_value(message, out)
    return out


def rfc3339(time_ms: int) -> str:
    """A time as text, to the millisecond, in UTC."""
    moment = datetime.fromtimestamp(time_ms // 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{time_ms % 1000:03d}Z"


def check_count(items: Sequence[object], field: str, highest: int) -> None:
    """Raise InvalidArgumentError unless there is at least one item and at most ``highest``."""
    if not 0 < len(items) <= highest:
        raise InvalidArgumentError(
            f"{field} has {len(items)} items; 1 to {highest} are allowed", field=field
        )


RECORDS_IN_MAX: Final = limits.BATCH_RECORDS_MAX
