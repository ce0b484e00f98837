"""The ports through which time, randomness, the network and the store reach MOM.

Nodes, masters and clients take these as arguments; the simulation and ``TestBroker`` pass fakes.
The Store port is the contract that ``tests/conformance`` checks against every engine.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import Final, NamedTuple, Protocol

import msgspec

from mom_core.names import PartitionId


class Clock(Protocol):
    """Where time comes from."""

    def now_ms(self) -> int:
        """Wall clock, milliseconds since the Unix epoch."""

    def monotonic_ms(self) -> int:
        """A clock that never goes back, milliseconds from an arbitrary start."""

    async def sleep(self, delay_ms: int) -> None:
        """Wait at least ``delay_ms`` of this clock."""


class Random(Protocol):
    """Where unpredictable numbers come from."""

    def bytes(self, count: int) -> bytes:
        """``count`` bytes that can't be guessed."""

    def fraction(self) -> float:
        """A number from 0 (included) to 1 (excluded), for jitter."""


class Transport(Protocol):
    """One call to another MOM process: request bytes in, reply bytes out."""

    async def call(self, address: str, method: str, request: bytes, timeout_ms: int) -> bytes:
        """Call ``method`` (``/mom.v1.Broker/Fetch``) at ``host:port``.

        Raises the MomError that the peer reported, UnavailableError when it can't be reached, or
        TimedOutError.
        """


class Durability(StrEnum):
    """How safe an acknowledged write is, weakest first."""

    MEMORY = "memory"
    OS = "os"
    FSYNC = "fsync"
    REPLICATED = "replicated"
    PROVIDER = "provider"


class StoreCapabilities(NamedTuple):
    """What an engine promises, as checked when it was opened."""

    engine: str
    """``memory``, ``sqlite`` or ``redis``."""
    durability: Durability
    shared: bool
    """Whether several processes may open it at once."""


class StoreUsage(NamedTuple):
    """How full the store is."""

    used_bytes: int
    limit_bytes: int | None
    """The hard limit, None where only the disk limits it."""


class NewBatch(msgspec.Struct, frozen=True):
    """A batch to append. The store looks at nothing but these fields."""

    data: bytes
    count: int
    """0, with no data: nothing to append, but the producer's sequence counts as landed."""
    append_time_ms: int
    """The owner's reading of the store's clock, never lower than the batch before it."""
    producer_id: int = 0
    """0: no idempotence."""
    sequence: int = 0


NEVER_MS: Final = 1 << 52
"""A time after every append time: where a log is then is its end."""


class AppendOutcome(StrEnum):
    """What became of one batch of a commit."""

    APPENDED = "appended"
    DUPLICATE = "duplicate"
    OUT_OF_ORDER = "out_of_order"
    UNKNOWN_PRODUCER = "unknown_producer"


class Appended(NamedTuple):
    """Where a batch landed. ``base_offset`` is -1 for the two refusals."""

    outcome: AppendOutcome
    base_offset: int


NOTHING_KEPT: Final[Mapping[str, bytes | None]] = MappingProxyType({})


class Commit(NamedTuple):
    """One atomic write to a partition by its owner."""

    partition: PartitionId
    epoch: int
    number: int
    """The number of this commit in the partition: one more than the last one's.

    It makes a retry safe: a store that holds commit ``number`` of this epoch already returns its
    result and writes nothing.
    """
    batches: Sequence[NewBatch] = ()
    journal: bytes = b""
    """One opaque journal entry, appended; empty: none."""
    snapshot: bytes | None = None
    """Replaces snapshot and journal (the entry of this same commit included)."""
    kept: Mapping[str, bytes | None] = NOTHING_KEPT
    """Values to keep beside the log under keys of the partition's own; None removes one."""
    makes_room: bool = False
    """What it keeps stands for more that a trim can then remove: a full store takes it."""

    @property
    def kept_bytes(self) -> int:
        """Bytes of the values to keep."""
        return sum(len(value) for value in self.kept.values() if value is not None)

    @property
    def grows(self) -> bool:
        """Whether a full store refuses it."""
        return bool(self.batches) or (self.kept_bytes > 0 and not self.makes_room)


