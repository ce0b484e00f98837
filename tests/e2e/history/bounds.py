"""The rules of what an administrator sets: pauses, the bound of a queue, how long a topic keeps.

As all rules, each says only what is certain: see :mod:`e2e.history.checker`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from e2e.history import events
from e2e.history.events import Outcome, ReadMode
from e2e.history.history import History, LeaseRecord, Position, SendRecord

if TYPE_CHECKING:  # It gathers these rules.
    from e2e.history.checker import Settings

_Found = Iterator[tuple[float, str, str, str]]


# Pauses.


class PausedTime(NamedTuple):
    """A time in which a queue is certainly paused, for all nodes."""

    target: str
    since: float
    until: float


def delivered_while_paused(history: History, settings: Settings) -> _Found:
    """While a queue is paused, no receive that begins gets anything."""
    for paused in paused_times(history, settings):
        for lease in _leases_of(history, paused.target):
            if paused.since < lease.begin and lease.end < paused.until:
                yield (
                    lease.end,
                    lease.client,
                    lease.id,
                    f"{lease.id} of {lease.position} was delivered to {lease.client} between "
                    f"{lease.begin:.3f} and {lease.end:.3f} s, though the queue was paused from "
                    f"{paused.since:.3f} to {paused.until:.3f} s",
                )


def paused_times(history: History, settings: Settings) -> Iterator[PausedTime]:
    """From the end of each call that paused a queue to the beginning of the next that ended it.

    A call whose end nobody knows may end a pause at any later time.
    """
    for target, calls in history.pauses_of.items():
        resumes = [one for one in calls if not one.paused and one.outcome is not Outcome.REFUSED]
        for pause in calls:
            if not pause.paused or pause.outcome is not Outcome.OK:
                continue
            if any(_may_end(one, pause) for one in resumes):
                continue
            until = min((one.begin for one in resumes if one.begin > pause.end), default=pause.end)
            since = pause.end + settings.settings_lag_s
            if since < until:
                yield PausedTime(target, since, until)


def _may_end(resume: events.Pause, pause: events.Pause) -> bool:
    """Whether a call that began before a pause was confirmed may take effect after it."""
    over = resume.outcome is Outcome.OK and resume.end < pause.begin
    return resume.begin <= pause.end and not over


# The bound of a queue.


def beyond_bound(history: History, settings: Settings) -> _Found:
    """A queue never holds more messages than its bound."""
    for queue in history.queues.values():
        allowed = queue.messages_max
        held: set[Position] = set()
        for at, stays, position, send in _held(history, queue) if queue.messages_max else ():
            if not stays:
                held.discard(position)
                continue
            held.add(position)
            if len(held) > allowed:
                yield (
                    at,
                    send.client,
                    send.id,
                    f"{queue.target} held {len(held)} messages at {at:.3f} s, the last of them "
                    f"{send.id} at {position}, and may hold {queue.messages_max}",
                )
                break


def _held(history: History, queue: events.Queue) -> list[tuple[float, bool, Position, SendRecord]]:
    """When each message is certainly in a queue, and from when on maybe not, in order of time."""
    changes: list[tuple[float, bool, Position, SendRecord]] = []
    for send, position, end in history.acked():
        if position.target == queue.target:
            leases = history.leases_at.get(position, ())
            until = min((ack.begin for one in leases for ack in one.acks), default=float("inf"))
            if until > end:
                changes += [(end, True, position, send), (until, False, position, send)]
    return sorted(changes, key=lambda one: one[:3])


def refused_below_bound(history: History, settings: Settings) -> _Found:
    """A queue refuses a message only when it may be full.

    What was sent and never seen did not land, which is known when the queue is empty.
    """
    for queue in history.queues.values():
        drained = history.drained.get(queue.target)
        if not queue.messages_max or drained is None or drained.left:
            continue
        stays = _stays(history, queue.target)
        for refused in _refused(history, queue.target):
            begin, end = refused.begin, refused.end or refused.begin
            count = sum(since <= end and until >= begin for since, until in stays)
            if count < queue.messages_max:
                yield (
                    end,
                    refused.client,
                    refused.id,
                    f"{refused.id} was refused by {queue.target} between {begin:.3f} and "
                    f"{end:.3f} s as by a full queue, which held {count} messages at the most and "
                    f"may hold {queue.messages_max}",
                )


def _refused(history: History, target: str) -> Iterator[SendRecord]:
    return (one for one in history.sends.values() if one.target == target and one.refused)


def _stays(history: History, target: str) -> list[tuple[float, float]]:
    """The longest time that each message may have been in a queue, or on its way into it."""
    acked: dict[str, float] = {}
    for lease in _leases_of(history, target):
        for ack in lease.acks:
            if ack.outcome is Outcome.OK:
                acked[lease.id] = min(ack.end, acked.get(lease.id, ack.end))
    seen = {value for place, found in history.values.items() if place.target == target
            for value in found}  # fmt: skip
    stays: list[tuple[float, float]] = []
    for send in history.sends.values():
        if send.target == target and send.id in seen:
            stays.append((send.begin, acked.get(send.id, float("inf"))))
        elif send.target == target and send.may_have_landed:
            stays.append((send.begin, float("inf") if send.end is None else send.end))
    return stays


def _leases_of(history: History, target: str) -> Iterator[LeaseRecord]:
    return (one for one in history.leases.values() if one.position.target == target)


# How long a topic keeps.


def gone_before_its_time(history: History, settings: Settings) -> _Found:
    """Whoever reads a topic from its beginning finds all that is younger than its retention."""
    reads = history.reads_of(ReadMode.LOG)
    sent: dict[tuple[str, int], list[tuple[SendRecord, Position, float]]] = {}
    for one in history.acked() if history.readings else ():
        sent.setdefault((one[1].target, one[1].partition), []).append(one)
    for reading in history.readings:
        topic = history.topics.get(reading.target)
        if topic is None:
            continue
        kept_s = topic.retention_s - settings.clock_skew_s
        partition = (reading.target, reading.partition)
        found = {(one.offset, one.id) for one in reads.get((reading.reader, *partition), ())}
        for send, position, end in sent.get(partition, ()):
            young = end < reading.begin and reading.end < send.begin + kept_s
            if young and (position.offset, send.id) not in found:
                yield (
                    reading.end,
                    send.client,
                    send.id,
                    f"{send.id} was acknowledged to {send.client} at {end:.3f} s at {position}, "
                    f"which keeps {topic.retention_s:g} s, and {reading.reader}, who read from "
                    f"{reading.begin:.3f} to {reading.end:.3f} s, did not find it",
                )
