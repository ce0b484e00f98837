"""A stream-mode subscription's group: which member reads which partition, and how far it got.

A member is known by an id that it chooses and keeps: one that restarts within its session goes on
with the partitions it had. It holds a **session**, which each :meth:`GroupState.acquire` or
:meth:`GroupState.renew` extends, and **leases** of partitions. A lease carries a **generation**
that grows each time the partition is granted; a commit names it, so that a member which lost the
partition without noticing is refused.

Partitions move one at a time. The target is a pure function of members and leases
(:func:`target_assignment`: balanced within one, fewest moves). A partition wanted elsewhere shows
up as ``revoking`` in its holder's view; it is granted to the other member only after the holder
released it or its session ended. All other partitions go on meanwhile: nothing stops the world.

The state changes only in :meth:`GroupState.apply`. A method decides, applies its changes and keeps
them for :meth:`GroupState.drain_changes`; the caller makes them durable before it tells anyone. A
snapshot and the changes after it give the same state again. Deadlines are not part of it, so that
heartbeats cost no write: after a reload :meth:`GroupState.resume` gives every member a whole
session anew. That is safe, since a longer session only keeps others waiting.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias

import msgspec

from mom_core import limits
from mom_core.errors import (
    ConflictError,
    FencedError,
    InvalidArgumentError,
    NotFoundError,
    OverloadedError,
    StoreError,
)
from mom_core.names import check_name

SNAPSHOT_FORMAT: Final = 1
NOT_COMMITTED: Final = -1
"""The committed offset before the first commit: read from the subscription's start position."""


# Changes: what a journal holds. Each is an array of its tag and fields; new fields go to the end.