class CommitResult(NamedTuple):
    """The outcome of a commit that is durable at the store's level."""

    appended: tuple[Appended, ...]
    """One for each batch of the commit, in order."""
    next_offset: int
    durability: Durability


class PartitionState(NamedTuple):
    """What the store knows of a partition, as returned by a claim."""

    epoch: int
    next_offset: int
    log_start: int
    """The lowest offset that can be read."""
    commit_number: int
    """The number of the last commit."""
    size_bytes: int
    """Bytes of the batches held."""
    last_append_time_ms: int
    gaps: tuple[tuple[int, int], ...]
    """Offset ranges [first, end) that were skipped since the store had lost its tail."""
    tail_lost: bool
    """Whether this very claim skipped a gap."""


class StoredBatch(msgspec.Struct, frozen=True):
    """A batch as read back."""

    base_offset: int
    count: int
    append_time_ms: int
    data: bytes

    @property
    def end_offset(self) -> int:
        """The offset after the last record."""
        return self.base_offset + self.count


class BatchHead(msgspec.Struct, frozen=True):
    """The beginning of a stored batch."""

    base_offset: int
    count: int
    append_time_ms: int
    head: bytes
    """Its first bytes, as many as were asked for; the whole batch if it has fewer."""

    @property
    def end_offset(self) -> int:
        """The offset after the last record."""
        return self.base_offset + self.count


class Loaded(NamedTuple):
    """A partition's delivery state as stored: apply the snapshot, then each journal entry."""

    snapshot: bytes | None
    journal: tuple[bytes, ...]


class TrimRule(NamedTuple):
    """Which batches to remove from the front: those for which any of the rules holds."""

    before_offset: int | None = None
    """Batches that end at or below it; log_start rises to it even inside a batch."""
    before_time_ms: int | None = None
    """Batches appended before it."""
    keep_bytes: int | None = None
    """As long as more than this many bytes are held. The last batch always stays."""


class Trimmed(NamedTuple):
    """The state after a trim."""

    log_start: int
    size_bytes: int
    more: bool
    """Whether the bounded step left batches that the rule covers: call again."""


class KeyValue(NamedTuple):
    """A control-plane entry."""

    key: str
    value: bytes
    revision: int
    """The store-wide number of the change that wrote it."""


class KeyWrite(NamedTuple):
    """One write of an atomic set of control-plane writes."""

    key: str
    value: bytes | None
    """None deletes."""
    expected_revision: int | None = None
    """None: unconditional. 0: the key must be absent. Else: its revision must be this one."""


class KeyEvent(NamedTuple):
    """A change that a watch saw."""

    key: str
    value: bytes | None
    """None: deleted."""
    revision: int


class KeySnapshot(NamedTuple):
    """All entries under a watched prefix at one revision; whatever was known before is void."""

    entries: tuple[KeyValue, ...]
    revision: int


class LeaseGrant(NamedTuple):
    """The state of a named lease after an attempt to take or renew it."""

    holder: str
    token: int
    """Grows by one whenever the holder changes: a fencing token."""
    expires_at_ms: int
    """By the store's clock."""


