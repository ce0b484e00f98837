"""Nodes that lend one another shares of a rate, through random histories.

Whatever happens to nodes and to what they tell one another, over all of them never more is leased
than the rate and a bucket on each node let through.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from mom_core import limits
from mom_core.delivery.rate import Loan, RateShare

NODES = ("a", "b", "c")
STEP_MS = 50
# How far a node's reading of the store's clock may be off.
CLOCK_OFF_MS = limits.RATE_LOAN_SKEW_MS // 2


@dataclass
class Node:
    """One that asks for what it wants, and knows what it was told."""

    name: str
    clock_off_ms: int
    share: RateShare = field(default_factory=RateShare)
    owned: set[int] = field(default_factory=set)
    """Partitions that it believes to own."""
    is_paused: bool = False


class LendingMachine(RuleBasedStateMachine):
    """Three nodes, a store that fences, and messages that may be late or lost."""

    @initialize(
        rate_per_s=st.sampled_from([3.0, 40.0, 1_000.0]),
        owners=st.lists(st.sampled_from(NODES), min_size=2, max_size=4),
        offs=st.tuples(*[st.sampled_from([-CLOCK_OFF_MS, CLOCK_OFF_MS])] * 3),
    )
    def begin(self, rate_per_s: float, owners: list[str], offs: tuple[int, int, int]) -> None:
        self.rate_per_s = rate_per_s
        self.owners = owners
        self.journal: list[Loan | None] = [None] * len(owners)
        self.time_ms = 1_700_000_000_000
        self.nodes = {name: Node(name, off_ms) for name, off_ms in zip(NODES, offs, strict=True)}
        self.on_the_way: list[tuple[str, int, Loan]] = []
        self.total = 0
        self.lowest = 0.0
        for node in self.nodes.values():
            self.open(node, full=True)

    def now_ms(self, node: Node) -> int:
        return self.time_ms + node.clock_off_ms

    def open(self, node: Node, *, full: bool = False) -> None:
        """Its view is the store's."""
        now_ms = self.now_ms(node)
        node.share.set_rate(self.rate_per_s, len(self.owners), now_ms)
        for index in sorted(node.owned):
            if self.owners[index] != node.name:
                node.owned.discard(index)
                node.share.disown(index, now_ms)
        for index, owner in enumerate(self.owners):
            if owner == node.name and index not in node.owned:
                node.owned.add(index)
                node.share.own(index, self.journal[index], now_ms, full=full)

    @rule(
        steps=st.integers(1, 80),
        busy=st.sets(st.sampled_from(NODES), min_size=1),
    )
    def work(self, steps: int, busy: set[str]) -> None:
        """Time passes, and some nodes have messages and workers."""
        for _ in range(steps):
            self.time_ms += STEP_MS
            for name in sorted(busy):
                self.lease(self.nodes[name])
            self.check_shares()

    def lease(self, node: Node) -> None:
        now_ms = self.now_ms(node)
        if node.is_paused:
            return
        count = node.share.allows(now_ms) or 0
        node.share.take(count, now_ms)
        if any(self.owners[index] == node.name for index in node.owned):
            self.leased(count)  # Else the store refuses it.

    def leased(self, count: int) -> None:
        """In no span of time are there more than the rate brings and the buckets hold."""
        brought = self.rate_per_s * self.time_ms / 1000
        # The span that begins just before what came least beside the rate is the worst.
        self.lowest = min(self.lowest, self.total - brought)
        self.total += count
        buckets = len(NODES) + self.rate_per_s * limits.RATE_BUCKET_MS / 1000
        assert self.total - brought - self.lowest <= buckets + 0.01

    @rule(data=st.data(), borrower=st.sampled_from(NODES))
    def ask(self, data: st.DataObject, borrower: str) -> None:
        """A node asks all others."""
        for lender in self.nodes.values():
            if lender.name != borrower and not lender.is_paused:
                self.lend(lender, borrower)
        if self.on_the_way and data.draw(st.booleans()):
            self.arrive(0)

    def lend(self, lender: Node, borrower: str) -> None:
        """What the store refuses, since the partition is another's, is never told."""
        now_ms = self.now_ms(lender)
        for index in sorted(lender.owned):
            loan = lender.share.offer(index, borrower, now_ms)
            if loan is not None:
                lender.share.lend(index, loan, now_ms)
                if self.owners[index] == lender.name:
                    self.journal[index] = loan
                    self.on_the_way.append((borrower, index, loan))

    @precondition(lambda self: self.on_the_way)
    @rule(place=st.integers(0, 5), lost=st.booleans())
    def answer(self, place: int, lost: bool) -> None:
        """One of the answers arrives, or none ever does."""
        if lost:
            self.on_the_way.pop(place % len(self.on_the_way))
        else:
            self.arrive(place)

    def arrive(self, place: int) -> None:
        name, index, loan = self.on_the_way.pop(place % len(self.on_the_way))
        node = self.nodes[name]
        if not node.is_paused:
            node.share.borrow(index, loan, self.now_ms(node))

    @rule(name=st.sampled_from(NODES))
    def answers_arrive(self, name: str) -> None:
        for place in reversed(range(len(self.on_the_way))):
            if self.on_the_way[place][0] == name:
                self.arrive(place)

    @rule(name=st.sampled_from(NODES), to=st.sampled_from(NODES), index=st.integers(0, 3))
    def move(self, name: str, to: str, index: int) -> None:
        """A partition goes to another node; of a silent node all of them do."""
        old, new = self.nodes[name], self.nodes[to]
        if new.is_paused or old is new:
            return
        theirs = [place for place, owner in enumerate(self.owners) if owner == name]
        for place in theirs if old.is_paused else theirs[index : index + 1]:
            self.owners[place] = to
        if not old.is_paused:
            self.open(old)
        self.open(new)

    @rule(name=st.sampled_from(NODES))
    def pause(self, name: str) -> None:
        self.nodes[name].is_paused = True

    @rule(name=st.sampled_from(NODES), busy=st.booleans())
    def resume(self, name: str, busy: bool) -> None:
        """It goes on where it was, and hears later of what it lost."""
        node = self.nodes[name]
        node.is_paused = False
        if busy:
            self.lease(node)
            self.lend(node, next(one for one in NODES if one != name))
        self.open(node)

    @rule(name=st.sampled_from(NODES), to=st.sampled_from(NODES), steps=st.integers(1, 120))
    def wake_late(self, name: str, to: str, steps: int) -> None:
        """All that a silent node had is another's when it wakes and lends."""
        self.pause(name)
        self.work(steps, set(NODES))
        self.move(name, to, 0)
        self.resume(name, busy=True)
        self.on_the_way.sort(key=lambda one: one[0])
        for borrower in NODES:
            self.answers_arrive(borrower)
        self.work(1, set(NODES))

    @rule(name=st.sampled_from(NODES))
    def restart(self, name: str) -> None:
        """All that it had in memory is gone."""
        node = self.nodes[name] = Node(name, self.nodes[name].clock_off_ms)
        self.open(node)

    def check_shares(self) -> None:
        """A share is at most one node's at any time."""
        awake = [one for one in self.nodes.values() if not one.is_paused]
        now = [one.share._per_s(self.now_ms(one)) for one in awake]
        assert sum(now) <= self.rate_per_s + 0.01


TestLending = LendingMachine.TestCase
TestLending.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize("rate_per_s", [1.0, 40.0, 1_000.0])
def test_one_busy_node_of_three_reaches_the_rate(rate_per_s: float) -> None:
    shares = {name: RateShare() for name in NODES}
    for index, share in enumerate(shares.values()):
        share.set_rate(rate_per_s, len(NODES), 0)
        share.own(index, None, 0)
    busy, taken = shares.pop("a"), {0: 0}
    for now_ms in range(10, 60_000, 10):
        if now_ms % 1_000 == 0:
            for index, share in enumerate(shares.values(), start=1):
                loan = share.offer(index, "a", now_ms)
                assert loan is not None, "it has nothing to do"
                share.lend(index, loan, now_ms)
                busy.borrow(index, loan, now_ms)
        count = busy.allows(now_ms) or 0
        busy.take(count, now_ms)
        taken[now_ms] = taken[now_ms - 10 if now_ms > 10 else 0] + count
    late = taken[59_990] - taken[1_990]
    assert late >= rate_per_s * 57
