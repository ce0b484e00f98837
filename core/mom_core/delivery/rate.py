"""A queue's rate limit: the bucket that a node's partitions of it share. Pure.

A node's share of the rate is its share of the partitions, so that all nodes together keep it
without asking one another, and partitions of one node lend each other what they do not use. A
bucket that takes over partitions of another node begins empty, so that no takeover is a burst.
"""

from __future__ import annotations

import math

from mom_core.limits import RATE_BUCKET_MS

# Of a message: sums of a million float additions stay far below it.
_ROUNDING = 1e-6


class RateBucket:
    """Fills with time, and each message that is leased takes one out.

    In any span of T seconds at most ``rate_per_s`` x T messages and one bucket come out, and a
    bucket holds what RATE_BUCKET_MS bring, or one message.
    """

    def __init__(self, rate_per_s: float, now_ms: int, *, full: bool) -> None:
        """``rate_per_s`` 0: no limit."""
        self._rate_per_s = rate_per_s
        self._at_ms = now_ms
        self._messages = self._room if full else 0.0

    @property
    def _room(self) -> float:
        return max(1.0, self._rate_per_s * RATE_BUCKET_MS / 1000)

    def set_rate(self, rate_per_s: float, now_ms: int) -> None:
        """Fill with another rate from now on."""
        self._fill(now_ms)
        self._rate_per_s = rate_per_s
        self._messages = min(self._messages, self._room)

    def allows(self, now_ms: int) -> int | None:
        """How many messages may be leased now; None: any number."""
        if not self._rate_per_s:
            return None
        self._fill(now_ms)
        return max(0, math.floor(self._messages + _ROUNDING))

    def take(self, count: int, now_ms: int) -> None:
        """So many were leased."""
        self._fill(now_ms)
        self._messages -= count

    def give_back(self, count: int, now_ms: int) -> None:
        """So many were given back before anybody began them."""
        self._fill(now_ms)
        self._messages = min(self._messages + count, self._room)

    def next_ms(self, now_ms: int) -> int:
        """When the next message may be leased; not after ``now_ms``: at once."""
        if not self._rate_per_s:
            return now_ms
        self._fill(now_ms)
        missing = 1.0 - self._messages - _ROUNDING
        return now_ms + max(0, math.ceil(missing * 1000 / self._rate_per_s))

    def _fill(self, now_ms: int) -> None:
        # The store's clock may go back a little from one owner to the next.
        elapsed_ms = max(0, now_ms - self._at_ms)
        self._at_ms = max(self._at_ms, now_ms)
        if self._rate_per_s:
            more = elapsed_ms * self._rate_per_s / 1000
            self._messages = min(self._messages + more, self._room)