class Store(Protocol):
    """Where everything durable lives: partitions, and a small control-plane key space.

    Every method raises StoreError (store_unavailable) when the engine can't be reached or fails;
    what else each one raises is said at it. All methods are safe to call concurrently.
    """

    @property
    def capabilities(self) -> StoreCapabilities:
        """What this engine promises."""

    def now_ms(self) -> int:
        """The store's clock, or this process's within the skew bound that the engine documents."""

    async def open(self) -> None:
        """Connect and verify every setting that the promised durability rests on.

        Raises StoreError (store_misconfigured) that names the setting, its value and the fix.
        """

    async def close(self) -> None:
        """Finish what is under way and let go of files and connections."""

    async def usage(self) -> StoreUsage:
        """How full the store is."""

    # Partitions.

    async def claim(self, partition: PartitionId, epoch: int) -> PartitionState:
        """Become the owner under ``epoch``, creating the partition when it is new.

        Where the store can have lost its tail since the last claim or commit (it failed over, or
        came back as another incarnation), next_offset skips OFFSET_GAP offsets in the same step.
        Raises StaleEpochError unless ``epoch`` is greater than every epoch claimed before (details
        has ``epoch``), NotFoundError when the partition was dropped.
        """

    async def load(self, partition: PartitionId, epoch: int) -> Loaded:
        """The delivery state, for the owner. Raises StaleEpochError as :meth:`commit` does."""

    async def commit(self, commit: Commit) -> CommitResult:
        """Append batches and journal, or replace the snapshot, in one atomic durable step.

        Commits of one partition come one at a time; those of several partitions may be under way
        together, and the engine puts them into one fsync where it can. A batch with a producer id
        is checked in the same step: the sequence after the producer's last one appends; one of its
        last PRODUCER_WINDOW_BATCHES is a DUPLICATE with its first base offset; a new producer
        begins with 0, else UNKNOWN_PRODUCER; all else is OUT_OF_ORDER. A refused batch does not
        keep the others or the journal from landing.

        Raises StaleEpochError when a newer owner claimed the partition or the store lost commits
        (claim again under a higher epoch), StoreError (store_full) at the memory limit when the
        commit :attr:`~Commit.grows`; one with only journal or snapshot still lands.
        """

    async def read(
        self, partition: PartitionId, offset: int, max_bytes: int
    ) -> tuple[StoredBatch, ...]:
        """Batches in order from the one that holds ``offset`` or, if none does, the next one.

        At least one if there is any, then as many as fit into ``max_bytes``. Empty at the end of
        the log, and for a partition that is gone.
        """

    async def read_heads(
        self,
        partition: PartitionId,
        offset: int,
        batches_max: int,
        *,
        bytes_each: int,
        bytes_per_record: int = 0,
    ) -> tuple[BatchHead, ...]:
        """As :meth:`read`, up to ``batches_max`` batches, but only the first bytes of each:
        ``bytes_each``, and ``bytes_per_record`` for each of its records.
        """

    async def read_kept(
        self, partition: PartitionId, keys: Sequence[str]
    ) -> tuple[bytes | None, ...]:
        """What commits kept beside the log under each key; None where there is nothing."""

    async def offset_at(self, partition: PartitionId, timestamp_ms: int) -> int:
        """The first offset held of what was appended at or after the time, else next_offset.

        So the time 0 gives log_start, and :data:`NEVER_MS` next_offset. 0 for a partition that
        was not claimed yet, or was dropped.
        """

    async def trim(self, partition: PartitionId, epoch: int, rule: TrimRule) -> Trimmed:
        """Remove whole batches from the front, a bounded number a call. Works on a full store.

        Raises StaleEpochError when ``epoch`` is not current.
        """

    async def drop(self, partition: PartitionId) -> None:
        """Delete the partition for good; a later claim or commit gets NotFoundError."""

    # The control plane.

    async def get(self, key: str) -> KeyValue | None:
        """One entry."""

    async def list(self, prefix: str) -> tuple[KeyValue, ...]:
        """All entries under a prefix, sorted by key."""

    async def write(self, writes: Sequence[KeyWrite]) -> int:
        """Apply all writes atomically and return the new revision; works on a full store.

        Raises ConflictError (details has ``key``) when an expectation does not hold; then nothing
        was written.
        """

    def watch(self, prefix: str) -> AsyncIterator[KeySnapshot | KeyEvent]:
        """The entries under a prefix, then every change in order.

        Begins with one KeySnapshot, and gives another when changes may have been missed. A store
        that can't be reached does not end the iteration: it goes on when the store is back.
        """

    async def acquire_lease(self, name: str, holder: str, ttl_ms: int) -> LeaseGrant:
        """Take the lease if it is free, expired or ``holder``'s own; return who holds it now."""

    async def release_lease(self, name: str, holder: str) -> None:
        """Give the lease up if ``holder`` has it."""
