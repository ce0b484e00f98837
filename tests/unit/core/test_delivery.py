"""Queue delivery against a model that keeps a dict of single messages."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mom_core import batch, limits
from mom_core.delivery import (
    Backoff,
    DeadReason,
    Delivery,
    Ordering,
    Policy,
    Run,
    SettleAction,
    TtlFrom,
    WaitingResult,
    Wanted,
    decode_changes,
    encode_changes,
    runs_of_batch,
    ttl,
)
from mom_core.delivery.entries import Entry
from mom_core.delivery.order import OLDEST_STALE_MAX, OldestReady
from mom_core.errors import ErrorCode, OverloadedError
from mom_core.message import Message
from mom_core.partitioner import murmur2
from mom_core.ranges import RangeSet

RUNS = st.lists(
    st.tuples(
        st.integers(1, 5),  # messages
        st.sampled_from([0, 0, 0, 300, 900]),  # delivered so much later
        st.sampled_from([0, 0, 0, 400, 2_000]),  # expires so much later
        st.sampled_from([0, 0, 0, 4, 9]),  # priority
        st.integers(0, 3),  # group
    ),
    min_size=1,
    max_size=3,
)
POLICIES = st.builds(
    Policy,
    ordering=st.sampled_from(Ordering),
    backoff=st.sampled_from([Backoff(), Backoff(50), Backoff(20, 2.0, 70)]),
    max_deliveries=st.sampled_from([0, 1, 2, 3]),
    expired_are_dead=st.booleans(),
)


@dataclass
class One:
    """A message of the model."""

    offset: int
    available_at_ms: int
    expires_at_ms: int
    priority: int
    group: int
    state: str = "waiting"
    """``waiting``, ``leased``, ``dead``, ``leaving`` or ``settled``."""
    lease_id: int = 0
    deadline_ms: int = 0
    deliveries: int = 0
    alone: bool = False
    begun: bool = True
    """Whether its lease counts when it runs out."""
    reason: DeadReason | None = None
    carried: bool = False
    gone: ErrorCode | None = None
    """Why an administrator settled it."""


@dataclass
class Model:
    """Single messages, and the rules in the plainest words."""

    policy: Policy
    messages: dict[int, One] = field(default_factory=dict)
    dead: list[int] = field(default_factory=list)
    """Offsets in the order in which they died."""

    def of(self, state: str) -> list[One]:
        return [one for one in self.messages.values() if one.state == state]

    def ready(self, now_ms: int) -> list[One]:
        return [one for one in self.of("waiting") if one.available_at_ms <= now_ms]

    def leasable(self, now_ms: int) -> list[One]:
        """What a lease of one message might get."""
        ready = self.ready(now_ms)
        if self.policy.ordering is not Ordering.FIFO:
            return ready
        unsettled = [*self.of("waiting"), *self.of("leased")]
        busy = {one.group for one in self.of("leased")}
        return [
            one
            for one in ready
            if not one.group
            or (
                one.group not in busy
                and all(
                    one.offset <= other.offset for other in unsettled if other.group == one.group
                )
            )
        ]

    def fail(self, one: One, now_ms: int, delay_ms: int | None) -> None:
        if self.policy.max_deliveries and one.deliveries >= self.policy.max_deliveries:
            self.die(one, DeadReason.MAX_DELIVERIES)
            return
        if delay_ms is None:
            delay_ms = self.policy.backoff.after(one.deliveries)
        one.state = "waiting"
        one.available_at_ms = now_ms + delay_ms if delay_ms else 0

    def die(self, one: One, reason: DeadReason) -> None:
        one.state, one.reason = "dead", reason
        self.dead.append(one.offset)

    def advance(self, now_ms: int) -> None:
        leases: dict[int, list[One]] = {}
        for one in self.of("leased"):
            leases.setdefault(one.lease_id, []).append(one)
        for members in leases.values():
            due = [one for one in members if one.deadline_ms <= now_ms]
            several = len(members) > 1
            for one in due:
                if several or not one.begun:
                    one.state, one.available_at_ms, one.alone = "waiting", 0, True
                    one.deliveries -= 1
                else:
                    self.fail(one, now_ms, None)
        for one in self.of("waiting"):
            if one.expires_at_ms and one.expires_at_ms <= now_ms:
                if self.policy.expired_are_dead:
                    self.die(one, DeadReason.EXPIRED)
                else:
                    one.state = "settled"


class DeliveryMachine(RuleBasedStateMachine):
    """Random histories: the state machine, its replayed twin and the model must agree."""

    @initialize(policy=POLICIES)
    def begin(self, policy: Policy) -> None:
        self.policy = policy
        self.model = Model(policy)
        self.state = Delivery(0, policy)
        self.runs: list[Run] = []
        self.journal: list = []
        self.stored = Delivery(0, policy).snapshot()
        self.ttls: list[TtlFrom] = []
        """Those of the journal."""
        self.appended: list[tuple[Run, int]] = []
        """The log: what its columns say, and when it came."""
        self.now_ms = 1_000
        self.end = 0
        self.log_start = 0
        self.next_lease_id = 1
        self.leases: dict[int, list[int]] = {}
        self.sent = 0
        self.lanes: dict[tuple[str, int], int] = {}
        self.keep_ttl()

    def did(self, changes: list) -> None:
        self.journal += decode_changes(encode_changes(changes))

    def advance(self) -> None:
        changes = self.state.advance(self.now_ms)
        next_ms = self.state.next_event_ms()
        assert next_ms is None or next_ms > self.now_ms, "a timer would fire for ever"
        self.did(changes)
        before = len(self.model.dead)
        self.model.advance(self.now_ms)
        # Those that die in one step may do so in any order.
        dead = [one.offset for one in self.state.dead()]
        assert sorted(dead[len(dead) - len(self.model.dead) + before :]) == sorted(
            self.model.dead[before:]
        )
        self.model.dead = dead

    @rule(runs=RUNS)
    def append(self, runs: list[tuple[int, int, int, int, int]]) -> None:
        made = []
        for count, deliver_in, expires_in, priority, group in runs:
            run = wish = Run(
                self.end,
                self.end + count,
                self.now_ms + deliver_in if deliver_in else 0,
                self.now_ms + expires_in if expires_in else 0,
                priority if self.policy.ordering is Ordering.PRIORITY else 0,
                group if self.policy.ordering is not Ordering.PRIORITY else 0,
            )
            self.appended.append((wish, self.now_ms))
            run = expiring(wish, self.now_ms, self.policy.ttl_ms)
            assert self.state.ttl_ms(run.first) == self.policy.ttl_ms
            made.append(run)
            for offset in range(run.first, run.end):
                known = self.model.messages.get(offset)
                if known is None:
                    self.model.messages[offset] = One(offset, *msgspec.structs.astuple(run)[2:])
            self.end = run.end
        self.runs += made
        self.state.arrive(made, self.now_ms)

    @rule(elapsed_ms=st.integers(1, 700))
    def time_passes(self, elapsed_ms: int) -> None:
        self.now_ms += elapsed_ms

    @rule(messages_max=st.integers(1, 9), lease_ms=st.integers(1, 900), tells_begin=st.booleans())
    def lease(self, messages_max: int, lease_ms: int, tells_begin: bool) -> None:
        self.advance()
        lease_id = self.next_lease_id
        self.next_lease_id += 1
        leasable = self.model.leasable(self.now_ms)
        paused = self.policy.paused
        assert self.state.has_ready(self.now_ms) == (bool(leasable) and not paused)
        leased = self.state.lease(
            lease_id,
            messages_max=messages_max,
            lease_ms=lease_ms,
            now_ms=self.now_ms,
            tells_begin=tells_begin,
        )
        if paused:
            assert leased is None
            return
        if leased is None:
            assert not leasable
            return
        self.did([leased])
        got = [offset for one in leased.ranges for offset in range(one.first, one.end)]
        assert len(got) == len(set(got)) <= messages_max
        self.check_choice(got, messages_max)
        for one in leased.ranges:
            for offset in range(one.first, one.end):
                message = self.model.messages[offset]
                assert message.state == "waiting", "a second live lease, or one after its ack"
                assert message.available_at_ms <= self.now_ms, "early"
                message.state, message.lease_id = "leased", lease_id
                message.deadline_ms = self.now_ms + lease_ms
                message.deliveries += 1
                message.begun = not tells_begin
                assert (one.deliveries, one.alone) == (message.deliveries, message.alone)
        self.leases[lease_id] = got

    def check_choice(self, got: list[int], messages_max: int) -> None:
        ready = {one.offset: one for one in self.model.ready(self.now_ms)}
        chosen = [ready[offset] for offset in got]
        if any(one.alone for one in chosen):
            assert len(chosen) == 1, "a suspect has company"
        elif len(chosen) < messages_max and self.policy.ordering is not Ordering.FIFO:
            left = [one for one in ready.values() if one.offset not in got]
            assert all(one.alone for one in left) or any(one.alone for one in left)
        match self.policy.ordering:
            case Ordering.FIFO:
                groups = [one.group for one in chosen if one.group]
                assert len(groups) == len(set(groups)), "two of a group"
                leasable = {one.offset for one in self.model.leasable(self.now_ms)}
                assert set(got) <= leasable
                assert got[0] == min(leasable)
            case Ordering.PRIORITY:
                levels = {one.priority for one in ready.values()}
                if len(levels) == 1:
                    assert got == sorted(ready)[: len(got)]
                else:  # One in ten may be the oldest.
                    assert sum(one.priority < max(levels) for one in chosen[:9]) <= 1 or len(
                        [one for one in ready.values() if one.priority == max(levels)]
                    ) < len(chosen)
            case Ordering.FAIR:
                waiting = {one.group for one in ready.values()}
                if len(chosen) <= len(waiting):
                    groups = [one.group for one in chosen]
                    assert len(groups) == len(set(groups)), "a group twice in one round"

    @precondition(lambda self: self.leases)
    @rule(
        data=st.data(),
        action=st.sampled_from(SettleAction),
        delay_ms=st.one_of(st.none(), st.integers(0, 800)),
    )
    def settle(self, data: st.DataObject, action: SettleAction, delay_ms: int | None) -> None:
        lease_id = data.draw(st.sampled_from(sorted(self.leases)))
        offsets = self.leases[lease_id]
        first = max(data.draw(st.integers(min(offsets) - 1, max(offsets))), 0)
        end = data.draw(st.integers(first + 1, max(offsets) + 2))
        if action is SettleAction.EXTEND:
            delay_ms = (delay_ms or 0) + 1
        outcomes, changes = self.state.settle(
            action, lease_id, first, end, now_ms=self.now_ms, delay_ms=delay_ms
        )
        self.did(changes)
        result = {o: one.error for one in outcomes for o in range(one.first, one.end)}
        assert sorted(result) == list(range(first, end))
        for offset in range(first, end):
            assert result[offset] == self.expected_error(offset, lease_id)
            if result[offset] is None:
                self.settle_model(self.model.messages[offset], action, delay_ms)

    def expected_error(self, offset: int, lease_id: int) -> ErrorCode | None:
        one = self.model.messages.get(offset)
        if one is None or offset >= self.state.arrived:
            return ErrorCode.INVALID_RECEIPT
        if one.state == "leased" and one.lease_id == lease_id and one.deadline_ms > self.now_ms:
            return None
        if one.state == "settled":
            return one.gone or ErrorCode.ALREADY_SETTLED
        return ErrorCode.REDRIVEN if one.state == "leaving" else ErrorCode.LEASE_LOST

    def settle_model(self, one: One, action: SettleAction, delay_ms: int | None) -> None:
        match action:
            case SettleAction.ACK:
                one.state = "settled"
            case SettleAction.EXTEND:
                one.deadline_ms = self.now_ms + (delay_ms or 0)
            case SettleAction.BEGIN:
                one.begun = True
            case SettleAction.RELEASE:
                one.state = "waiting"
                one.available_at_ms = self.now_ms + delay_ms if delay_ms else 0
                one.deliveries -= 1
            case SettleAction.NACK:
                self.model.fail(one, self.now_ms, delay_ms)

    @rule(first=st.integers(0, 60), count=st.integers(1, 15))
    def skip(self, first: int, count: int) -> None:
        self.did(self.state.skip(first, first + count))
        for offset in range(first, first + count):
            one = self.model.messages.setdefault(offset, One(offset, 0, 0, 0, 0))
            if one.state == "dead":
                self.model.dead.remove(offset)
            one.state = "settled"

    @rule()
    def pause_or_resume(self) -> None:
        self.policy = msgspec.structs.replace(self.policy, paused=not self.policy.paused)
        self.state.policy = self.policy

    @rule(below=st.integers(0, 60), leased=st.booleans())
    def purge(self, below: int, leased: bool) -> None:
        gone = [
            one
            for one in self.model.messages.values()
            if one.offset < min(below, self.state.arrived)
            and (one.state == "waiting" or (leased and one.state == "leased"))
        ]
        ranges = self.state.purgeable(below, leased=leased)
        count = 0
        for first, end in ranges:
            purged, changes = self.state.purge(first, end, leased=leased)
            count += purged
            self.did(changes)
        assert count == len(gone)
        for one in gone:
            one.state, one.gone = "settled", ErrorCode.PURGED

    @precondition(lambda self: not self.state.leaving)
    @rule(offsets=st.sets(st.integers(0, 40), min_size=1), lane=st.sampled_from("ab"))
    def leave(self, offsets: set[int], lane: str) -> None:
        waiting = [one for one in self.model.of("waiting") if one.offset in offsets]
        waiting = [one for one in waiting if one.offset < self.end]
        changes = self.state.leave("op", lane, offsets)
        assert bool(changes) == bool(waiting)
        self.did(changes)
        for one in waiting:
            one.state = "leaving"

    @precondition(lambda self: self.state.leaving)
    @rule(landed=st.booleans())
    def left(self, landed: bool) -> None:
        batch = self.state.leaving
        lane = self.state.redrives.lane(batch.lane)
        before, count = self.state.redrives.done_of("op"), batch.count
        # A number that may have landed is never given to another batch of its producer.
        used = self.lanes.get((batch.lane, lane.generation), 0)
        assert lane.sequence == used
        self.lanes[batch.lane, lane.generation] = used + 1
        self.did(self.state.left(landed))
        assert self.state.redrives.done_of("op") == before + count * landed
        for one in self.model.of("leaving"):
            one.state = "settled" if landed else "waiting"
            one.gone = ErrorCode.REDRIVEN if landed else None

    @rule(data=st.data())
    def change_waiting(self, data: st.DataObject) -> None:
        """Cancel some messages, move others; among them such as do not wait."""
        self.advance()
        times = st.sampled_from([None, 0, self.now_ms + 100, self.now_ms + 1_500])
        wanted = data.draw(
            st.lists(st.builds(Wanted, st.integers(0, self.end + 2), times), max_size=6)
        )
        expected: dict[int, WaitingResult] = {}
        for place in sorted(range(len(wanted)), key=lambda at: wanted[at].offset):
            expected[place] = self.change_model(*wanted[place])
        results, changes = self.state.change_waiting(wanted)
        assert results == [expected[place] for place in range(len(wanted))]
        self.did(changes)

    def change_model(self, offset: int, at_ms: int | None) -> WaitingResult:
        one = self.model.messages.get(offset)
        if one is None or offset >= self.state.arrived:
            return WaitingResult.UNKNOWN
        if one.state != "waiting":
            return WaitingResult("leased" if one.state == "leaving" else one.state)
        if at_ms is None:
            one.state = "settled"
        elif one.expires_at_ms and one.expires_at_ms <= at_ms:
            return WaitingResult.EXPIRES
        else:
            one.available_at_ms = at_ms
        return WaitingResult.DONE

    @rule(data=st.data())
    def carry(self, data: st.DataObject) -> None:
        self.carry_below(data.draw(st.integers(0, self.end)))

    def carry_below(self, below: int) -> None:
        pinning = self.state.pinning(below)
        assert sorted(o for low, high in pinning for o in range(low, high)) == sorted(
            one.offset
            for one in self.model.messages.values()
            if one.state != "settled" and not one.carried and one.offset < below
        )
        self.did(self.state.carry(pinning))
        for low, high in pinning:
            for offset in range(low, high):
                self.model.messages[offset].carried = True
        self.cut()  # Once the log is trimmed, nothing but a snapshot tells of them.

    def cut(self) -> None:
        self.stored, self.journal, self.ttls = self.state.snapshot(), [], []

    @precondition(lambda self: self.model.dead)
    @rule(data=st.data())
    def dead_letters_land(self, data: st.DataObject) -> None:
        dead = list(self.state.dead())
        assert [one.offset for one in dead] == self.model.dead
        numbers = [one.number for one in dead]
        assert numbers == sorted(set(numbers))
        assert all(number >= self.sent for number in numbers), "a number is used again"
        for one in dead:
            message = self.model.messages[one.offset]
            assert (one.reason, one.deliveries) == (message.reason, message.deliveries)
        upto = data.draw(st.sampled_from(numbers)) + 1
        self.sent = upto
        self.did(self.state.dead_sent(upto))
        for one in dead:
            if one.number < upto:
                self.model.messages[one.offset].state = "settled"
                self.model.dead.remove(one.offset)

    @rule(ttl_ms=st.sampled_from([0, 200, 1_500]))
    def change_ttl(self, ttl_ms: int) -> None:
        """It holds for what comes from now on."""
        self.policy = self.state.policy = msgspec.structs.replace(self.policy, ttl_ms=ttl_ms)
        self.keep_ttl()

    def keep_ttl(self) -> None:
        change = self.state.ttl_change(self.end)
        if change is not None:
            self.state.set_ttl(change)
            self.ttls.append(change)
        assert self.state.ttl_change(self.end) is None

    @rule(cut=st.booleans())
    def restart(self, cut: bool) -> None:
        """Another node takes over; with ``cut`` a snapshot was written just before."""
        if cut:
            self.cut()
        dropped = self.state.bodies_to_drop
        self.state = self.recovered()
        self.state.bodies_to_drop = dropped

    @rule(carry=st.booleans())
    def trim(self, carry: bool) -> None:
        """Retention removes what nobody needs of the log; with ``carry`` all that is known."""
        if carry:
            self.carry_below(self.end)
        floor = self.state.log_floor()
        self.log_start = max([self.log_start, *(one.end for one in self.runs if one.end <= floor)])

    def recovered(self) -> Delivery:
        state = Delivery.restore(self.stored, self.policy)
        for one in self.ttls:
            state.set_ttl(one)
        log = [
            expiring(wish, at_ms, state.ttl_ms(wish.first))
            for wish, at_ms in self.appended
            if wish.end > self.log_start
        ]
        state.arrive([run for run in log if run.end > state.arrived], self.now_ms)
        for change in self.journal:
            state.apply(change)
        if state.arrived < self.log_start:
            carried = RangeSet(state.carried())
            for first, end, kept in list(carried.split(state.arrived, self.log_start)):
                if not kept:
                    state.skip(first, end)
        return state

    @invariant()
    def nothing_is_forgotten(self) -> None:
        counts = self.state.counts(self.now_ms)
        waiting = [one for one in self.model.of("waiting") if one.offset < self.end]
        delayed = [one for one in waiting if one.available_at_ms > self.now_ms]
        assert counts.leased == len(self.model.of("leased")) + len(self.model.of("leaving"))
        assert self.state.backlog == counts.ready + counts.delayed + counts.leased
        unsettled = [
            one.offset
            for one in self.model.messages.values()
            if one.state != "settled" and one.offset < self.state.arrived
        ]
        assert self.state.oldest_unsettled() == min(unsettled, default=None)
        ready = [one.offset for one in waiting if one.available_at_ms <= self.now_ms]
        assert self.state.oldest_ready(self.now_ms) == min(ready, default=None)
        assert counts.delayed == len(delayed)
        assert counts.ready == len(waiting) - len(delayed)
        assert counts.dead == len(self.model.dead)

    @invariant()
    def the_log_is_kept_as_far_as_it_is_needed(self) -> None:
        needed = [
            one.offset
            for one in self.model.messages.values()
            if one.state != "settled" and not one.carried
        ]
        assert self.state.log_floor() == min(needed, default=self.state.arrived)
        dropped = {o for low, high in self.state.bodies_to_drop for o in range(low, high)}
        assert dropped == {
            one.offset
            for one in self.model.messages.values()
            if one.carried and one.state == "settled"
        }

    @rule()
    def a_recovery_gives_the_same(self) -> None:
        twin = self.recovered()
        assert twin.counts(self.now_ms) == self.state.counts(self.now_ms)
        assert twin.floor == self.state.floor
        assert max(twin.arrived, self.log_start) == max(self.state.arrived, self.log_start)
        assert list(twin.dead()) == list(self.state.dead())
        assert shown(twin, self.now_ms) == shown(self.state, self.now_ms)
        assert twin.redrives == self.state.redrives
        assert expiries(twin) == expiries(self.state)

    @invariant()
    def the_next_event_is_never_late(self) -> None:
        due = [one.deadline_ms for one in self.model.of("leased")]
        for one in self.model.of("waiting"):
            if one.offset < self.end:
                due += [at for at in (one.available_at_ms,) if at > self.now_ms]
                due += [at for at in (one.expires_at_ms,) if at]
        event_ms = self.state.next_event_ms()
        if due:
            assert event_ms is not None
            assert event_ms <= min(due)

    def teardown(self) -> None:
        """Whatever happened: each message that is left can be had, exactly once."""
        if not hasattr(self, "state"):
            return
        self.now_ms += 10_000
        self.advance()
        self.now_ms += 10_000
        if self.policy.paused:
            self.pause_or_resume()
        if self.state.leaving:
            self.left(landed=False)
        self.advance()
        left = [one.offset for one in self.model.of("waiting") if one.offset < self.end]
        got: list[int] = []
        lease_id = self.next_lease_id
        while leased := self.state.lease(
            lease_id, messages_max=5, lease_ms=1_000, now_ms=self.now_ms
        ):
            for one in leased.ranges:
                got += range(one.first, one.end)
                self.state.settle(
                    SettleAction.ACK, lease_id, one.first, one.end, now_ms=self.now_ms
                )
            lease_id += 1
        assert sorted(got) == sorted(left), (got, left)


def expiring(wish: Run, at_ms: int, ttl_ms: int) -> Run:
    """A run of the log as it arrives, under a time to live."""
    if not ttl_ms:
        return wish
    expires_at_ms = min(wish.expires_at_ms or at_ms + ttl_ms, at_ms + ttl_ms)
    return msgspec.structs.replace(wish, expires_at_ms=expires_at_ms)


def expiries(state: Delivery) -> dict[int, int]:
    """When each message expires that waits."""
    return {
        offset: entry.expires_at_ms
        for entry in state._waiting
        for offset in range(entry.first, entry.end)
    }


def shown(state: Delivery, now_ms: int) -> list[tuple[int, str, int]]:
    return [
        (offset, one.state, one.deliveries)
        for one in state.outstanding(0, now_ms, 10_000)
        for offset in range(one.first, one.end)
    ]


TestDelivery = DeliveryMachine.TestCase
TestDelivery.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def lease_all(state: Delivery, count: int, now_ms: int = 0) -> list[int]:
    """Lease one message at a time, and say which came."""
    got = []
    for lease_id in range(1, count + 1):
        leased = state.lease(lease_id, messages_max=1, lease_ms=60_000, now_ms=now_ms)
        if leased is None:
            break
        got.append(leased.ranges[0].first)
    return got


def test_too_many_leases_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mom_core.delivery.state.LEASED_MESSAGES_MAX", 10)
    state = Delivery(0)
    state.arrive([Run(0, 100)], 0)
    first = state.lease(1, messages_max=50, lease_ms=1_000, now_ms=0)
    assert first is not None
    assert sum(one.end - one.first for one in first.ranges) == 10
    with pytest.raises(OverloadedError, match="under lease"):
        state.lease(2, messages_max=1, lease_ms=1_000, now_ms=0)
    assert limits.LEASED_MESSAGES_MAX > 10


def test_a_million_messages_in_order_take_no_room() -> None:
    state = Delivery(0)
    for base in range(0, 1_000_000, 250):
        state.arrive([Run(base, base + 250)], 0)
    for lease_id in range(1_000):
        leased = state.lease(lease_id, messages_max=1_000, lease_ms=1_000, now_ms=0)
        assert leased is not None
        (one,) = leased.ranges
        state.settle(SettleAction.ACK, lease_id, one.first, one.end, now_ms=1)
    assert state.floor == 1_000_000
    assert len(state.snapshot()) < 64


def test_a_low_priority_is_never_starved() -> None:
    state = Delivery(0)
    state.arrive([Run(0, 1, priority=0), Run(1, 1_000, priority=9)], 0)
    assert lease_all(state, 20).index(0) < 10


@pytest.mark.parametrize("ordering", Ordering)
def test_a_clock_that_is_set_back_hides_no_message(ordering: Ordering) -> None:
    state = Delivery(0, Policy(ordering=ordering))
    state.arrive([Run(0, 1, deliver_at_ms=1_000)], 0)
    assert state.has_ready(1_000)
    assert state.has_ready(900)
    assert state.oldest_ready(900) == 0
    assert state.lease(1, messages_max=1, lease_ms=100, now_ms=900) is not None


def _ready_by_definition(state: Delivery, now_ms: int) -> int | None:
    ready = (one.first for one in state.outstanding(0, now_ms, 1 << 40) if one.state == "ready")
    return min(ready, default=None)


def _unlike(count: int) -> list[Run]:
    """Messages none of which joins its neighbour, every third of them delayed."""
    return [
        Run(at, at + 1, deliver_at_ms=0 if at % 3 else 10_000, priority=at % 10, group=at % 7)
        for at in range(count)
    ]


@pytest.mark.parametrize("ordering", Ordering)
def test_the_oldest_ready_one_is_told_while_messages_go_and_come_back(ordering: Ordering) -> None:
    state = Delivery(0, Policy(ordering=ordering))
    state.arrive(_unlike(1_000), 0)
    for now_ms in range(1, 400):
        leased = state.lease(now_ms, messages_max=5, lease_ms=300, now_ms=now_ms)
        if leased is not None:
            one = leased.ranges[0]
            action = SettleAction.RELEASE if now_ms % 2 else SettleAction.ACK
            state.settle(action, now_ms, one.first, one.end, now_ms=now_ms)
        assert state.oldest_ready(now_ms) == _ready_by_definition(state, now_ms)
    assert state.oldest_ready(20_000) == _ready_by_definition(state, 20_000)


@pytest.mark.parametrize("ordering", Ordering)
def test_the_oldest_ready_one_costs_the_same_however_many_wait(ordering: Ordering) -> None:
    state = Delivery(0, Policy(ordering=ordering))
    state.arrive(_unlike(200_000), 0)
    state.oldest_ready(1)  # Some orders begin to keep it when it is first asked.
    began = time.process_time()
    for _ in range(1_000):
        assert state.oldest_ready(1) == 1
    # Going through all that waits takes some 10 ms each time: a hundred times this.
    assert time.process_time() - began < 0.1


def test_what_left_takes_no_room_among_the_ready_ones() -> None:
    waiting: dict[int, Entry] = {}
    ready = OldestReady(waiting, 0)
    for first in range(100_000):
        waiting[first] = Entry(first, first + 1)
        ready.add(first)
        if first >= 10:
            del waiting[first - 5]
    assert ready.lowest(0) == min(waiting)
    assert len(ready) <= 2 * len(waiting) + OLDEST_STALE_MAX + 1


def test_a_noisy_group_delays_no_other() -> None:
    state = Delivery(0, Policy(ordering=Ordering.FAIR))
    state.arrive([Run(0, 100_000, group=1)], 0)
    assert lease_all(state, 3) == [0, 1, 2]
    state.arrive([Run(100_000, 100_001, group=2)], 0)
    assert 100_000 in lease_all(state, 2)


def columns_of(several: list[Message], header: str) -> tuple[batch.BatchHeader, bytes]:
    """A batch as a producer makes it that knows of ``header``, or of none."""
    builder = batch.BatchBuilder()
    for one in several:
        group = batch.group_of(one, header) if header else None
        builder.add(one, None if one.key is None else murmur2(one.key), group)
    data = builder.build(base_id=bytes(16), timestamp_ms=1)
    return batch.verify(data), data


def test_a_noisy_header_delays_no_other() -> None:
    policy = Policy(ordering=Ordering.FAIR, groups_by_header=True)
    state = Delivery(0, policy)
    # Keys differ, and do not matter.
    noisy = [Message(b"", b"%d" % one, {"tenant": "noisy"}) for one in range(50_000)]
    quiet = [Message(b"", b"1", {"tenant": "quiet"})]
    for base in (0, 50_000):
        state.arrive(runs_of_batch(*columns_of(noisy, "tenant"), base, 0, policy), 0)
    assert lease_all(state, 3) == [0, 1, 2]
    state.arrive(runs_of_batch(*columns_of(quiet, "tenant"), 100_000, 0, policy), 0)
    assert 100_000 in lease_all(state, 2)


def test_messages_from_before_the_header_was_named_share_by_their_key() -> None:
    policy = Policy(ordering=Ordering.FAIR, groups_by_header=True)
    several = [Message(b"", key, {"tenant": "one"}) for key in (b"a", b"a", b"b")]
    runs = runs_of_batch(*columns_of(several, ""), 0, 0, policy)
    assert [(one.first, one.end) for one in runs] == [(0, 2), (2, 3)]


def test_a_message_that_crashes_its_workers_takes_none_along() -> None:
    state = Delivery(0, Policy(max_deliveries=3))
    state.arrive([Run(0, 10)], 0)
    now_ms, acked = 0, []
    for lease_id in range(1, 21):
        state.advance(now_ms)
        leased = state.lease(lease_id, messages_max=10, lease_ms=100, now_ms=now_ms)
        if leased is None:
            break
        for one in leased.ranges:
            for offset in range(one.first, one.end):
                if offset == 4:  # It takes the worker down before anything is acknowledged.
                    now_ms += 100
                    break
                if len(leased.ranges) == 1 and one.end - one.first == 1:
                    acked.append(offset)
                    state.settle(SettleAction.ACK, lease_id, offset, offset + 1, now_ms=now_ms)
    assert sorted(acked) == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert [(one.offset, one.deliveries) for one in state.dead()] == [(4, 3)]


@pytest.mark.parametrize("recovers", [False, True])
def test_a_worker_that_tells_what_it_begins_may_hold_many(recovers: bool) -> None:
    """It has each message by a lease of its own, and dies when it begins with the fifth."""
    state = Delivery(0, Policy(max_deliveries=3))
    state.arrive([Run(0, 10)], 0)
    now_ms, lease_id, crashes = 0, 0, 0
    acked: list[int] = []
    while state.backlog and crashes < 10:
        state.advance(now_ms)
        held: list[tuple[int, bool, int]] = []
        while (
            leased := state.lease(
                lease_id := lease_id + 1,
                messages_max=1,
                lease_ms=100,
                now_ms=now_ms,
                tells_begin=True,
            )
        ) is not None:
            held.append((leased.ranges[0].first, leased.ranges[0].alone, lease_id))
        for offset, suspect, lease in held:
            if suspect:
                state.settle(SettleAction.BEGIN, lease, offset, offset + 1, now_ms=now_ms)
            if offset == 4:
                crashes += 1
                now_ms += 100
                break
            acked.append(offset)
            state.settle(SettleAction.ACK, lease, offset, offset + 1, now_ms=now_ms)
        if recovers:
            state = Delivery.restore(state.snapshot(), state.policy)
            state.arrive([Run(0, 10)], now_ms)
    assert sorted(acked) == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert [(one.offset, one.deliveries) for one in state.dead()] == [(4, 3)]
    assert crashes == 4, "the first one accused nobody"


def test_the_log_is_kept_for_what_a_new_owner_has_not_read_yet() -> None:
    state = Delivery(0)
    state.arrive([Run(0, 2), Run(2, 4, priority=5)], 0)
    assert lease_all(state, 1) == [2]
    twin = Delivery.restore(state.snapshot())
    assert twin.log_floor() == 0


def test_what_was_lost_ahead_is_unknown_whatever_is_cancelled_with_it() -> None:
    state = Delivery(0)
    state.arrive([Run(0, 1)], 0)
    state.skip(1, 2)
    results, _ = state.change_waiting([Wanted(0, None), Wanted(1, None)])
    assert results == [WaitingResult.DONE, WaitingResult.UNKNOWN]


def trimmed_and_recovered(state: Delivery, changes: list, log: list[Run]) -> Delivery:
    """What the next owner makes of the journal when retention took ``state``'s settled messages."""
    twin = Delivery(0, state.policy)
    twin.arrive([run for run in log if run.first >= state.log_floor()], 0)
    for change in decode_changes(encode_changes(changes)):
        twin.apply(change)
    return twin


