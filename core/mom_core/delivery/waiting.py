"""The messages that wait: ready ones, and those that are delayed.

Time is kept in heaps whose entries may be stale, since nothing is removed from a heap's middle:
what left, or waits for another time, is passed over when it comes to the top.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Iterator, Sequence

from mom_core.delivery.arrivals import Run
from mom_core.delivery.entries import Entry
from mom_core.delivery.order import make_order
from mom_core.delivery.policy import Ordering


class Waiting:
    """Entries by where they begin; no two overlap."""

    def __init__(self, ordering: Ordering) -> None:
        self.entries: dict[int, Entry] = {}
        self.order = make_order(ordering, self.entries)
        self.count = 0
        """Messages in all."""
        self.delayed_count = 0
        """Of these, messages whose time has not come."""
        self.now_ms = 0
        """The latest time that it was told: a clock that is set back delays nothing again."""
        self._newest: Entry | None = None
        """The last one that arrived, as long as it is just as it came."""
        self._delayed: set[int] = set()
        self._delays: list[tuple[int, int]] = []
        self._expiries: list[tuple[int, int]] = []

    # Coming.

    def arrive(self, run: Run, first: int, end: int) -> None:
        """Add messages [first, end) of the log, none of which is here; joined if they are alike."""
        newest = self._newest
        if newest is not None and newest.end == first:
            first = newest.end  # One number for both, which saves 32 bytes for each entry.
        if newest is None or newest.end != first or not _is_alike(newest, run):
            self._newest = entry = Entry(
                first, end, 0, run.deliver_at_ms, run.expires_at_ms, run.priority, run.group
            )
            self.add(entry)
            return
        self.count += end - first
        if newest.first in self._delayed:
            self.delayed_count += end - first
        newest.end = end

    def add(self, entry: Entry) -> None:
        """Let an entry wait."""
        first, count = entry.first, entry.end - entry.first
        self.entries[first] = entry
        self.count += count
        if entry.available_at_ms > self.now_ms:
            self._delayed.add(first)
            self.delayed_count += count
            heapq.heappush(self._delays, (entry.available_at_ms, first))
        if entry.expires_at_ms:
            heapq.heappush(self._expiries, (entry.expires_at_ms, first))
        self.order.add(entry, self.now_ms)

    # Going.

    def take(self, first: int, end: int) -> list[Entry]:
        """Take what waits of [first, end) out, and return it in its parts."""
        taken: list[Entry] = []
        while first < end and (entry := self.entries.get(first)) is not None:
            taken.append(self.cut(entry, first, min(end, entry.end)))
            first = entry.end
        if first < end:
            overlapping = [
                entry for entry in self.entries.values() if entry.first < end and first < entry.end
            ]
            for entry in sorted(overlapping, key=lambda one: one.first):
                low, high = max(first, entry.first), min(end, entry.end)
                taken.append(self.cut(entry, low, high))
        return taken

    def cut(self, entry: Entry, first: int, end: int) -> Entry:
        """Take the part [first, end) of a waiting entry out."""
        del self.entries[entry.first]
        self.count -= entry.count
        if entry.first in self._delayed:
            self._delayed.remove(entry.first)
            self.delayed_count -= entry.count
        was_newest = entry is self._newest
        if was_newest:
            self._newest = None
        for rest in entry.around(first, end):
            self.add(rest)
            if was_newest and rest.end == entry.end:
                self._newest = rest
        self.order.left(entry.group)
        return entry.part(first, end)

    # Looking.

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries.values())

    def spans(self) -> Iterator[tuple[int, int]]:
        """The ranges of the entries, in no order."""
        return ((one.first, one.end) for one in self.entries.values())

    def delayed(self) -> Iterator[Entry]:
        """Those whose time has not come."""
        return (self.entries[first] for first in self._delayed)

    def is_whole(self, first: int, end: int) -> bool:
        """Whether all of [first, end) waits, if an entry begins at ``first``; else False."""
        while first < end and (entry := self.entries.get(first)) is not None:
            first = entry.end
        return first >= end

    def begins_of(self, offsets: Sequence[int]) -> dict[int, int]:
        """Where the entries begin that hold these ascending offsets, in one pass."""
        begins = {offset: offset for offset in offsets if offset in self.entries}
        if len(begins) < len(offsets):
            for entry in self.entries.values():
                place = bisect_left(offsets, entry.first)
                while place < len(offsets) and offsets[place] < entry.end:
                    begins[offsets[place]] = entry.first
                    place += 1
        return begins

    def next(self) -> tuple[Entry, int] | None:
        """The entry to lease from, and how many of it at the most; None: nothing is ready."""
        return self.order.next(self.now_ms)

    def oldest_ready(self) -> int | None:
        """The lowest offset whose time has come."""
        return self.order.oldest(self.now_ms)

    # Time.

    def wake(self, now_ms: int) -> None:
        """End the delays whose time has come."""
        self.now_ms = max(self.now_ms, now_ms)
        while self._delays and self._delays[0][0] <= self.now_ms:
            available_at_ms, first = heapq.heappop(self._delays)
            entry = self.entries.get(first)
            if first in self._delayed and entry and entry.available_at_ms == available_at_ms:
                self._delayed.remove(first)
                self.delayed_count -= entry.count
                self.order.add(entry, self.now_ms)

    def next_times_ms(self) -> list[int]:
        """When the next delay ends, and when the next message expires, where there are any."""
        self._drop_stale_delays()
        self._drop_stale_expiries()
        return [heap[0][0] for heap in (self._delays, self._expiries) if heap]

    def expired(self, now_ms: int) -> Entry | None:
        """One whose time is over."""
        self._drop_stale_expiries()
        if self._expiries and self._expiries[0][0] <= now_ms:
            return self.entries[self._expiries[0][1]]
        return None

    def _drop_stale_delays(self) -> None:
        while self._delays:
            available_at_ms, first = self._delays[0]
            entry = self.entries.get(first)
            if entry is not None and entry.available_at_ms == available_at_ms:
                return
            heapq.heappop(self._delays)

    def _drop_stale_expiries(self) -> None:
        while self._expiries:
            expires_at_ms, first = self._expiries[0]
            entry = self.entries.get(first)
            if entry is not None and entry.expires_at_ms == expires_at_ms:
                return
            heapq.heappop(self._expiries)


def _is_alike(entry: Entry, run: Run) -> bool:
    """Whether messages that arrive may join those that just came."""
    return (
        entry.priority == run.priority
        and entry.available_at_ms == run.deliver_at_ms
        and entry.expires_at_ms == run.expires_at_ms
        and entry.group == run.group
    )
