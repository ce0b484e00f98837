"""Changing messages that wait: what is asked for, and what became of it."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class WaitingResult(StrEnum):
    """What became of one message that was to be cancelled or moved."""

    DONE = "done"
    UNKNOWN = "unknown"
    """Nothing has that offset yet."""
    LEASED = "leased"
    """A worker has it."""
    DEAD = "dead"
    """It is on its way to the dead letters."""
    SETTLED = "settled"
    """It was acknowledged, cancelled, or is no more."""
    EXPIRES = "expires"
    """It expires before the time that it was to be moved to."""


class Wanted(NamedTuple):
    """What is to become of one message that waits."""

    offset: int
    available_at_ms: int | None
    """Not leased before; 0: at once; None: it is cancelled."""