def test_a_number_of_a_dead_letter_is_not_used_again_when_the_log_is_gone() -> None:
    state = Delivery(0, Policy(max_deliveries=1))
    log = [Run(0, 2), Run(2, 4)]
    state.arrive(log, 0)
    changes = [*state.address_dead("t"), state.lease(1, messages_max=2, lease_ms=9, now_ms=0)]
    changes += state.settle(SettleAction.NACK, 1, 0, 2, now_ms=1)[1]
    changes += state.dead_sent(2)
    twin = trimmed_and_recovered(state, changes, log)
    assert twin.lease(2, messages_max=2, lease_ms=9, now_ms=2) is not None
    twin.settle(SettleAction.NACK, 2, 2, 4, now_ms=3)
    assert [(one.number, one.offset) for one in twin.dead()] == [(2, 2), (3, 3)]
    assert twin.address_dead("t") == []


def test_what_an_administrator_took_is_known_when_the_log_is_gone() -> None:
    state = Delivery(0)
    log = [Run(0, 2), Run(2, 4), Run(4, 6)]
    state.arrive(log, 0)
    changes = [*state.leave("op", "lane", [0, 1]), *state.left(landed=True)]
    changes += state.purge(2, 4, leased=False)[1]
    twin = trimmed_and_recovered(state, changes, log)
    assert twin.redrives == state.redrives
    assert twin.redrives.done_of("op") == 2
    outcomes, _ = twin.settle(SettleAction.ACK, 1, 0, 4, now_ms=1)
    assert [one.error for one in outcomes] == [ErrorCode.REDRIVEN, ErrorCode.PURGED]


def test_a_time_to_live_that_an_older_version_did_not_keep_is_the_settings() -> None:
    stored = msgspec.msgpack.decode(Delivery(0).snapshot())
    older = msgspec.msgpack.encode(stored[:11])
    state = Delivery.restore(older, Policy(ttl_ms=50))
    assert state.ttl_ms(0) == 50
    change = state.ttl_change(7)
    assert change is not None
    state.set_ttl(change)
    assert [state.ttl_ms(offset) for offset in (0, 7)] == [50, 50]


def test_what_is_kept_of_a_time_to_live_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ttl, "TTL_CHANGES_MAX", 3)
    history = ttl.TtlHistory()
    for first in range(0, 50, 10):
        history.note(TtlFrom(first, 100 + first), floor=0)
    assert [history.of(offset, 0) for offset in (0, 25, 30, 99)] == [120, 120, 130, 140]
    history.note(TtlFrom(60, 7), floor=60)
    assert history.changes == [TtlFrom(60, 7)]
