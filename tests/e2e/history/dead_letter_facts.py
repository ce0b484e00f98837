"""The rules of what a dead letter tells of itself: why, how often, when, and where it is from.

Its times are of the cluster's clock, which the history's does not know. But the difference of the
two clocks is one, so that each time bounds it, and all of them have to agree.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from e2e.history import attempts
from e2e.history.events import Action
from e2e.history.history import DeadLetterRecord, History
from mom_core.dead_letters import EXPIRED, MAX_DELIVERIES

if TYPE_CHECKING:  # It gathers these rules.
    from e2e.history.checker import Settings

_Found = Iterator[tuple[float, str, str, str]]


def told_wrongly(history: History, settings: Settings) -> _Found:
    """A dead letter tells its reason, the deliveries and the origin that the history has."""
    for dead in history.dead_at.values():
        for wrong in _wrong(history, settings, dead):
            seen = dead.seen
            yield (
                seen.end,
                seen.client,
                dead.id,
                f"{dead.id}, {dead.position}, as seen by {seen.client} at {seen.end:.3f} s, says "
                f"of itself {wrong}",
            )


def _wrong(history: History, settings: Settings, dead: DeadLetterRecord) -> Iterator[str]:
    facts, queue = dead.facts, history.queues.get(dead.origin.target)
    if queue is None or queue.dead_letter != dead.position.target:
        yield f"that it is from {facts.topic!r}, whose dead letters are not here"
        return
    if facts.subscription != queue.target:
        yield f"that it is of subscription {facts.subscription!r}"
    sends = history.by_id.get((queue.target, dead.id), ())
    expires = queue.expired_are_dead and not facts.redrives and any(one.ttl_s for one in sends)
    if facts.reason not in (MAX_DELIVERIES, *([EXPIRED] if expires else [])):
        yield f"that it died of {facts.reason!r}"
    if facts.reason == MAX_DELIVERIES and facts.deliveries != queue.max_deliveries:
        yield f"that it died after {facts.deliveries} deliveries, not {queue.max_deliveries}"
    leases = history.leases_at.get(dead.origin, ())
    if leases and not facts.first_delivered_at_ms:
        yield f"that it was never delivered, though {leases[0].client} had it"
    redrives = {one.redrives for one in leases} - {facts.redrives}
    if redrives:
        yield f"that it was sent back {facts.redrives} times before, and not {redrives.pop()}"


def without_facts(history: History, settings: Settings) -> _Found:
    """Every message that comes to a queue of dead letters tells what it is."""
    dead_letters = {one.dead_letter for one in history.queues.values()}
    for position, leases in history.leases_at.items():
        if position.target in dead_letters and position not in history.dead_at:
            lease = leases[0]
            yield (
                lease.end,
                lease.client,
                lease.id,
                f"{lease.id} of {position}, delivered to {lease.client} at {lease.end:.3f} s, has "
                "no headers of a dead letter",
            )


class _Bound(NamedTuple):
    """What a time that a dead letter tells says of the cluster's clock less the history's."""

    seconds: float
    dead: DeadLetterRecord
    what: str


def wrong_times(history: History, settings: Settings) -> _Found:
    """All times that dead letters tell fit to when their messages were delivered and died."""
    lows: list[_Bound] = []
    highs: list[_Bound] = []
    for dead in history.dead_at.values():
        for what, told_ms, earliest, latest in _times(history, settings, dead):
            lows.append(_Bound(told_ms / 1000 - latest, dead, what))
            highs.append(_Bound(told_ms / 1000 - earliest, dead, what))
    if not lows:
        return
    low, high = max(lows), min(highs)
    if low.seconds > high.seconds + settings.clock_skew_s:
        seen = low.dead.seen
        yield (
            seen.end,
            seen.client,
            low.dead.id,
            f"{low.what} that {low.dead.id}, {low.dead.position}, tells, seen by {seen.client} at "
            f"{seen.end:.3f} s, and {high.what} that {high.dead.id}, {high.dead.position}, tells "
            f"are {low.seconds - high.seconds:.3f} s further apart than they can be",
        )


def _times(
    history: History, settings: Settings, dead: DeadLetterRecord
) -> Iterator[tuple[str, int, float, float]]:
    """Each time with the earliest and the latest moment that it can be."""
    facts, seen = dead.facts, dead.seen
    sends = history.by_id.get((dead.origin.target, dead.id), ())
    sent = min((one.begin for one in sends), default=float("-inf"))
    leases = history.leases_at.get(dead.origin, ())
    first = min((one.end for one in leases), default=seen.end)
    if facts.first_delivered_at_ms:
        yield "the first delivery", facts.first_delivered_at_ms, sent, first
    died_from = max((one.begin for one in leases), default=sent)
    died_by = seen.end
    for lease in leases:
        nack = attempts.settled(lease, Action.NACK, settings)
        if nack is not None and facts.deliveries == lease.deliveries:
            died_from = max(died_from, nack.begin)
            if facts.reason == MAX_DELIVERIES:
                died_by = min(died_by, nack.end)
    yield "the death", facts.died_at_ms, died_from, died_by
