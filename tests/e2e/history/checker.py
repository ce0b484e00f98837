"""Judges a history: does it keep what MOM promises?

Each rule is a function from a history to findings, and says only what is certain. A call took
effect at some moment between its begin and its end; where the moments allow an innocent order,
there is no finding. A history that broke off, or was not drained, proves less, and gives less.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from e2e.history import (
    attempts,
    bounds,
    dead_letter_facts,
    delivery,
    flow,
    redrives,
    stalls,
)
from e2e.history.events import Action, AnyEvent, Outcome, Read, ReadMode
from e2e.history.history import History, LeaseRecord, Position, SendRecord
from mom_core.limits import DEDUP_WINDOW_MS_DEFAULT

# Servers keep whole milliseconds, and their clocks may be slewed a little during a lease.
CLOCK_MARGIN_S: Final = 0.02
# Who sends and who delivers read different clocks: delays and expiry are judged within this.
CLOCK_SKEW_S: Final = 0.1
# Nodes follow a changed setting a moment after it was confirmed, and begin again to follow when
# their connection to the store broke.
SETTINGS_LAG_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Finding:
    """A promise that was broken, in one sentence."""

    rule: str
    at: float
    """When: the moment at which the promise was given, or broken."""
    client: str
    message: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.sentence}"


@dataclass(frozen=True, slots=True)
class Settings:
    """What a history is judged by."""

    durabilities: frozenset[str] = frozenset()
    """The levels that a send may be acknowledged at; empty for any."""
    gap_offsets_min: int = 0
    """A skip of at least so many offsets, with nothing known in it, is a store's declared loss of
    its tail. 0: there is no such skip."""
    clock_margin_s: float = CLOCK_MARGIN_S
    clock_skew_s: float = CLOCK_SKEW_S
    dedup_window_s: float = DEDUP_WINDOW_MS_DEFAULT / 1000
    settings_lag_s: float = SETTINGS_LAG_S


@dataclass(slots=True)
class Verdict:
    """What a history shows."""

    findings: list[Finding] = field(default_factory=list)
    acked: int = 0
    failed_sends: int = 0
    landed_though_failed: int = 0
    """Messages whose sends all failed and that were seen all the same: no promise is broken."""
    duplicates: Counter[str] = field(default_factory=Counter)
    """Surplus copies by kind of client."""
    duplicate_times: list[float] = field(default_factory=list)
    """When the messages of these copies were sent, one for each copy."""
    read_again: int = 0
    """Messages that a subscription's members got more than once."""
    delivered_again: int = 0
    """Deliveries from queues beyond the first of each message."""

    def of(self, rule: str) -> list[Finding]:
        """The findings of one rule."""
        return [one for one in self.findings if one.rule == rule]


def check(source: Iterable[AnyEvent] | History, settings: Settings | None = None) -> Verdict:
    """Judge a history."""
    history = source if isinstance(source, History) else History(source)
    settings = settings or Settings()
    verdict = Verdict()
    for name, rule in RULES.items():
        verdict.findings += [
            Finding(name, at, client, message, sentence)
            for at, client, message, sentence in rule(history, settings)
        ]
    _count(history, verdict)
    return verdict


_Found = Iterator[tuple[float, str, str, str]]
"""Time, client, message, sentence."""


# Messages.


def lost_from_log(history: History, settings: Settings) -> _Found:
    """Every acknowledged message is at its place when the log is read to its end."""
    ends = {(one.target, one.partition): one for one in history.log_ends}
    readers = {(one.reader, one.target, one.partition) for one in history.log_ends}
    at_end = {
        Position(one.target, one.partition, one.offset): one.id
        for one in history.reads
        if (one.reader, one.target, one.partition) in readers
    }
    for send, position, end in history.acked():
        log_end = ends.get((position.target, position.partition))
        if log_end is None or at_end.get(position) == send.id:
            continue
        there = at_end.get(position)
        instead = f"where {there} is now" if there else f"and the log ends at {log_end.next_offset}"
        yield (
            end,
            send.client,
            send.id,
            f"{send.id} was acknowledged to {send.client} at {end:.3f} s at {position}, {instead}; "
            f"the log was read to its end at {log_end.at:.3f} s",
        )


