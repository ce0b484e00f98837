"""The messages that workers have, by lease."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence

import msgspec

from mom_core.delivery.entries import Entry
from mom_core.delivery.order import Order


class Held(msgspec.Struct, array_like=True):
    """A part of a lease."""

    entry: Entry
    deadline_ms: int
    begun: bool = True
    """Whether the delivery counts if the lease runs out; a worker may say so later."""


class Leases:
    """The parts of each lease. Its order is told what is held, for groups that wait meanwhile."""

    def __init__(self, order: Order) -> None:
        self.count = 0
        """Messages in all, those included whose lease has just run out."""
        self._order = order
        self._parts: dict[int, list[Held]] = {}
        self._deadlines: list[tuple[int, int]] = []
        """With stale ones, as nothing is removed from a heap's middle."""

    def hold(self, lease_id: int, entry: Entry, deadline_ms: int, begun: bool = True) -> None:
        """Add an entry to a lease."""
        self.count += entry.count
        self._order.hold(entry.group, entry.count)
        parts = self._parts.setdefault(lease_id, [])
        last = parts[-1] if parts else None
        if last is None or last.deadline_ms != deadline_ms:
            heapq.heappush(self._deadlines, (deadline_ms, lease_id))
        elif last.begun is begun and last.entry.joins(entry):
            last.entry.end = entry.end
            return
        parts.append(Held(entry, deadline_ms, begun))

    def take(self, lease_id: int, first: int, end: int) -> list[Held]:
        """Take [first, end) out of a lease, and return it in its parts."""
        taken: list[Held] = []
        kept: list[Held] = []
        for held in self._parts.get(lease_id, ()):
            entry = held.entry
            low, high = max(first, entry.first), min(end, entry.end)
            if low >= high:
                kept.append(held)
                continue
            kept += [Held(rest, held.deadline_ms, held.begun) for rest in entry.around(low, high)]
            taken.append(Held(entry.part(low, high), held.deadline_ms, held.begun))
        if kept:
            self._parts[lease_id] = kept
        else:
            self._parts.pop(lease_id, None)
        for held in taken:
            self.count -= held.entry.count
            self._order.unhold(held.entry.group, held.entry.count)
        return taken

    def take_from_all(self, first: int, end: int) -> list[Entry]:
        """Take [first, end) out, whoever has it."""
        return [held.entry for one in list(self._parts) for held in self.take(one, first, end)]

    def parts(self, lease_id: int) -> Sequence[Held]:
        """What a lease holds; empty when it is over."""
        return self._parts.get(lease_id, ())

    def pieces(
        self, lease_id: int, first: int, end: int, now_ms: int
    ) -> list[tuple[Entry | None, int, int]]:
        """Cut [first, end) into pieces that the lease holds now, and pieces it does not (None)."""
        pieces: list[tuple[Entry | None, int, int]] = []
        live = [held.entry for held in self.parts(lease_id) if held.deadline_ms > now_ms]
        for entry in sorted(live, key=lambda one: one.first):
            low, high = max(first, entry.first), min(end, entry.end)
            if low >= high:
                continue
            if first < low:
                pieces.append((None, first, low))
            pieces.append((entry, low, high))
            first = high
        if first < end:
            pieces.append((None, first, end))
        return pieces

    def items(self) -> list[tuple[int, list[Held]]]:
        """Each lease with its parts."""
        return list(self._parts.items())

    def held(self) -> Iterator[Held]:
        """The parts of all leases."""
        return (held for parts in self._parts.values() for held in parts)

    def entries(self) -> Iterator[Entry]:
        """What all leases hold."""
        return (held.entry for held in self.held())

    def next_deadline(self) -> tuple[int, int] | None:
        """When the next lease ends, or a part of it, and which."""
        while self._deadlines:
            deadline_ms, lease_id = self._deadlines[0]
            if any(held.deadline_ms == deadline_ms for held in self.parts(lease_id)):
                return deadline_ms, lease_id
            heapq.heappop(self._deadlines)
        return None
