"""The rules of which message comes next, and how fast: priorities, fair turns, rates.

As all rules, each says only what is certain: see :mod:`e2e.history.checker`. A lease whose answer
was lost is in no history. A rate holds with it all the same; but whether a message waited, or
somebody had it, is certain only in calm times, when no such lease can be. There a message waits
from the reply to its send on until a worker asks, who then gets it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from e2e.history.history import History, LeaseRecord, SendRecord

if TYPE_CHECKING:  # It gathers these rules.
    from e2e.history.checker import Settings

_Found = Iterator[tuple[float, str, str, str]]

# Of so many deliveries one is the oldest message of all, whatever its priority.
OLDEST_EVERY: Final = 10
# A new owner begins to count, and to give turns, anew: once in a calm time it may.
_NEW_OWNERS: Final = 1
# Partitions may go home, and what failed meanwhile waits, before things are as ever.
_SETTLING_S: Final = 1.0


# Rates.


def too_fast(history: History, settings: Settings) -> _Found:
    """In any T seconds at most T times the rate is leased, and a burst.

    A burst is what a bucket holds, and one more for each worker: a lease whose answer was lost is
    given back without counting, so that another may be had for it.
    """
    for queue in history.queues.values():
        if queue.rate_per_s:
            burst = queue.burst + queue.rate_per_s * settings.clock_skew_s
            leases = [one for one in history.leases.values() if one.position.target == queue.target]
            yield from _beyond_rate(leases, queue.rate_per_s, burst)


def _beyond_rate(leases: list[LeaseRecord], rate_per_s: float, burst: float) -> _Found:
    """The stretch with the most messages beyond the rate, if it has more than a burst.

    Leases that end by its end, less those that began before its beginning, were made within it.
    """
    begun = 0
    lowest, since, before = math.inf, 0.0, 0
    worst = burst
    finding: tuple[float, str, str, str] | None = None
    begins = [(one.begin, 0, one) for one in leases]
    ends = [(one.end, 1, one) for one in leases]
    ended = 0
    for at, is_end, lease in sorted(begins + ends, key=lambda each: each[:2]):
        if not is_end:
            if begun - rate_per_s * at < lowest:
                lowest, since, before = begun - rate_per_s * at, at, begun
            begun += 1
            continue
        ended += 1
        beyond = ended - rate_per_s * at - lowest
        if beyond > worst:
            worst = beyond
            finding = (
                at,
                lease.client,
                lease.id,
                f"{ended - before} messages of {lease.position.target} were delivered between "
                f"{since:.3f} and {at:.3f} s, {beyond:.1f} more than {rate_per_s:g} a second; "
                f"{burst:.1f} more are allowed",
            )
    if finding is not None:
        yield finding


# Priorities.


class _Wait(NamedTuple):
    """A message that certainly waits, from ``since`` to ``until``."""

    send: SendRecord
    offset: int
    since: float
    until: float

    def covers(self, since: float, until: float) -> bool:
        return self.since <= since and until < self.until


def out_of_turn(history: History, settings: Settings) -> _Found:
    """What is delivered has the highest priority and is the oldest of these, or is the oldest."""
    for lane in lanes(history, settings):
        for lease, priority, waits in lane.with_waits():
            ahead = [
                one
                for one in waits
                if (-one.send.priority, one.offset) < (-priority, lease.position.offset)
            ]
            older = [one for one in waits if one.offset < lease.position.offset]
            if ahead and older:
                yield (
                    lease.end,
                    lease.client,
                    lease.id,
                    f"{lease.id} of {lease.position}, priority {priority}, was delivered to "
                    f"{lease.client} between {lease.begin:.3f} and {lease.end:.3f} s, while "
                    f"{ahead[0].send.id}, priority {ahead[0].send.priority}, and the older "
                    f"{older[0].send.id} waited",
                )


def low_before_high(history: History, settings: Settings) -> _Found:
    """Of N deliveries in a row no more than every tenth passes a higher priority by."""
    for lane in lanes(history, settings):
        passing = {
            id(lease)
            for lease, priority, waits in lane.with_waits()
            if any(one.send.priority > priority for one in waits)
        }
        yield from _too_many(lane.leases, passing)


def _too_many(leases: list[LeaseRecord], passing: set[int]) -> _Found:
    """The first stretch in which more pass than every tenth, rounded up for each owner.

    What passes and lies within is counted, and of all what may lie within.
    """
    begun = ended = passing_begun = passing_ended = 0
    lowest, since = math.inf, 0.0
    begins = [(one.begin, 0, one) for one in leases]
    ends = [(one.end, 1, one) for one in leases]
    for at, is_end, lease in sorted(begins + ends, key=lambda each: each[:2]):
        passes = id(lease) in passing
        if not is_end:
            excess = passing_begun - ended / OLDEST_EVERY
            if passes and excess < lowest:
                lowest, since = excess, at
            begun += 1
            passing_begun += passes
            continue
        ended += 1
        passing_ended += passes
        if passes and passing_ended - begun / OLDEST_EVERY - lowest >= 1 + _NEW_OWNERS:
            yield (
                at,
                lease.client,
                lease.id,
                f"between {since:.3f} and {at:.3f} s more than every {OLDEST_EVERY}th message of "
                f"{lease.position.target}[{lease.position.partition}] was delivered while one of "
                f"a higher priority waited, the last of them {lease.id} to {lease.client}",
            )
            return


def starved(history: History, settings: Settings) -> _Found:
    """While a message waits, of every ten deliveries one is of a message that is not younger."""
    for lane in lanes(history, settings):
        for wait in lane.waits:
            younger = older = 0
            for lease in lane.leases:
                if lease.position.offset > wait.offset:
                    younger += wait.since <= lease.begin and lease.end < wait.until
                elif lease.position.offset < wait.offset:
                    older += wait.since <= lease.end and lease.begin <= wait.until
            if older < younger // OLDEST_EVERY - _NEW_OWNERS:
                yield (
                    wait.until,
                    wait.send.client,
                    wait.send.id,
                    f"{wait.send.id} of {wait.send.position}, priority {wait.send.priority}, "
                    f"waited from {wait.since:.3f} to {wait.until:.3f} s, while {younger} younger "
                    f"ones were delivered and {older} older ones",
                )


# Turns.


def beyond_its_turn(history: History, settings: Settings) -> _Found:
    """While a message of a group waits, no other group has more than a turn before it."""
    for lane in lanes(history, settings, ordering="fair"):
        for wait in lane.waits:
            if wait.send.group is None:
                continue
            for since, until in lane.between_turns(wait):
                turns = Counter(
                    group
                    for lease, group in lane.groups
                    if since <= lease.begin and lease.end < until and group is not None
                )
                for group, count in turns.most_common(1):
                    if count > 1 + _NEW_OWNERS:
                        yield (
                            until,
                            wait.send.client,
                            wait.send.id,
                            f"{wait.send.id} of {wait.send.position} waited, and nothing of "
                            f"{wait.send.group!r} was delivered, from {since:.3f} to "
                            f"{until:.3f} s, while {count} of {group!r} were",
                        )


# What waits.


class Lane:
    """A partition in a calm time: what was leased in it, and what certainly waited."""

    def __init__(
        self, leases: list[LeaseRecord], waits: list[_Wait], sends: dict[int, SendRecord]
    ) -> None:
        self.leases = leases
        self.waits = waits
        self.groups = [(one, sends[id(one)].group) for one in leases if id(one) in sends]
        self._sends = sends

    def with_waits(self) -> Iterator[tuple[LeaseRecord, int, list[_Wait]]]:
        """Each lease with the priority of its message, and what waited all through its call."""
        coming = sorted(self.waits, key=lambda one: one.since)[::-1]
        waiting: list[_Wait] = []
        for lease in self.leases:
            while coming and coming[-1].since <= lease.begin:
                waiting.append(coming.pop())
            waiting = [one for one in waiting if one.until > lease.begin]
            send = self._sends.get(id(lease))
            if send is not None:
                through = [one for one in waiting if one.covers(lease.begin, lease.end)]
                yield lease, send.priority, through

    def between_turns(self, wait: _Wait) -> Iterator[tuple[float, float]]:
        """The stretches of a wait in which certainly nothing of its group was leased."""
        since = wait.since
        for lease, group in self.groups:
            if group == wait.send.group and lease.end >= since and lease.begin < wait.until:
                if lease.begin > since:
                    yield since, lease.begin
                since = max(since, lease.end)
        if since < wait.until:
            yield since, wait.until


def lanes(history: History, settings: Settings, ordering: str = "priority") -> Iterator[Lane]:
    """Each partition, in each calm time, of the queues that are judged by an order."""
    for queue in history.queues.values():
        if queue.ordering != ordering or not (queue.priorities or ordering == "fair"):
            continue
        partitions: dict[int, list[LeaseRecord]] = {}
        for lease in history.leases.values():
            if lease.position.target == queue.target:
                partitions.setdefault(lease.position.partition, []).append(lease)
        for since, until in calm_times(history, queue.target):
            for leases in partitions.values():
                yield _lane(history, settings, leases, since, until)


def _lane(
    history: History,
    settings: Settings,
    leases: list[LeaseRecord],
    since: float,
    until: float,
) -> Lane:
    within = [one for one in leases if one.end >= since and one.begin <= until]
    sends = {}
    waits = []
    for lease in within:
        send = _only_send(history, lease)
        if send is None:
            continue
        sends[id(lease)] = send
        wait = _wait(history, settings, lease, send)
        if wait is not None and max(since, wait.since) < min(until, wait.until):
            waits.append(wait._replace(since=max(since, wait.since), until=min(until, wait.until)))
    return Lane(sorted(within, key=lambda one: one.begin), waits, sends)


def _only_send(history: History, lease: LeaseRecord) -> SendRecord | None:
    sends = history.by_id.get((lease.position.target, lease.id), ())
    # What came back by a redrive has no priority any more.
    return sends[0] if len(sends) == 1 and not lease.redrives else None


def _wait(
    history: History, settings: Settings, lease: LeaseRecord, send: SendRecord
) -> _Wait | None:
    """When a message waited for its first lease; None where that is not certain."""
    first = min(history.leases_at[lease.position], key=lambda one: one.begin)
    wishes = send.delay_s or send.ttl_s or send.dedup_id
    changed = lease.position in history.moves_at or lease.position in history.cancels_at
    if lease is not first or lease.deliveries != 1 or wishes or changed or send.end is None:
        return None
    since = send.end + settings.clock_margin_s
    if send.position != lease.position or since >= lease.begin:
        return None
    return _Wait(send, lease.position.offset, since, lease.begin)


def calm_times(history: History, target: str) -> list[tuple[float, float]]:
    """The times in which every lease of a queue, and every end of one, is in the history.

    A call that fails, or a disruption, may leave a poll that goes on until its wait is over, a
    lease that nobody knows of until it runs out, and a message that then waits as one that failed.
    The answers of the last calls may be missing where a history ends before the queue is empty.
    """
    leases = [one for one in history.leases.values() if one.position.target == target]
    lease_s = max((one.lease_s for one in leases), default=0.0)
    troubles = [(one.begin, one.end) for one in history.disruptions]
    troubles += [
        (one.begin, one.end) for one in history.calls if one.what == "receive" and one.error
    ]
    wait_s = max((one.wait_s for one in history.calls if one.what == "receive"), default=0.0)
    queue = history.queues[target]
    after_s = wait_s + lease_s + queue.backoff_s(queue.max_deliveries) + _SETTLING_S
    spans = [(begin, end + after_s) for begin, end in troubles]
    drained = history.drained.get(target)
    if drained is None or drained.left:
        last = max((one.end for one in leases), default=0.0)
        spans.append((last - after_s, math.inf))
    calm: list[tuple[float, float]] = []
    since = -math.inf
    for begin, end in sorted(spans):
        if begin > since:
            calm.append((since, begin))
        since = max(since, end)
    return [*calm, (since, math.inf)] if since < math.inf else calm
