from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mom_core import limits
from mom_core.errors import (
    ConflictError,
    FencedError,
    InvalidArgumentError,
    NotFoundError,
    OverloadedError,
    StoreError,
)
from mom_core.group import (
    NOT_COMMITTED,
    GroupState,
    GroupView,
    HeldPartition,
    decode_changes,
    encode_changes,
    target_assignment,
)

SESSION_MS = 10_000
MEMBERS = [f"worker-{number}" for number in range(5)]


def partitions_of(view: GroupView) -> list[int]:
    return [held.partition for held in view.held]


def replay(state: GroupState, snapshot: bytes, journal: list[bytes]) -> GroupState:
    again = GroupState.restore(snapshot)
    for entry in journal:
        for change in decode_changes(entry):
            again.apply(change)
    return again


# The target.

holder_lists = st.lists(st.none() | st.sampled_from(MEMBERS), max_size=30)


@given(holder_lists, st.sets(st.sampled_from([*MEMBERS, "x", "y"])))
def test_the_target_is_balanced_with_the_fewest_moves(
    holders: list[str | None], more: set[str]
) -> None:
    members = more | {holder for holder in holders if holder is not None}
    target = target_assignment(holders, members)
    if not members:
        assert target == (None,) * len(holders)
        return
    counts = sorted((Counter(target)[m] for m in members), reverse=True)
    assert sum(counts) == len(holders)
    assert not counts or counts[0] - counts[-1] <= 1
    held = sorted((Counter(holders)[m] for m in members), reverse=True)
    moved = sum(1 for h, t in zip(holders, target, strict=True) if h not in (None, t))
    assert moved == sum(max(0, h - share) for h, share in zip(held, counts, strict=True))
    assert target_assignment(target, members) == target


# The group against a model, with members that misbehave in every way.


