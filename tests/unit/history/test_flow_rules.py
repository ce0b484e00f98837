"""The rules of order and rate find nothing in what the real state machines decide."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from e2e.history import events
from e2e.history.checker import check
from e2e.history.events import Action, AnyEvent, Outcome
from mom_core.delivery import Delivery, Policy, Run, SettleAction
from mom_core.delivery.entries import Entry
from mom_core.delivery.order import FairOrder, PriorityOrder
from mom_core.delivery.policy import Ordering
from mom_core.delivery.rate import RateBucket

WORKERS = 3
RATE_PER_S = 1.0
# Nobody is so slow: what is leased is settled.
LEASE_S = 100_000.0
SEEDS = st.integers(0, 2**32 - 1)
PROFILE = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@dataclass
class _Worker:
    """A worker; ``held`` is the lease that it has to settle next, and when it had the answer."""

    client: str
    asked_at: float = 0.0
    held: tuple[int, int, str] | None = None
    answered_at: float = 0.0


@dataclass
class Partition:
    """A partition as it is, and workers whose calls lie around what it decides."""

    random: Random
    ordering: Ordering
    now: float = 100.0
    written: list[AnyEvent] = field(default_factory=list)
    offset: int = 0
    leases: int = 0
    sent: dict[int, tuple[int, int]] = field(default_factory=dict)
    """The priority and group of each message."""

    def __post_init__(self) -> None:
        self.delivery = Delivery(0, Policy(ordering=self.ordering))
        self.bucket = RateBucket(RATE_PER_S, self.now_ms, full=True)
        self.workers = [_Worker(f"sdk-{number}") for number in range(WORKERS)]
        fair = self.ordering is Ordering.FAIR
        self.written += [events.Client(one.client, "sdk", True, True) for one in self.workers]
        self.written.append(
            events.Queue(
                "queue", self.ordering.value, priorities=not fair, rate_per_s=RATE_PER_S, burst=1
            )
        )
        for one in self.workers:
            one.asked_at = self.now

    @property
    def now_ms(self) -> int:
        return int(self.now * 1000)

    def pass_time(self) -> None:
        self.now += self.random.random() * 0.4

    def send(self) -> None:
        """A message arrives; its reply comes later."""
        self.pass_time()
        priority, group = self.random.randrange(10), self.random.choice([1, 1, 1, 1, 2, 3])
        offset, self.offset = self.offset, self.offset + 1
        wish = {"group": group} if self.ordering is Ordering.FAIR else {"priority": priority}
        self.delivery.arrive([Run(offset, offset + 1, **wish)], self.now_ms)
        self.sent[offset] = (priority, group)
        begin, end = self.now - 0.1, self.now + self.random.random() * 0.3
        self.written += [
            events.Send(
                "sdk-0", offset, "queue", f"m{offset}", None, begin,
                priority=wish.get("priority", 0), group=str(group),
            ),
            events.Sent("sdk-0", offset, end, 0, offset, "fsync"),
        ]  # fmt: skip

    def surge(self) -> None:
        """Many messages in a moment."""
        for _ in range(self.random.randrange(40)):
            self.send()
            self.now -= 0.1

    def receive(self) -> None:
        """One who asks gets what is next."""
        self.pass_time()
        worker = self.random.choice(self.workers)
        allowed = self.bucket.allows(self.now_ms)
        if worker.held is not None or worker.asked_at > self.now or not allowed:
            return
        lease = self.delivery.lease(
            self.leases, messages_max=1, lease_ms=int(LEASE_S * 1000), now_ms=self.now_ms
        )
        if lease is None:
            return
        self.bucket.take(1, self.now_ms)
        (one,) = lease.ranges
        name = f"lease-{self.leases}"
        worker.held = (self.leases, one.first, name)
        self.leases += 1
        worker.answered_at = self.now + self.random.random() * 0.3
        self.written.append(
            events.Lease(
                worker.client, name, "queue", 0, one.first, f"m{one.first}", one.deliveries,
                worker.asked_at, worker.answered_at, LEASE_S,
            )
        )  # fmt: skip

    def settle(self) -> None:
        """A worker is done, or gives its message back; then it asks again."""
        worker = self.random.choice(self.workers)
        if worker.held is None:
            return
        self.now = max(self.now, worker.answered_at)
        lease_id, offset, name = worker.held
        action = SettleAction.ACK if self.random.random() < 0.8 else SettleAction.NACK
        self.delivery.settle(action, lease_id, offset, offset + 1, now_ms=self.now_ms)
        worker.held, worker.asked_at = None, self.now + 0.01
        self.written.append(
            events.Settle(
                worker.client, name, Action(action.name.lower()), self.now, self.now + 0.01,
                Outcome.OK,
            )
        )  # fmt: skip

    def move(self) -> None:
        """Another node takes it over, from its snapshot and what its log tells."""
        self.delivery = Delivery.restore(self.delivery.snapshot(), self.delivery.policy)
        for offset in range(self.delivery.arrived, self.offset):
            priority, group = self.sent[offset]
            fair = self.ordering is Ordering.FAIR
            run = Run(offset, offset + 1, priority=0 if fair else priority, group=group * fair)
            self.delivery.arrive([run], self.now_ms)
        self.bucket = RateBucket(RATE_PER_S, self.now_ms, full=False)


def run(random: Random, ordering: Ordering, steps: int) -> list[AnyEvent]:
    """What the clients of a partition write down until it is empty, with a takeover meanwhile."""
    partition = Partition(random, ordering)
    for step in range(steps):
        random.choice(
            [partition.send, partition.surge, *[partition.receive, partition.settle] * 12]
        )()
        if step == steps // 2:
            partition.move()
    return worked_off(partition)


@pytest.mark.parametrize("ordering", [Ordering.PRIORITY, Ordering.FAIR])
@PROFILE
@given(seed=SEEDS, steps=st.integers(0, 200))
def test_what_a_partition_decides_has_no_finding(ordering: Ordering, seed: int, steps: int) -> None:
    assert check(run(Random(seed), ordering, steps)).findings == []


Choice = Callable[[Entry], tuple[int, ...]]
BROKEN: dict[str, tuple[Ordering, Choice, str]] = {
    "the lowest first": (Ordering.PRIORITY, lambda one: (one.priority, -one.first), "out of turn"),
    "the newest first": (Ordering.PRIORITY, lambda one: (-one.first,), "out of turn"),
    "priorities are ignored": (Ordering.PRIORITY, lambda one: (one.first,), "low before high"),
    "nothing saves the low": (Ordering.PRIORITY, lambda one: (-one.priority, one.first), "starved"),
    "turns are ignored": (Ordering.FAIR, lambda one: (one.first,), "beyond its turn"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_partition_that_decides_otherwise_is_found(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ordering, choice, rule = BROKEN[case]

    def next_of(order: Any, now_ms: int) -> tuple[Entry, int] | None:
        ready = [one for one in order._waiting.values() if one.available_at_ms <= now_ms]
        return (min(ready, key=choice), 1) if ready else None

    monkeypatch.setattr(PriorityOrder, "next", next_of)
    monkeypatch.setattr(FairOrder, "next", next_of)
    assert check(worked_off(after_surges(Partition(Random(1), ordering)))).of(rule)


def test_a_partition_that_forgets_its_rate_is_found() -> None:
    partition = Partition(Random(1), Ordering.FAIR)
    partition.bucket = RateBucket(10 * RATE_PER_S, partition.now_ms, full=False)
    assert check(worked_off(after_surges(partition))).of("faster than its rate")


def after_surges(partition: Partition) -> Partition:
    """A partition where much waits."""
    for _ in range(5):
        partition.surge()
    return partition


def worked_off(partition: Partition) -> list[AnyEvent]:
    """What is written down until nothing is left."""
    while partition.delivery.backlog:
        partition.random.choice([partition.receive, partition.settle])()
    return [*partition.written, events.Drained("queue", 0, partition.now)]
