"""The dedup window of one owned partition: what is left out of batches, and how the ids outlive
this owner.

The next owner finds the ids in the columns of the log's batches, from the offset on that journal
and snapshot name, so that a partition without ids is opened with no reading. Batches that are
trimmed before the window ended (acknowledged messages of a queue) leave their ids in *segments*
beside the log.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, Protocol

import msgspec

from mom_broker.node.journal import Entry, EntryKind, encode_entry
from mom_core import batch as codec
from mom_core.batch import COLUMN_DEDUP, COLUMNS_BYTES_PER_RECORD_MAX, BatchHeader
from mom_core.dedup import (
    BatchIds,
    DedupWindow,
    Landing,
    decode_landings,
    encode_landings,
    ids_of,
)
from mom_core.errors import OverloadedError
from mom_core.limits import DEDUP_IDS_MAX, DEDUP_SEGMENT_BYTES
from mom_core.ports import BatchHead
from mom_core.topics import TopicConfig

# Beginnings of batches that one read brings when a window is read again.
_HEADS_PER_READ: Final = 512
_SEGMENTS_PER_READ: Final = 16


class DedupBudget:
    """The ids that a node remembers over all its partitions.

    A takeover may bring more than that: then new ones are refused until enough are forgotten.
    """

    def __init__(self, ids_max: int = DEDUP_IDS_MAX) -> None:
        self.ids_max = ids_max
        self.ids = 0


class Segment(NamedTuple):
    """Ids that are kept beside the log."""

    number: int
    last_time_ms: int
    end_offset: int
    """All ids below it that are still remembered are in this segment or one before."""


class DedupState(msgspec.Struct, array_like=True, frozen=True):
    """What a snapshot tells of the window."""

    log_from: int
    """Where in the log the ids begin that no segment has."""
    segments: list[Segment]


class IdLog(Protocol):
    """What the window needs of its partition."""

    high_watermark: int
    log_start: int

    async def heads(
        self, offset: int, batches_max: int, *, bytes_per_record: int = 0
    ) -> tuple[BatchHead, ...]:
        """The beginnings of batches."""

    async def offset_at(self, timestamp_ms: int) -> int:
        """The first offset appended at or after a time."""

    async def read_kept(self, keys: list[str]) -> tuple[bytes | None, ...]:
        """Values beside the log."""


class KeptIds(NamedTuple):
    """What to keep beside the log, and the journal entry that tells of it."""

    values: Mapping[str, bytes | None]
    entry: bytes


_segment_decoder: Final = msgspec.msgpack.Decoder(Segment)
_numbers_decoder: Final = msgspec.msgpack.Decoder(list[int])


def _key(number: int) -> str:
    return f"d{number}"


class Deduplicator:
    """The window of one partition under one ownership."""

    def __init__(
        self, config: Callable[[], TopicConfig], now_ms: Callable[[], int], budget: DedupBudget
    ) -> None:
        self.window = DedupWindow()
        self._config = config
        self._now_ms = now_ms
        self._budget = budget
        self._log_from: int | None = None
        self._segments: deque[Segment] = deque()
        self._newest: list[Landing] = []
        """What the newest segment holds, if this owner made it."""
        self._newest_bytes = 0
        self._closed = False

    @property
    def _before_ms(self) -> int:
        return self._now_ms() - self._config().dedup_window_ms

    # Batches that come.

    def take_in(self, header: BatchHeader, data: bytes) -> BatchIds | None:
        """The ids of a new batch; None when it has none, or the topic looks at none.

        Raises OverloadedError when the node remembers too many; :meth:`let_go` gives their room
        back.
        """
        config = self._config()
        if not header.columns & COLUMN_DEDUP or not config.dedup_window_ms:
            return None
        if self._budget.ids + header.count > self._budget.ids_max:
            self.expire()
        if self._budget.ids + header.count > self._budget.ids_max:
            raise OverloadedError(
                f"this node remembers {self._budget.ids} dedup ids, and {self._budget.ids_max} are "
                f"the most; send to {config.name!r} more slowly, or shorten dedup_window_ms "
                f"({config.dedup_window_ms} ms)",
                retry_after_ms=1_000,
            )
        self._budget.ids += header.count
        return ids_of(codec.dedup_hashes(header, data))

    def let_go(self, ids: BatchIds) -> None:
        """A batch that was taken in is over: it landed, or it did not."""
        self._budget.ids -= len(ids.hashes)

    def first_ids(self, next_offset: int) -> bytes:
        """The journal's entry that ids are in the log from here on; empty if it is known."""
        if self._log_from is not None:
            return b""
        self._log_from = next_offset
        return encode_entry(Entry("", 0, EntryKind.IDS_SEEN, next_offset))

    def landed(
        self, time_ms: int, base_offset: int, hashes: list[bytes], left_out: tuple[int, ...]
    ) -> None:
        """Remember the ids of a batch that is durable."""
        self._count(self.window.landed(time_ms, base_offset, hashes, left_out))

    def expire(self) -> None:
        """Forget what the window is over for."""
        self._count(-self.window.expire(self._before_ms))

    def close(self) -> None:
        """The ownership is over. What is under way may still be answered."""
        self._count(-len(self.window))
        self._closed = True

    def _count(self, ids: int) -> None:
        if not self._closed:
            self._budget.ids += ids

    # Beside the log.

    def segment_below(self, offset: int) -> KeptIds | None:
        """What to keep before the log below ``offset`` goes; None when nothing is needed."""
        self.expire()
        stored = self._segments[-1].end_offset if self._segments else 0
        new = [
            one
            for one in self.window.landings
            if one.offsets[0] >= stored and one.offsets[-1] < offset
        ]
        if not new:
            return None
        joins = self._newest and self._newest_bytes < DEDUP_SEGMENT_BYTES
        number = self._segments[-1].number if self._segments else 0
        if joins:
            self._segments.pop()
        else:
            self._newest = []
            number += 1
        before_ms = self._before_ms
        self._newest = [one for one in self._newest if one.time_ms >= before_ms] + new
        value = encode_landings(self._newest)
        self._newest_bytes = len(value)
        segment = Segment(number, new[-1].time_ms, new[-1].offsets[-1] + 1)
        self._segments.append(segment)
        entry = Entry("", 0, EntryKind.IDS_KEPT, msgspec.msgpack.encode(segment))
        return KeptIds({_key(number): value}, encode_entry(entry))

    def expired_segments(self) -> KeptIds | None:
        """Segments to remove."""
        gone: list[int] = []
        before_ms = self._before_ms
        while self._segments and self._segments[0].last_time_ms < before_ms:
            gone.append(self._segments.popleft().number)
        if not gone:
            return None
        if not self._segments:
            self._newest = []
        entry = Entry("", 0, EntryKind.IDS_DROPPED, msgspec.msgpack.encode(gone))
        return KeptIds(dict.fromkeys(map(_key, gone)), encode_entry(entry))

    # The next owner.

    def state(self, next_offset: int) -> DedupState | None:
        """What a snapshot tells; None when there never was an id."""
        if self._log_from is None:
            return None
        stored = self._segments[-1].end_offset if self._segments else 0
        in_log = (one.offsets[0] for one in self.window.landings if one.offsets[0] >= stored)
        return DedupState(next(in_log, next_offset), list(self._segments))

    def restore(self, state: DedupState | None) -> None:
        """Take over what a snapshot tells."""
        if state is not None:
            self._log_from = state.log_from
            self._segments = deque(state.segments)

    def replay(self, entry: Entry) -> None:
        """Take over what a journal entry says."""
        match entry.kind, entry.payload:
            case EntryKind.IDS_SEEN, int(offset):
                self._log_from = offset if self._log_from is None else self._log_from
            case EntryKind.IDS_KEPT, bytes(payload):
                segment = _segment_decoder.decode(payload)
                if self._segments and self._segments[-1].number == segment.number:
                    self._segments.pop()
                self._segments.append(segment)
            case EntryKind.IDS_DROPPED, bytes(payload):
                gone = frozenset(_numbers_decoder.decode(payload))
                self._segments = deque(one for one in self._segments if one.number not in gone)

    async def read_again(self, log: IdLog) -> None:
        """Fill the window from the segments and the log. Raises StoreError."""
        if self._log_from is None:
            return
        before_ms = self._before_ms
        numbers = [one.number for one in self._segments if one.last_time_ms >= before_ms]
        for at in range(0, len(numbers), _SEGMENTS_PER_READ):
            keys = list(map(_key, numbers[at : at + _SEGMENTS_PER_READ]))
            for value in await log.read_kept(keys):
                for landing in decode_landings(value or b"\x90"):
                    self._count(self.window.remember(landing))
        stored = self._segments[-1].end_offset if self._segments else 0
        recent = await log.offset_at(before_ms)
        await self._read_log(log, max(self._log_from, log.log_start, stored, recent))
        self.expire()

    async def _read_log(self, log: IdLog, offset: int) -> None:
        while offset < log.high_watermark:
            heads = await log.heads(
                offset, _HEADS_PER_READ, bytes_per_record=COLUMNS_BYTES_PER_RECORD_MAX
            )
            for one in heads:
                header = codec.parse_header(one.head)
                if header.columns & COLUMN_DEDUP:
                    hashes = codec.dedup_hashes(header, one.head)
                    self.landed(one.append_time_ms, one.base_offset, hashes, ())
            if not heads:
                return
            offset = heads[-1].end_offset
