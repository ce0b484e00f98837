"""Message ids: UUIDv7 (RFC 9562), and how a batch numbers its messages from one of them.

A batch stores the id of its first message; the i-th message has that id plus i. The sum is taken in
``rand_b``, the low 62 bits, alone: neither time, version nor variant ever changes, so each sum is
again a UUIDv7, and ids of one batch sort in the order of its messages. This is the "monotonic
random" method of RFC 9562 section 6.2. :func:`uuid7` leaves the top bit of ``rand_b`` clear, the
rollover guard of the same section, so that no sum of an id of ours wraps; 73 random bits remain.
A foreign id near the end of ``rand_b`` wraps to its beginning and stays unique in its batch.
"""

from __future__ import annotations

import re
from typing import Final

from mom_core.errors import InvalidArgumentError

ID_BYTES: Final = 16
UUID7_RANDOM_BYTES: Final = 10
"""How many random bytes :func:`uuid7` takes."""

_TIMESTAMP_MS_MAX: Final = (1 << 48) - 1
_RAND_A_MASK: Final = (1 << 12) - 1
_RAND_B_MASK: Final = (1 << 62) - 1
_RAND_B_START_MASK: Final = (1 << 61) - 1
_VERSION: Final = 7 << 12
_VARIANT: Final = 0b10 << 62
_TEXT: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|[0-9a-fA-F]{32}")


def uuid7(now_ms: int, random: bytes) -> bytes:
    """A UUIDv7 as 16 bytes, from milliseconds since the Unix epoch and 10 random bytes."""
    assert 0 <= now_ms <= _TIMESTAMP_MS_MAX, "the time does not fit a UUIDv7"
    assert len(random) == UUID7_RANDOM_BYTES, "uuid7 takes 10 random bytes"
    number = int.from_bytes(random, "big")
    high = now_ms << 16 | _VERSION | (number >> 64 & _RAND_A_MASK)
    low = _VARIANT | (number & _RAND_B_START_MASK)
    return (high << 64 | low).to_bytes(ID_BYTES, "big")


def message_id(base_id: bytes, index: int) -> bytes:
    """The id of message ``index`` of a batch whose first message has ``base_id``."""
    low = int.from_bytes(base_id[8:], "big")
    low = (low & ~_RAND_B_MASK) | (low + index & _RAND_B_MASK)
    return base_id[:8] + low.to_bytes(8, "big")


def message_ids(base_id: bytes, count: int) -> list[bytes]:
    """The ids of the first ``count`` messages of a batch, as :func:`message_id` gives each."""
    first = int.from_bytes(base_id, "big")
    if (first & _RAND_B_MASK) + count > _RAND_B_MASK:
        return [message_id(base_id, index) for index in range(count)]
    return [number.to_bytes(ID_BYTES, "big") for number in range(first, first + count)]


def timestamp_ms(uuid: bytes) -> int:
    """The time a UUIDv7 was made, milliseconds since the Unix epoch."""
    return int.from_bytes(uuid[:6], "big")


def id_text(uuid: bytes) -> str:
    """The id in the usual form, such as ``01912d68-783e-7a03-8467-5661c1243ad4``."""
    digits = uuid.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def parse_id(text: str, field: str = "id") -> bytes:
    """The 16 bytes of an id in the usual form, or of 32 hex digits.

    Any UUID is taken, since producers may bring their own. Raises InvalidArgumentError otherwise.
    """
    if not _TEXT.fullmatch(text):
        shown = text if len(text) <= 64 else f"{text[:61]}..."
        raise InvalidArgumentError(
            f"{field} {shown!r} is not a UUID such as 01912d68-783e-7a03-8467-5661c1243ad4",
            field=field,
        )
    return bytes.fromhex(text.replace("-", ""))
