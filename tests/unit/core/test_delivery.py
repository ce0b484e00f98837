"""Queue delivery against a model that keeps a dict of single messages."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mom_core import limits
from mom_core.delivery import (
    Delivery,
    SettleAction,
    decode_changes,
    encode_changes,
)
from mom_core.errors import ErrorCode, OverloadedError


@dataclass
class Held:
    """One leased message of the model."""

    lease_id: int
    deadline_ms: int


class DeliveryMachine(RuleBasedStateMachine):
    """Random histories: the state machine, its replayed twin and the model must agree."""

    def __init__(self) -> None:
        super().__init__()
        self.state = Delivery(0)
        self.twin = Delivery(0)
        self.now_ms = 1_000
        self.high_watermark = 0
        self.next_lease_id = 1
        self.held: dict[int, Held] = {}
        self.available: dict[int, int] = {}
        self.deliveries: dict[int, int] = {}
        self.settled: set[int] = set()
        self.leases: dict[int, list[int]] = {}

    def replay(self, changes: list) -> None:
        for change in decode_changes(encode_changes(changes)):
            self.twin.apply(change)

    def expire_model(self) -> None:
        for offset, held in list(self.held.items()):
            if held.deadline_ms <= self.now_ms:
                del self.held[offset]
                self.available[offset] = 0

    @rule(count=st.integers(1, 12))
    def append(self, count: int) -> None:
        for offset in range(self.high_watermark, self.high_watermark + count):
            if offset not in self.settled:
                self.available[offset] = 0
        self.high_watermark += count

    @rule(elapsed_ms=st.integers(1, 700))
    def time_passes(self, elapsed_ms: int) -> None:
        self.now_ms += elapsed_ms

    @rule(messages_max=st.integers(1, 9), lease_ms=st.integers(1, 900))
    def lease(self, messages_max: int, lease_ms: int) -> None:
        self.replay(self.state.expire(self.now_ms))
        self.expire_model()
        lease_id = self.next_lease_id
        self.next_lease_id += 1
        ready = sorted(o for o, at in self.available.items() if at <= self.now_ms)
        assert self.state.has_ready(self.high_watermark, self.now_ms) == bool(ready)
        leased = self.state.lease(
            lease_id,
            messages_max=messages_max,
            lease_ms=lease_ms,
            high_watermark=self.high_watermark,
            now_ms=self.now_ms,
        )
        got = [o for r in leased.ranges for o in range(r.first, r.end)] if leased else []
        # Those that waited come first, in order, then fresh ones: all by offset among themselves.
        seen = [o for o in ready if self.deliveries.get(o) is not None]
        fresh = [o for o in ready if self.deliveries.get(o) is None]
        assert got == (seen + fresh)[:messages_max]
        if leased is None:
            return
        self.replay([leased])
        self.leases[lease_id] = got
        for one in leased.ranges:
            for offset in range(one.first, one.end):
                self.deliveries[offset] = self.deliveries.get(offset, 0) + 1
                assert one.deliveries == self.deliveries[offset]
                assert offset not in self.held, "a second live lease"
                assert offset not in self.settled, "delivered after its ack"
                self.held[offset] = Held(lease_id, self.now_ms + lease_ms)
                del self.available[offset]

    @precondition(lambda self: self.leases)
    @rule(
        data=st.data(),
        action=st.sampled_from(SettleAction),
        delay_ms=st.integers(0, 800),
    )
    def settle(self, data: st.DataObject, action: SettleAction, delay_ms: int) -> None:
        lease_id = data.draw(st.sampled_from(sorted(self.leases)))
        offsets = self.leases[lease_id]
        first = data.draw(st.integers(min(offsets) - 1, max(offsets)))
        end = data.draw(st.integers(first + 1, max(offsets) + 2))
        first = max(first, 0)
        if first >= end:
            return
        if action is SettleAction.EXTEND:
            delay_ms += 1
        outcomes, changes = self.state.settle(
            action, lease_id, first, end, now_ms=self.now_ms, delay_ms=delay_ms
        )
        self.replay(changes)
        result = {o: one.error for one in outcomes for o in range(one.first, one.end)}
        assert sorted(result) == list(range(first, end))
        for offset, error in result.items():
            assert error == self.expected_error(offset, lease_id)
            if error is None:
                self.settle_model(offset, action, delay_ms)

    def expected_error(self, offset: int, lease_id: int) -> ErrorCode | None:
        held = self.held.get(offset)
        if held and held.lease_id == lease_id and held.deadline_ms > self.now_ms:
            return None
        if offset in self.settled:
            return ErrorCode.ALREADY_SETTLED
        if offset >= self.state.cursor:
            return ErrorCode.INVALID_RECEIPT
        return ErrorCode.LEASE_LOST

    def settle_model(self, offset: int, action: SettleAction, delay_ms: int) -> None:
        if action is SettleAction.EXTEND:
            self.held[offset].deadline_ms = self.now_ms + delay_ms
            return
        del self.held[offset]
        if action is SettleAction.ACK:
            self.settled.add(offset)
            return
        self.available[offset] = 0
        if action is SettleAction.NACK and delay_ms:
            self.available[offset] = self.now_ms + delay_ms
        if action is SettleAction.RELEASE:
            self.deliveries[offset] -= 1

    @rule(first=st.integers(0, 60), count=st.integers(1, 15))
    def skip(self, first: int, count: int) -> None:
        self.replay(self.state.skip(first, first + count))
        for offset in range(first, first + count):
            self.held.pop(offset, None)
            self.available.pop(offset, None)
            self.settled.add(offset)

    @rule()
    def reload(self) -> None:
        """The twin is a snapshot of itself: what a restart of the node makes of it."""
        self.twin = Delivery.restore(self.twin.snapshot())

    @invariant()
    def nothing_is_forgotten(self) -> None:
        counts = self.state.counts(self.high_watermark, self.now_ms)
        waiting = [o for o in self.available if o < self.high_watermark]
        delayed = [o for o in waiting if self.available[o] > self.now_ms]
        assert counts.leased == len(self.held)
        assert counts.delayed == len(delayed)
        assert counts.ready == len(waiting) - len(delayed)

    @invariant()
    def a_replay_gives_the_same(self) -> None:
        assert self.twin.counts(self.high_watermark, self.now_ms) == self.state.counts(
            self.high_watermark, self.now_ms
        )
        assert (self.twin.floor, self.twin.cursor) == (self.state.floor, self.state.cursor)

    @invariant()
    def the_next_event_is_never_late(self) -> None:
        due = [held.deadline_ms for held in self.held.values()]
        due += [at for at in self.available.values() if at > self.now_ms]
        event_ms = self.state.next_event_ms()
        if due:
            assert event_ms is not None
            assert event_ms <= min(due)

    def teardown(self) -> None:
        """Whatever happened: once all leases are over, each message can be had, exactly once."""
        self.now_ms += 10_000
        self.state.expire(self.now_ms)
        self.expire_model()
        got: list[int] = []
        while leased := self.state.lease(
            self.next_lease_id,
            messages_max=5,
            lease_ms=1_000,
            high_watermark=self.high_watermark,
            now_ms=self.now_ms,
        ):
            got += [o for one in leased.ranges for o in range(one.first, one.end)]
        assert sorted(got) == sorted(o for o in self.available if o < self.high_watermark)


TestDelivery = DeliveryMachine.TestCase
TestDelivery.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)


def test_too_many_leases_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mom_core.delivery.LEASED_MESSAGES_MAX", 10)
    state = Delivery(0)
    arguments = {"lease_ms": 1_000, "high_watermark": 100, "now_ms": 0}
    first = state.lease(1, messages_max=50, **arguments)
    assert first is not None
    assert sum(one.end - one.first for one in first.ranges) == 10
    with pytest.raises(OverloadedError, match="under lease"):
        state.lease(2, messages_max=1, **arguments)
    assert limits.LEASED_MESSAGES_MAX > 10


def test_a_million_messages_in_order_take_no_room() -> None:
    state = Delivery(0)
    for lease_id in range(1_000):
        leased = state.lease(
            lease_id, messages_max=1_000, lease_ms=1_000, high_watermark=1_000_000, now_ms=0
        )
        assert leased is not None
        state.settle(
            SettleAction.ACK, lease_id, leased.ranges[0].first, leased.ranges[0].end, now_ms=1
        )
    assert state.floor == 1_000_000
    assert len(state.snapshot()) < 64
