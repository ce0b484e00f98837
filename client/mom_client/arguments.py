"""What callers of the SDK give, checked where they give it.

Types are but hints in Python, so a value of a wrong type would show far from its cause: in the
client's own thread, or at whoever reads the message. Each check returns the value as it is used
from then on, or raises InvalidArgumentError that names the argument, the value and what is allowed.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping
from typing import Any, Final, SupportsFloat, SupportsIndex

from mom_core import limits
from mom_core.errors import InvalidArgumentError
from mom_core.message import Message

# A time in the year 9999 is the last one, so no wait is longer.
SECONDS_MAX: Final = limits.TIMESTAMP_MS_MAX / 1000
_SHOWN_CHARACTERS_MAX: Final = 64
_TIME_ALLOWED: Final = (
    f"a number from 0 to {limits.TIMESTAMP_MS_MAX}, milliseconds since the Unix epoch,"
)


def wrong(field: str, value: object, allowed: str) -> InvalidArgumentError:
    """The error of a value that is not ``allowed``, a phrase such as ``a str``."""
    shown = repr(value)
    if len(shown) > _SHOWN_CHARACTERS_MAX:
        shown = f"{shown[: _SHOWN_CHARACTERS_MAX - 3]}..."
    return InvalidArgumentError(
        f"{field} is {shown}, of type {type(value).__name__}; {allowed} is allowed", field=field
    )


# Texts and bytes.


def text(value: object, field: str) -> str:
    """A str that has a UTF-8 form."""
    if not isinstance(value, str):
        raise wrong(field, value, "a str")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise wrong(field, value, "a str without lone surrogates") from None
    return value


def name(value: object, field: str) -> str:
    """What names a topic, a queue or a subscription, whether or not there is such a one."""
    return value if type(value) is str else text(value, field)


def optional_name(value: object, field: str) -> str | None:
    """The same, or None."""
    return None if value is None else name(value, field)


def key_bytes(value: object) -> bytes | None:
    """A key as bytes; a str in UTF-8."""
    if value is None or type(value) is bytes:
        return value
    if isinstance(value, str):
        return text(value, "key").encode()
    if isinstance(value, bytes):
        return bytes(value)
    raise wrong("key", value, "a str, bytes or None")


def headers_of(value: object) -> dict[str, str] | None:
    """Headers as a dict of its own; None without any."""
    if value is None:
        return None
    if type(value) is not dict and not isinstance(value, Mapping):
        raise wrong("headers", value, "a mapping of str to str")
    headers = dict(value)
    for header, content in headers.items():
        plain = type(header) is str and type(content) is str
        if not (plain and header.isascii() and content.isascii()):
            text(header, "a name in headers")
            text(content, f"headers[{header!r}]")
    return headers or None


# Numbers.


def whole(value: object, field: str, lowest: int, highest: int) -> int:
    """A whole number within bounds."""
    if type(value) is int and lowest <= value <= highest:
        return value
    if isinstance(value, SupportsIndex) and not isinstance(value, bool):
        found = operator.index(value)
        if lowest <= found <= highest:
            return found
    raise wrong(field, value, f"a whole number from {lowest} to {highest}")


def number(value: object, field: str, lowest: float, highest: float) -> float:
    """A number within bounds."""
    found = _real(value)
    if found is None or not lowest <= found <= highest:
        raise wrong(field, value, f"a number from {lowest:.15g} to {highest:.15g}")
    return found


def time_ms(value: object, field: str) -> int:
    """A time in milliseconds since the Unix epoch.

    A fraction, as ``time.time() * 1000`` has it, is rounded up, so that nothing comes early.
    """
    if type(value) is int and 0 <= value <= limits.TIMESTAMP_MS_MAX:
        return value
    found = _real(value)
    if found is None or not 0 <= found <= limits.TIMESTAMP_MS_MAX:
        raise wrong(field, value, _TIME_ALLOWED)
    return operator.index(value) if isinstance(value, SupportsIndex) else math.ceil(found)


def duration_ms(
    seconds: object, field: str, lowest: float = 0, highest: float = SECONDS_MAX
) -> int:
    """Milliseconds of a number of seconds within bounds."""
    found = _real(seconds)
    if found is None or not lowest <= found <= highest:
        raise wrong(field, seconds, f"a number of seconds from {lowest:.15g} to {highest:.15g}")
    return int(found * 1000)


def lease_ms(seconds: object) -> int:
    """Milliseconds of a lease; 0 stands for the queue's own."""
    return _own_or(seconds, "lease", limits.LEASE_MS_MIN, limits.LEASE_MS_MAX, "queue")


def extension_ms(seconds: object) -> int:
    """Milliseconds that a lease is to last from now."""
    return duration_ms(seconds, "lease", limits.LEASE_MS_MIN / 1000, limits.LEASE_MS_MAX / 1000)