def lost_from_queue(history: History, settings: Settings) -> _Found:
    """What was taken into a queue that is empty now was acknowledged, or went a way that is
    allowed: to the dead letters, by its expiry, by a cancellation, by a purge."""
    settled = delivery.gone_otherwise(history) | {
        (one.position, one.id)
        for leases in history.leases_at.values()
        for one in leases
        if one.acks
    }
    told: set[tuple[Position, str]] = set()
    for send, position, end in history.acked():
        drained = history.drained.get(position.target)
        if drained is None or drained.left or (position, send.id) in settled:
            continue
        told.add((position, send.id))
        leases = [one for one in history.leases_at.get(position, ()) if one.id == send.id]
        fate = f"was received by {leases[-1].client} but never acked" if leases else "never came"
        yield (
            end,
            send.client,
            send.id,
            f"{send.id} was acknowledged to {send.client} at {end:.3f} s at {position} and {fate}, "
            f"though the queue was empty at {drained.at:.3f} s",
        )
    for position, leases in history.leases_at.items():
        drained = history.drained.get(position.target)
        if drained is None or drained.left:
            continue
        for one in leases:
            if (position, one.id) not in settled | told:
                told.add((position, one.id))
                yield (
                    one.end,
                    one.client,
                    one.id,
                    f"{one.id} of {position} was received by {one.client} at {one.end:.3f} s and "
                    f"acked by nobody, though the queue was empty at {drained.at:.3f} s",
                )


def not_drained(history: History, settings: Settings) -> _Found:
    """Once nothing more is sent, the workers of a queue come to its end."""
    for drained in history.drained.values():
        if drained.left:
            yield (
                drained.at,
                "",
                "",
                f"{drained.left} messages were left in {drained.target} at {drained.at:.3f} s, "
                "when its workers gave up",
            )


def from_nowhere(history: History, settings: Settings) -> _Found:
    """What is seen was sent, before it was seen, and was not refused."""
    for position, values in history.values.items():
        for value, seen in values.items():
            sends = history.sends_of(position.target, value)
            if not sends:
                reason = f"which nobody sent to {position.target}"
            elif all(one.end is not None and not one.may_have_landed for one in sends):
                reason = f"though its send was refused ({sends[-1].error})"
            elif min(one.begin for one in sends) > seen.at:
                reason = f"before its send began at {min(one.begin for one in sends):.3f} s"
            else:
                continue
            yield (
                seen.at,
                seen.client,
                value,
                f"{value} was {seen.how} by {seen.client} at {seen.at:.3f} s at {position}, "
                f"{reason}",
            )


def two_values(history: History, settings: Settings) -> _Found:
    """An offset of a partition has one value, whoever looks and whenever."""
    for position, values in history.values.items():
        if len(values) < 2:
            continue
        told = " and ".join(
            f"{value} ({seen.how}, {seen.client}, {seen.at:.3f} s)"
            for value, seen in values.items()
        )
        value, seen = list(values.items())[-1]
        yield seen.at, seen.client, value, f"{position} has several values: {told}"


def duplicated(history: History, settings: Settings) -> _Found:
    """What an idempotent producer sent once is there once."""
    for (target, value), positions in _copies(history).items():
        sends = history.by_id.get((target, value), [])
        if len(sends) != 1 or not history.clients[sends[0].client].idempotent:
            continue
        send = sends[0]
        places = ", ".join(str(one) for one in positions)
        yield (
            send.begin,
            send.client,
            value,
            f"{value} was sent once by {send.client} at {send.begin:.3f} s and is there "
            f"{len(positions)} times: {places}",
        )


def _copies(history: History) -> dict[tuple[str, str], list[Position]]:
    """The messages that are at several places, none of them by a redrive."""
    places: dict[tuple[str, str], list[Position]] = {}
    for position, values in history.values.items():
        for value in values if position not in history.redrives_at else ():
            places.setdefault((position.target, value), []).append(position)
    return {name: sorted(found) for name, found in places.items() if len(found) > 1}


