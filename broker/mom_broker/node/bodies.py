"""Bodies that are kept beside the log, each under its original offset.

One body serves every subscription of the partition that needs it: it is dropped when the last one
is done with it. Which ones there are stands in the partition's journal and snapshot.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import msgspec

from mom_broker.node.journal import Entry, EntryKind, encode_entry
from mom_core import batch as codec
from mom_core.ports import StoredBatch
from mom_core.ranges import RangeSet

_TIME_BYTES: Final = 8


class KeptBody(NamedTuple):
    """What is known of a kept body without reading it."""

    offset: int
    size_bytes: int
    append_time_ms: int


_kept_decoder: Final = msgspec.msgpack.Decoder(list[KeptBody])
_ranges_decoder: Final = msgspec.msgpack.Decoder(list[tuple[int, int]])


def body_key(offset: int) -> str:
    """The store's key of a body."""
    return f"b{offset}"


def cut_body(batch: StoredBatch, offset: int) -> bytes:
    """The value to keep for one message of a batch."""
    place = offset - batch.base_offset
    data = codec.cut(batch.data, place, place + 1)
    return batch.append_time_ms.to_bytes(_TIME_BYTES, "big") + data


def batch_of_body(offset: int, value: bytes) -> StoredBatch:
    """A kept body as a batch of one message."""
    time_ms = int.from_bytes(value[:_TIME_BYTES], "big")
    return StoredBatch(offset, 1, time_ms, value[_TIME_BYTES:])


class KeptBodies:
    """Which bodies of a partition are kept, and by how many subscriptions they are needed."""

    def __init__(self) -> None:
        self.bytes = 0
        self._kept: dict[int, KeptBody] = {}
        self._holders: dict[int, int] = {}
        self._offsets = RangeSet()

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, bodies: Iterable[KeptBody]) -> None:
        """These are kept now."""
        for one in bodies:
            self.bytes += one.size_bytes - self._size(one.offset)
            self._kept[one.offset] = one
            self._offsets.add(one.offset, one.offset + 1)

    def remove(self, ranges: Iterable[tuple[int, int]]) -> None:
        """These are kept no more."""
        for first, end in ranges:
            for offset in range(first, end):
                self.bytes -= self._size(offset)
                self._kept.pop(offset, None)
                self._holders.pop(offset, None)
            self._offsets.remove(first, end)

    def _size(self, offset: int) -> int:
        held = self._kept.get(offset)
        return held.size_bytes if held is not None else 0

    def hold(self, first: int, end: int) -> None:
        """One more subscription needs the bodies of [first, end)."""
        for offset in range(first, end):
            self._holders[offset] = self._holders.get(offset, 0) + 1

    def release(self, ranges: Iterable[tuple[int, int]]) -> None:
        """One subscription is done with these; see :meth:`unneeded`."""
        for first, end in ranges:
            for offset in range(first, end):
                self._holders[offset] = self._holders.get(offset, 0) - 1

    def unneeded(self, ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        """What is kept in these ranges and needed by nobody."""
        found = RangeSet()
        for first, end in ranges:
            for offset in range(first, end):
                if offset in self._kept and self._holders.get(offset, 0) <= 0:
                    found.add(offset, offset + 1)
        return list(found)

    def within(self, first: int, end: int) -> list[tuple[int, int]]:
        """What of [first, end) is kept."""
        return self._offsets.within(first, end)

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """All that is kept."""
        return list(self._offsets)

    def next_from(self, offset: int) -> int | None:
        """The lowest kept offset that is not below ``offset``."""
        return self._offsets.next_from(offset)

    def append_time_ms(self, offset: int) -> int:
        """When the message of a kept body was appended."""
        return self._kept[offset].append_time_ms

    def older_than(self, time_ms: int) -> list[tuple[int, int]]:
        """What was appended before a time, which is the lowest of all."""
        old = RangeSet()
        for first, end in self._offsets:
            for offset in range(first, end):
                if self._kept[offset].append_time_ms >= time_ms:
                    return list(old)
                old.add(offset, offset + 1)
        return list(old)

    def from_offset(self, offset: int, count_max: int, bytes_max: int) -> list[int]:
        """The next kept offsets, at least one if there is any, up to both bounds."""
        taken: list[int] = []
        following = self.next_from(offset)
        while following is not None and len(taken) < count_max:
            bytes_max -= self._size(following)
            if taken and bytes_max < 0:
                break
            taken.append(following)
            following = self.next_from(following + 1)
        return taken

    # In journal and snapshot.

    @property
    def stored(self) -> list[KeptBody]:
        """All of them, for a snapshot."""
        return list(self._kept.values())

    def replay(self, entry: Entry) -> None:
        """Take over what a journal entry says."""
        assert isinstance(entry.payload, bytes), "offsets as bytes"
        if entry.kind is EntryKind.BODIES_KEPT:
            self.add(_kept_decoder.decode(entry.payload))
        else:
            self.remove(_ranges_decoder.decode(entry.payload))


def kept_entry(bodies: Sequence[KeptBody]) -> bytes:
    """The journal's entry of bodies that are kept."""
    return encode_entry(Entry("", 0, EntryKind.BODIES_KEPT, msgspec.msgpack.encode(bodies)))


def dropped_entry(ranges: Sequence[tuple[int, int]]) -> bytes:
    """The journal's entry of bodies that are kept no more."""
    return encode_entry(Entry("", 0, EntryKind.BODIES_DROPPED, msgspec.msgpack.encode(ranges)))
