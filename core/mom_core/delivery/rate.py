"""A queue's rate limit: what the partitions of it on one node may lease. Pure.

Each partition has an even share of the rate, which is its owner's, so that all nodes together keep
the rate without asking one another. Partitions of one node share a bucket, and so lend each other
what they do not use. A node that takes over a partition begins with no more in its bucket, so that
no takeover is a burst.

Nodes lend one another, too. Who is held back by the rate while others do not use their shares asks
them for a :class:`Loan` of some parts of a partition's share, until a time. The loan is journalled
with the lent partition before the borrower hears of it, under that partition's epoch: so a new
owner knows what was lent before it, and a stale one can lend nothing any more. A lender uses what
it lent again when the time is over by any node's clock (RATE_LOAN_SKEW_MS); a borrower stops at
the time itself. Whatever is lost between them, a share is at most one node's.
"""

from __future__ import annotations

import math

import msgspec

from mom_core.limits import (
    RATE_BUCKET_MS,
    RATE_LOAN_MS,
    RATE_LOAN_MS_MAX,
    RATE_LOAN_SKEW_MS,
    RATE_PARTS,
)

# Of a message: sums of a million float additions stay far below it.
_ROUNDING = 1e-6
# Of what a node used lately it keeps so much, that a little more traffic finds room.
_RESERVE = 1.25


class Loan(msgspec.Struct, array_like=True, frozen=True):
    """Parts of a partition's share of the rate that another node has."""

    borrower: str
    parts: int
    """Of RATE_PARTS."""
    until_ms: int
    """The borrower's no more from then on."""

    @property
    def back_ms(self) -> int:
        """When the lender has it again."""
        return self.until_ms + RATE_LOAN_SKEW_MS


def loan_ms(rate_per_s: float) -> int:
    """For how long a share of this rate is lent."""
    return min(max(RATE_LOAN_MS, int(1000 / rate_per_s)), RATE_LOAN_MS_MAX)


class RateBucket:
    """Fills with time, and each message that is leased takes one out.

    In any span of T seconds at most ``rate_per_s`` x T messages and one bucket come out, and a
    bucket holds what RATE_BUCKET_MS bring, or one message.
    """

    def __init__(self, rate_per_s: float, now_ms: int, *, full: bool) -> None:
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

    def allows(self, now_ms: int) -> int:
        """How many messages may be leased now."""
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

    def next_ms(self, now_ms: int) -> int | None:
        """When the next message may be leased; not after ``now_ms``: at once; None: never."""
        self._fill(now_ms)
        missing = 1.0 - self._messages - _ROUNDING
        if missing <= 0:
            return now_ms
        if not self._rate_per_s:
            return None
        return now_ms + math.ceil(missing * 1000 / self._rate_per_s)

    def _fill(self, now_ms: int) -> None:
        # The store's clock may go back a little from one owner to the next.
        elapsed_ms = max(0, now_ms - self._at_ms)
        self._at_ms = max(self._at_ms, now_ms)
        more = elapsed_ms * self._rate_per_s / 1000
        self._messages = min(self._messages + more, self._room)


class _Use:
    """How many messages were leased lately."""

    def __init__(self) -> None:
        self._begun_ms = 0
        self._count = self._before = 0

    def add(self, count: int, now_ms: int, window_ms: int) -> None:
        self._turn(now_ms, window_ms)
        self._count += count

    def per_s(self, now_ms: int, window_ms: int) -> float:
        """In the busier of this window and the last. One message is none: a bucket has it."""
        self._turn(now_ms, window_ms)
        return max(0, max(self._count, self._before) - 1) * 1000 / window_ms

    def _turn(self, now_ms: int, window_ms: int) -> None:
        if now_ms - self._begun_ms >= window_ms:
            recent = now_ms - self._begun_ms < 2 * window_ms
            self._begun_ms, self._before, self._count = now_ms, self._count if recent else 0, 0