def weakly_acked(history: History, settings: Settings) -> _Found:
    """A send is acknowledged at a level that was asked for."""
    for send, position, end in history.acked():
        if settings.durabilities and send.durability not in settings.durabilities:
            yield (
                end,
                send.client,
                send.id,
                f"{send.id} was acknowledged to {send.client} at {end:.3f} s at {position} at the "
                f"level {send.durability!r} only",
            )


# Order.


def key_order(history: History, settings: Settings) -> _Found:
    """The messages of a key are in one partition, and one producer's in the order it sent them."""
    lanes: dict[tuple[str, str, str], list[tuple[SendRecord, Position, float]]] = {}
    partitions: dict[tuple[str, str], Position] = {}
    for send, position, end in history.acked():
        if send.key is None:
            continue
        first = partitions.setdefault((send.target, send.key), position)
        if first.partition != position.partition:
            yield (
                end,
                send.client,
                send.id,
                f"{send.id} of key {send.key!r} went to {position}, another partition than "
                f"{first} of the same key",
            )
        lane = lanes.setdefault((send.client, send.target, send.key), [])
        # Sent again under its dedup id, it stays where it landed first.
        if send.dedup_id is None or all(position != place for _, place, _ in lane):
            lane.append((send, position, end))
    for (client, _, _), lane in lanes.items():
        by_call = history.clients[client].ordered_by_call
        yield from _order_of_calls(lane) if by_call else _order_of_replies(lane)


_Lane = list[tuple[SendRecord, Position, float]]


def _order_of_calls(lane: _Lane) -> _Found:
    highest: dict[int, tuple[SendRecord, Position, float]] = {}
    for one in sorted(lane, key=lambda each: each[0].call):
        partition = one[1].partition
        before = highest.get(partition)
        if before is not None and before[1].offset >= one[1].offset:
            yield _out_of_order(before, one)
        else:
            highest[partition] = one


def _order_of_replies(lane: _Lane) -> _Found:
    """Only a send that began after another one's reply has to come after it."""
    replied: list[tuple[float, int]] = []
    highest: dict[int, tuple[SendRecord, Position, float]] = {}
    ordered = sorted(lane, key=lambda each: each[0].begin)
    for number, one in enumerate(ordered):
        while replied and replied[0][0] < one[0].begin:
            done = ordered[heapq.heappop(replied)[1]]
            before = highest.get(done[1].partition)
            if before is None or before[1].offset < done[1].offset:
                highest[done[1].partition] = done
        before = highest.get(one[1].partition)
        if before is not None and before[1].offset >= one[1].offset:
            yield _out_of_order(before, one)
        heapq.heappush(replied, (one[2], number))


def _out_of_order(
    before: tuple[SendRecord, Position, float], one: tuple[SendRecord, Position, float]
) -> tuple[float, str, str, str]:
    first, first_position, _ = before
    send, position, end = one
    return (
        end,
        send.client,
        send.id,
        f"{send.id} of key {send.key!r} was sent by {send.client} at {send.begin:.3f} s, after "
        f"{first.id} at {first.begin:.3f} s, but is at offset {position.offset}, not after "
        f"{first_position.offset}, of {position.target}[{position.partition}]",
    )


# Readers.


def log_read_order(history: History, settings: Settings) -> _Found:
    """A reader of a log gets each offset once, in order, and leaves none out."""
    for (reader, target, partition), reads in history.reads_of(ReadMode.LOG).items():
        following = reads[0].offset
        for one in reads:
            if one.offset < following:
                yield (
                    one.at,
                    one.client,
                    one.id,
                    f"{reader} read offset {one.offset} of {target}[{partition}] ({one.id}) at "
                    f"{one.at:.3f} s, after offset {following - 1}",
                )
                continue
            yield from _skip(history, settings, one, following)
            following = one.offset + 1


def group_read_order(history: History, settings: Settings) -> _Found:
    """The members of a subscription together leave no offset out."""
    for reads in history.reads_of(ReadMode.GROUP).values():
        following = reads[0].offset
        for one in reads:
            if one.offset >= following:
                yield from _skip(history, settings, one, following)
                following = one.offset + 1


