"""Which of the waiting messages comes next: one class for each ordering.

An order keeps heaps of where waiting ranges begin. Their entries may be stale, since nothing is
removed from a heap's middle: a range that was leased, cut or skipped is passed over when it comes
to the top.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Mapping
from typing import Final, Protocol

from mom_core.delivery.entries import Entry
from mom_core.delivery.policy import Ordering

PRIORITIES: Final = 10
# Of so many messages one is the oldest of all, whatever its priority: a low one is never starved.
OLDEST_EVERY: Final = 10
# Entries that left and may stay in a heap beside as many again as wait: small queues sort nothing.
OLDEST_STALE_MAX: Final = 1_000


class Order(Protocol):
    """The choice among waiting entries, which the caller's mapping holds by where they begin."""

    def add(self, entry: Entry, now_ms: int) -> None:
        """An entry waits, is ready now after a delay, or begins elsewhere than before."""

    def next(self, now_ms: int) -> tuple[Entry, int] | None:
        """The entry to lease from, and how many of it at the most; None: nothing is ready."""

    def oldest(self, now_ms: int) -> int | None:
        """The lowest offset whose time has come, whether or not its group has to wait."""

    def took(self, entry: Entry, count: int) -> None:
        """The caller decided to lease ``count`` from the front of what :meth:`next` gave."""

    def left(self, group: int) -> None:
        """An entry of a group waits no more: it was leased, or is gone."""

    def hold(self, group: int, count: int) -> None:
        """Messages of a group are leased."""

    def unhold(self, group: int, count: int) -> None:
        """Messages of a group are leased no more."""


def make_order(ordering: Ordering, waiting: Mapping[int, Entry]) -> Order:
    """The order of a policy over the waiting entries."""
    match ordering:
        case Ordering.PRIORITY:
            return PriorityOrder(waiting)
        case Ordering.FIFO:
            return FifoOrder(waiting)
        case Ordering.FAIR:
            return FairOrder(waiting)


class OldestReady:
    """Where ready entries begin, for orders that have a heap for each group.

    It is made when somebody first asks, so that queues at which nobody looks pay nothing. What left
    lies in the heap until it comes to the top, or until it is most of the heap.
    """

    def __init__(self, waiting: Mapping[int, Entry], now_ms: int) -> None:
        self._waiting = waiting
        self._firsts = [one.first for one in waiting.values() if one.available_at_ms <= now_ms]
        heapq.heapify(self._firsts)

    def __len__(self) -> int:
        """Places held, those of entries that left included."""
        return len(self._firsts)

    def add(self, first: int) -> None:
        """An entry is ready that begins there."""
        heapq.heappush(self._firsts, first)
        if len(self._firsts) > 2 * len(self._waiting) + OLDEST_STALE_MAX:
            # Each of these steps follows as many additions, so an addition stays cheap.
            self._firsts = [one for one in set(self._firsts) if one in self._waiting]
            heapq.heapify(self._firsts)

    def lowest(self, now_ms: int) -> int | None:
        """The lowest that is ready still."""
        firsts = self._firsts
        while firsts:
            entry = self._waiting.get(firsts[0])
            if entry is not None and entry.available_at_ms <= now_ms:
                return firsts[0]
            heapq.heappop(firsts)
        return None


class PriorityOrder:
    """The highest priority first, the oldest among equals; every tenth is the oldest of all."""

    def __init__(self, waiting: Mapping[int, Entry]) -> None:
        self._waiting = waiting
        self._levels: list[list[int]] = [[] for _ in range(PRIORITIES)]
        self._used = 0
        """A bit for each level that may hold something."""
        self._since_oldest = 0

    def add(self, entry: Entry, now_ms: int) -> None:
        if entry.available_at_ms <= now_ms:
            heapq.heappush(self._levels[entry.priority], entry.first)
            self._used |= 1 << entry.priority

    def next(self, now_ms: int) -> tuple[Entry, int] | None:
        used = self._used
        if used & (used - 1) == 0:
            # One level at the most, as in every queue that has no priorities.
            top = self._top(used.bit_length() - 1, now_ms) if used else None
            return None if top is None else (top, top.count)
        tops = self._tops(now_ms)
        if not tops:
            return None
        if len(tops) == 1:
            return tops[0], tops[0].count
        left = OLDEST_EVERY - 1 - self._since_oldest
        if left > 0:
            return tops[0], min(tops[0].count, left)
        return min(tops, key=lambda one: one.first), 1

    def oldest(self, now_ms: int) -> int | None:
        return min((one.first for one in self._tops(now_ms)), default=None)

    def _tops(self, now_ms: int) -> list[Entry]:
        """The first entry of each level that has one, the highest level first."""
        used = self._used
        return [
            top
            for level in range(used.bit_length() - 1, -1, -1)
            if used >> level & 1 and (top := self._top(level, now_ms)) is not None
        ]

    def _top(self, level: int, now_ms: int) -> Entry | None:
        heap = self._levels[level]
        while heap:
            entry = self._waiting.get(heap[0])
            if entry is not None and entry.priority == level and entry.available_at_ms <= now_ms:
                return entry
            heapq.heappop(heap)
        self._used &= ~(1 << level)
        return None

    def took(self, entry: Entry, count: int) -> None:
        self._since_oldest = (self._since_oldest + count) % OLDEST_EVERY

    def left(self, group: int) -> None:
        """It is seen when it comes to the top."""

    def hold(self, group: int, count: int) -> None:
        """Any number at a time."""

    def unhold(self, group: int, count: int) -> None:
        """Any number at a time."""


