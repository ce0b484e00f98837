"""The rules of what counts as an attempt: failures do, and what a crash took along does not.

A worker that gave a message back has tried it. One that vanished with a single message may have
died of it, which counts as well. Of several any may have killed it: none of these deliveries
counts, and each message comes by itself from then on. A lease whose answer was lost is in no
history, and may count: but it lasts to its end, so that there is time for so many only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from e2e.history.events import Action, Outcome, Settle
from e2e.history.history import History, LeaseRecord, Position

if TYPE_CHECKING:  # It gathers these rules.
    from e2e.history.checker import Settings

_Found = Iterator[tuple[float, str, str, str]]
_Call = tuple[str, float, str, int]


class Crashes:
    """Which leases a worker vanished with, and with how many others of one lease of the cluster's,
    which is of one call and one partition."""

    def __init__(self, history: History) -> None:
        self._together: dict[int, int] = {}
        self._calls = Counter(_call_of(one) for one in history.leases.values())
        for crash in history.crashes:
            left = [history.leases[name] for name in crash.leases]
            calls = Counter(_call_of(one) for one in left)
            self._together |= {id(one): calls[_call_of(one)] for one in left}

    def left(self, lease: LeaseRecord) -> bool:
        """Whether its worker vanished with it, so that it ran out."""
        return id(lease) in self._together

    def left_with_others(self, lease: LeaseRecord) -> bool:
        """Whether it certainly ran out together with another one."""
        return self._together.get(id(lease), 0) > 1

    def left_alone(self, lease: LeaseRecord) -> bool:
        """Whether it certainly ran out by itself."""
        return self.left(lease) and self.is_single(lease)

    def is_single(self, lease: LeaseRecord) -> bool:
        """Whether its call got nothing else of this partition."""
        return self._calls[_call_of(lease)] == 1


def _call_of(lease: LeaseRecord) -> _Call:
    return lease.client, lease.begin, lease.position.target, lease.position.partition


def settled(lease: LeaseRecord, action: Action, settings: Settings) -> Settle | None:
    """The settling by which it was certainly acknowledged, or given back.

    After the end of a lease a call that is made again can't tell what came of that end from its own
    success.
    """
    until = lease.lasts_until() - settings.clock_margin_s
    for one in lease.settles:
        if one.action is action and one.outcome is Outcome.OK and one.end < until:
            return one
    return None


def not_counted(history: History, settings: Settings) -> _Found:
    """A delivery that failed counts: the next one has a higher number, and so has the death."""
    crashes = Crashes(history)
    for position, leases in history.leases_at.items():
        for failed in leases:
            nack = settled(failed, Action.NACK, settings)
            if nack is None and not crashes.left_alone(failed):
                continue
            over = failed.end if nack is None else nack.end
            for at, client, deliveries in _next_numbers(history, position, over):
                if deliveries <= failed.deliveries:
                    yield (
                        at,
                        client,
                        failed.id,
                        f"{failed.id} of {position} failed at {failed.client}, who had it since "
                        f"{failed.end:.3f} s for the {failed.deliveries}th time, and comes for "
                        f"the {deliveries}th time to {client} at {at:.3f} s",
                    )


def _next_numbers(
    history: History, position: Position, over: float
) -> Iterator[tuple[float, str, int]]:
    """When and to whom a message comes after that, and the number of that delivery; a death has
    that of the delivery which it spares."""
    for lease in history.leases_at.get(position, ()):
        if lease.begin > over:
            yield lease.end, lease.client, lease.deliveries
    for dead in history.copies_of.get(position, ()):
        yield dead.seen.end, dead.seen.client, dead.facts.deliveries + 1


class _Step(NamedTuple):
    """What is known after a delivery: ``counted`` attempts at most had begun, or were over if it
    was left to run out, by ``since``."""

    since: float
    counted: int


def counted_without_a_try(history: History, settings: Settings) -> _Found:
    """No more attempts are counted than workers made, or may have made: so no neighbour of a
    message that kills its worker is tried, or dies, by that."""
    crashes = Crashes(history)
    shortest = _shortest_leases(history)
    for position, values in history.values.items():
        if position.target not in shortest:
            continue
        lease_s = shortest[position.target] - settings.clock_skew_s
        last = _begin(history, position, values)
        leases = history.leases_at.get(position, ())
        for lease in sorted(leases, key=lambda one: (one.deliveries, one.end)):
            seen = _Seen(position, lease.id, lease.end, lease.client)
            yield from _beyond(seen, lease.deliveries - 1, last, lease_s)
            since = lease.begin + lease.lease_s if crashes.left(lease) else lease.begin
            counted = lease.deliveries - crashes.left_with_others(lease)
            last = _Step(max(since, last.since), max(counted, last.counted))
        for dead in history.copies_of.get(position, ()):
            seen = _Seen(position, dead.id, dead.seen.end, dead.seen.client)
            yield from _beyond(seen, dead.facts.deliveries, last, lease_s)


def _shortest_leases(history: History) -> dict[str, float]:
    """Of each queue."""
    shortest: dict[str, float] = {}
    for one in history.leases.values():
        target = one.position.target
        shortest[target] = min(one.lease_s, shortest.get(target, one.lease_s))
    return shortest


def _begin(history: History, position: Position, values: Iterable[str]) -> _Step:
    sends = [one for value in values for one in history.sends_of(position.target, value)]
    return _Step(min((one.begin for one in sends), default=float("-inf")), 0)


class _Seen(NamedTuple):
    """A delivery, or a dead letter, of what is at a place."""

    position: Position
    id: str
    at: float
    client: str


def _beyond(seen: _Seen, counted: int, last: _Step, lease_s: float) -> _Found:
    """What is counted beyond what there was time for."""
    unknown = counted - last.counted
    if unknown > 0 and unknown * lease_s > seen.at - last.since:
        yield (
            seen.at,
            seen.client,
            seen.id,
            f"{seen.id} of {seen.position}, seen by {seen.client} at {seen.at:.3f} s, counts "
            f"{counted} attempts: {last.counted} were made by {last.since:.3f} s, and no lease of "
            f"{lease_s:.3f} s each has had the time for {unknown} more",
        )


def suspect_with_others(history: History, settings: Settings) -> _Found:
    """What its worker vanished with among others comes by itself from then on."""
    crashes = Crashes(history)
    for position, leases in history.leases_at.items():
        for suspect in (one for one in leases if crashes.left_with_others(one)):
            for lease in leases:
                if lease.begin > suspect.end and not crashes.is_single(lease):
                    yield (
                        lease.end,
                        lease.client,
                        lease.id,
                        f"{lease.id} of {position} was delivered to {lease.client} between "
                        f"{lease.begin:.3f} and {lease.end:.3f} s with others, though "
                        f"{suspect.client} had crashed with it and others since "
                        f"{suspect.end:.3f} s",
                    )
