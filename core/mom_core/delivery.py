"""Queue delivery: which message of a partition is whose, for one subscription. Pure.

Every offset is in one of these states::

    fresh ──lease──▶ leased ──ack──────────────▶ settled
                      ▲  │
                      │  ├─nack, release, expiry─▶ waiting (ready now, or from a time on)
                      └──lease──────────────────────┘

Fresh offsets lie at and above ``cursor``; settled ones below ``floor`` or in ``_settled``; leased
and waiting ones are ranges, split only where single messages went their own way: the state's size
follows the disorder and not the backlog.

Decide, then act: each public method that changes something returns the changes it made, as small
structs. Applying the same changes to an equal state gives an equal state (:meth:`Delivery.apply`);
that is how a journal brings a partition back on another node. Nothing may leave the node before its
changes are durable.

Times are milliseconds by the store's clock, and come in as arguments.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Final, NamedTuple

import msgspec

from mom_core.errors import ErrorCode, OverloadedError
from mom_core.limits import LEASED_MESSAGES_MAX
from mom_core.ranges import RangeSet

SNAPSHOT_VERSION: Final = 1


class LeasedRange(msgspec.Struct, array_like=True, frozen=True):
    """Offsets [first, end) that were leased together."""

    first: int
    end: int
    deliveries: int
    """How many times these were leased, this time included."""


class Leased(msgspec.Struct, array_like=True, tag="lease", frozen=True):
    """Ranges went to a worker until the deadline."""

    lease_id: int
    deadline_ms: int
    ranges: tuple[LeasedRange, ...]


class Extended(msgspec.Struct, array_like=True, tag="extend", frozen=True):
    """Part of a lease has a new deadline."""

    lease_id: int
    first: int
    end: int
    deadline_ms: int


class Settled(msgspec.Struct, array_like=True, tag="settle", frozen=True):
    """Part of a lease was acknowledged."""

    lease_id: int
    first: int
    end: int


class Released(msgspec.Struct, array_like=True, tag="release", frozen=True):
    """Part of a lease goes back to waiting, to be leased from a time on."""

    lease_id: int
    first: int
    end: int
    available_at_ms: int
    counted: bool
    """Whether this delivery counts as an attempt."""


class Expired(msgspec.Struct, array_like=True, tag="expire", frozen=True):
    """What of a lease had its deadline at or before the time goes back to waiting."""

    lease_id: int
    now_ms: int


class Skipped(msgspec.Struct, array_like=True, tag="skip", frozen=True):
    """Offsets [first, end) are no more: trimmed, lost by the store, or purged."""

    first: int
    end: int


Change = Leased | Extended | Settled | Released | Expired | Skipped


class SettleAction(StrEnum):
    """What a worker says of a message it holds."""

    ACK = "ack"
    NACK = "nack"
    EXTEND = "extend"
    RELEASE = "release"
    """Give back unhandled: the delivery does not count."""


class SettleOutcome(NamedTuple):
    """The result for the offsets [first, end): None is success."""

    first: int
    end: int
    error: ErrorCode | None


class DeliveryCounts(NamedTuple):
    """Messages by state. ``ready`` counts fresh ones too and waiting ones whose time has come."""

    ready: int
    delayed: int
    leased: int


class Outstanding(NamedTuple):
    """Offsets [first, end) that are not settled, as a browser sees them."""

    first: int
    end: int
    state: str
    """``ready``, ``delayed`` or ``leased``."""
    deliveries: int


class _Part(NamedTuple):
    first: int
    end: int
    deliveries: int
    deadline_ms: int


class _Waiting(NamedTuple):
    end: int
    deliveries: int
    available_at_ms: int


class _Snapshot(msgspec.Struct, array_like=True, frozen=True):
    version: int
    floor: int
    cursor: int
    settled: list[tuple[int, int]]
    leases: list[tuple[int, list[tuple[int, int, int, int]]]]
    waiting: list[tuple[int, int, int, int]]


_snapshot_decoder: Final = msgspec.msgpack.Decoder(_Snapshot)


class Delivery:
    """The delivery state of one subscription on one partition."""

    def __init__(self, start: int) -> None:
        """Begin with everything below ``start`` settled."""
        self.floor = start
        self.cursor = start
        self._settled = RangeSet()
        self._leases: dict[int, list[_Part]] = {}
        self._deadlines: list[tuple[int, int]] = []
        self._waiting: dict[int, _Waiting] = {}
        self._ready: list[int] = []
        self._delayed: list[tuple[int, int]] = []
        self._leased_count = 0
        self._waiting_count = 0

    # What stands.

    def counts(self, high_watermark: int, now_ms: int) -> DeliveryCounts:
        """Messages by state at ``now_ms``."""
        delayed = sum(
            entry.end - first
            for first, entry in self._waiting.items()
            if entry.available_at_ms > now_ms
        )
        fresh = sum(end - first for first, end in self._fresh_ranges(high_watermark))
        return DeliveryCounts(fresh + self._waiting_count - delayed, delayed, self._leased_count)

    def ready_at_most(self, high_watermark: int) -> int:
        """A quick upper bound of what could be leased, delayed messages included."""
        return max(0, high_watermark - self.cursor) + self._waiting_count

    def outstanding(
        self, offset: int, high_watermark: int, now_ms: int, messages_max: int
    ) -> list[Outstanding]:
        """What is not settled from ``offset`` on, in order and up to ``messages_max``."""
        found = [
            Outstanding(part.first, part.end, "leased", part.deliveries)
            for parts in self._leases.values()
            for part in parts
        ]
        found += [
            Outstanding(
                first,
                entry.end,
                "delayed" if entry.available_at_ms > now_ms else "ready",
                entry.deliveries,
            )
            for first, entry in self._waiting.items()
        ]
        found += [
            Outstanding(first, end, "ready", 0) for first, end in self._fresh_ranges(high_watermark)
        ]
        shown: list[Outstanding] = []
        for one in sorted(found):
            first = max(one.first, offset)
            end = min(one.end, first + messages_max)
            if messages_max > 0 and first < end:
                shown.append(one._replace(first=first, end=end))
                messages_max -= end - first
        return shown

    def has_ready(self, high_watermark: int, now_ms: int) -> bool:
        """Whether a lease now would get something."""
        if self.cursor < high_watermark:
            return True
        self._wake_delayed(now_ms)
        self._drop_stale_ready(now_ms)
        return bool(self._ready)

    def next_event_ms(self) -> int | None:
        """The earliest time at which a lease ends or a delay is over, None if there is none."""
        self._drop_stale_deadlines()
        self._drop_stale_delayed()
        times = [heap[0][0] for heap in (self._deadlines, self._delayed) if heap]
        return min(times, default=None)

    # What happens.

    def lease(
        self,
        lease_id: int,
        *,
        messages_max: int,
        lease_ms: int,
        high_watermark: int,
        now_ms: int,
    ) -> Leased | None:
        """Lease up to ``messages_max``: first those that wait again, in order, then fresh ones.

        Returns None when nothing is ready. Raises OverloadedError when too many are leased.
        """
        room = LEASED_MESSAGES_MAX - self._leased_count
        if room <= 0:
            raise OverloadedError(
                f"{self._leased_count} messages are under lease on this partition, the most there "
                "may be; ack some first",
                retry_after_ms=1_000,
            )
        ranges = self._choose(min(messages_max, room), high_watermark, now_ms)
        if not ranges:
            return None
        change = Leased(lease_id, now_ms + lease_ms, tuple(ranges))
        self.apply(change)
        return change

    def settle(
        self,
        action: SettleAction,
        lease_id: int,
        first: int,
        end: int,
        *,
        now_ms: int,
        delay_ms: int = 0,
    ) -> tuple[list[SettleOutcome], list[Change]]:
        """Ack, nack, extend or release the offsets [first, end) of a lease.

        ``delay_ms`` is the wait of a nack before the next delivery, and the new length of an
        extended lease from now. Each offset has its own result; one that fails hurts no other.
        """
        outcomes: list[SettleOutcome] = []
        changes: list[Change] = []
        for low, high, held in self._held_pieces(lease_id, first, end, now_ms):
            if held:
                change = _settle_change(action, lease_id, low, high, now_ms, delay_ms)
                self.apply(change)
                changes.append(change)
                outcomes.append(SettleOutcome(low, high, None))
            else:
                outcomes.extend(self._refusals(low, high))
        return outcomes, changes

    def expire(self, now_ms: int) -> list[Change]:
        """End the leases whose deadline has come."""
        changes: list[Change] = []
        while True:
            self._drop_stale_deadlines()
            if not self._deadlines or self._deadlines[0][0] > now_ms:
                return changes
            change = Expired(self._deadlines[0][1], now_ms)
            self.apply(change)
            changes.append(change)

    def skip(self, first: int, end: int) -> list[Change]:
        """Count [first, end) as settled whatever their state, since they are no more."""
        first = max(first, self.floor)
        if first >= end:
            return []
        change = Skipped(first, end)
        self.apply(change)
        return [change]

    # The journal.

    def apply(self, change: Change) -> None:
        """Make a change, decided now or replayed from the journal."""
        match change:
            case Leased():
                self._apply_leased(change)
            case Settled(lease_id, first, end):
                self._take_leased(lease_id, first, end)
                self._settle(first, end)
            case Released(lease_id, first, end, available_at_ms, counted):
                for part in self._take_leased(lease_id, first, end):
                    deliveries = part.deliveries if counted else part.deliveries - 1
                    self._wait(part.first, _Waiting(part.end, deliveries, available_at_ms))
            case Extended(lease_id, first, end, deadline_ms):
                for part in self._take_leased(lease_id, first, end):
                    self._hold(lease_id, part._replace(deadline_ms=deadline_ms))
            case Expired(lease_id, now_ms):
                self._apply_expired(lease_id, now_ms)
            case Skipped(first, end):
                self._apply_skipped(first, end)

    def snapshot(self) -> bytes:
        """The whole state, for :meth:`restore`."""
        return msgspec.msgpack.encode(
            _Snapshot(
                SNAPSHOT_VERSION,
                self.floor,
                self.cursor,
                list(self._settled),
                [(lease_id, list(parts)) for lease_id, parts in self._leases.items()],
                [(first, *entry) for first, entry in sorted(self._waiting.items())],
            )
        )

    @classmethod
    def restore(cls, snapshot: bytes) -> Delivery:
        """The state that :meth:`snapshot` wrote."""
        stored = _snapshot_decoder.decode(snapshot)
        assert stored.version == SNAPSHOT_VERSION, f"delivery snapshot version {stored.version}"
        state = cls(stored.floor)
        state.cursor = stored.cursor
        state._settled = RangeSet(stored.settled)
        for lease_id, parts in stored.leases:
            for part in parts:
                state._hold(lease_id, _Part(*part))
        for first, *entry in stored.waiting:
            state._wait(first, _Waiting(*entry))
        return state

    # Inside: choosing.

    def _choose(self, count: int, high_watermark: int, now_ms: int) -> list[LeasedRange]:
        self._wake_delayed(now_ms)
        ranges: list[LeasedRange] = []
        while count > 0:
            self._drop_stale_ready(now_ms)
            if not self._ready:
                break
            first = heapq.heappop(self._ready)
            if ranges and ranges[-1].first == first:
                continue  # it stood in the heap twice
            entry = self._waiting[first]
            end = min(entry.end, first + count)
            ranges.append(LeasedRange(first, end, entry.deliveries + 1))
            count -= end - first
        for first, end in self._fresh_ranges(high_watermark):
            if count <= 0:
                break
            end = min(end, first + count)
            ranges.append(LeasedRange(first, end, 1))
            count -= end - first
        return ranges

    def _fresh_ranges(self, high_watermark: int) -> Iterator[tuple[int, int]]:
        """What was never leased, without the offsets that are no more."""
        for first, end, skipped in self._settled.split(self.cursor, high_watermark):
            if not skipped:
                yield first, end

    def _held_pieces(
        self, lease_id: int, first: int, end: int, now_ms: int
    ) -> list[tuple[int, int, bool]]:
        """Cut [first, end) into pieces that the lease holds now, and pieces it does not."""
        pieces = []
        for part in sorted(self._leases.get(lease_id, ())):
            low, high = max(first, part.first), min(end, part.end)
            if low >= high or part.deadline_ms <= now_ms:
                continue
            if first < low:
                pieces.append((first, low, False))
            pieces.append((low, high, True))
            first = high
        if first < end:
            pieces.append((first, end, False))
        return pieces

    def _refusals(self, first: int, end: int) -> Iterator[SettleOutcome]:
        if first < self.floor:
            high = min(end, self.floor)
            yield SettleOutcome(first, high, ErrorCode.ALREADY_SETTLED)
            first = high
        if end > self.cursor:
            low = max(first, self.cursor)
            yield SettleOutcome(low, end, ErrorCode.INVALID_RECEIPT)
            end = low
        for low, high, settled in self._settled.split(first, end):
            code = ErrorCode.ALREADY_SETTLED if settled else ErrorCode.LEASE_LOST
            yield SettleOutcome(low, high, code)

    # Inside: changing.

    def _apply_leased(self, change: Leased) -> None:
        for leased in change.ranges:
            if leased.first >= self.cursor:
                self._settle(self.cursor, leased.first)
                self.cursor = leased.end
                self._pass_skipped()
            else:
                self._take_waiting(leased.first, leased.end)
            self._hold(
                change.lease_id,
                _Part(leased.first, leased.end, leased.deliveries, change.deadline_ms),
            )

    def _apply_expired(self, lease_id: int, now_ms: int) -> None:
        for part in [one for one in self._leases[lease_id] if one.deadline_ms <= now_ms]:
            self._take_leased(lease_id, part.first, part.end)
            self._wait(part.first, _Waiting(part.end, part.deliveries, 0))

    def _apply_skipped(self, first: int, end: int) -> None:
        for lease_id, parts in list(self._leases.items()):
            for part in list(parts):
                low, high = max(first, part.first), min(end, part.end)
                if low < high:
                    self._take_leased(lease_id, low, high)
        overlapping = [
            (one, entry) for one, entry in self._waiting.items() if one < end and first < entry.end
        ]
        for one, entry in overlapping:
            self._take_waiting(max(one, first), min(end, entry.end), one)
        if first <= self.cursor:
            self.cursor = max(self.cursor, end)
        self._settle(first, end)
        self._pass_skipped()

    def _hold(self, lease_id: int, part: _Part) -> None:
        self._leases.setdefault(lease_id, []).append(part)
        heapq.heappush(self._deadlines, (part.deadline_ms, lease_id))
        self._leased_count += part.end - part.first

    def _take_leased(self, lease_id: int, first: int, end: int) -> list[_Part]:
        """Take [first, end) out of a lease, and return it in its parts."""
        taken: list[_Part] = []
        kept: list[_Part] = []
        for part in self._leases.get(lease_id, ()):
            low, high = max(first, part.first), min(end, part.end)
            if low >= high:
                kept.append(part)
                continue
            if part.first < low:
                kept.append(part._replace(end=low))
            if high < part.end:
                kept.append(part._replace(first=high))
            taken.append(part._replace(first=low, end=high))
            self._leased_count -= high - low
        if kept:
            self._leases[lease_id] = kept
        else:
            self._leases.pop(lease_id, None)
        return taken

    def _wait(self, first: int, entry: _Waiting) -> None:
        self._waiting[first] = entry
        self._waiting_count += entry.end - first
        if entry.available_at_ms:
            heapq.heappush(self._delayed, (entry.available_at_ms, first))
        else:
            heapq.heappush(self._ready, first)

    def _take_waiting(self, first: int, end: int, begins: int | None = None) -> None:
        """Take [first, end) out of the waiting range that begins at ``begins``."""
        begins = first if begins is None else begins
        entry = self._waiting.pop(begins)
        self._waiting_count -= entry.end - begins
        if begins < first:
            self._wait(begins, entry._replace(end=first))
        if end < entry.end:
            self._wait(end, entry)

    def _pass_skipped(self) -> None:
        """Move the cursor over offsets right above it that are no more."""
        self.cursor = self._settled.end_at(max(self.cursor, self.floor))

    def _settle(self, first: int, end: int) -> None:
        self._settled.add(first, end)
        lowest = self._settled.first_end()
        while lowest is not None and lowest[0] <= self.floor:
            self.floor = max(self.floor, lowest[1])
            self._settled.remove_below(self.floor)
            lowest = self._settled.first_end()

    # Inside: heaps, whose entries may be stale since nothing is removed from their middle.

    def _wake_delayed(self, now_ms: int) -> None:
        while self._delayed and self._delayed[0][0] <= now_ms:
            available_at_ms, first = heapq.heappop(self._delayed)
            entry = self._waiting.get(first)
            if entry is not None and entry.available_at_ms == available_at_ms:
                heapq.heappush(self._ready, first)

    def _drop_stale_ready(self, now_ms: int) -> None:
        """A ready entry is stale when its range went elsewhere or waits again, for a later time."""
        while self._ready:
            entry = self._waiting.get(self._ready[0])
            if entry is not None and entry.available_at_ms <= now_ms:
                return
            heapq.heappop(self._ready)

    def _drop_stale_delayed(self) -> None:
        while self._delayed:
            available_at_ms, first = self._delayed[0]
            entry = self._waiting.get(first)
            if entry is not None and entry.available_at_ms == available_at_ms:
                return
            heapq.heappop(self._delayed)

    def _drop_stale_deadlines(self) -> None:
        while self._deadlines:
            deadline_ms, lease_id = self._deadlines[0]
            if any(part.deadline_ms == deadline_ms for part in self._leases.get(lease_id, ())):
                return
            heapq.heappop(self._deadlines)


def _settle_change(
    action: SettleAction, lease_id: int, first: int, end: int, now_ms: int, delay_ms: int
) -> Change:
    match action:
        case SettleAction.ACK:
            return Settled(lease_id, first, end)
        case SettleAction.EXTEND:
            return Extended(lease_id, first, end, now_ms + delay_ms)
        case SettleAction.NACK:
            return Released(lease_id, first, end, now_ms + delay_ms if delay_ms else 0, True)
        case SettleAction.RELEASE:
            return Released(lease_id, first, end, 0, False)


_changes_encoder: Final = msgspec.msgpack.Encoder()
_changes_decoder: Final = msgspec.msgpack.Decoder(list[Change])


def encode_changes(changes: Sequence[Change]) -> bytes:
    """Changes as a journal holds them."""
    return _changes_encoder.encode(changes)


def decode_changes(data: bytes) -> list[Change]:
    """The changes that :func:`encode_changes` wrote."""
    return _changes_decoder.decode(data)