def _skip(history: History, settings: Settings, one: Read, following: int) -> _Found:
    skipped = one.offset - following
    if skipped <= 0:
        return
    known = None
    for offset in range(following, min(one.offset, following + _LOOK_AT_OFFSETS_MAX)):
        known = history.values.get(Position(one.target, one.partition, offset))
        if known is not None:
            break
    if known is None and 0 < settings.gap_offsets_min <= skipped:
        return
    what = f"; {next(iter(known))} is there" if known else ""
    yield (
        one.at,
        one.client,
        next(iter(known)) if known else one.id,
        f"{one.reader} read offset {one.offset} of {one.target}[{one.partition}] at {one.at:.3f} s "
        f"and left out {skipped} offsets from {following} on{what}",
    )


# Offsets of a skip that are looked at for a value; a store's gap is of millions.
_LOOK_AT_OFFSETS_MAX: Final = 100_000


def unfinished_reader(history: History, settings: Settings) -> _Found:
    """Whoever reads a log from its beginning, alone or as a group, comes to its end."""
    reached: dict[tuple[str, str, int], tuple[int, int]] = {}
    for one in history.reads:
        name = (one.reader, one.target, one.partition)
        first, last = reached.get(name, (one.offset, one.offset))
        reached[name] = (min(first, one.offset), max(last, one.offset))
    for log_end in history.log_ends:
        target, partition = log_end.target, log_end.partition
        whole = reached.get((log_end.reader, target, partition))
        if whole is None:
            continue  # It is empty.
        wanted = (whole[0], log_end.next_offset - 1)
        for reader, its_target in history.readers:
            got = reached.get((reader, target, partition))
            if its_target != target or (got is not None and _holds(got, wanted)):
                continue
            yield (
                log_end.at,
                reader,
                "",
                f"{reader} got {f'offsets {got[0]} to {got[1]}' if got else 'nothing'} of "
                f"{target}[{partition}], which has {wanted[0]} to {wanted[1]} at "
                f"{log_end.at:.3f} s",
            )


def _holds(got: tuple[int, int], wanted: tuple[int, int]) -> bool:
    return got[0] <= wanted[0] and got[1] >= wanted[1]


# Leases.


def second_lease(history: History, settings: Settings) -> _Found:
    """A message under lease is one worker's: no two leases are certain at the same moment."""
    for position, leases in history.leases_at.items():
        if len(leases) < 2:
            continue
        holder: LeaseRecord | None = None
        held_until = 0.0
        for one in sorted(leases, key=lambda lease: lease.end):
            until = one.certain_until() - settings.clock_margin_s
            if holder is not None and one.end < held_until and one.end < until:
                yield (
                    one.end,
                    one.client,
                    one.id,
                    f"{one.id} of {position} was leased to {one.client} at {one.end:.3f} s until "
                    f"{until:.3f} s, while {holder.client} had it from {holder.end:.3f} s until "
                    f"{held_until:.3f} s",
                )
            if until > one.end and (holder is None or until > held_until):
                holder, held_until = one, until


def delivered_after_ack(history: History, settings: Settings) -> _Found:
    """A message whose acknowledgement was taken never comes again."""
    for position, leases in history.leases_at.items():
        if len(leases) < 2:
            continue
        for acked in leases:
            ack = next((one for one in acked.acks if one.outcome is Outcome.OK), None)
            if ack is None:
                continue
            in_time = ack.end < _until_without_acks(acked) - settings.clock_margin_s
            for one in leases:
                after_ack = one.begin > ack.end
                # A later lease than one that was acked in time was given after that ack.
                later = one.begin > acked.end or one.deliveries > acked.deliveries
                if one is not acked and (after_ack or (in_time and later)):
                    yield (
                        one.end,
                        one.client,
                        one.id,
                        f"{one.id} of {position} was delivered to {one.client} between "
                        f"{one.begin:.3f} and {one.end:.3f} s, though {acked.client} had acked it "
                        f"between {ack.begin:.3f} and {ack.end:.3f} s",
                    )