def nack_delay_ms(seconds: object) -> int:
    """Milliseconds before which a message that is given back does not come again."""
    return duration_ms(seconds, "delay", highest=limits.SETTLE_DELAY_MS_MAX / 1000)


def session_ms(seconds: object) -> int:
    """Milliseconds of a member's session; 0 stands for the subscription's own."""
    lowest_ms, highest_ms = limits.SESSION_MS_MIN, limits.SESSION_MS_MAX
    return _own_or(seconds, "session", lowest_ms, highest_ms, "subscription")


def _own_or(seconds: object, field: str, lowest_ms: int, highest_ms: int, whose: str) -> int:
    found = _real(seconds)
    if found == 0:
        return 0
    if found is None or not lowest_ms <= found * 1000 <= highest_ms:
        allowed = f"a number of seconds from {lowest_ms / 1000:g} to {highest_ms / 1000:g}"
        raise wrong(field, seconds, f"{allowed}, or 0 for the {whose}'s own,")
    return int(found * 1000)


def moment(at_field: str, at_ms: object, after_field: str, after: object, now_ms: int) -> int:
    """The time, milliseconds since the Unix epoch, that a time or a wait in seconds stands for; 0
    without either of them.
    """
    at_ms = time_ms(at_ms, at_field)
    if type(after) is int and not after:
        return at_ms
    after_ms = duration_ms(after, after_field)
    if not after_ms:
        return at_ms
    if at_ms:
        raise InvalidArgumentError(
            f"{at_field} and {after_field} say the same in two ways; give one of them",
            field=after_field,
        )
    if now_ms + after_ms > limits.TIMESTAMP_MS_MAX:
        raise wrong(after_field, after, "a time before the year 10000")
    return now_ms + after_ms


def partition_of(value: object) -> int | None:
    """A partition, or None. Whether the topic has such a one, its routes say."""
    return None if value is None else whole(value, "partition", 0, limits.PARTITIONS_MAX - 1)


def flag(value: object, field: str) -> bool:
    """True or False."""
    if value is True or value is False:
        return value
    raise wrong(field, value, "True or False")


def _real(value: object) -> float | None:
    """A number as a float; None when it is none. NaN is within no bounds."""
    common = type(value) is float or type(value) is int
    if not common and (isinstance(value, bool) or not isinstance(value, SupportsFloat)):
        return None
    try:
        return float(value)  # type: ignore[arg-type]  # what is common has a float, too
    except (OverflowError, TypeError, ValueError):
        return None


# Messages.


def message_fields(message: Message) -> Message:
    """A message of the caller's own making, with each field of its type; a copy if one changes.

    Its sizes and ranges are judged where it goes into its batch.
    """
    if (
        type(message.value) is bytes
        and type(message.priority) is int
        and type(message.deliver_at_ms) is int
        and type(message.expires_at_ms) is int
        and (message.key is None or type(message.key) is bytes)
        and message.headers is None
        and message.content_type is None
        and message.timestamp_ms is None
        and message.id is None
        and message.dedup_id is None
    ):
        return message
    stamped, given_id, dedup_id = message.timestamp_ms, message.id, message.dedup_id
    content_type = message.content_type
    return Message(
        _bytes(message.value, "value"),
        None if message.key is None else _bytes(message.key, "key"),
        headers_of(message.headers),
        None if content_type is None else text(content_type, "content_type"),
        None if stamped is None else time_ms(stamped, "timestamp_ms"),
        None if given_id is None else _bytes(given_id, "id"),
        time_ms(message.deliver_at_ms, "deliver_at_ms"),
        time_ms(message.expires_at_ms, "expires_at_ms"),
        whole(message.priority, "priority", 0, 9),
        None if dedup_id is None else text(dedup_id, "dedup_id"),
    )


def _bytes(value: object, field: str) -> bytes:
    if type(value) is bytes:
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    raise wrong(field, value, "bytes")


# Several or one.


def iterable(value: object, field: str) -> Iterable[Any]:
    """An iterable of anything: not a text nor a mapping, which are one thing."""
    if not isinstance(value, Iterable) or isinstance(value, str | bytes | Mapping):
        raise wrong(field, value, "an iterable, such as a list,")
    return value


def several(value: object, one: type | tuple[type, ...], field: str, allowed: str) -> list[Any]:
    """The items of an iterable, each an instance of ``one``; or ``value`` alone, if it is one.

    ``allowed`` says what ``one`` is.
    """
    if isinstance(value, one):
        return [value]
    if not isinstance(value, Iterable) or isinstance(value, str | bytes | Mapping):
        raise wrong(field, value, f"{allowed}, or an iterable of them,")
    items = list(value)
    for item in items:
        if not isinstance(item, one):
            raise wrong(f"one of {field}", item, allowed)
    return items