class Joined(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """A member came, or came back with another session length."""

    member_id: str
    session_ms: int


class Left(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """A member went, and its leases with it."""

    member_id: str


class Granted(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """A member got leases; the generation of each partition grew by one."""

    member_id: str
    partitions: tuple[int, ...]


class Released(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Leases ended."""

    partitions: tuple[int, ...]


class Committed(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """Everything below ``offset`` is done."""

    partition: int
    offset: int


class Grown(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """The topic has more partitions."""

    partition_count: int


Change: TypeAlias = Joined | Left | Granted | Released | Committed | Grown

_changes_decoder: Final = msgspec.msgpack.Decoder(list[Change])


def encode_changes(changes: Sequence[Change]) -> bytes:
    """A journal entry."""
    return msgspec.msgpack.encode(changes)


def decode_changes(data: bytes) -> list[Change]:
    """Read a journal entry. Raises StoreError when it is damaged or a newer version's."""
    try:
        return _changes_decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise StoreError(f"a journal entry of a group can't be read: {error}") from None


class HeldPartition(msgspec.Struct, frozen=True):
    """A lease as its holder sees it."""

    partition: int
    generation: int
    committed: int
    """The offset to read on from, or NOT_COMMITTED."""


class GroupView(msgspec.Struct, frozen=True):
    """What a member has after a call."""

    held: tuple[HeldPartition, ...]
    """All its partitions, sorted."""
    revoking: tuple[int, ...]
    """Those of ``held`` that another member waits for: finish, commit and release them."""
    session_deadline_ms: int
    """By the clock that the caller gave; a call before it keeps the leases."""


class PartitionLease(msgspec.Struct, array_like=True):
    """A partition of the group."""

    generation: int = 0
    holder: str | None = None
    committed: int = NOT_COMMITTED


class _Snapshot(msgspec.Struct, array_like=True):
    snapshot_format: int
    partitions: list[PartitionLease]
    sessions_ms: dict[str, int]


_snapshot_decoder: Final = msgspec.msgpack.Decoder(_Snapshot)


def target_assignment(
    holders: Sequence[str | None], members: Iterable[str]
) -> tuple[str | None, ...]:
    """The member that each partition should go to: balanced within one, fewest moves.

    ``holders[p]`` holds partition p now and is one of ``members``, or None. The order of
    ``members`` makes no difference.
    """
    held: dict[str, list[int]] = {member: [] for member in sorted(members)}
    if not held:
        return (None,) * len(holders)
    target = list(holders)
    free: list[int] = []
    for partition, holder in enumerate(holders):
        if holder is None:
            free.append(partition)
        else:
            held[holder].append(partition)
    least, larger = divmod(len(holders), len(held))
    by_load = sorted(held, key=lambda member: -len(held[member]))
    shares = {member: least + (rank < larger) for rank, member in enumerate(by_load)}
    for member, partitions in held.items():
        free += partitions[shares[member] :]
    # The takers with room in turn; free partitions that can be granted at once come first.
    takers = [m for m, partitions in held.items() for _ in range(shares[m] - len(partitions))]
    for partition, member in zip(free, takers, strict=True):
        target[partition] = member
    return tuple(target)


class GroupState:
    """The group of one stream-mode subscription. Not safe for concurrent use."""

    def __init__(self, partition_count: int) -> None:
        self._partitions = [PartitionLease() for _ in range(partition_count)]
        self._sessions_ms: dict[str, int] = {}
        self._held: dict[str, set[int]] = {}
        self._deadlines_ms: dict[str, int] = {}
        self._target: dict[str, list[int]] | None = None
        self._changes: list[Change] = []

    # What can be seen.

    @property
    def partition_count(self) -> int:
        """How many partitions the topic has, as far as the group knows."""
        return len(self._partitions)

    @property
    def members(self) -> dict[str, int | None]:
        """The session deadline of every member; None between a reload and :meth:`resume`."""
        return {member: self._deadlines_ms.get(member) for member in sorted(self._sessions_ms)}

    @property
    def next_deadline_ms(self) -> int | None:
        """When the next session ends, unless extended; None without members."""
        return min(self._deadlines_ms.values(), default=None)

    def lease(self, partition: int) -> PartitionLease:
        """Generation, holder and committed offset of a partition, as a copy.

        Raises NotFoundError when there is no such partition.
        """
        lease = self._lease(partition)
        return PartitionLease(lease.generation, lease.holder, lease.committed)

    def __eq__(self, other: object) -> bool:
        """Whether both would write the same snapshot."""
        return isinstance(other, GroupState) and self.snapshot() == other.snapshot()

    __hash__ = None  # type: ignore[assignment]

    # What members do.

    def acquire(self, member_id: str, now_ms: int, session_ms: int) -> GroupView:
        """Join or stay in the group for ``session_ms`` from now, and take what can be taken.

        Raises InvalidArgumentError for an ill-formed id or session length, OverloadedError when the
        group is full.
        """
        check_name(member_id, "member_id")
        _check_session(session_ms)
        self.expire(now_ms)
        if self._sessions_ms.get(member_id) != session_ms:
            self._check_room(member_id)
            self._do(Joined(member_id, session_ms))
        self._deadlines_ms[member_id] = now_ms + session_ms
        wanted = self._targets().get(member_id, [])
        granted = tuple(p for p in wanted if self._partitions[p].holder is None)
        if granted:
            self._do(Granted(member_id, granted))
        return self._view(member_id)

    def renew(self, member_id: str, now_ms: int) -> GroupView:
        """Extend the session and take nothing new.

        Raises FencedError when the session has ended: acquire again.
        """
        self.expire(now_ms)
        if member_id not in self._sessions_ms:
            raise FencedError(
                f"member {member_id!r} has no session: it ended, or never began. Acquire again and "
                "read on from the committed offsets",
                field="member_id",
            )
        self._deadlines_ms[member_id] = now_ms + self._sessions_ms[member_id]
        return self._view(member_id)

    def commit(self, member_id: str, partition: int, generation: int, offset: int) -> int:
        """Note that everything below ``offset`` is done, and return the committed offset.

        A lower offset than the committed one changes nothing, so that a late retry does no harm; to
        go back, :meth:`seek`. The caller checks ``offset`` against the high watermark. Raises
        FencedError unless the member holds the partition under this generation, NotFoundError when
        there is no such partition, InvalidArgumentError for an impossible offset.
        """
        lease = self._lease(partition)
        _check_offset(offset)
        if lease.holder != member_id or lease.generation != generation:
            holder = "nobody" if lease.holder is None else f"member {lease.holder!r}"
            raise FencedError(
                f"member {member_id!r} does not hold partition {partition} under generation "
                f"{generation}: {holder} holds it, at generation {lease.generation}. Drop what "
                "was read from it and acquire again",
                field="generation",
                details={"partition": str(partition), "generation": str(lease.generation)},
            )
        if offset > lease.committed:
            self._do(Committed(partition, offset))
        return lease.committed

    def release(self, member_id: str, partitions: Iterable[int] | None = None) -> None:
        """Give up these partitions, or with None all of them and the membership.

        What the member does not hold is passed over, so that repeating it does no harm.
        """
        if partitions is None:
            if member_id in self._sessions_ms:
                self._do(Left(member_id))
            return
        released = tuple(sorted(self._held.get(member_id, set()).intersection(partitions)))
        if released:
            self._do(Released(released))

    # What the subscription's owner does.

    def expire(self, now_ms: int) -> tuple[str, ...]:
        """End the sessions whose deadline has come, and return their members."""
        if not self._deadlines_ms or min(self._deadlines_ms.values()) > now_ms:
            return ()
        ended = sorted(m for m, deadline in self._deadlines_ms.items() if deadline <= now_ms)
        for member_id in ended:
            self._do(Left(member_id))
        return tuple(ended)

    def check_free(self, partition: int) -> None:
        """Raise ConflictError while a member holds the partition, NotFoundError without one."""
        lease = self._lease(partition)
        if lease.holder is not None:
            raise ConflictError(
                f"partition {partition} is held by member {lease.holder!r}: stop the members, "
                "or force the seek, which takes the partition from it",
                details={"member_id": lease.holder},
            )

    def seek(self, partition: int, offset: int, *, force: bool = False) -> None:
        """Set the committed offset, forwards or back.

        Raises ConflictError while a member holds the partition, unless ``force``: then its lease
        ends, and the next grant has a higher generation. Raises NotFoundError or
        InvalidArgumentError as :meth:`commit` does.
        """
        lease = self._lease(partition)
        _check_offset(offset)
        if lease.holder is not None:
            if not force:
                self.check_free(partition)
            self._do(Released((partition,)))
        self._do(Committed(partition, offset))

    def grow(self, partition_count: int) -> None:
        """Follow the topic to more partitions; a count that is not higher changes nothing."""
        if partition_count > len(self._partitions):
            self._do(Grown(partition_count))

    # Journal and snapshot.

    def drain_changes(self) -> list[Change]:
        """The changes since the last call, in order. Make them durable before replying."""
        changes, self._changes = self._changes, []
        return changes

    def snapshot(self) -> bytes:
        """The whole state but the deadlines."""
        sessions_ms = dict(sorted(self._sessions_ms.items()))
        return msgspec.msgpack.encode(_Snapshot(SNAPSHOT_FORMAT, self._partitions, sessions_ms))

    @classmethod
    def restore(cls, snapshot: bytes) -> GroupState:
        """Read a snapshot. Apply the later changes, then :meth:`resume`.

        Raises StoreError when it is damaged or of an unknown format.
        """
        try:
            read = _snapshot_decoder.decode(snapshot)
        except msgspec.MsgspecError as error:
            raise StoreError(f"a group's snapshot can't be read: {error}") from None
        if read.snapshot_format != SNAPSHOT_FORMAT:
            raise StoreError(
                f"a group's snapshot has format {read.snapshot_format}; this version reads "
                f"{SNAPSHOT_FORMAT}. Start the version of MOM that wrote it, or a newer one"
            )
        state = cls(0)
        state._partitions = read.partitions
        state._sessions_ms = read.sessions_ms
        state._held = {member_id: set() for member_id in read.sessions_ms}
        for partition, lease in enumerate(read.partitions):
            if lease.holder is not None:
                state._held[lease.holder].add(partition)
        return state

    def resume(self, now_ms: int) -> None:
        """After a reload: a whole session from now for everyone."""
        self._deadlines_ms = {m: now_ms + session for m, session in self._sessions_ms.items()}

    def apply(self, change: Change) -> None:
        """Make one change. A replay calls it with what :meth:`drain_changes` gave."""
        if isinstance(change, Committed):
            self._partitions[change.partition].committed = change.offset
            return
        self._target = None
        match change:
            case Joined(member_id, session_ms):
                self._sessions_ms[member_id] = session_ms
                self._held.setdefault(member_id, set())
            case Left(member_id):
                for partition in self._held.pop(member_id):
                    self._partitions[partition].holder = None
                del self._sessions_ms[member_id]
                self._deadlines_ms.pop(member_id, None)
            case Granted(member_id, partitions):
                self._grant(member_id, partitions)
            case Released(partitions):
                self._end(partitions)
            case Grown(partition_count):
                added = partition_count - len(self._partitions)
                self._partitions += [PartitionLease() for _ in range(added)]

    def _grant(self, member_id: str, partitions: tuple[int, ...]) -> None:
        for partition in partitions:
            lease = self._partitions[partition]
            assert lease.holder is None, "a partition was granted while another member held it"
            lease.holder = member_id
            lease.generation += 1
        self._held[member_id].update(partitions)

    def _end(self, partitions: tuple[int, ...]) -> None:
        for partition in partitions:
            lease = self._partitions[partition]
            assert lease.holder is not None, "a partition was released that no one held"
            self._held[lease.holder].discard(partition)
            lease.holder = None

    def _do(self, change: Change) -> None:
        self.apply(change)
        self._changes.append(change)

    # Decisions.

    def _targets(self) -> dict[str, list[int]]:
        """The partitions that each member should have."""
        if self._target is None:
            self._target = {member_id: [] for member_id in self._sessions_ms}
            holders = [lease.holder for lease in self._partitions]
            for partition, member_id in enumerate(target_assignment(holders, self._sessions_ms)):
                if member_id is not None:
                    self._target[member_id].append(partition)
        return self._target

    def _view(self, member_id: str) -> GroupView:
        held = sorted(self._held[member_id])
        wanted = set(self._targets()[member_id])
        return GroupView(
            held=tuple(
                HeldPartition(p, self._partitions[p].generation, self._partitions[p].committed)
                for p in held
            ),
            revoking=tuple(p for p in held if p not in wanted),
            session_deadline_ms=self._deadlines_ms[member_id],
        )

    def _lease(self, partition: int) -> PartitionLease:
        if not 0 <= partition < len(self._partitions):
            raise NotFoundError(
                f"partition {partition} does not exist; the topic has 0 to "
                f"{len(self._partitions) - 1}",
                field="partition",
            )
        return self._partitions[partition]

    def _check_room(self, member_id: str) -> None:
        if member_id in self._sessions_ms:
            return
        if len(self._sessions_ms) >= limits.GROUP_MEMBERS_MAX:
            raise OverloadedError(
                f"the subscription has {limits.GROUP_MEMBERS_MAX} members, which is the most; stop "
                "one, or wait until a session ends",
                retry_after_ms=limits.SESSION_MS_DEFAULT,
            )


def _check_session(session_ms: int) -> None:
    if not limits.SESSION_MS_MIN <= session_ms <= limits.SESSION_MS_MAX:
        raise InvalidArgumentError(
            f"session_ms is {session_ms}; {limits.SESSION_MS_MIN} to {limits.SESSION_MS_MAX} is "
            "allowed",
            field="session_ms",
        )


def _check_offset(offset: int) -> None:
    if not 0 <= offset <= limits.OFFSET_MAX:
        raise InvalidArgumentError(
            f"offset is {offset}; 0 to {limits.OFFSET_MAX} is allowed", field="offset"
        )
