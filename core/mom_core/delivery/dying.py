"""The messages on their way to the dead letters: an outbox, numbered.

Whoever sends them does so under their numbers, and the target never forgets the last one that
landed: so each lands once, whatever fails on the way.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import msgspec

from mom_core.delivery.changes import DeadReason, Died
from mom_core.delivery.entries import Entry


class DeadMessage(NamedTuple):
    """A message on its way to the dead letters."""

    number: int
    """Its place among all that this subscription sent there from this partition."""
    offset: int
    reason: DeadReason
    deliveries: int
    first_leased_ms: int
    """0: it was never leased."""
    died_ms: int


class DeadAddress(msgspec.Struct, array_like=True, frozen=True):
    """Where dead messages go."""

    topic_id: str = ""
    """Empty: nowhere yet."""
    base: int = 0
    """The number of the first that was to go there."""
    next_number: int = 0
    """The number after the last that landed there."""


class DeadEntry(msgspec.Struct, array_like=True):
    """Messages that died together, the first of them with ``number``."""

    entry: Entry
    number: int
    reason: DeadReason
    at_ms: int

    def part(self, first: int, end: int) -> DeadEntry:
        """A copy of the part [first, end)."""
        entry = self.entry
        number = self.number + first - entry.first
        return DeadEntry(entry.part(first, end), number, self.reason, self.at_ms)


class Dying:
    """Dead messages that have not landed, in the order of their numbers."""

    def __init__(self) -> None:
        self.parts: list[DeadEntry] = []
        self.next_number = 0
        """Of the next message that dies."""
        self.address = DeadAddress()

    def __len__(self) -> int:
        """Ranges, so that it is true while anything is on its way."""
        return len(self.parts)

    @property
    def count(self) -> int:
        """Messages."""
        return sum(one.entry.count for one in self.parts)

    @property
    def lowest_number(self) -> int:
        """Of the first that has not landed, or the next that dies."""
        return self.parts[0].number if self.parts else self.next_number

    def entries(self) -> list[Entry]:
        """Their entries."""
        return [one.entry for one in self.parts]

    def messages(self) -> Iterator[DeadMessage]:
        """Each by itself."""
        for one in self.parts:
            entry = one.entry
            for place, offset in enumerate(range(entry.first, entry.end)):
                yield DeadMessage(
                    one.number + place,
                    offset,
                    one.reason,
                    entry.deliveries,
                    entry.first_leased_ms,
                    one.at_ms,
                )

    def __contains__(self, offset: int) -> bool:
        return any(one.entry.first <= offset < one.entry.end for one in self.parts)

    def add(self, change: Died, entries: list[Entry]) -> None:
        """Let messages die.

        In a replay some may be gone: what came to its end since is in no log any more. Their
        numbers are used up all the same, or the next ones would land as copies of these.
        """
        for entry in entries:
            number = change.number + entry.first - change.first
            self.parts.append(DeadEntry(entry, number, change.reason, change.at_ms))
        self.next_number = change.number + change.end - change.first

    def landed(self, number: int) -> list[Entry]:
        """Take out those below a number, since they landed."""
        self.address = msgspec.structs.replace(self.address, next_number=number)
        gone: list[Entry] = []
        while self.parts and self.parts[0].number < number:
            one = self.parts.pop(0)
            sent = one.entry.first + min(number - one.number, one.entry.count)
            gone.append(one.entry.part(one.entry.first, sent))
            if sent < one.entry.end:
                self.parts.insert(0, one.part(sent, one.entry.end))
        return gone

    def cut(self, first: int, end: int) -> list[Entry]:
        """Those of [first, end), after cutting what reaches beyond it."""
        self.parts = [
            one.part(low, high)
            for one in self.parts
            for low, high in pairwise(_cuts(one.entry, first, end))
        ]
        return [one.entry for one in self.parts if first <= one.entry.first < end]

    def take(self, first: int, end: int) -> list[Entry]:
        """Take [first, end) out."""
        taken = self.cut(first, end)
        self.parts = [one for one in self.parts if not first <= one.entry.first < end]
        return taken


def _cuts(entry: Entry, first: int, end: int) -> list[int]:
    inside = {at for at in (first, end) if entry.first < at < entry.end}
    return sorted({entry.first, entry.end, *inside})
