"""The store in this process's memory: for unit tests, simulations and ``TestBroker``.

It is also the plainest statement of what the port means: each method runs without an await, so it
is one atomic step of the event loop.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_left, bisect_right
from collections.abc import AsyncIterator, Sequence
from typing import Final

from mom_broker.storage import refusals
from mom_broker.storage.watching import WatchHub
from mom_core import limits, producers
from mom_core.names import PartitionId
from mom_core.ports import (
    Appended,
    AppendOutcome,
    BatchHead,
    Clock,
    Commit,
    CommitResult,
    Durability,
    KeyEvent,
    KeySnapshot,
    KeyValue,
    KeyWrite,
    LeaseGrant,
    Loaded,
    NewBatch,
    PartitionState,
    StoreCapabilities,
    StoredBatch,
    StoreUsage,
    Trimmed,
    TrimRule,
)
from mom_core.trimming import BatchExtent, plan_trim

_CAPABILITIES: Final = StoreCapabilities("memory", Durability.MEMORY, shared=False)


@dataclasses.dataclass(slots=True)
class _Partition:
    epoch: int = 0
    next_offset: int = 0
    log_start: int = 0
    commit_number: int = 0
    size_bytes: int = 0
    last_append_time_ms: int = 0
    last_result: CommitResult | None = None
    batches: list[StoredBatch] = dataclasses.field(default_factory=list)
    # Least recently used first.
    producer_states: dict[int, producers.ProducerState] = dataclasses.field(default_factory=dict)
    journal: list[bytes] = dataclasses.field(default_factory=list)
    snapshot: bytes | None = None
    delivery_bytes: int = 0
    kept: dict[str, bytes] = dataclasses.field(default_factory=dict)
    kept_bytes: int = 0

    def state(self) -> PartitionState:
        return PartitionState(
            epoch=self.epoch,
            next_offset=self.next_offset,
            log_start=self.log_start,
            commit_number=self.commit_number,
            size_bytes=self.size_bytes,
            last_append_time_ms=self.last_append_time_ms,
            gaps=(),
            tail_lost=False,
        )

    def keep_delivery(self, commit: Commit) -> None:
        if commit.snapshot is not None:
            self.snapshot = bytes(commit.snapshot)
            self.journal.clear()
            self.delivery_bytes = len(commit.snapshot)
        elif commit.journal:
            self.journal.append(bytes(commit.journal))
            self.delivery_bytes += len(commit.journal)

    def keep_beside(self, commit: Commit) -> None:
        for key, value in commit.kept.items():
            self.kept_bytes -= len(self.kept.pop(key, b""))
            if value is not None:
                self.kept[key] = bytes(value)
                self.kept_bytes += len(value)

    @property
    def held_bytes(self) -> int:
        return self.size_bytes + self.delivery_bytes + self.kept_bytes

    def append(self, batch: NewBatch) -> Appended:
        state = None
        if batch.producer_id:
            state = self.producer_states.get(batch.producer_id)
            check = producers.check_sequence(state, batch.sequence)
            if check.outcome is not AppendOutcome.APPENDED:
                return Appended(check.outcome, check.base_offset)
        base_offset = self.next_offset
        if batch.count:
            self.batches.append(
                StoredBatch(base_offset, batch.count, batch.append_time_ms, bytes(batch.data))
            )
        self.next_offset += batch.count
        self.size_bytes += len(batch.data)
        self.last_append_time_ms = batch.append_time_ms
        if batch.producer_id:
            self.remember(batch, producers.appended(state, batch.sequence, base_offset))
        return Appended(AppendOutcome.APPENDED, base_offset)

    def remember(self, batch: NewBatch, state: producers.ProducerState) -> None:
        self.producer_states.pop(batch.producer_id, None)
        self.producer_states[batch.producer_id] = state
        passing = (one for one in self.producer_states if one < producers.LASTING_PRODUCER)
        if len(self.producer_states) > limits.PRODUCERS_PER_PARTITION_MAX:
            oldest = next(passing, None)
            if oldest is not None:
                del self.producer_states[oldest]


@dataclasses.dataclass(slots=True)
class _Lease:
    holder: str
    token: int
    expires_at_ms: int


class MemoryStore:
    """A Store of plain dicts. ``capacity_bytes`` bounds what batches and journals take together."""

    def __init__(self, clock: Clock, capacity_bytes: int | None = None) -> None:
        self._clock = clock
        self._capacity_bytes = capacity_bytes
        self._used_bytes = 0
        self._partitions: dict[PartitionId, _Partition] = {}
        self._dropped: set[PartitionId] = set()
        self._entries: dict[str, KeyValue] = {}
        self._leases: dict[str, _Lease] = {}
        self._revision = 0
        self._hub = WatchHub(self._snapshot)

    @property
    def capabilities(self) -> StoreCapabilities:
        """See :class:`mom_core.ports.Store`, as for every method here."""
        return _CAPABILITIES

    def now_ms(self) -> int:
        return self._clock.now_ms()

    async def open(self) -> None:
        """Nothing to verify."""

    async def close(self) -> None:
        self._hub.close()

    async def usage(self) -> StoreUsage:
        return StoreUsage(self._used_bytes, self._capacity_bytes)

    # Partitions.

    async def claim(self, partition: PartitionId, epoch: int) -> PartitionState:
        if partition in self._dropped:
            raise refusals.dropped(partition)
        held = self._partitions.get(partition)
        if held is None:
            held = _Partition()
        if epoch <= held.epoch:
            raise refusals.stale_epoch(partition, epoch, held.epoch)
        self._partitions[partition] = held
        held.epoch = epoch
        held.last_result = None
        return held.state()

    async def load(self, partition: PartitionId, epoch: int) -> Loaded:
        held = self._owned(partition, epoch)
        return Loaded(held.snapshot, tuple(held.journal))

    async def commit(self, commit: Commit) -> CommitResult:
        held = self._owned(commit.partition, commit.epoch)
        if commit.number == held.commit_number and held.last_result is not None:
            return held.last_result
        if commit.number != held.commit_number + 1:
            raise refusals.stale_commit(
                commit.partition, held.epoch, commit.number, held.commit_number
            )
        if commit.grows:
            appended_bytes = sum(len(batch.data) for batch in commit.batches)
            self._check_room(appended_bytes + commit.kept_bytes)
        before = held.held_bytes
        appended = tuple(map(held.append, commit.batches))
        held.keep_delivery(commit)
        held.keep_beside(commit)
        self._used_bytes += held.held_bytes - before
        held.commit_number = commit.number
        held.last_result = CommitResult(appended, held.next_offset, Durability.MEMORY)
        return held.last_result

    async def read(
        self, partition: PartitionId, offset: int, max_bytes: int
    ) -> tuple[StoredBatch, ...]:
        held = self._partitions.get(partition)
        if held is None:
            return ()
        first = bisect_right(held.batches, offset, key=lambda batch: batch.end_offset)
        last, size = first, 0
        while last < len(held.batches):
            size += len(held.batches[last].data)
            if size > max_bytes and last > first:
                break
            last += 1
        return tuple(held.batches[first:last])

    async def read_heads(
        self,
        partition: PartitionId,
        offset: int,
        batches_max: int,
        *,
        bytes_each: int,
        bytes_per_record: int = 0,
    ) -> tuple[BatchHead, ...]:
        held = self._partitions.get(partition)
        if held is None:
            return ()
        first = bisect_right(held.batches, offset, key=lambda batch: batch.end_offset)
        return tuple(
            BatchHead(
                one.base_offset,
                one.count,
                one.append_time_ms,
                one.data[: bytes_each + bytes_per_record * one.count],
            )
            for one in held.batches[first : first + batches_max]
        )

    async def read_kept(
        self, partition: PartitionId, keys: Sequence[str]
    ) -> tuple[bytes | None, ...]:
        held = self._partitions.get(partition)
        return tuple(held.kept.get(key) if held is not None else None for key in keys)

    async def offset_at(self, partition: PartitionId, timestamp_ms: int) -> int:
        held = self._partitions.get(partition)
        if held is None:
            return 0
        found = bisect_left(held.batches, timestamp_ms, key=lambda batch: batch.append_time_ms)
        if found == len(held.batches):
            return held.next_offset
        return max(held.log_start, held.batches[found].base_offset)

    async def trim(self, partition: PartitionId, epoch: int, rule: TrimRule) -> Trimmed:
        held = self._owned(partition, epoch)
        extents = (
            BatchExtent(batch.end_offset, batch.append_time_ms, len(batch.data))
            for batch in held.batches
        )
        plan = plan_trim(
            extents,
            rule,
            log_start=held.log_start,
            next_offset=held.next_offset,
            size_bytes=held.size_bytes,
            batches_max=limits.TRIM_BATCHES_MAX,
        )
        del held.batches[: plan.removed]
        self._used_bytes += plan.size_bytes - held.size_bytes
        held.log_start = plan.log_start
        held.size_bytes = plan.size_bytes
        return Trimmed(plan.log_start, plan.size_bytes, plan.more)

    async def drop(self, partition: PartitionId) -> None:
        self._dropped.add(partition)
        held = self._partitions.pop(partition, None)
        if held is not None:
            self._used_bytes -= held.held_bytes

    def _owned(self, partition: PartitionId, epoch: int) -> _Partition:
        held = self._partitions.get(partition)
        if held is None or held.epoch != epoch:
            if partition in self._dropped:
                raise refusals.dropped(partition)
            raise refusals.stale_epoch(partition, epoch, held.epoch if held else 0)
        return held

    def _check_room(self, new_bytes: int) -> None:
        if self._capacity_bytes is None:
            return
        limit = int(self._capacity_bytes * limits.STORE_HIGH_WATER_RATIO)
        if self._used_bytes + new_bytes > limit:
            raise refusals.store_full(
                "the memory store",
                self._used_bytes,
                limit,
                "shorten retention or raise its capacity",
            )

    # The control plane.

    async def get(self, key: str) -> KeyValue | None:
        return self._entries.get(key)

    async def list(self, prefix: str) -> tuple[KeyValue, ...]:
        return tuple(self._entries[key] for key in sorted(self._entries) if key.startswith(prefix))

    async def write(self, writes: Sequence[KeyWrite]) -> int:
        for write in writes:
            held = self._entries.get(write.key)
            revision = held.revision if held else 0
            if write.expected_revision is not None and write.expected_revision != revision:
                raise refusals.conflict(write.key, write.expected_revision, revision)
        if not writes:
            return self._revision
        self._revision += 1
        for write in writes:
            if write.value is None:
                self._entries.pop(write.key, None)
            else:
                self._entries[write.key] = KeyValue(write.key, bytes(write.value), self._revision)
        self._hub.publish([KeyEvent(one.key, one.value, self._revision) for one in writes])
        return self._revision

    def watch(self, prefix: str) -> AsyncIterator[KeySnapshot | KeyEvent]:
        return self._hub.watch(prefix)

    async def _snapshot(self, prefix: str) -> KeySnapshot:
        return KeySnapshot(await self.list(prefix), self._revision)

    async def acquire_lease(self, name: str, holder: str, ttl_ms: int) -> LeaseGrant:
        now_ms = self.now_ms()
        lease = self._leases.setdefault(name, _Lease("", 0, 0))
        if lease.holder == holder or lease.expires_at_ms <= now_ms:
            if lease.holder != holder:
                lease.holder = holder
                lease.token += 1
            lease.expires_at_ms = now_ms + ttl_ms
        return LeaseGrant(lease.holder, lease.token, lease.expires_at_ms)

    async def release_lease(self, name: str, holder: str) -> None:
        lease = self._leases.get(name)
        if lease is not None and lease.holder == holder:
            lease.holder = ""
            lease.expires_at_ms = 0
