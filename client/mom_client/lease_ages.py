"""How old a lease is when it arrives, from clocks that know nothing of one another. Pure.

A lease says when it was made by the store's clock, and a message may have lain in a buffer since
then: of a process that was stopped, for minutes. The least difference between the two clocks that
was seen lately belongs to a message that came straight, and what exceeds it is age.
"""

from __future__ import annotations

from typing import Final

# Clocks run apart by some 20 ms an hour; what was seen longer ago than two of these tells nothing.
WINDOW_MS: Final = 60_000


class LeaseAges:
    """Learns from every lease that arrives."""

    def __init__(self) -> None:
        self._since_ms = 0
        self._least: int | None = None
        self._least_before: int | None = None

    def age_ms(self, leased_at_ms: int, now_ms: int) -> int:
        """How long ago a lease was made: ``leased_at_ms`` is by the store's clock, ``now_ms`` by
        one of ours that never goes back."""
        difference = now_ms - leased_at_ms
        if self._least is None or now_ms - self._since_ms >= WINDOW_MS:
            self._since_ms = now_ms
            self._least_before = self._least
            self._least = difference
        self._least = min(self._least, difference)
        before = self._least if self._least_before is None else self._least_before
        return difference - min(self._least, before)
