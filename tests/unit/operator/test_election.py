"""Two operators over one Lease: never two leaders, and always one again."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mom_core.errors import ErrorCode
from mom_operator.election import (
    LEASE_MS,
    LOOK_MS,
    RENEW_MS,
    STOP_MS,
    Election,
    Sighting,
    may_take,
    record,
)
from mom_operator.kube import KubeError

NOW = datetime(2026, 5, 1, tzinfo=UTC)


def refused(code: int) -> KubeError:
    return KubeError("no", http_code=code, reason="", code=ErrorCode.UNAVAILABLE)


class FakeClock:
    """Time that the test moves."""

    def __init__(self) -> None:
        self.ms = 0

    def now_ms(self) -> int:
        return self.ms

    def monotonic_ms(self) -> int:
        return self.ms

    async def sleep(self, delay_ms: int) -> None:
        self.ms += delay_ms


class FakeLeases:
    """One lease, with versions; unreachable for those who are cut off."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.version = 0

    def seen_by(self, replica: Replica) -> LeasesOf:
        return LeasesOf(self, replica)

    def _stored(self, manifest: dict[str, Any]) -> dict[str, Any]:
        self.version += 1
        self.lease = copy.deepcopy(manifest)
        self.lease["metadata"]["resourceVersion"] = str(self.version)
        return copy.deepcopy(self.lease)


class LeasesOf:
    def __init__(self, leases: FakeLeases, replica: Replica) -> None:
        self._leases = leases
        self._replica = replica

    async def get(self, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
        self._check()
        return copy.deepcopy(self._leases.lease)

    async def create(self, manifest: dict[str, Any]) -> dict[str, Any]:
        self._check()
        if self._leases.lease is not None:
            raise refused(409)
        return self._leases._stored(manifest)

    async def replace(self, manifest: dict[str, Any]) -> dict[str, Any]:
        self._check()
        assert self._leases.lease is not None
        if manifest["metadata"]["resourceVersion"] != str(self._leases.version):
            raise refused(409)
        return self._leases._stored(manifest)

    def _check(self) -> None:
        if self._replica.cut_off:
            raise refused(0)


class Replica:
    """An operator that stands for leader, turn by turn."""

    def __init__(self, leases: FakeLeases, name: str, clock: FakeClock) -> None:
        self.cut_off = False
        self.working = False
        self.clock = clock
        self.election = Election(
            leases.seen_by(self),
            namespace="ns",
            name="lease",
            identity=name,
            clock=clock,
            lead=self._lead,
            stop=self._stop,
        )

    def _lead(self) -> None:
        assert not self.working
        self.working = True

    async def _stop(self) -> None:
        self.working = False

    async def turn(self) -> None:
        await self.election._turn()


def two() -> tuple[FakeClock, Replica, Replica]:
    clock, leases = FakeClock(), FakeLeases()
    return clock, Replica(leases, "a", clock), Replica(leases, "b", clock)


async def test_the_first_leads_and_the_other_waits() -> None:
    clock, a, b = two()
    await a.turn()
    for _ in range(40):
        clock.ms += LOOK_MS
        await b.turn()
        if clock.ms % RENEW_MS < LOOK_MS:
            await a.turn()
    assert (a.working, b.working) == (True, False)


async def test_a_dead_leader_is_replaced_after_its_lease() -> None:
    clock, a, b = two()
    await a.turn()
    await b.turn()
    while not b.working:
        clock.ms += LOOK_MS
        await b.turn()
    assert LEASE_MS <= clock.ms <= LEASE_MS + LOOK_MS


async def test_a_leader_that_is_cut_off_stops_before_another_begins() -> None:
    clock, a, b = two()
    await a.turn()
    await b.turn()
    a.cut_off = True
    while a.working:
        clock.ms += RENEW_MS
        await a.turn()
        await b.turn()
        assert not (a.working and b.working)
    assert LEASE_MS - STOP_MS <= clock.ms < LEASE_MS
    while not b.working:
        clock.ms += LOOK_MS
        await b.turn()
    a.cut_off = False
    await a.turn()
    assert (a.working, b.working) == (False, True)


async def test_a_leader_that_steps_down_leaves_the_lease_free() -> None:
    _, a, b = two()
    await a.turn()
    await a.election._step_down()
    assert not a.working
    await b.turn()
    assert b.working


@pytest.mark.parametrize("holder", ["", "me"])
def test_a_free_lease_and_ones_own_may_be_taken_at_once(holder: str) -> None:
    assert may_take({"holderIdentity": holder}, "me", Sighting("1", 0), 0)


@given(st.integers(0, 60_000), st.integers(1, 30))
def test_anothers_lease_may_be_taken_when_it_stood_still(passed_ms: int, duration_s: int) -> None:
    spec = {"holderIdentity": "other", "leaseDurationSeconds": duration_s}
    taken = may_take(spec, "me", Sighting("1", 0), passed_ms)
    assert taken == (passed_ms >= duration_s * 1000)


def test_changes_of_hands_are_counted() -> None:
    first = record({}, "a", NOW)
    assert (first["leaseTransitions"], first["acquireTime"]) == (0, first["renewTime"])
    again = record(first, "a", datetime(2026, 5, 2, tzinfo=UTC))
    assert (again["leaseTransitions"], again["acquireTime"]) == (0, first["acquireTime"])
    assert record(again, "b", NOW)["leaseTransitions"] == 1
