"""Which time to live holds for which message: the one that the queue had at its append.

When the log is read again, by the next owner, the settings have only the newest one. So each
change is kept with the offset from which on it holds, as long as messages below it are unsettled.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from operator import attrgetter

import msgspec

from mom_core.limits import TTL_CHANGES_MAX


class TtlFrom(msgspec.Struct, array_like=True, frozen=True):
    """From offset ``first`` on messages expire ``ttl_ms`` after their arrival; 0: never by that."""

    first: int
    ttl_ms: int


class TtlHistory:
    """The changes of a subscription's time to live on one partition."""

    def __init__(self, changes: Iterable[TtlFrom] = ()) -> None:
        self.changes = list(changes)
        """In ascending order; the first of them also holds for all below it."""

    def of(self, offset: int, otherwise_ms: int) -> int:
        """What holds for an offset, in ms; ``otherwise_ms`` where no change was ever noted."""
        if not self.changes:
            return otherwise_ms
        place = bisect_right(self.changes, offset, key=attrgetter("first"))
        return self.changes[max(place - 1, 0)].ttl_ms

    def differs(self, ttl_ms: int) -> bool:
        """Whether this is not what holds for what comes next."""
        return not self.changes or self.changes[-1].ttl_ms != ttl_ms

    def note(self, change: TtlFrom, floor: int) -> None:
        """Another one holds from an offset on; changes that ended below ``floor`` are forgotten.

        At the bound the oldest is forgotten, too: what it held for follows the one after it.
        """
        kept = [one for one in self.changes if one.first < change.first]
        kept.append(change)
        while len(kept) > 1 and (kept[1].first <= floor or len(kept) > TTL_CHANGES_MAX):
            del kept[0]
        self.changes = kept
