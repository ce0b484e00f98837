"""What a queue wants of its delivery: the settings that decisions follow."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

from mom_core.batch import (
    COLUMN_DELIVER_AT,
    COLUMN_EXPIRES_AT,
    COLUMN_GROUP,
    COLUMN_KEY_HASH,
    COLUMN_PRIORITY,
)

# Exponents beyond it change nothing: 2**40 ms are 35 years.
_DOUBLINGS_MAX: Final = 40


class Ordering(StrEnum):
    """Which ready message comes next."""

    PRIORITY = "priority"
    """The highest priority first, and the oldest among equals."""
    FIFO = "fifo"
    """The oldest first, and of each key one at a time."""
    FAIR = "fair"
    """Of each group (a key, or the value of a header) one in turn."""


class Backoff(msgspec.Struct, frozen=True):
    """How long a message waits after a failed delivery, milliseconds."""

    first_ms: int = 0
    """After the first one; 0: no wait."""
    multiplier: float = 1.0
    """The wait grows by it from delivery to delivery; 1: it stays."""
    max_ms: int = 0
    """The longest wait; 0: no bound but the one of the multiplier."""

    def after(self, deliveries: int) -> int:
        """The wait after so many deliveries."""
        if not self.first_ms:
            return 0
        doublings = min(max(deliveries - 1, 0), _DOUBLINGS_MAX)
        wait_ms = self.first_ms * self.multiplier**doublings
        bound_ms = self.max_ms or self.first_ms << _DOUBLINGS_MAX
        return int(min(wait_ms, bound_ms))


NO_BACKOFF: Final = Backoff()


class Policy(msgspec.Struct, frozen=True):
    """The settings of one subscription."""

    ordering: Ordering = Ordering.PRIORITY
    backoff: Backoff = NO_BACKOFF
    max_deliveries: int = 0
    """After so many a message goes to the dead letters; 0: it comes again for ever."""
    expired_are_dead: bool = False
    """Whether a message whose time is over goes to the dead letters, too."""
    ttl_ms: int = 0
    """How long after its arrival a message that comes now expires; 0: never by that."""
    paused: bool = False
    """Whether nothing is leased for now."""

    groups_by_header: bool = False
    """Fair turns go by the column that the producer filled from a header; where a batch does not
    have it, since its producer did not know of the setting yet, by the key."""

    @property
    def columns(self) -> int:
        """The columns of a batch that matter to it."""
        columns = COLUMN_DELIVER_AT | COLUMN_EXPIRES_AT
        if self.ordering is Ordering.PRIORITY:
            return columns | COLUMN_PRIORITY
        if self.groups_by_header:
            columns |= COLUMN_GROUP
        return columns | COLUMN_KEY_HASH
