"""The entries of a partition's journal.

An entry is a 4-byte big-endian length and a MessagePack array: subscription name, its
``created_at_ms`` (so that one made again under an old name begins anew), what happened, and a
payload that belongs to what happened. Entries of the partition itself have no name.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import Final

import msgspec

from mom_core.delivery import TtlFrom
from mom_core.delivery.rate import Loan

_LENGTH_BYTES: Final = 4


class EntryKind(IntEnum):
    """What a journal entry says."""

    QUEUE_STARTED = 1
    """Payload: the first offset."""
    QUEUE_CHANGED = 2
    """Payload: changes of the delivery state."""
    GROUP_STARTED = 3
    """Payload: the number of partitions."""
    GROUP_CHANGED = 4
    """Payload: changes of the group's state."""
    ENDED = 5
    """The subscription was deleted; no payload."""
    BODIES_KEPT = 6
    """Of the partition. Payload: which bodies are kept beside the log from now on."""
    BODIES_DROPPED = 7
    """Of the partition. Payload: offsets whose bodies are not kept any more."""
    IDS_SEEN = 8
    """Of the partition. Payload: the offset from which on the log has dedup ids."""
    IDS_KEPT = 9
    """Of the partition. Payload: a segment of dedup ids that is kept beside the log."""
    IDS_DROPPED = 10
    """Of the partition. Payload: the numbers of segments that are kept no more."""


class Entry(msgspec.Struct, array_like=True):
    """One entry."""

    name: str
    created_at_ms: int
    kind: EntryKind
    payload: bytes | int | None = None
    ttl: TtlFrom | None = None
    """Of a queue that started or changed: the time to live that holds from an offset on. No kind of
    its own, so that an older version reads over it."""
    loan: Loan | None = None
    """Of a queue that changed, and in the same way: what is lent of its share of a rate."""


_decoder: Final = msgspec.msgpack.Decoder(Entry)


def encode_entry(entry: Entry) -> bytes:
    """An entry as it stands in the journal."""
    data = msgspec.msgpack.encode(entry)
    return len(data).to_bytes(_LENGTH_BYTES, "big") + data


def decode_entries(blob: bytes) -> Iterator[Entry]:
    """The entries of one commit."""
    place = 0
    while place < len(blob):
        end = place + _LENGTH_BYTES + int.from_bytes(blob[place : place + _LENGTH_BYTES], "big")
        yield _decoder.decode(blob[place + _LENGTH_BYTES : end])
        place = end