def lease_cut_short(history: History, settings: Settings) -> _Found:
    """A worker whose lease is certain can settle its message."""
    for leases in history.leases_at.values():
        for lease in leases:
            until = lease.certain_until() - settings.clock_margin_s
            for one in lease.settles:
                if one.outcome is Outcome.REFUSED and lease.end <= one.begin and one.end < until:
                    yield (
                        one.end,
                        one.client,
                        lease.id,
                        f"{one.action} of {lease.id} of {lease.position} by {one.client} was "
                        f"refused at {one.end:.3f} s, though its lease lasts until {until:.3f} s",
                    )


def _until_without_acks(lease: LeaseRecord) -> float:
    others = [one for one in lease.settles if one.action is not Action.ACK]
    alone = LeaseRecord(
        lease.client,
        lease.position,
        lease.id,
        lease.deliveries,
        lease.begin,
        lease.end,
        lease.lease_s,
        others,
    )
    return alone.certain_until()


RULES: Final[dict[str, Callable[[History, Settings], _Found]]] = {
    "lost from a log": lost_from_log,
    "lost from a queue": lost_from_queue,
    "not drained": not_drained,
    "from nowhere": from_nowhere,
    "two values at one offset": two_values,
    "duplicate": duplicated,
    "weaker than asked": weakly_acked,
    "order of a key": key_order,
    "order of a log reader": log_read_order,
    "skipped by a subscription": group_read_order,
    "unfinished reader": unfinished_reader,
    "second lease": second_lease,
    "delivered after its ack": delivered_after_ack,
    "lease cut short": lease_cut_short,
    "early": delivery.early,
    "delivered after its expiry": delivery.expired,
    "delivered after its cancellation": delivery.delivered_after_cancellation,
    "landed again": delivery.landed_again,
    "order of a FIFO key": delivery.fifo_order,
    "two of a FIFO key": delivery.fifo_in_flight,
    "dead letters": delivery.dead_letters,
    "delivered too often": delivery.delivered_too_often,
    "order of dead letters": delivery.dead_letter_order,
    "too soon after a failure": delivery.too_soon,
    "delivered after a purge": delivery.delivered_after_purge,
    "faster than its rate": flow.too_fast,
    "out of turn": flow.out_of_turn,
    "low before high": flow.low_before_high,
    "starved": flow.starved,
    "beyond its turn": flow.beyond_its_turn,
    "delivered while paused": bounds.delivered_while_paused,
    "beyond its bound": bounds.beyond_bound,
    "refused below its bound": bounds.refused_below_bound,
    "gone before its time": bounds.gone_before_its_time,
    "untold stall": stalls.untold_stall,
    "told as stalled": stalls.told_as_stalled,
    "a failure that was not counted": attempts.not_counted,
    "counted without a try": attempts.counted_without_a_try,
    "a suspect with others": attempts.suspect_with_others,
    "redriven twice": redrives.redriven_twice,
    "handled beside its redrive": redrives.handled_beside,
    "lost by a redrive": redrives.lost_by_a_redrive,
    "more redriven than told": redrives.more_than_told,
    "a redrive without an end": redrives.not_ended,
    "a dead letter tells it wrongly": dead_letter_facts.told_wrongly,
    "a dead letter without headers": dead_letter_facts.without_facts,
    "times of dead letters": dead_letter_facts.wrong_times,
}


def _count(history: History, verdict: Verdict) -> None:
    seen = {
        (position.target, value) for position, values in history.values.items() for value in values
    }
    for name, sends in history.by_id.items():
        acked = [one for one in sends if one.position is not None]
        verdict.acked += len(acked)
        verdict.failed_sends += sum(one.error is not None and not one.refused for one in sends)
        verdict.landed_though_failed += not acked and name in seen
    for name, positions in _copies(history).items():
        for send in history.by_id.get(name, [])[:1]:
            verdict.duplicates[history.clients[send.client].kind] += len(positions) - 1
            verdict.duplicate_times += [send.begin] * (len(positions) - 1)
    for reads in history.reads_of(ReadMode.GROUP).values():
        verdict.read_again += len(reads) - len({one.offset for one in reads})
    verdict.delivered_again = sum(len(leases) - 1 for leases in history.leases_at.values())
