"""Ranges of messages that are alike, and how they are cut and joined."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec


class Entry(msgspec.Struct, array_like=True, gc=False):
    """Offsets [first, end), all in the same state with the same wishes."""

    first: int
    end: int
    deliveries: int = 0
    """Deliveries that count, a lease under way included."""
    available_at_ms: int = 0
    """Not leased before."""
    expires_at_ms: int = 0
    """Not leased from then on; 0: never."""
    priority: int = 0
    group: int = 0
    """The hash of what orders or shares; 0: none."""
    first_leased_ms: int = 0
    """0: never leased."""
    alone: bool = False
    """Leased one by one, each by itself."""
    carried: bool = False
    """The body is kept apart from the log."""
    moved: bool = False
    """It was given another time than the one it came with."""

    @property
    def count(self) -> int:
        """Messages in it."""
        return self.end - self.first

    @property
    def as_it_came(self) -> bool:
        """Whether the log alone tells all of it."""
        return not (self.first_leased_ms or self.carried or self.moved)

    def joins(self, other: Entry) -> bool:
        """Whether the two are alike and ``other`` follows at once."""
        return self.end == other.first and self._wishes() == other._wishes()

    def _wishes(self) -> tuple[object, ...]:
        return msgspec.structs.astuple(self)[2:]

    def part(self, first: int, end: int) -> Entry:
        """A copy of the part [first, end)."""
        copy = msgspec.structs.replace(self, first=first, end=end)
        assert self.first <= first < end <= self.end, f"{first}-{end} of {self.first}-{self.end}"
        return copy

    def around(self, first: int, end: int) -> Iterator[Entry]:
        """Copies of what lies before and behind [first, end)."""
        if self.first < first:
            yield self.part(self.first, first)
        if end < self.end:
            yield self.part(end, self.end)
