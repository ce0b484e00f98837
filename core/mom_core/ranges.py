"""A set of offsets kept as disjoint ascending ranges."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator


class RangeSet:
    """Disjoint half-open ranges [first, end). Adjacent ranges are one; all steps are O(log n)
    besides the list's own shifting, which is cheap for the tens of thousands that occur."""

    __slots__ = ("_ends", "_firsts")

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._firsts: list[int] = []
        self._ends: list[int] = []
        for first, end in ranges:
            self.add(first, end)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(zip(self._firsts, self._ends, strict=True))

    def __len__(self) -> int:
        return len(self._firsts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RangeSet):
            return NotImplemented
        return self._firsts == other._firsts and self._ends == other._ends

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __contains__(self, offset: int) -> bool:
        place = bisect_right(self._firsts, offset) - 1
        return place >= 0 and offset < self._ends[place]

    def add(self, first: int, end: int) -> None:
        """Add [first, end), joining it with what it touches."""
        if first >= end:
            return
        low = bisect_left(self._ends, first)
        high = bisect_right(self._firsts, end)
        if low < high:
            first = min(first, self._firsts[low])
            end = max(end, self._ends[high - 1])
        self._firsts[low:high] = [first]
        self._ends[low:high] = [end]

    def remove_below(self, offset: int) -> None:
        """Forget everything below ``offset``."""
        place = bisect_right(self._ends, offset)
        del self._firsts[:place]
        del self._ends[:place]
        if self._firsts and self._firsts[0] < offset:
            self._firsts[0] = offset

    def remove(self, first: int, end: int) -> None:
        """Take [first, end) out."""
        low = bisect_right(self._ends, first)
        high = bisect_left(self._firsts, end)
        if low >= high or first >= end:
            return
        before = [(self._firsts[low], first)] if self._firsts[low] < first else []
        behind = [(end, self._ends[high - 1])] if self._ends[high - 1] > end else []
        self._firsts[low:high] = [one[0] for one in (*before, *behind)]
        self._ends[low:high] = [one[1] for one in (*before, *behind)]

    def next_from(self, offset: int) -> int | None:
        """The lowest member that is not below ``offset``."""
        place = bisect_right(self._ends, offset)
        return max(offset, self._firsts[place]) if place < len(self._firsts) else None

    def end_at(self, offset: int) -> int:
        """The end of the range that holds ``offset``, or ``offset`` itself if none does."""
        place = bisect_right(self._firsts, offset) - 1
        return max(offset, self._ends[place]) if place >= 0 else offset

    @property
    def end(self) -> int:
        """The end of the highest range; 0 when there is none."""
        return self._ends[-1] if self._ends else 0

    def first_end(self) -> tuple[int, int] | None:
        """The lowest range."""
        return (self._firsts[0], self._ends[0]) if self._firsts else None

    def within(self, first: int, end: int) -> list[tuple[int, int]]:
        """What of [first, end) is in the set."""
        return [(low, high) for low, high, inside in self.split(first, end) if inside]

    def split(self, first: int, end: int) -> Iterator[tuple[int, int, bool]]:
        """Cut [first, end) into pieces that are wholly in the set (True) or wholly outside."""
        place = bisect_right(self._ends, first)
        while first < end:
            if place == len(self._firsts) or self._firsts[place] >= end:
                yield first, end, False
                return
            if first < self._firsts[place]:
                yield first, self._firsts[place], False
                first = self._firsts[place]
            upto = min(end, self._ends[place])
            yield first, upto, True
            first = upto
            place += 1
