"""Messages that a redrive sends elsewhere: exactly once, whatever fails on the way.

One batch at a time is on its way. It leaves the waiting in the journal first, under a **lane**: the
partition that it goes to. A lane numbers its batches, and the target's store knows a batch by the
lane's producer and that number; so one that is sent again, by this owner or the next, lands once.
Only then its messages count as settled.

A batch that stays, since its target is no more, may have landed in an earlier try. Its number must
not be given to other messages, so its lane begins anew under another **generation**, which is
another producer.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from mom_core.delivery.entries import Entry
from mom_core.errors import ErrorCode
from mom_core.limits import GONE_RANGES_MAX


class Lane(msgspec.Struct, array_like=True, frozen=True):
    """How many batches went one way."""

    generation: int = 0
    sequence: int = 0
    """The number of the next batch."""

    def after(self, landed: bool) -> Lane:
        """The lane when its batch has landed, or stayed."""
        if landed:
            return Lane(self.generation, self.sequence + 1)
        return Lane(self.generation + 1, 0)


class LeavingBatch(msgspec.Struct, array_like=True):
    """Messages on their way."""

    operation_id: str
    lane: str
    entries: list[Entry]

    @property
    def count(self) -> int:
        """Messages in it."""
        return sum(entry.count for entry in self.entries)

    @property
    def offsets(self) -> list[int]:
        """Their offsets, in order."""
        return [offset for one in self.entries for offset in range(one.first, one.end)]

    def take(self, first: int, end: int) -> list[Entry]:
        """Take [first, end) out, and return it in its parts."""
        taken: list[Entry] = []
        kept: list[Entry] = []
        for entry in self.entries:
            low, high = max(first, entry.first), min(end, entry.end)
            if low >= high:
                kept.append(entry)
                continue
            kept += entry.around(low, high)
            taken.append(entry.part(low, high))
        self.entries = kept
        return taken


class Redrives(msgspec.Struct, array_like=True):
    """All that a partition remembers of redrives."""

    lanes: dict[str, Lane] = msgspec.field(default_factory=dict)
    leaving: LeavingBatch | None = None
    operation_id: str = ""
    """The operation that sent last."""
    done: int = 0
    """How many messages it has sent."""

    @property
    def count(self) -> int:
        """Messages on their way."""
        return self.leaving.count if self.leaving is not None else 0

    def lane(self, name: str) -> Lane:
        """A lane as it stands."""
        return self.lanes.get(name, Lane())

    def done_of(self, operation_id: str) -> int:
        """How many messages of an operation have landed."""
        return self.done if operation_id == self.operation_id else 0

    def begin(self, operation_id: str, lane: str, entries: list[Entry]) -> None:
        """Let a batch leave."""
        assert self.leaving is None, "one batch leaves at a time"
        if operation_id != self.operation_id:
            self.operation_id, self.done = operation_id, 0
        self.leaving = LeavingBatch(operation_id, lane, entries)

    def end(self, landed: bool, count: int) -> list[Entry]:
        """The batch of ``count`` has landed, or stays; those of its messages that are here."""
        assert self.leaving is not None, "a batch leaves"
        batch, self.leaving = self.leaving, None
        self.lanes[batch.lane] = self.lane(batch.lane).after(landed)
        if landed:
            self.done += count
        return batch.entries


class GoneRange(msgspec.Struct, array_like=True, frozen=True):
    """Offsets [first, end) that were settled by an administrator and not by a worker."""

    first: int
    end: int
    code: ErrorCode
    """What a worker is told that comes with a receipt of one."""


class Gone:
    """The last of what an administrator took away, so that a late worker is told why."""

    def __init__(self, ranges: list[GoneRange]) -> None:
        self.ranges = ranges

    def note(self, first: int, end: int, code: ErrorCode) -> None:
        """Remember a range; the oldest is forgotten at the bound."""
        last = self.ranges[-1] if self.ranges else None
        if last is not None and last.code is code and last.end == first:
            self.ranges[-1] = GoneRange(last.first, end, code)
            return
        self.ranges.append(GoneRange(first, end, code))
        del self.ranges[:-GONE_RANGES_MAX]

    def split(
        self, first: int, end: int, otherwise: ErrorCode
    ) -> Iterator[tuple[int, int, ErrorCode]]:
        """Cut [first, end) into pieces by what is remembered of them."""
        inside = (one for one in self.ranges if one.first < end and first < one.end)
        for one in sorted(inside, key=lambda known: known.first):
            low, high = max(first, one.first), min(end, one.end)
            if first < low:
                yield first, low, otherwise
            yield low, high, one.code
            first = high
        if first < end:
            yield first, end, otherwise
