"""The message: what a producer gives and a consumer gets.

A :class:`Message` is also the record of a batch: its MessagePack form, an array of its fields in
their order, is what lies in the batch (see :mod:`mom_core.batch`). New fields go to the end.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from mom_core import limits
from mom_core.errors import InvalidArgumentError, TooLargeError

TEXT: Final = "text/plain"
JSON: Final = "application/json"
BINARY: Final = "application/octet-stream"


class Message(msgspec.Struct, array_like=True, gc=False):
    """A message as its producer made it.

    ``timestamp_ms`` is the producer's, None for the moment its batch was made. ``id`` is 16 bytes,
    a UUIDv7 that the producer's client gives when it is None. Times are milliseconds since the
    Unix epoch. ``priority`` is 0 to 9, higher first.
    """

    value: bytes
    key: bytes | None = None
    headers: dict[str, str] | None = None
    content_type: str | None = None
    timestamp_ms: int | None = None
    id: bytes | None = None
    deliver_at_ms: int = 0
    expires_at_ms: int = 0
    priority: int = 0
    dedup_id: str | None = None

    def json(self) -> Any:
        """The value parsed as JSON. Raises InvalidArgumentError when it is not JSON."""
        try:
            return msgspec.json.decode(self.value)
        except msgspec.DecodeError as error:
            raise InvalidArgumentError(f"the value is not JSON: {error}", field="value") from None

    def text(self) -> str:
        """The value as UTF-8 text. Raises InvalidArgumentError when it is not UTF-8."""
        try:
            return self.value.decode()
        except UnicodeDecodeError as error:
            raise InvalidArgumentError(
                f"the value is not UTF-8 text: {error}", field="value"
            ) from None


def encode_value(value: Any) -> tuple[bytes, str | None]:
    """Return the bytes and content type of a Python value.

    Bytes stay as they are with no content type, a str becomes text, and anything else JSON, also
    a pydantic model. Raises InvalidArgumentError when the value has no such form.
    """
    if isinstance(value, bytes):
        return value, None
    if isinstance(value, bytearray | memoryview):
        return bytes(value), None
    if isinstance(value, str):
        return _utf8(value), TEXT
    try:
        return msgspec.json.encode(value, enc_hook=_plain), JSON
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(
            f"a value of type {type(value).__name__} has no JSON form: {error}", field="value"
        ) from None


def _utf8(value: str) -> bytes:
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(f"the text has no UTF-8 form: {error}", field="value") from None


def _plain(value: Any) -> Any:
    """What pydantic says a model of its own is made of."""
    if not hasattr(type(value), "model_dump"):
        raise TypeError(f"objects of type {type(value).__name__} are not supported")
    return value.model_dump(mode="json")


def check_message(message: Message, message_bytes_max: int) -> None:
    """Raise TooLargeError or InvalidArgumentError when a message is outside the limits."""
    size = len(message.value)
    if size > message_bytes_max:
        raise TooLargeError(
            f"the value has {size} bytes, more than the {message_bytes_max} that the topic allows "
            "(message_bytes_max)",
            field="value",
            details={"limit_bytes": str(message_bytes_max)},
        )
    if message.key is not None and len(message.key) > limits.KEY_BYTES_MAX:
        raise TooLargeError(
            f"the key has {len(message.key)} bytes; at most {limits.KEY_BYTES_MAX} are allowed",
            field="key",
        )
    if message.headers:
        _check_headers(message.headers)
    if message.content_type is not None:
        _check_content_type(message.content_type)
    if not 0 <= message.priority <= 9:
        raise InvalidArgumentError(
            f"priority {message.priority} is outside 0 to 9", field="priority"
        )
    if message.id is not None and len(message.id) != 16:
        raise InvalidArgumentError("id must be 16 bytes (a UUID)", field="id")
    if message.dedup_id is not None:
        check_dedup_id(message.dedup_id)
    _check_times(message)


def check_dedup_id(dedup_id: str) -> str:
    """Return ``dedup_id`` if its size is allowed, else raise InvalidArgumentError."""
    size = len(dedup_id.encode())
    if not 0 < size <= limits.DEDUP_ID_BYTES_MAX:
        raise InvalidArgumentError(
            f"dedup_id has {size} bytes; 1 to {limits.DEDUP_ID_BYTES_MAX} are allowed",
            field="dedup_id",
        )
    return dedup_id


def _check_times(message: Message) -> None:
    for field in ("deliver_at_ms", "expires_at_ms"):
        time_ms = getattr(message, field)
        if not 0 <= time_ms <= limits.TIMESTAMP_MS_MAX:
            raise InvalidArgumentError(
                f"{field} is {time_ms}; 0 to {limits.TIMESTAMP_MS_MAX} is allowed", field=field
            )
    if message.expires_at_ms and message.expires_at_ms <= message.deliver_at_ms:
        raise InvalidArgumentError(
            f"the message would expire ({message.expires_at_ms}) before it may be delivered "
            f"({message.deliver_at_ms}), so nobody would ever get it; expire it later or deliver "
            "it sooner",
            field="expires_at_ms",
        )


def _check_headers(headers: dict[str, str]) -> None:
    if len(headers) > limits.HEADERS_COUNT_MAX:
        raise TooLargeError(
            f"{len(headers)} headers; at most {limits.HEADERS_COUNT_MAX} are allowed",
            field="headers",
        )
    total = 0
    for name, value in headers.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise InvalidArgumentError(
                f"header {name!r}: names and values must be strings", field="headers"
            )
        name_bytes = len(name.encode())
        if not 0 < name_bytes <= limits.HEADER_NAME_BYTES_MAX:
            raise InvalidArgumentError(
                f"a header name has {name_bytes} bytes; 1 to {limits.HEADER_NAME_BYTES_MAX} are "
                "allowed",
                field="headers",
            )
        total += name_bytes + len(value.encode())
    if total > limits.HEADERS_BYTES_MAX:
        raise TooLargeError(
            f"the headers have {total} bytes; at most {limits.HEADERS_BYTES_MAX} are allowed",
            field="headers",
        )


def _check_content_type(content_type: str) -> None:
    allowed = content_type.isascii() and content_type.isprintable()
    if not allowed or not 0 < len(content_type) <= limits.CONTENT_TYPE_BYTES_MAX:
        raise InvalidArgumentError(
            f"content_type must be 1 to {limits.CONTENT_TYPE_BYTES_MAX} printable ASCII characters",
            field="content_type",
        )
