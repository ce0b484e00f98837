"""Rate limits of queues on this node: see :mod:`mom_core.delivery.rate` for the rule."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple, Protocol

from mom_core.delivery.rate import RateBucket


class Limited(Protocol):
    """What a rate limit holds back: one partition of a subscription."""

    def wake(self) -> bool:
        """Wake a waiting receive if there is something for it; whether one was woken."""


class QueueRate:
    """The rate limit of one subscription, shared by its partitions on this node."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._bucket: RateBucket | None = None
        self._rate_per_s = 0.0
        self._partitions = 1
        self._limited: list[Limited] = []
        """Those whose turn to be woken is next come first."""
        self._timer: asyncio.TimerHandle | None = None

    @property
    def in_use(self) -> bool:
        """Whether a partition here is limited by it."""
        return bool(self._limited)

    def set(
        self, one: Limited, rate_per_s: float, partitions: int, *, is_new: bool = False
    ) -> None:
        """A partition is limited from now on, or the rate or the number of partitions changed.

        ``is_new``: nothing of this subscription was ever leased from the partition.
        """
        if one not in self._limited:
            self._limited.append(one)
        self._rate_per_s, self._partitions = rate_per_s, partitions
        self._share(full=is_new)

    def leave(self, one: Limited) -> None:
        """A partition went to another node, or its subscription was deleted."""
        if one in self._limited:
            self._limited.remove(one)
            self._share(full=False)
        if not self._limited:
            self._disarm()

    def _share(self, *, full: bool) -> None:
        rate_per_s = self._rate_per_s * len(self._limited) / self._partitions
        now_ms = self._now_ms()
        if self._bucket is None:
            self._bucket = RateBucket(rate_per_s, now_ms, full=full)
        else:
            self._bucket.set_rate(rate_per_s, now_ms)
        self._disarm()  # Whoever waits is woken by the new rate.
        self.arm()

    @property
    def allows(self) -> int | None:
        """How many messages may be leased now; None: any number."""
        return self._bucket.allows(self._now_ms()) if self._bucket is not None else None

    def take(self, count: int) -> None:
        """So many were leased."""
        if self._bucket is not None:
            self._bucket.take(count, self._now_ms())

    def give_back(self, count: int) -> None:
        """So many were given back before anybody began them."""
        if self._bucket is not None:
            self._bucket.give_back(count, self._now_ms())

    def arm(self) -> None:
        """See to it that who waits for the rate is woken."""
        if self._timer is not None or self._bucket is None or self.allows != 0:
            return
        now_ms = self._now_ms()
        delay_s = max(1, self._bucket.next_ms(now_ms) - now_ms) / 1000
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._due)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _due(self) -> None:
        """Wake as many as there may be messages for, a partition after the other."""
        self._timer = None
        self.arm()
        left = self.allows or 0
        for one in tuple(self._limited):
            if left <= 0:
                break
            if one.wake():
                left -= 1
                self._limited.remove(one)
                self._limited.append(one)


class _Key(NamedTuple):
    topic_id: str
    subscription: str
    created_at_ms: int


class QueueRates:
    """The rate limits of all subscriptions on this node."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._rates: dict[_Key, QueueRate] = {}

    def of(self, topic_id: str, subscription: str, created_at_ms: int) -> QueueRate:
        """The one that all partitions of a subscription share."""
        key = _Key(topic_id, subscription, created_at_ms)
        if key not in self._rates:
            self._rates = {key: rate for key, rate in self._rates.items() if rate.in_use}
            self._rates[key] = QueueRate(self._now_ms)
        return self._rates[key]
