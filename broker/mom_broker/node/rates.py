"""Rate limits of queues on this node: see :mod:`mom_core.delivery.rate` for the rule."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple, Protocol

from mom_core.delivery.rate import Loan, RateShare, loan_ms


class Limited(Protocol):
    """What a rate limit holds back: one partition of a subscription."""

    @property
    def partition_index(self) -> int:
        """Which partition of its topic."""

    @property
    def loan(self) -> Loan | None:
        """What its journal says of its share, lent to another node."""

    def is_held_back(self) -> bool:
        """Whether a receive waits although there is something for it."""

    def wake(self) -> bool:
        """Wake a waiting receive if there is something for it; whether one was woken."""


class RateKey(NamedTuple):
    """A subscription, which has one rate."""

    topic_id: str
    subscription: str
    created_at_ms: int


class QueueRate:
    """The rate limit of one subscription, shared by its partitions on this node."""

    def __init__(
        self,
        key: RateKey,
        now_ms: Callable[[], int],
        on_held_back: Callable[[QueueRate], None],
        on_unused: Callable[[QueueRate], None],
    ) -> None:
        """``on_held_back`` asks other nodes for what they do not use of the rate; ``on_unused``
        forgets it."""
        self.key = key
        self._on_unused = on_unused
        self._now_ms = now_ms
        self._on_held_back = on_held_back
        self._share = RateShare()
        self._limited: list[Limited] = []
        """Those whose turn to be woken is next come first."""
        self._timer: asyncio.TimerHandle | None = None
        self._ask_ms = 0
        """When others may be asked again."""

    def set(
        self, one: Limited, rate_per_s: float, partitions: int, *, is_new: bool = False
    ) -> None:
        """A partition is limited from now on, or the rate or the number of partitions changed.

        ``is_new``: nothing of this subscription was ever leased from the partition.
        """
        now_ms = self._now_ms()
        self._share.set_rate(rate_per_s, partitions, now_ms)
        if one not in self._limited:
            self._limited.append(one)
            self._share.own(one.partition_index, one.loan, now_ms, full=is_new)
        self._rearm()

    def leave(self, one: Limited) -> None:
        """A partition went to another node, or its subscription was deleted."""
        if one in self._limited:
            self._limited.remove(one)
            self._share.disown(one.partition_index, self._now_ms())
            self._rearm()
        if not self._limited:
            self._disarm()
            self._on_unused(self)

    def _rearm(self) -> None:
        self._disarm()  # Whoever waits is woken by the new rate.
        self.arm()

    @property
    def allows(self) -> int | None:
        """How many messages may be leased now; None: any number."""
        return self._share.allows(self._now_ms())

    def take(self, count: int) -> None:
        """So many were leased."""
        self._share.take(count, self._now_ms())

    def give_back(self, count: int) -> None:
        """So many were given back before anybody began them."""
        self._share.give_back(count, self._now_ms())

    def lend(self, one: Limited, borrower: str) -> Loan | None:
        """Lend what is not used of a partition's share; None: nothing.

        It holds at once. The borrower may be told when the partition's journal has it durably.
        """
        now_ms = self._now_ms()
        if any(each.is_held_back() for each in self._limited):
            self._share.held_back(now_ms)
        loan = self._share.offer(one.partition_index, borrower, now_ms)
        if loan is not None and one in self._limited:
            self._share.lend(one.partition_index, loan, now_ms)
            self._rearm()
            return loan
        return None

    def borrow(self, index: int, loan: Loan) -> None:
        """Another node lent a part of a partition's share."""
        self._share.borrow(index, loan, self._now_ms())
        self._rearm()

    def arm(self) -> None:
        """See to it that who waits for the rate is woken."""
        if self._timer is not None or not self._limited or self.allows != 0:
            return
        now_ms = self._now_ms()
        delay_ms = self._share.next_ms(now_ms) - now_ms
        if not self._share.is_whole:
            delay_ms = min(delay_ms, self._ask_again_ms)
        self._timer = asyncio.get_running_loop().call_later(max(1, delay_ms) / 1000, self._due)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @property
    def _ask_again_ms(self) -> int:
        """Loans are made longer at their half, so that an answer may be late or lost."""
        return loan_ms(self._share.rate_per_s) // 2

    def _due(self) -> None:
        """Wake as many as there may be messages for, a partition after the other."""
        self._timer = None
        self._look_for_more()
        self.arm()
        left = self.allows or 0
        for one in tuple(self._limited):
            if left <= 0:
                break
            if one.wake():
                left -= 1
                self._limited.remove(one)
                self._limited.append(one)

    def _look_for_more(self) -> None:
        """Ask other nodes for their shares, if the rate holds somebody back here."""
        now_ms = self._now_ms()
        if not self._share.rate_per_s or self._share.is_whole or now_ms < self._ask_ms:
            return
        if any(one.is_held_back() for one in self._limited):
            self._share.held_back(now_ms)
            self._ask_ms = now_ms + self._ask_again_ms
            self._on_held_back(self)


class QueueRates:
    """The rate limits of all subscriptions on this node."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self.on_held_back: Callable[[QueueRate], None] = lambda _: None
        """Asks other nodes for what they do not use of a rate."""
        self._now_ms = now_ms
        # Gone with the last partition that has it, and not when its memory is collected: a
        # partition that returns begins with an empty bucket, whatever else the process did.
        self._rates: dict[RateKey, QueueRate] = {}

    def of(self, topic_id: str, subscription: str, created_at_ms: int) -> QueueRate:
        """The one that all partitions of a subscription share."""
        key = RateKey(topic_id, subscription, created_at_ms)
        rate = self._rates.get(key)
        if rate is None:
            rate = QueueRate(
                key, self._now_ms, lambda held_back: self.on_held_back(held_back), self._forget
            )
            self._rates[key] = rate
        return rate

    def _forget(self, rate: QueueRate) -> None:
        if self._rates.get(rate.key) is rate:
            del self._rates[rate.key]
