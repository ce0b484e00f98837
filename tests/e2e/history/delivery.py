"""The rules of queues beyond leases: times, cancellation, purges, dedup ids, order, dead letters.

As all rules, each says only what is certain: see :mod:`e2e.history.checker`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from e2e.history import attempts
from e2e.history.events import Action, Move, Outcome, Queue, Settle
from e2e.history.history import History, LeaseRecord, Position, SendRecord

if TYPE_CHECKING:  # It gathers these rules.
    from e2e.history.checker import Settings

_Found = Iterator[tuple[float, str, str, str]]


# Times.


def early(history: History, settings: Settings) -> _Found:
    """A message is not delivered before its time: the one it came with, or was moved to."""
    for position, lease, sends in _deliveries(history):
        due = _due(lease, sends, history.moves_at.get(position, []))
        if lease.end < due - settings.clock_skew_s:
            yield (
                lease.end,
                lease.client,
                lease.id,
                f"{lease.id} of {position} was delivered to {lease.client} at {lease.end:.3f} s, "
                f"before its time at {due:.3f} s",
            )


def _due(lease: LeaseRecord, sends: list[SendRecord], moves: list[Move]) -> float:
    """The earliest time that may have been a message's when it was leased.

    A move takes the place of what came before it, for certain where the calls did not overlap.
    """
    times: list[SendRecord | Move] = list(sends)
    times += [one for one in moves if one.outcome is not Outcome.REFUSED]
    taken = [one.begin for one in moves if one.outcome is Outcome.OK and one.end < lease.begin]
    latest = max(taken, default=float("-inf"))
    return min(
        (one.begin + one.delay_s for one in times if one.end is None or one.end >= latest),
        default=float("-inf"),
    )


def too_soon(history: History, settings: Settings) -> _Found:
    """A message that failed waits before it comes again, longer from one failure to the next."""
    crashes = attempts.Crashes(history)
    for position, leases in history.leases_at.items():
        queue = history.queues.get(position.target)
        if queue is None or not queue.retry_backoff_s or position in history.moves_at:
            continue
        for failed in leases:
            over = _failed_since(failed, crashes, settings)
            if over is None:
                continue
            since, by = over
            due = since + queue.backoff_s(failed.deliveries)
            for lease in leases:
                later = lease.begin > by or lease.deliveries > failed.deliveries
                if later and lease.end < due - settings.clock_skew_s:
                    yield (
                        lease.end,
                        lease.client,
                        lease.id,
                        f"{lease.id} of {position} was delivered to {lease.client} at "
                        f"{lease.end:.3f} s, though {failed.client} had failed at it after "
                        f"{since:.3f} s for the {failed.deliveries}th time, and it waits until "
                        f"{due:.3f} s at least",
                    )


def _failed_since(
    lease: LeaseRecord, crashes: attempts.Crashes, settings: Settings
) -> tuple[float, float] | None:
    """When a delivery failed at the earliest, and when it certainly had."""
    nack = attempts.settled(lease, Action.NACK, settings)
    if nack is not None:
        return nack.begin, nack.end
    return (lease.lasts_until(), lease.end) if crashes.left_alone(lease) else None


def delivered_after_purge(history: History, settings: Settings) -> _Found:
    """A purge of all that waits and all that is leased leaves nothing that was there before."""
    for position, lease, sends in _deliveries(history):
        for purge in history.purges_of.get(position.target, ()):
            landed = [one for one in sends if one.position == position and one.end is not None]
            before = any(one.end < purge.begin for one in landed if one.end is not None)
            if purge.outcome is Outcome.OK and before and lease.begin > purge.end:
                yield (
                    lease.end,
                    lease.client,
                    lease.id,
                    f"{lease.id} of {position} was delivered to {lease.client} between "
                    f"{lease.begin:.3f} and {lease.end:.3f} s, though {purge.client} had purged "
                    f"the queue between {purge.begin:.3f} and {purge.end:.3f} s",
                )


def expired(history: History, settings: Settings) -> _Found:
    """A message whose time is over is not delivered."""
    for position, lease, sends in _deliveries(history):
        if lease.redrives:
            continue  # Dead letters do not keep when they would expire.
        ends = [one.end + one.ttl_s for one in sends if one.end is not None and one.ttl_s]
        if len(ends) == len(sends) and lease.begin > max(ends) + settings.clock_skew_s:
            yield (
                lease.end,
                lease.client,
                lease.id,
                f"{lease.id} of {position} was delivered to {lease.client} between "
                f"{lease.begin:.3f} and {lease.end:.3f} s, though it had expired by "
                f"{max(ends):.3f} s",
            )


def delivered_after_cancellation(history: History, settings: Settings) -> _Found:
    """A message that was cancelled is not delivered any more."""
    for position, cancels in history.cancels_at.items():
        for cancel in cancels:
            for lease in history.leases_at.get(position, ()):
                if cancel.outcome is Outcome.OK and lease.begin > cancel.end:
                    yield (
                        lease.end,
                        lease.client,
                        lease.id,
                        f"{lease.id} of {position} was delivered to {lease.client} between "
                        f"{lease.begin:.3f} and {lease.end:.3f} s, though {cancel.client} had "
                        f"cancelled it by {cancel.end:.3f} s",
                    )


def _deliveries(history: History) -> Iterator[tuple[Position, LeaseRecord, list[SendRecord]]]:
    """Each lease with the sends of its message to that queue; without those it has none."""
    for position, leases in history.leases_at.items():
        for lease in leases:
            sends = history.by_id.get((position.target, lease.id))
            if sends:
                yield position, lease, sends


# Copies.


def landed_again(history: History, settings: Settings) -> _Found:
    """What was sent several times with one dedup id within its window is there once."""
    places = places_of(history)
    groups: dict[tuple[str, str], list[SendRecord]] = {}
    for send in history.sends.values():
        if send.dedup_id is not None:
            groups.setdefault((send.target, send.dedup_id), []).append(send)
    for (target, dedup_id), sends in groups.items():
        if not _within_window(sends, settings):
            continue
        landed = {place for one in sends for place in places.get((target, one.id), ())}
        found = sorted(place for place in landed if place not in history.redrives_at)
        if len(found) > 1:
            last = sends[-1]
            yield (
                last.begin,
                last.client,
                last.id,
                f"dedup id {dedup_id!r} was sent {len(sends)} times from {sends[0].begin:.3f} to "
                f"{last.begin:.3f} s and is there {len(found)} times: "
                f"{', '.join(map(str, found))}",
            )


def _within_window(sends: list[SendRecord], settings: Settings) -> bool:
    ends = [one.end for one in sends if one.end is not None]
    begin = min(one.begin for one in sends)
    return len(ends) == len(sends) and max(ends) - begin < settings.dedup_window_s


def places_of(history: History) -> dict[tuple[str, str], set[Position]]:
    """Where each message was seen, by target and id."""
    places: dict[tuple[str, str], set[Position]] = {}
    for position, values in history.values.items():
        for value in values:
            places.setdefault((position.target, value), set()).add(position)
    return places


# Order.


def fifo_order(history: History, settings: Settings) -> _Found:
    """Of a FIFO queue, no message of a key comes after a later one has come."""
    for lane in _fifo_lanes(history):
        ahead: LeaseRecord | None = None
        ended = sorted(lane, key=lambda one: one.end)
        done = 0
        for lease in sorted(lane, key=lambda one: one.begin):
            while done < len(ended) and ended[done].end < lease.begin:
                if ahead is None or ended[done].position.offset > ahead.position.offset:
                    ahead = ended[done]
                done += 1
            if ahead is not None and ahead.position.offset > lease.position.offset:
                yield (
                    lease.end,
                    lease.client,
                    lease.id,
                    f"{lease.id} of {lease.position} was delivered to {lease.client} between "
                    f"{lease.begin:.3f} and {lease.end:.3f} s, after {ahead.id} of "
                    f"{ahead.position}, which has the same key and came by {ahead.end:.3f} s",
                )


def fifo_in_flight(history: History, settings: Settings) -> _Found:
    """Of a FIFO queue, one message of a key is under way at a time."""
    for lane in _fifo_lanes(history):
        held: tuple[LeaseRecord, float] | None = None
        for lease in sorted(lane, key=lambda one: one.end):
            until = lease.certain_until() - settings.clock_margin_s
            if until <= lease.end:
                continue
            if held is not None and held[1] > lease.end and held[0].position != lease.position:
                holder, held_until = held
                yield (
                    lease.end,
                    lease.client,
                    lease.id,
                    f"{lease.id} of {lease.position} was leased to {lease.client} at "
                    f"{lease.end:.3f} s, while {holder.client} had {holder.id} of the same key "
                    f"until {held_until:.3f} s",
                )
            if held is None or until > held[1]:
                held = (lease, until)


def _fifo_lanes(history: History) -> list[list[LeaseRecord]]:
    """The leases of each key of each partition of the FIFO queues."""
    lanes: dict[tuple[str, int, str], list[LeaseRecord]] = {}
    for position, lease, sends in _deliveries(history):
        queue, key = history.queues.get(position.target), sends[0].key
        if queue is not None and queue.ordering == "fifo" and key is not None:
            lanes.setdefault((position.target, position.partition, key), []).append(lease)
    return list(lanes.values())


# Dead letters.


def dead_letters(history: History, settings: Settings) -> _Found:
    """What failed too often is among the dead letters once, and is not in its queue any more."""
    for origin, copies in history.copies_of.items():
        dead = copies[0]
        if len(copies) > 1:
            places = ", ".join(str(one.position) for one in copies)
            yield (
                copies[-1].seen.end,
                copies[-1].seen.client,
                dead.id,
                f"{dead.id} of {origin} is several times among the dead letters at "
                f"{copies[-1].seen.end:.3f} s: {places}",
            )
        for lease in history.leases_at.get(origin, ()):
            ack = attempts.settled(lease, Action.ACK, settings)
            if ack is None and lease.begin <= dead.seen.end:
                continue
            what = "was delivered again" if ack is None else "was acked"
            yield (
                lease.end,
                lease.client,
                dead.id,
                f"{dead.id} of {lease.position} {what} by {lease.client}, whose lease is of "
                f"{lease.end:.3f} s, and is among the dead letters since {dead.seen.end:.3f} s",
            )


def dead_letter_order(history: History, settings: Settings) -> _Found:
    """What died in a partition is among the dead letters in the order in which it died."""
    for queue in history.queues.values():
        lanes: dict[int, list[tuple[Settle, LeaseRecord, Position]]] = {}
        for lease in history.leases.values() if queue.dead_letter else ():
            last = attempts.settled(lease, Action.NACK, settings)
            found = history.copies_of.get(lease.position, ())
            dies = lease.position.target == queue.target and (
                lease.deliveries == queue.max_deliveries
            )
            if last is not None and dies and len(found) == 1:
                place = found[0].position
                lanes.setdefault(lease.position.partition, []).append((last, lease, place))
        for lane in lanes.values():
            yield from _out_of_order(lane)


def _out_of_order(lane: list[tuple[Settle, LeaseRecord, Position]]) -> _Found:
    ended = sorted(lane, key=lambda each: each[0].end)
    done = 0
    ahead: tuple[Settle, LeaseRecord, Position] | None = None
    for nack, lease, place in sorted(lane, key=lambda each: each[0].begin):
        while done < len(ended) and ended[done][0].end < nack.begin:
            if ahead is None or ended[done][2].offset > ahead[2].offset:
                ahead = ended[done]
            done += 1
        if ahead is not None and ahead[2].offset > place.offset:
            yield (
                nack.end,
                lease.client,
                lease.id,
                f"{lease.id} of {lease.position} died after {nack.begin:.3f} s and is {place}, "
                f"before {ahead[1].id}, which had died by {ahead[0].end:.3f} s and is {ahead[2]}",
            )


def delivered_too_often(history: History, settings: Settings) -> _Found:
    """A message that failed ``max_deliveries`` times is not delivered again."""
    for lease in history.leases.values():
        queue = history.queues.get(lease.position.target)
        if queue is not None and queue.dead_letter and lease.deliveries > queue.max_deliveries:
            yield (
                lease.end,
                lease.client,
                lease.id,
                f"{lease.id} of {lease.position} was delivered to {lease.client} at "
                f"{lease.end:.3f} s for the {lease.deliveries}th time; {queue.max_deliveries} are "
                "allowed",
            )


def gone_otherwise(history: History) -> set[tuple[Position, str]]:
    """The messages of queues that need no ack: dead, cancelled, purged, or maybe expired.

    Where the dead letters were not read to their end, whatever came may be among them. Where the
    expired go there, expiring is no way out of its own. What becomes of the dead letters is a rule
    of its own, see :func:`e2e.history.redrives.lost_by_a_redrive`.
    """
    gone = {(one.origin, one.id) for one in history.dead_at.values()}
    gone |= {(place, one.id) for place, one in history.dead_at.items()}
    places = places_of(history)
    unknown = {one.target for one in history.queues.values() if _death_unknown(history, one)}
    for (target, value), found in places.items():
        last = max(history.redrives_at.get(one, 0) for one in found)
        for place in found:
            # What came back by a redrive had died, though nobody may have seen it dead.
            if target in unknown or history.redrives_at.get(place, 0) < last:
                gone.add((place, value))
    for position, cancels in history.cancels_at.items():
        if any(one.outcome is not Outcome.REFUSED for one in cancels):
            gone |= {(position, value) for value in history.values.get(position, ())}
    for send in history.sends.values():
        if _expires(history, send) or _purged(history, send):
            gone |= {(place, send.id) for place in places.get((send.target, send.id), ())}
    return gone


def _expires(history: History, send: SendRecord) -> bool:
    queue = history.queues.get(send.target)
    return bool(send.ttl_s) and not (queue is not None and queue.expired_are_dead)


def _purged(history: History, send: SendRecord) -> bool:
    """Whether a purge may have taken it: one that nobody knows the end of may end at any time."""
    return any(
        one.outcome is Outcome.UNKNOWN or (one.outcome is Outcome.OK and send.begin < one.end)
        for one in history.purges_of.get(send.target, ())
    )


def _death_unknown(history: History, queue: Queue) -> bool:
    """Whether anything may have died that nobody has seen dead."""
    drained = history.drained.get(queue.dead_letter)
    if not queue.dead_letter:
        return False
    ended = all(one.state == "done" for one in history.redrives_of.get(queue.dead_letter, ()))
    return drained is None or drained.left > 0 or not ended


def landed_once(history: History, sends: list[SendRecord], settings: Settings) -> bool:
    """Whether a message has certainly one place in its queue."""
    if len(sends) == 1 and history.clients[sends[0].client].idempotent:
        return True
    ids = {one.dedup_id for one in sends}
    return len(ids) == 1 and None not in ids and _within_window(sends, settings)
