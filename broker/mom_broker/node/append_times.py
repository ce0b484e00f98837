"""When messages at the front of subscriptions were appended, so that ages cost no read each time.

The oldest message of a queue that stands still is the same at every look, and so is its time. What
a trim removed may make another one the next, so a trim forgets all.
"""

from __future__ import annotations

from typing import Final, NamedTuple

# Subscriptions of one partition are few, and each has one or two oldest messages.
APPEND_TIMES_MAX: Final = 32


class AppendTime(NamedTuple):
    """The batch that holds an offset, or the next one."""

    base_offset: int
    append_time_ms: int


class AppendTimes:
    """Of one partition's log, by the offset that was asked for."""

    def __init__(self) -> None:
        self._known: dict[int, AppendTime] = {}

    def find(self, offset: int) -> AppendTime | None:
        """What was noted for that offset."""
        return self._known.get(offset)

    def note(self, offset: int, appended: AppendTime) -> None:
        """Remember it, in place of what was noted first where that is too much."""
        if len(self._known) >= APPEND_TIMES_MAX:
            del self._known[next(iter(self._known))]
        self._known[offset] = appended

    def clear(self) -> None:
        """The log was trimmed."""
        self._known.clear()