class RateShare:
    """What one node has of a subscription's rate."""

    def __init__(self) -> None:
        self.rate_per_s = 0.0
        """Of the whole subscription; 0: no limit."""
        self._partitions = 1
        self._owned: dict[int, Loan | None] = {}
        """This node's partitions, each with what was lent of it last."""
        self._borrowed: dict[int, Loan] = {}
        """By the partition whose share it is."""
        self._bucket: RateBucket | None = None
        self._change_ms: int | None = None
        """When a loan ends."""
        self._use = _Use()
        self._held_back_ms: int | None = None

    # What this node has.

    def set_rate(self, rate_per_s: float, partitions: int, now_ms: int) -> None:
        """The rate of the subscription and its number of partitions."""
        self._pass(now_ms)
        self.rate_per_s, self._partitions = rate_per_s, partitions
        self._refresh(now_ms)

    def own(self, index: int, loan: Loan | None, now_ms: int, *, full: bool = False) -> None:
        """A partition is this node's now. ``full``: nothing of it was ever leased."""
        self._pass(now_ms)
        self._owned[index] = loan
        if self._bucket is None:
            self._bucket = RateBucket(self._per_s(now_ms), now_ms, full=full)
        self._refresh(now_ms)

    def disown(self, index: int, now_ms: int) -> None:
        """A partition is another node's, or the subscription was deleted."""
        self._pass(now_ms)
        self._owned.pop(index, None)
        self._refresh(now_ms)

    def owns(self, index: int) -> bool:
        """Whether the share of a partition is this node's, lent or not."""
        return index in self._owned

    @property
    def is_whole(self) -> bool:
        """Whether nobody else has a share."""
        return len(self._owned) >= self._partitions

    # Leasing.

    def allows(self, now_ms: int) -> int | None:
        """How many messages may be leased now; None: any number."""
        if not self.rate_per_s or self._bucket is None:
            return None
        self._pass(now_ms)
        return self._bucket.allows(now_ms)

    def take(self, count: int, now_ms: int) -> None:
        """So many were leased."""
        if self.rate_per_s and self._bucket is not None:
            self._pass(now_ms)
            self._bucket.take(count, now_ms)
            self._use.add(count, now_ms, loan_ms(self.rate_per_s))

    def give_back(self, count: int, now_ms: int) -> None:
        """So many were given back before anybody began them."""
        if self.rate_per_s and self._bucket is not None:
            self._pass(now_ms)
            self._bucket.give_back(count, now_ms)

    def next_ms(self, now_ms: int) -> int:
        """When the next message may be leased, or a share changes; ``now_ms``: at once."""
        if not self.rate_per_s or self._bucket is None:
            return now_ms
        self._pass(now_ms)
        next_ms = self._bucket.next_ms(now_ms)
        times = [one for one in (next_ms, self._change_ms) if one is not None]
        return min(times, default=now_ms + RATE_LOAN_MS_MAX)

    # Lending.

    def held_back(self, now_ms: int) -> None:
        """Somebody waits for the rate: nothing is spare."""
        self._held_back_ms = now_ms

    def offer(self, index: int, borrower: str, now_ms: int) -> Loan | None:
        """What could be lent of a partition; :meth:`lend` makes it so. None: nothing.

        One node has a loan at a time. It can be made longer and larger, and never less.
        """
        if not self.rate_per_s or index not in self._owned:
            return None
        self._pass(now_ms)
        if self._needs_all(now_ms):
            return None
        standing = self._owned[index]
        if standing is not None and standing.back_ms <= now_ms:
            standing = None
        if standing is not None and standing.borrower != borrower:
            return None
        lent = standing.parts if standing is not None else 0
        parts = min(RATE_PARTS, self._spare_parts(now_ms) + lent)
        if parts < max(lent, 1):
            return None
        return Loan(borrower, parts, now_ms + loan_ms(self.rate_per_s))

    def lend(self, index: int, loan: Loan, now_ms: int) -> None:
        """A loan holds from now on; its borrower is told when it is durable."""
        self._pass(now_ms)
        self._owned[index] = loan
        self._refresh(now_ms)

    def borrow(self, index: int, loan: Loan, now_ms: int) -> None:
        """Another node lent this one a part of its share."""
        self._pass(now_ms)
        standing = self._borrowed.get(index)
        if standing is None or standing.until_ms < loan.until_ms:
            self._borrowed[index] = loan
        self._refresh(now_ms)

    def _needs_all(self, now_ms: int) -> bool:
        """Whether the rate held somebody back here lately."""
        window_ms = loan_ms(self.rate_per_s)
        held_back = self._held_back_ms is not None and now_ms - self._held_back_ms < window_ms
        return held_back or bool(self._borrowed)

    def _spare_parts(self, now_ms: int) -> int:
        """What is neither lent nor needed here; below 0 when too much is lent."""
        window_ms = loan_ms(self.rate_per_s)
        part_per_s = self.rate_per_s / (self._partitions * RATE_PARTS)
        needed = math.ceil(self._use.per_s(now_ms, window_ms) * _RESERVE / part_per_s - _ROUNDING)
        return self._own_parts(now_ms) - needed

    def _own_parts(self, now_ms: int) -> int:
        loans = (one for one in self._owned.values() if one is not None)
        lent = sum(one.parts for one in loans if now_ms < one.back_ms)
        return len(self._owned) * RATE_PARTS - lent

    def _per_s(self, now_ms: int) -> float:
        borrowed = sum(one.parts for one in self._borrowed.values() if now_ms < one.until_ms)
        parts = self._own_parts(now_ms) + borrowed
        return self.rate_per_s * parts / (self._partitions * RATE_PARTS)

    def _pass(self, now_ms: int) -> None:
        """Let the loans end whose time is over, each at its time."""
        while self._change_ms is not None and self._change_ms <= now_ms:
            self._refresh(self._change_ms)

    def _refresh(self, at_ms: int) -> None:
        """Fill by what this node has from a time on, and forget the loans that ended."""
        if self._bucket is not None:
            self._bucket.set_rate(self._per_s(at_ms), at_ms)
        self._borrowed = {i: one for i, one in self._borrowed.items() if at_ms < one.until_ms}
        for index, loan in self._owned.items():
            if loan is not None and loan.back_ms <= at_ms:
                self._owned[index] = None
        ends = [one.back_ms for one in self._owned.values() if one is not None]
        ends += [one.until_ms for one in self._borrowed.values()]
        self._change_ms = min(ends, default=None)
