"""Receipts: the opaque proof of a lease, as REST and the SDK hand it to a worker.

Text: URL-safe base64 without padding of 49 bytes, integers big-endian::

    offset size
     0      1   version, 1
     1     16   topic id
    17      4   partition
    21      8   offset
    29      8   lease id
    37      4   BLAKE2b of the subscription's name
    41      8   BLAKE2b of bytes 0 to 41

The check finds damage and mix-ups. What proves the lease is the lease id, which only the owner and
the worker know. A topic made again under an old name has another id, so old receipts do not fit it.
"""

from __future__ import annotations

import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from functools import lru_cache
from hashlib import blake2b
from typing import Final, NamedTuple

from mom_core.errors import ErrorCode, SettleError

VERSION: Final = 1
_BODY: Final = struct.Struct(">B16sIQQ4s")
_CHECK_BYTES: Final = 8
_RECEIPT_BYTES: Final = _BODY.size + _CHECK_BYTES
_TEXT_LENGTH: Final = (_RECEIPT_BYTES * 4 + 2) // 3


_REASONS: Final = {
    # What is settled does not say by what, which keeps it small.
    ErrorCode.ALREADY_SETTLED: "is settled: it was acknowledged, cancelled, purged or redriven, "
    "expired, went to the dead letters, or was removed by retention, before",
    ErrorCode.LEASE_LOST: "is not under this lease any more: it ended, and the message may be "
    "with another worker",
    ErrorCode.INVALID_RECEIPT: "was never leased",
    ErrorCode.REDRIVEN: "was redriven: it is a new message of another topic or queue now",
    ErrorCode.PURGED: "was purged by an administrator",
}


class Receipt(NamedTuple):
    """What a receipt says: one message of one lease."""

    partition: int
    offset: int
    lease_id: int


def why_not_settled(
    code: ErrorCode, name: str, partition: int, first_offset: int, count: int = 1
) -> str | None:
    """Why messages of a queue or subscription can't be settled, for people; None for other errors
    than those of a lease."""
    reason = _REASONS.get(code)
    if reason is None:
        return None
    what = f"message {first_offset}" if count == 1 else f"{count} messages from {first_offset}"
    return f"{what} of {name!r} partition {partition}: {reason}"


def encode_receipt(
    topic_id: bytes, subscription: str, partition: int, offset: int, lease_id: int
) -> str:
    """The text of a receipt. ``topic_id`` is 16 bytes."""
    body = _BODY.pack(VERSION, topic_id, partition, offset, lease_id, _name_hash(subscription))
    return urlsafe_b64encode(body + _check(body)).rstrip(b"=").decode()


def decode_receipt(text: str, topic_id: bytes, subscription: str) -> Receipt:
    """Read a receipt of this subscription of this topic.

    Raises SettleError (invalid_receipt) that says whether it is malformed or belongs elsewhere.
    """
    data = _decode_text(text)
    version, held_topic_id, partition, offset, lease_id, name_hash = _BODY.unpack_from(data)
    if version != VERSION:
        raise _invalid(f"has version {version}, which this server does not know")
    if held_topic_id != topic_id:
        raise _invalid(
            f"is not of {subscription!r}: it belongs to another topic or queue, or to one of this "
            "name that was deleted"
        )
    if name_hash != _name_hash(subscription):
        raise _invalid(f"is not of {subscription!r}: it belongs to another subscription")
    return Receipt(partition, offset, lease_id)


def _decode_text(text: str) -> bytes:
    if not isinstance(text, str) or len(text) != _TEXT_LENGTH:
        raise _invalid(f"is malformed: a receipt has {_TEXT_LENGTH} characters")
    try:
        data = urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
    except (Base64Error, ValueError):
        raise _invalid("is malformed: it is not URL-safe base64") from None
    # The comparison with the text made anew refuses other spellings of the same bytes.
    if len(data) != _RECEIPT_BYTES or urlsafe_b64encode(data).rstrip(b"=") != text.encode():
        raise _invalid("is malformed: it is not URL-safe base64")
    if _check(data[: _BODY.size]) != data[_BODY.size :]:
        raise _invalid("is malformed: its check does not hold, so it was changed or cut")
    return data


def _invalid(reason: str) -> SettleError:
    return SettleError(
        f"the receipt {reason}; use the receipts of a receive as they came",
        code=ErrorCode.INVALID_RECEIPT,
        field="receipt",
    )


def _check(body: bytes) -> bytes:
    return blake2b(body, digest_size=_CHECK_BYTES, person=b"mom-receipt").digest()


@lru_cache(maxsize=1024)
def _name_hash(subscription: str) -> bytes:
    return blake2b(subscription.encode(), digest_size=4).digest()
