"""The delivery state of one subscription on one partition; see the package for the theory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

import msgspec

from mom_core.delivery.arrivals import Run
from mom_core.delivery.changes import (
    Addressed,
    Begun,
    Cancelled,
    Carried,
    Change,
    DeadReason,
    DeadSent,
    Died,
    Extended,
    Leased,
    LeasedRange,
    Leaving,
    Left,
    Moved,
    Purged,
    Returned,
    SettleAction,
    Settled,
    SettleOutcome,
    Skipped,
)
from mom_core.delivery.dying import DeadAddress, DeadEntry, DeadMessage, Dying
from mom_core.delivery.entries import Entry
from mom_core.delivery.leases import Held, Leases
from mom_core.delivery.leaving import Gone, GoneRange, LeavingBatch, Redrives
from mom_core.delivery.policy import Policy
from mom_core.delivery.rescheduling import WaitingResult, Wanted
from mom_core.delivery.ttl import TtlFrom, TtlHistory
from mom_core.delivery.waiting import Waiting
from mom_core.errors import ErrorCode, OverloadedError
from mom_core.limits import LEASED_MESSAGES_MAX, PURGE_ENTRIES_MAX
from mom_core.ranges import RangeSet

SNAPSHOT_VERSION: Final = 2


class DeliveryCounts(NamedTuple):
    """Messages by state."""

    ready: int
    delayed: int
    leased: int
    """A worker has them, or a redrive."""
    dead: int
    """On their way to the dead letters."""


class Outstanding(NamedTuple):
    """Offsets [first, end) that are not settled, as a browser sees them."""

    first: int
    end: int
    state: str
    """``ready``, ``delayed``, ``leased``, ``dead`` or ``leaving``."""
    deliveries: int
    until_ms: int
    """When a delayed one can be leased, or a lease ends; else 0."""


class _Snapshot(msgspec.Struct, array_like=True, frozen=True):
    version: int
    floor: int
    arrived: int
    """From here on the log has to be read again, for what is still just as it came."""
    settled: list[tuple[int, int]]
    leases: list[tuple[int, list[Held]]]
    waiting: list[Entry]
    dead: list[DeadEntry]
    next_number: int
    dead_address: DeadAddress
    redrives: Redrives | None = None
    gone: tuple[GoneRange, ...] = ()
    ttls: tuple[TtlFrom, ...] = ()
    """Empty: an older version wrote it, which did not keep them."""


_snapshot_decoder: Final = msgspec.msgpack.Decoder(_Snapshot)


class Delivery:
    """The delivery state of one subscription on one partition.

    ``policy`` may be replaced at any time but for its ordering.
    """

    def __init__(self, start: int, policy: Policy = Policy()) -> None:  # noqa: B008 - frozen
        """Begin with everything below ``start`` settled."""
        self.policy = policy
        self.floor = start
        """Everything below is settled."""
        self.arrived = start
        """Everything below is known."""
        self.bodies_to_drop: list[tuple[int, int]] = []
        """Carried bodies that nobody needs any more; the caller takes them out."""
        self._settled = RangeSet()
        self._carried = RangeSet()
        """Whose bodies are kept apart."""
        self._known = RangeSet()
        """What a snapshot brought that lies above :attr:`arrived`."""
        self._waiting = Waiting(policy.ordering)
        self._leases = Leases(self._waiting.order)
        self._dying = Dying()
        self._redrives = Redrives()
        self._gone = Gone([])
        self._ttls = TtlHistory()

    # What stands.

    def counts(self, now_ms: int) -> DeliveryCounts:
        """Messages by state at ``now_ms``."""
        waiting = self._waiting
        waiting.wake(now_ms)
        ready = waiting.count - waiting.delayed_count
        leased = self._leases.count + self._redrives.count
        return DeliveryCounts(ready, waiting.delayed_count, leased, self._dying.count)

    @property
    def backlog(self) -> int:
        """Messages that wait, or that somebody has."""
        return self._waiting.count + self._leases.count + self._redrives.count

    def oldest_unsettled(self) -> int | None:
        """The lowest offset that is not settled."""
        return self.floor if self.floor < self.arrived else None

    def oldest_ready(self, now_ms: int) -> int | None:
        """The lowest offset whose time has come and that nobody has."""
        self._waiting.wake(now_ms)
        return self._waiting.oldest_ready()

    @property
    def leased_count(self) -> int:
        """Messages under lease, those included whose lease has just run out."""
        return self._leases.count

    def ready_at_most(self) -> int:
        """A quick upper bound of what could be leased, delayed messages included."""
        return self._waiting.count

    def has_ready(self, now_ms: int) -> bool:
        """Whether a lease now would get something."""
        self._waiting.wake(now_ms)
        return not self.policy.paused and self._waiting.next() is not None

    def next_is_alone(self, now_ms: int) -> bool:
        """Whether a lease now would get a message that is delivered by itself."""
        self._waiting.wake(now_ms)
        found = self._waiting.next()
        return found is not None and found[0].alone

    def next_event_ms(self) -> int | None:
        """The earliest time at which time alone changes something, None if there is none."""
        deadline = self._leases.next_deadline()
        times_ms = self._waiting.next_times_ms()
        return min(times_ms if deadline is None else [*times_ms, deadline[0]], default=None)

    def log_floor(self) -> int:
        """Nothing below is needed of the log: it is settled, or its bodies are kept apart."""
        return next((first for first, _ in self._needed(self.arrived)), self.arrived)

    def pinning(self, below: int) -> list[tuple[int, int]]:
        """Ranges below an offset, of what has arrived, for which the log is needed, in order."""
        return list(self._needed(min(below, self.arrived)))

    def _needed(self, below: int) -> Iterator[tuple[int, int]]:
        # By the sets of what is not needed: they are short where the entries may be a million.
        for low, high, settled in self._settled.split(self.floor, below):
            if not settled:
                for first, end, carried in self._carried.split(low, high):
                    if not carried:
                        yield first, end

    def carried(self) -> list[tuple[int, int]]:
        """Ranges whose bodies are kept apart, in order."""
        return list(self._carried)

    def held_back(self, below: int, now_ms: int) -> list[tuple[int, int]]:
        """As :meth:`pinning`, but only what can't be had now: delayed, leased, dying or leaving."""
        self._waiting.wake(now_ms)
        later = self._waiting.delayed()
        dying, leaving = self._dying.entries(), self._leaving_entries()
        return sorted(
            (entry.first, min(entry.end, below))
            for entry in (*later, *self._leases.entries(), *dying, *leaving)
            if not entry.carried and entry.first < below
        )

    @property
    def has_dead(self) -> bool:
        """Whether anything is on its way to the dead letters."""
        return len(self._dying) > 0

    def dead(self) -> Iterator[DeadMessage]:
        """What is on its way to the dead letters, in the order of its numbers."""
        return self._dying.messages()

    @property
    def dead_address(self) -> DeadAddress:
        """Where they go."""
        return self._dying.address

    def outstanding(self, offset: int, now_ms: int, messages_max: int) -> list[Outstanding]:
        """What is not settled from ``offset`` on, in order and up to ``messages_max``."""
        shown: list[Outstanding] = []
        for one in sorted(self._shown_entries(now_ms)):
            first = max(one.first, offset)
            end = min(one.end, first + messages_max)
            if messages_max > 0 and first < end:
                shown.append(one._replace(first=first, end=end))
                messages_max -= end - first
        return shown

    def _shown_entries(self, now_ms: int) -> Iterator[Outstanding]:
        for held in self._leases.held():
            entry = held.entry
            yield Outstanding(entry.first, entry.end, "leased", entry.deliveries, held.deadline_ms)
        for entry in self._waiting:
            later = entry.available_at_ms > now_ms
            state, until_ms = ("delayed", entry.available_at_ms) if later else ("ready", 0)
            yield Outstanding(entry.first, entry.end, state, entry.deliveries, until_ms)
        for entry in self._dying.entries():
            yield Outstanding(entry.first, entry.end, "dead", entry.deliveries, 0)
        for entry in self._leaving_entries():
            yield Outstanding(entry.first, entry.end, "leaving", entry.deliveries, 0)

    def _entries(self) -> Iterator[Entry]:
        yield from self._waiting
        yield from self._leases.entries()
        yield from self._dying.entries()
        yield from self._leaving_entries()

    def _leaving_entries(self) -> list[Entry]:
        return self.leaving.entries if self.leaving is not None else []

    # Arrivals.

    def ttl_ms(self, offset: int) -> int:
        """The time to live that held when this offset was appended; 0: none."""
        return self._ttls.of(offset, self.policy.ttl_ms)

    def ttl_change(self, end: int) -> TtlFrom | None:
        """What :meth:`set_ttl` is to be told by the policy, now that the log ends at ``end``.

        The first time it is for all that there is, else for what comes from now on.
        """
        if not self._ttls.differs(self.policy.ttl_ms):
            return None
        return TtlFrom(end if self._ttls.changes else self.floor, self.policy.ttl_ms)

    def set_ttl(self, change: TtlFrom) -> None:
        """Let what was appended from an offset on have another time to live, now or in a replay.

        In a replay it comes before the log arrives, unlike the other changes.
        """
        self._ttls.note(change, self.floor)

    def arrive(self, runs: Iterable[Run], now_ms: int) -> None:
        """Take in messages of the log from :attr:`arrived` on, in order.

        What is known already, after a restart, and what was skipped is passed over. Offsets between
        two runs hold nothing.
        """
        self._waiting.wake(now_ms)
        # Nearly always nothing is known from there on, and asking for each run would cost most.
        all_new = not len(self._known) and self._settled.end <= self.arrived
        for run in runs:
            first = max(run.first, self.arrived)
            if first >= run.end:
                continue
            if not all_new:
                self._arrive_between(run, first)
            else:
                if self.arrived < first:
                    self._settle(self.arrived, first)
                self._waiting.arrive(run, first, run.end)
            self.arrived = max(self.arrived, run.end)

    def _arrive_between(self, run: Run, first: int) -> None:
        """Take in what is not known yet."""
        for low, high in self._unknown(self.arrived, first):
            self._settle(low, high)
        for low, high in self._unknown(first, run.end):
            self._waiting.arrive(run, low, high)
        self._known.remove_below(run.end)

    def _unknown(self, first: int, end: int) -> list[tuple[int, int]]:
        """Parts of [first, end) that are neither settled nor here already."""
        return [
            (low, high)
            for begin, stop, settled in self._settled.split(max(first, self.floor), end)
            if not settled
            for low, high, known in self._known.split(begin, stop)
            if not known
        ]

    # What happens.

    def lease(
        self,
        lease_id: int,
        *,
        messages_max: int,
        lease_ms: int,
        now_ms: int,
        tells_begin: bool = False,
    ) -> Leased | None:
        """Lease up to ``messages_max``, in the order of the policy; :meth:`advance` comes first.

        A worker that ``tells_begin`` may have several leases at a time. Should one of them run out,
        the delivery counts only if the worker had said that it began.

        Returns None when nothing is ready, or the subscription is paused. Raises OverloadedError
        when too many are leased.
        """
        if self.policy.paused:
            return None
        room = LEASED_MESSAGES_MAX - self._leases.count
        if room <= 0:
            raise OverloadedError(
                f"{self._leases.count} messages are under lease on this partition, the most there "
                "may be; ack some first",
                retry_after_ms=1_000,
            )
        self._waiting.wake(now_ms)
        deadline_ms = now_ms + lease_ms
        ranges: list[LeasedRange] = []
        left = min(messages_max, room)
        while left > 0 and (found := self._waiting.next()) is not None:
            entry, most = found
            if entry.alone:
                if ranges:
                    break
                left = 1
            count = min(most, left, entry.count)
            left -= count
            self._waiting.order.took(entry, count)
            one = LeasedRange(entry.first, entry.first + count, entry.deliveries + 1, entry.alone)
            self._lease(lease_id, deadline_ms, now_ms, one, begun=not tells_begin)
            _join(ranges, one)
        if not ranges:
            return None
        return Leased(lease_id, deadline_ms, now_ms, tuple(ranges), tells_begin)

    def settle(
        self,
        action: SettleAction,
        lease_id: int,
        first: int,
        end: int,
        *,
        now_ms: int,
        delay_ms: int | None = None,
    ) -> tuple[list[SettleOutcome], list[Change]]:
        """Ack, nack, extend, begin or release the offsets [first, end) of a lease.

        ``delay_ms`` is the wait of a nack before the next delivery (None: the policy's backoff),
        and the new length of an extended lease from now. Each offset has its own result; one that
        fails hurts no other.
        """
        outcomes: list[SettleOutcome] = []
        changes: list[Change] = []
        for entry, low, high in self._leases.pieces(lease_id, first, end, now_ms):
            if entry is None:
                outcomes.extend(self._refusals(low, high))
                continue
            change = self._settle_change(action, lease_id, entry, low, high, now_ms, delay_ms)
            self.apply(change)
            changes.append(change)
            outcomes.append(SettleOutcome(low, high, None))
        return outcomes, changes

    def advance(self, now_ms: int) -> list[Change]:
        """End the leases whose deadline has come, the messages whose time is over, and delays.

        So the next event lies ahead.
        """
        self._waiting.wake(now_ms)
        changes: list[Change] = []
        while (due := self._leases.next_deadline()) is not None and due[0] <= now_ms:
            self._end_lease(due[1], now_ms, changes)
        while (over := self._waiting.expired(now_ms)) is not None:
            self._make(self._lapse(over, now_ms), changes)
        return changes

    def skip(self, first: int, end: int) -> list[Change]:
        """Count [first, end) as settled whatever their state, since they are no more."""
        first = max(first, self.floor)
        return self._made(Skipped(first, end)) if first < end else []

    def purgeable(self, end: int, *, leased: bool) -> list[tuple[int, int]]:
        """What a purge of all below ``end`` takes away, in ranges for :meth:`purge`.

        Each has at most PURGE_ENTRIES_MAX entries, so that a purge of millions is no one long step.
        """
        ranges: list[tuple[int, int]] = []
        begin = stop = joined = 0
        for first, last in self._purgeable_spans(leased):
            if first >= end:
                break
            if first != stop or joined >= PURGE_ENTRIES_MAX:
                if joined:
                    ranges.append((begin, stop))
                begin, joined = first, 0
            stop, joined = min(last, end), joined + 1
        if joined:
            ranges.append((begin, stop))
        return ranges

    def _purgeable_spans(self, leased: bool) -> list[tuple[int, int]]:
        spans = list(self._waiting.spans())
        if leased:
            spans += [(one.first, one.end) for one in self._leases.entries()]
        return sorted(spans)

    def purge(self, first: int, end: int, *, leased: bool) -> tuple[int, list[Change]]:
        """Take away what waits of [first, end), and what is leased if asked to; how many it was."""
        before = self.backlog
        changes: list[Change] = []
        for low, high in self._purgeable_within(first, end, leased):
            self._make(Purged(low, high, leased), changes)
        return before - self.backlog, changes

    def _purgeable_within(self, first: int, end: int, leased: bool) -> list[tuple[int, int]]:
        if self._waiting.is_whole(first, end):
            return [(first, end)]
        return RangeSet(self._purgeable_spans(leased)).within(first, end)

    # Redrives.

    @property
    def leaving(self) -> LeavingBatch | None:
        """The batch that is on its way to another queue or topic."""
        return self._redrives.leaving

    @property
    def redrives(self) -> Redrives:
        """What is remembered of redrives, to be looked at."""
        return self._redrives

    def leave(self, operation_id: str, lane: str, offsets: Iterable[int]) -> list[Change]:
        """Let those of the offsets that still wait leave as one batch; empty when none does."""
        wanted = RangeSet((offset, offset + 1) for offset in offsets)
        ranges = tuple(
            (low, high)
            for first, end in sorted(self._waiting.spans())
            for low, high, inside in wanted.split(first, end)
            if inside
        )
        return self._made(Leaving(operation_id, lane, ranges)) if ranges else []

    def left(self, landed: bool) -> list[Change]:
        """The batch has landed and its messages are settled; or they wait again."""
        batch = self.leaving
        assert batch is not None, "a batch leaves"
        return self._made(Left(landed, tuple((one.first, one.end) for one in batch.entries)))

    def change_waiting(self, wanted: Sequence[Wanted]) -> tuple[list[WaitingResult], list[Change]]:
        """Cancel messages that wait, or move them to another time; :meth:`advance` comes first.

        A result for each; one that fails hurts no other.
        """
        results: dict[int, WaitingResult] = {}
        changes: list[Change] = []
        waiting = self._waiting
        known_end = self.arrived  # Cancelling what comes before it may raise it.
        begins = self._waiting.begins_of(sorted({one.offset for one in wanted}))
        cut_at: dict[int, int] = {}
        order = sorted(range(len(wanted)), key=lambda place: wanted[place].offset)
        for place in order:
            one = wanted[place]
            begin = begins.get(one.offset)
            # What was cut out before has left the rest of its entry to begin behind it.
            entry = waiting.entries.get(one.offset)
            if entry is None and begin is not None:
                entry = waiting.entries.get(cut_at.get(begin, begin))
            if entry is None or not entry.first <= one.offset < entry.end:
                results[place] = (
                    self._why_not_waiting(one.offset)
                    if one.offset < known_end
                    else WaitingResult.UNKNOWN
                )
                continue
            change = _waiting_change(one, entry)
            if change is None:
                results[place] = WaitingResult.EXPIRES
                continue
            self._change_waiting(change, waiting.cut(entry, change.first, change.end))
            cut_at[one.offset if begin is None else begin] = change.end
            changes.append(change)
            results[place] = WaitingResult.DONE
        return [results[place] for place in range(len(wanted))], changes

    def _why_not_waiting(self, offset: int) -> WaitingResult:
        """A redrive has it as a worker would, so that counts as leased."""
        if offset < self.floor or offset in self._settled:
            return WaitingResult.SETTLED
        return WaitingResult.DEAD if offset in self._dying else WaitingResult.LEASED

    def _change_waiting(self, change: Moved | Cancelled, entry: Entry) -> None:
        if isinstance(change, Cancelled):
            self._done_with(entry)
            return
        entry.available_at_ms, entry.moved = change.available_at_ms, True
        self._waiting.add(entry)

    def carry(self, ranges: Sequence[tuple[int, int]]) -> list[Change]:
        """Note that the bodies of these ranges are kept apart from the log."""
        return self._made(Carried(tuple(ranges))) if ranges else []

    def dead_sent(self, number: int) -> list[Change]:
        """The dead messages numbered below ``number`` have landed among the dead letters."""
        if not self._dying or self._dying.lowest_number >= number:
            return []
        return self._made(DeadSent(number))

    def address_dead(self, topic_id: str) -> list[Change]:
        """Let what is on its way to the dead letters go to this topic.

        Empty when it does so, and the next one has the number after the last that landed there.
        """
        number = self._dying.lowest_number
        if (self.dead_address.topic_id, self.dead_address.next_number) == (topic_id, number):
            return []
        return self._made(Addressed(topic_id, number))

    def _made(self, change: Change) -> list[Change]:
        self.apply(change)
        return [change]

    def _make(self, change: Change, changes: list[Change]) -> None:
        self.apply(change)
        changes.append(change)

    # Decisions.

    def _settle_change(
        self,
        action: SettleAction,
        lease_id: int,
        entry: Entry,
        first: int,
        end: int,
        now_ms: int,
        delay_ms: int | None,
    ) -> Change:
        match action:
            case SettleAction.ACK:
                return Settled(lease_id, first, end)
            case SettleAction.EXTEND:
                return Extended(lease_id, first, end, now_ms + (delay_ms or 0))
            case SettleAction.BEGIN:
                return Begun(lease_id, first, end)
            case SettleAction.RELEASE:
                return Returned(lease_id, first, end, now_ms + delay_ms if delay_ms else 0, False)
            case SettleAction.NACK:
                return self._failed(lease_id, entry, first, end, now_ms, delay_ms)

    def _failed(
        self,
        lease_id: int,
        entry: Entry,
        first: int,
        end: int,
        now_ms: int,
        delay_ms: int | None = None,
    ) -> Change:
        """What becomes of messages whose delivery counts and failed."""
        policy = self.policy
        if policy.max_deliveries and entry.deliveries >= policy.max_deliveries:
            number = self._dying.next_number
            return Died(lease_id, first, end, number, DeadReason.MAX_DELIVERIES, now_ms)
        if delay_ms is None:
            delay_ms = policy.backoff.after(entry.deliveries)
        return Returned(lease_id, first, end, now_ms + delay_ms if delay_ms else 0, True)

    def _end_lease(self, lease_id: int, now_ms: int, changes: list[Change]) -> None:
        """A worker let a lease run out: it died, or was too slow.

        Had it several messages, any of them may have crashed it: none of these deliveries counts,
        and each comes by itself from now on. Was there only one, then that delivery counts. One
        that says when it begins may have several leases: of these only what was begun counts.
        """
        parts = self._leases.parts(lease_id)
        several = sum(held.entry.count for held in parts) > 1
        for held in [one for one in parts if one.deadline_ms <= now_ms]:
            entry = held.entry
            if several or not held.begun:
                change: Change = Returned(lease_id, entry.first, entry.end, 0, False, True)
            else:
                change = self._failed(lease_id, entry, entry.first, entry.end, now_ms)
            self._make(change, changes)

    def _lapse(self, entry: Entry, now_ms: int) -> Change:
        if self.policy.expired_are_dead:
            number = self._dying.next_number
            return Died(0, entry.first, entry.end, number, DeadReason.EXPIRED, now_ms)
        return Skipped(entry.first, entry.end)

    def _refusals(self, first: int, end: int) -> Iterator[SettleOutcome]:
        if first < self.floor:
            high = min(end, self.floor)
            yield from self._settled_refusals(first, high)
            first = high
        if end > self.arrived:
            low = max(first, self.arrived)
            yield SettleOutcome(low, end, ErrorCode.INVALID_RECEIPT)
            end = low
        for low, high, settled in self._settled.split(first, end):
            if settled:
                yield from self._settled_refusals(low, high)
            else:
                yield from self._lost_refusals(low, high)

    def _settled_refusals(self, first: int, end: int) -> Iterator[SettleOutcome]:
        for low, high, code in self._gone.split(first, end, ErrorCode.ALREADY_SETTLED):
            yield SettleOutcome(low, high, code)

    def _lost_refusals(self, first: int, end: int) -> Iterator[SettleOutcome]:
        leaving = RangeSet((entry.first, entry.end) for entry in self._leaving_entries())
        for low, high, leaves in leaving.split(first, end):
            code = ErrorCode.REDRIVEN if leaves else ErrorCode.LEASE_LOST
            yield SettleOutcome(low, high, code)

    # The journal.

    def apply(self, change: Change) -> None:
        """Make a change, decided now or replayed from the journal."""
        match change:
            case Leased(lease_id, deadline_ms, at_ms, ranges, tells_begin):
                for one in ranges:
                    self._lease(lease_id, deadline_ms, at_ms, one, begun=not tells_begin)
            case Begun(lease_id, first, end):
                for held in self._leases.take(lease_id, first, end):
                    self._leases.hold(lease_id, held.entry, held.deadline_ms)
            case Settled(lease_id, first, end):
                self._drop_bodies(held.entry for held in self._leases.take(lease_id, first, end))
                self._settle(first, end)
            case Returned():
                self._apply_returned(change)
            case Extended(lease_id, first, end, deadline_ms):
                for held in self._leases.take(lease_id, first, end):
                    self._leases.hold(lease_id, held.entry, deadline_ms, held.begun)
            case Died():
                self._apply_died(change)
            case Addressed(topic_id, base):
                self._dying.address = DeadAddress(topic_id, base, base)
            case DeadSent(number):
                for entry in self._dying.landed(number):
                    self._done_with(entry)
            case Skipped(first, end):
                self._apply_skipped(first, end)
            case Moved() | Cancelled():
                for entry in self._waiting.take(change.first, change.end):
                    self._change_waiting(change, entry)
            case Carried(ranges):
                self._apply_carried(RangeSet(ranges))
            case Purged(first, end, leased):
                self._apply_purged(first, end, leased)
            case Leaving(operation_id, lane, ranges):
                entries = [one for low, high in ranges for one in self._waiting.take(low, high)]
                self._redrives.begin(operation_id, lane, entries)
            case Left(landed, ranges):
                self._apply_left(landed, ranges)

    def snapshot(self) -> bytes:
        """The state but for what the log tells by itself, for :meth:`restore`."""
        known = [entry for entry in self._waiting if not entry.as_it_came]
        fresh = (entry.first for entry in self._waiting if entry.as_it_came)
        arrived = min(fresh, default=self.arrived)
        return msgspec.msgpack.encode(
            _Snapshot(
                SNAPSHOT_VERSION,
                self.floor,
                arrived,
                list(self._settled),
                self._leases.items(),
                sorted(known, key=lambda one: one.first),
                self._dying.parts,
                self._dying.next_number,
                self._dying.address,
                self._redrives if self._redrives.operation_id else None,
                tuple(self._gone.ranges),
                tuple(self._ttls.changes),
            )
        )

    @classmethod
    def restore(cls, snapshot: bytes, policy: Policy = Policy()) -> Delivery:  # noqa: B008
        """The state that :meth:`snapshot` wrote; the log from :attr:`arrived` on must arrive."""
        stored = _snapshot_decoder.decode(snapshot)
        assert stored.version == SNAPSHOT_VERSION, f"delivery snapshot version {stored.version}"
        state = cls(stored.floor, policy)
        state.arrived = stored.arrived
        state._settled = RangeSet(stored.settled)
        for lease_id, parts in stored.leases:
            for held in parts:
                state._leases.hold(lease_id, held.entry, held.deadline_ms, held.begun)
        for entry in stored.waiting:
            state._waiting.add(entry)
        state._dying.parts = stored.dead
        state._dying.next_number = stored.next_number
        state._dying.address = stored.dead_address
        state._redrives = stored.redrives or Redrives()
        state._gone = Gone(list(stored.gone))
        state._ttls = TtlHistory(stored.ttls)
        state._known = RangeSet((entry.first, entry.end) for entry in state._entries())
        state._known.remove_below(state.arrived)
        for entry in state._entries():
            if entry.carried:
                state._carried.add(entry.first, entry.end)
        return state

    # Inside: changing.

    def _lease(
        self, lease_id: int, deadline_ms: int, at_ms: int, one: LeasedRange, *, begun: bool
    ) -> None:
        for entry in self._waiting.take(one.first, one.end):
            entry.deliveries = one.deliveries
            entry.available_at_ms = 0
            entry.first_leased_ms = entry.first_leased_ms or at_ms
            self._leases.hold(lease_id, entry, deadline_ms, begun)

    def _apply_returned(self, change: Returned) -> None:
        for held in self._leases.take(change.lease_id, change.first, change.end):
            entry = held.entry
            entry.deliveries -= not change.counted
            entry.available_at_ms = change.available_at_ms
            entry.alone = entry.alone or change.alone
            self._waiting.add(entry)

    def _apply_died(self, change: Died) -> None:
        if change.lease_id:
            taken = self._leases.take(change.lease_id, change.first, change.end)
            entries = [held.entry for held in taken]
        else:
            entries = self._waiting.take(change.first, change.end)
        self._dying.add(change, entries)

    def _apply_skipped(self, first: int, end: int) -> None:
        self._drop_bodies(self._leases.take_from_all(first, end))
        self._drop_bodies(self._waiting.take(first, end))
        if self.leaving is not None:
            self._drop_bodies(self.leaving.take(first, end))
        self._drop_bodies(self._dying.take(first, end))
        self._settle(first, end)

    def _apply_carried(self, carried: RangeSet) -> None:
        leased = [(lease_id, held) for lease_id, parts in self._leases.items() for held in parts]
        for lease_id, part in leased:
            for first, end in carried.within(part.entry.first, part.entry.end):
                for held in self._leases.take(lease_id, first, end):
                    self._carry(held.entry)
                    self._leases.hold(lease_id, held.entry, held.deadline_ms, held.begun)
        # All lie at the front, and what waits behind them may be a million entries.
        waits = [one for one in self._waiting if one.first < carried.end]
        for waiting in waits:
            for first, end in carried.within(waiting.first, waiting.end):
                for entry in self._waiting.take(first, end):
                    self._carry(entry)
                    self._waiting.add(entry)
        for dying in self._dying.entries():
            for first, end in carried.within(dying.first, dying.end):
                for entry in self._dying.cut(first, end):
                    self._carry(entry)
        leaving = self._leaving_entries()
        for first, end in [one for e in leaving for one in carried.within(e.first, e.end)]:
            self._carry_leaving(first, end)

    def _carry(self, entry: Entry) -> None:
        entry.carried = True
        self._carried.add(entry.first, entry.end)

    def _carry_leaving(self, first: int, end: int) -> None:
        assert self.leaving is not None, "looked at just before"
        taken = self.leaving.take(first, end)
        for entry in taken:
            self._carry(entry)
        self.leaving.entries += taken
        self.leaving.entries.sort(key=lambda one: one.first)

    def _apply_purged(self, first: int, end: int, leased: bool) -> None:
        entries = self._waiting.take(first, end)
        if leased:
            entries += self._leases.take_from_all(first, end)
        for entry in entries:
            self._done_with(entry)
        self._gone.note(first, end, ErrorCode.PURGED)

    def _apply_left(self, landed: bool, ranges: Sequence[tuple[int, int]]) -> None:
        for entry in self._redrives.end(landed, sum(end - first for first, end in ranges)):
            if landed:
                self._done_with(entry)
            else:
                self._waiting.add(entry)
        if landed:
            for first, end in ranges:
                self._gone.note(first, end, ErrorCode.REDRIVEN)

    def _done_with(self, entry: Entry) -> None:
        self._drop_bodies([entry])
        self._settle(entry.first, entry.end)

    def _drop_bodies(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            if entry.carried:
                self._carried.remove(entry.first, entry.end)
                self.bodies_to_drop.append((entry.first, entry.end))

    def _settle(self, first: int, end: int) -> None:
        self._settled.add(first, end)
        lowest = self._settled.first_end()
        while lowest is not None and lowest[0] <= self.floor:
            self.floor = max(self.floor, lowest[1])
            self._settled.remove_below(self.floor)
            lowest = self._settled.first_end()
        self.arrived = max(self.arrived, self.floor)


def _waiting_change(one: Wanted, entry: Entry) -> Moved | Cancelled | None:
    """The change that is wanted; None when the message would expire before."""
    if one.available_at_ms is None:
        return Cancelled(one.offset, one.offset + 1)
    if entry.expires_at_ms and entry.expires_at_ms <= one.available_at_ms:
        return None
    return Moved(one.offset, one.offset + 1, one.available_at_ms)


def _join(ranges: list[LeasedRange], one: LeasedRange) -> None:
    """Append a range, or lengthen the last one."""
    last = ranges[-1] if ranges else None
    if last is not None and last.end == one.first and last.deliveries == one.deliveries:
        ranges[-1] = LeasedRange(last.first, one.end, last.deliveries)
    else:
        ranges.append(one)