class GroupMachine(RuleBasedStateMachine):
    """Random calls; after each, what must never happen is checked."""

    @initialize(partitions=st.integers(1, 12))
    def begin(self, partitions: int) -> None:
        self.now_ms = 1_000
        self.state = GroupState(partitions)
        self.base = self.state.snapshot()
        self.journal: list[bytes] = []
        self.generations = [0] * partitions
        self.committed = [NOT_COMMITTED] * partitions
        # What each member believes it holds, which may be long out of date.
        self.beliefs: dict[str, dict[int, int]] = {}
        self.alive_until_ms: dict[str, int] = {}

    def note(self, member_id: str, view: GroupView) -> None:
        self.beliefs[member_id] = {h.partition: h.generation for h in view.held}
        self.alive_until_ms[member_id] = view.session_deadline_ms
        assert view.session_deadline_ms > self.now_ms
        assert set(view.revoking) <= set(partitions_of(view))

    def live(self, member_id: str) -> bool:
        return self.alive_until_ms.get(member_id, 0) > self.now_ms

    @rule(member_id=st.sampled_from(MEMBERS), session_ms=st.sampled_from([1_000, SESSION_MS]))
    def acquire(self, member_id: str, session_ms: int) -> None:
        kept = self.beliefs.get(member_id, {}) if self.live(member_id) else {}
        view = self.state.acquire(member_id, self.now_ms, session_ms)
        got = {held.partition: held.generation for held in view.held}
        assert kept.items() <= got.items(), "a live member lost a partition"
        for held in view.held:
            assert held.committed == self.committed[held.partition]
        self.note(member_id, view)

    @rule(member_id=st.sampled_from(MEMBERS))
    def renew(self, member_id: str) -> None:
        if self.live(member_id):
            self.note(member_id, self.state.renew(member_id, self.now_ms))
        else:
            with pytest.raises(FencedError):
                self.state.renew(member_id, self.now_ms)

    @rule(member_id=st.sampled_from(MEMBERS), pick=st.integers(0), offset=st.integers(0, 100))
    def commit(self, member_id: str, pick: int, offset: int) -> None:
        beliefs = sorted(self.beliefs.get(member_id, {}).items())
        if not beliefs:
            return
        partition, generation = beliefs[pick % len(beliefs)]
        lease = self.state.lease(partition)
        if (lease.holder, lease.generation) == (member_id, generation):
            done = self.state.commit(member_id, partition, generation, offset)
            self.committed[partition] = max(offset, self.committed[partition])
            assert done == self.committed[partition]
        else:
            assert generation <= lease.generation
            with pytest.raises(FencedError):
                self.state.commit(member_id, partition, generation, offset)

    @rule(member_id=st.sampled_from(MEMBERS), count=st.integers(0, 3))
    def release(self, member_id: str, count: int) -> None:
        given_up = sorted(self.beliefs.get(member_id, {}))[:count]
        self.state.release(member_id, given_up)
        for partition in given_up:
            del self.beliefs[member_id][partition]
            assert self.state.lease(partition).holder != member_id

    @rule(member_id=st.sampled_from(MEMBERS))
    def leave(self, member_id: str) -> None:
        self.state.release(member_id)
        self.alive_until_ms.pop(member_id, None)
        assert member_id not in self.state.members

    @rule(delay_ms=st.integers(1, SESSION_MS), expire=st.booleans())
    def time_passes(self, delay_ms: int, expire: bool) -> None:
        self.now_ms += delay_ms
        if expire:
            self.state.expire(self.now_ms)
            assert all(map(self.live, self.state.members))

    @precondition(lambda self: self.state.partition_count < 20)
    @rule(more=st.integers(0, 4))
    def grow(self, more: int) -> None:
        self.state.grow(self.state.partition_count + more)
        self.generations += [0] * more
        self.committed += [NOT_COMMITTED] * more

    @rule(pick=st.integers(0), offset=st.integers(0, 100), force=st.booleans())
    def seek(self, pick: int, offset: int, force: bool) -> None:
        partition = pick % self.state.partition_count
        holder = self.state.lease(partition).holder
        if holder is not None and not force:
            with pytest.raises(ConflictError):
                self.state.seek(partition, offset)
            return
        self.state.seek(partition, offset, force=force)
        self.committed[partition] = offset
        if holder is not None:
            del self.beliefs[holder][partition]

    @rule(compact=st.booleans())
    def owner_dies(self, compact: bool) -> None:
        """Another node loads snapshot and journal; everyone gets a whole session."""
        self.drain(compact)
        again = replay(self.state, self.base, self.journal)
        assert again == self.state
        again.resume(self.now_ms)
        self.state = again
        for member_id, deadline_ms in again.members.items():
            assert deadline_ms is not None
            self.alive_until_ms[member_id] = deadline_ms

    def drain(self, compact: bool) -> None:
        self.journal.append(encode_changes(self.state.drain_changes()))
        if compact:
            self.base, self.journal = self.state.snapshot(), []

    @rule()
    def settles(self) -> None:
        """Members that only heartbeat, and release what is asked for, end up balanced."""
        self.state.expire(self.now_ms)
        members = list(self.state.members)
        for _ in range(3):
            for member_id in members:
                view = self.state.acquire(member_id, self.now_ms, SESSION_MS)
                self.state.release(member_id, view.revoking)
        views = [self.state.acquire(m, self.now_ms, SESSION_MS) for m in members]
        for member_id, view in zip(members, views, strict=True):
            self.note(member_id, view)
            assert not view.revoking
        counts = [len(view.held) for view in views]
        assert not counts or max(counts) - min(counts) <= 1
        assert not counts or sum(counts) == self.state.partition_count

    @invariant()
    def one_live_lease_and_growing_generations(self) -> None:
        for partition in range(self.state.partition_count):
            lease = self.state.lease(partition)
            assert lease.generation >= self.generations[partition]
            self.generations[partition] = lease.generation
            assert lease.committed == self.committed[partition]
            believers = [
                member_id
                for member_id, held in self.beliefs.items()
                if self.live(member_id) and partition in held
            ]
            assert len(believers) <= 1
            assert not believers or believers == [lease.holder]

    @invariant()
    def the_journal_gives_an_equal_state(self) -> None:
        self.drain(compact=False)
        assert replay(self.state, self.base, self.journal) == self.state


GroupMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestGroupMachine = GroupMachine.TestCase


# Examples.


def test_a_partition_moves_only_after_its_holder_released_it() -> None:
    state = GroupState(4)
    first = state.acquire("a", 0, SESSION_MS)
    assert partitions_of(first) == [0, 1, 2, 3]
    assert partitions_of(state.acquire("b", 0, SESSION_MS)) == []
    assert state.renew("a", 1).revoking == (2, 3)
    state.commit("a", 3, 1, 77)
    state.release("a", [3])
    assert state.acquire("b", 2, SESSION_MS).held == (HeldPartition(3, 2, 77),)
    with pytest.raises(FencedError, match="generation 2"):
        state.commit("a", 3, 1, 78)


def test_a_silent_member_loses_its_partitions_at_its_deadline() -> None:
    state = GroupState(2)
    state.acquire("a", 0, 1_000)
    state.acquire("b", 0, SESSION_MS)
    assert state.next_deadline_ms == 1_000
    assert partitions_of(state.acquire("b", 999, SESSION_MS)) == []
    assert partitions_of(state.acquire("b", 1_000, SESSION_MS)) == [0, 1]


def test_a_member_that_restarts_in_time_keeps_what_it_had() -> None:
    state = GroupState(2)
    before = state.acquire("a", 0, SESSION_MS)
    assert state.acquire("a", 9_999, SESSION_MS).held == before.held


def test_a_heartbeat_writes_nothing() -> None:
    state = GroupState(2)
    state.acquire("a", 0, SESSION_MS)
    assert state.drain_changes()
    state.acquire("a", 5_000, SESSION_MS)
    state.renew("a", 6_000)
    assert state.drain_changes() == []


def test_a_late_commit_never_goes_back() -> None:
    state = GroupState(1)
    state.acquire("a", 0, SESSION_MS)
    assert [state.commit("a", 0, 1, offset) for offset in (5, 3, 6)] == [5, 5, 6]


def test_more_members_than_partitions() -> None:
    state = GroupState(1)
    assert partitions_of(state.acquire("a", 0, SESSION_MS)) == [0]
    assert partitions_of(state.acquire("b", 0, SESSION_MS)) == []
    assert state.renew("a", 1).revoking == ()


def test_the_group_is_bounded() -> None:
    state = GroupState(1)
    for number in range(limits.GROUP_MEMBERS_MAX):
        state.acquire(f"m{number}", 0, SESSION_MS)
    with pytest.raises(OverloadedError) as caught:
        state.acquire("one-more", 0, SESSION_MS)
    assert caught.value.retry_after_ms
    state.acquire("m0", 1, SESSION_MS)


def test_bad_arguments_are_named() -> None:
    state = GroupState(1)
    state.acquire("a", 0, SESSION_MS)
    for member_id, session_ms, field in (("", SESSION_MS, "member_id"), ("a", 5, "session_ms")):
        with pytest.raises(InvalidArgumentError) as caught:
            state.acquire(member_id, 0, session_ms)
        assert caught.value.field == field
    with pytest.raises(InvalidArgumentError, match="offset is -1"):
        state.commit("a", 0, 1, -1)
    for partition in (-1, 1):
        with pytest.raises(NotFoundError, match="partition"):
            state.commit("a", partition, 1, 0)
        with pytest.raises(NotFoundError, match="partition"):
            state.seek(partition, 0)


@pytest.mark.parametrize("data", [b"", b"\x93\x02\x90\x80", b"\xff"])
def test_a_snapshot_that_can_not_be_read_is_refused(data: bytes) -> None:
    with pytest.raises(StoreError, match="snapshot"):
        GroupState.restore(data)
    with pytest.raises(StoreError, match="journal entry"):
        decode_changes(b"\x91\x91\x63")