class _Group:
    """The messages of one key: where their ranges begin, and how many are leased."""

    __slots__ = ("heap", "held")

    def __init__(self) -> None:
        self.heap: list[int] = []
        self.held = 0


class FifoOrder:
    """The oldest first; a group whose oldest one is leased or delayed waits."""

    def __init__(self, waiting: Mapping[int, Entry]) -> None:
        self._waiting = waiting
        self._groups: dict[int, _Group] = {}
        self._heads: list[tuple[int, int]] = []
        """Where a group that may be free begins, and the group."""
        self._ready: OldestReady | None = None

    def add(self, entry: Entry, now_ms: int) -> None:
        if self._ready is not None and entry.available_at_ms <= now_ms:
            self._ready.add(entry.first)
        if not entry.group:  # Without a key there is no order to keep.
            if entry.available_at_ms <= now_ms:
                heapq.heappush(self._heads, (entry.first, 0))
            return
        group = self._groups.get(entry.group)
        if group is None:
            group = self._groups[entry.group] = _Group()
        heapq.heappush(group.heap, entry.first)
        self._offer(entry.group, group)

    def _offer(self, number: int, group: _Group) -> None:
        if group.held:
            return
        while group.heap:
            entry = self._waiting.get(group.heap[0])
            if entry is not None and entry.group == number:
                heapq.heappush(self._heads, (group.heap[0], number))
                return
            heapq.heappop(group.heap)
        del self._groups[number]

    def next(self, now_ms: int) -> tuple[Entry, int] | None:
        while self._heads:
            first, number = self._heads[0]
            entry = self._waiting.get(first)
            if entry is not None and entry.group == number and entry.available_at_ms <= now_ms:
                if not number:
                    return entry, entry.count
                group = self._groups[number]
                if not group.held and self._oldest(number, group) == first:
                    return entry, 1
            heapq.heappop(self._heads)
        return None

    def _oldest(self, number: int, group: _Group) -> int:
        while True:
            entry = self._waiting.get(group.heap[0])
            if entry is not None and entry.group == number:
                return group.heap[0]
            heapq.heappop(group.heap)

    def oldest(self, now_ms: int) -> int | None:
        if self._ready is None:
            self._ready = OldestReady(self._waiting, now_ms)
        return self._ready.lowest(now_ms)

    def took(self, entry: Entry, count: int) -> None:
        """Holding it is enough."""

    def left(self, group: int) -> None:
        found = self._groups.get(group)
        if found is not None:
            self._offer(group, found)

    def hold(self, group: int, count: int) -> None:
        if group:
            self._groups.setdefault(group, _Group()).held += count

    def unhold(self, group: int, count: int) -> None:
        if group:
            found = self._groups[group]
            found.held -= count
            self._offer(group, found)


class FairOrder:
    """Of each group one in turn, the oldest first within it."""

    def __init__(self, waiting: Mapping[int, Entry]) -> None:
        self._waiting = waiting
        self._groups: dict[int, list[int]] = {}
        self._turns: deque[int] = deque()
        self._ready: OldestReady | None = None

    def add(self, entry: Entry, now_ms: int) -> None:
        if entry.available_at_ms > now_ms:
            return
        if self._ready is not None:
            self._ready.add(entry.first)
        heap = self._groups.get(entry.group)
        if heap is None:
            heap = self._groups[entry.group] = []
            self._turns.append(entry.group)
        heapq.heappush(heap, entry.first)

    def next(self, now_ms: int) -> tuple[Entry, int] | None:
        while self._turns:
            group = self._turns[0]
            heap = self._groups[group]
            while heap:
                entry = self._waiting.get(heap[0])
                if entry is not None and entry.group == group and entry.available_at_ms <= now_ms:
                    return entry, 1
                heapq.heappop(heap)
            del self._groups[group]
            self._turns.popleft()
        return None

    def oldest(self, now_ms: int) -> int | None:
        if self._ready is None:
            self._ready = OldestReady(self._waiting, now_ms)
        return self._ready.lowest(now_ms)

    def took(self, entry: Entry, count: int) -> None:
        self._turns.rotate(-1)

    def left(self, group: int) -> None:
        """It is seen when it comes to the top."""

    def hold(self, group: int, count: int) -> None:
        """Any number at a time."""

    def unhold(self, group: int, count: int) -> None:
        """Any number at a time."""
