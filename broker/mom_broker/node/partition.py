"""One partition that this node owns: appending with group commit, and reading.

While one store write is in flight, the next one gathers: batches of producers and journal entries
of the delivery states, up to a bound. Replies go out when the write is durable, and only then the
high watermark moves and readers are woken.

The memory of a partition runs ahead of the store by what is in flight. So when a write fails in a
way that leaves its outcome open, the partition is **lost**: everyone waiting gets the error, the
object is thrown away, and the node claims the partition again under a higher epoch and loads what
is durable.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple

from mom_broker.node.append_times import AppendTime, AppendTimes
from mom_broker.node.bodies import (
    KeptBodies,
    KeptBody,
    batch_of_body,
    body_key,
    dropped_entry,
    kept_entry,
)
from mom_broker.node.cache import BatchCache, Tail
from mom_broker.node.dedup import DedupBudget, Deduplicator
from mom_broker.node.sequences import LandedSequences
from mom_broker.node.signal import Signal
from mom_core import batch as codec
from mom_core.dedup import BatchIds
from mom_core.delivery.carrying import lowest
from mom_core.errors import (
    ErrorCode,
    InvalidArgumentError,
    MomError,
    OffsetError,
    OverloadedError,
    ProducerError,
    RoutingError,
    StoreError,
    TooLargeError,
)
from mom_core.limits import (
    COMMIT_BATCHES_MAX,
    COMMIT_BYTES_MAX,
    FETCH_BYTES_DEFAULT,
    JOURNAL_BYTES_MAX,
    KEPT_READS_MAX,
    KEPT_VALUES_PER_COMMIT_MAX,
    MESSAGE_TTL_MS_MIN,
    NODE_PENDING_BYTES_MAX,
    PARTITION_PENDING_BYTES_MAX,
    TRIM_BATCHES_MAX,
)
from mom_core.names import PartitionId
from mom_core.ports import (
    Appended,
    AppendOutcome,
    BatchHead,
    Commit,
    CommitResult,
    Durability,
    NewBatch,
    PartitionState,
    Store,
    StoredBatch,
    Trimmed,
    TrimRule,
)
from mom_core.topics import TopicConfig
from mom_core.trimming import BatchExtent, TrimPlan, plan_trim

_log = logging.getLogger(__name__)

# A record is its value and some: names of fields, key, headers within their own limits.
_RECORD_OVERHEAD_BYTES: Final = 64 * 1024


class Landed(NamedTuple):
    """Where a batch is in the log, durably."""

    base_offset: int
    durability: Durability
    duplicate: bool
    left_out: tuple[tuple[int, int], ...] = ()
    """Places in the batch whose dedup_id had landed before, each with that message's offset."""


class PendingBudget:
    """Bytes that wait for the store over all partitions of a node."""

    def __init__(self, bytes_max: int = NODE_PENDING_BYTES_MAX) -> None:
        self.bytes_max = bytes_max
        self.bytes = 0


class Arrived(NamedTuple):
    """A batch that can be read now."""

    base_offset: int
    append_time_ms: int
    header: codec.BatchHeader
    data: bytes


class _PendingAppend(NamedTuple):
    data: bytes
    header: codec.BatchHeader
    landed: asyncio.Future[Landed]
    ids: BatchIds | None
    """The dedup ids of all its messages; None: it has none."""
    left_out: tuple[int, ...] = ()
    """Places that :attr:`data` does not have, since their ids had landed before."""

    @property
    def records(self) -> int:
        return self.header.count if self.data else 0


class _PendingKeep(NamedTuple):
    """Values to keep beside the log, with the journal entry that tells of them."""

    values: Mapping[str, bytes | None]
    entry: bytes
    makes_room: bool
    done: asyncio.Future[None]
    on_kept: Callable[[], None]
    """Called as soon as it is durable, before anything else is committed."""

    @property
    def size_bytes(self) -> int:
        return sum(len(value) for value in self.values.values() if value is not None)


class Partition:
    """A partition under one epoch of ownership."""

    def __init__(
        self,
        partition: PartitionId,
        state: PartitionState,
        *,
        config: Callable[[], TopicConfig],
        store: Store,
        cache: BatchCache,
        budget: PendingBudget,
        dedup_budget: DedupBudget,
        on_lost: Callable[[Partition, MomError], None],
        snapshot: Callable[[], bytes],
    ) -> None:
        """Take over what a claim returned.

        ``config`` gives the topic's settings of the moment, ``snapshot`` the delivery state of all
        subscriptions, and ``on_lost`` is told once when this ownership is over.
        """
        self.id = partition
        self.epoch = state.epoch
        self.high_watermark = state.next_offset
        self.log_start = state.log_start
        self.size_bytes = state.size_bytes
        self.gaps = state.gaps
        self.arrived = Signal()
        """Wakes readers when the high watermark moved."""
        self.on_arrival: list[Callable[[Sequence[Arrived]], None]] = []
        """Told of batches as they can be read, in order; of none when the ownership ends."""
        self.lost: MomError | None = None
        self.backlog: Callable[[], int] = lambda: 0
        """How many messages of a queue wait or are leased."""
        self.journal_bytes = 0
        self.sequences = LandedSequences()
        self.bodies = KeptBodies()
        self.dedup = Deduplicator(config, store.now_ms, dedup_budget)
        self._config = config
        self._store = store
        self._cache = cache
        self._tail = Tail()
        self._append_times = AppendTimes()
        self._budget = budget
        self._on_lost = on_lost
        self._snapshot = snapshot
        self._commit_number = state.commit_number
        self._last_append_time_ms = state.last_append_time_ms
        self._appends: deque[_PendingAppend] = deque()
        self._pending_bytes = 0
        self._pending_messages = 0
        self._journal: list[bytes] = []
        self._journalled: asyncio.Future[None] | None = None
        self._snapshot_wanted = False
        self._snapshotted: asyncio.Future[None] | None = None
        self._keeps: deque[_PendingKeep] = deque()
        self._committing: asyncio.Task[None] | None = None

    @property
    def config(self) -> TopicConfig:
        """The topic's settings now."""
        return self._config()

    # Appending.

    def append(self, data: bytes) -> asyncio.Future[Landed]:
        """Queue a batch from outside for the next commit; the result is durable when it comes.

        Raises CorruptBatchError, TooLargeError, OverloadedError, InvalidArgumentError, or what
        ended the ownership.
        """
        self._check_owned()
        header = codec.verify(data)
        self._check_sizes(header, data)
        self._check_room(len(data))
        if not self.sequences.landed(header):
            self._check_full(len(data))
            self._check_length(header.count)
            self._check_delays(header, data)
        ids = self.dedup.take_in(header, data)
        landed: asyncio.Future[Landed] = asyncio.get_running_loop().create_future()
        self._appends.append(_PendingAppend(data, header, landed, ids))
        self._pending_bytes += len(data)
        self._pending_messages += header.count
        self._budget.bytes += len(data)
        self._commit_soon()
        return landed

    def journal(self, entry: bytes) -> asyncio.Future[None]:
        """Queue a journal entry for the next commit, in the order of the calls.

        The future is shared by the entries of one commit; shield it from cancellation by waiting.
        """
        self._check_owned()
        self._journal.append(entry)
        self._commit_soon()
        if self._journalled is None:
            self._journalled = asyncio.get_running_loop().create_future()
            # Not every caller waits for its entry; an error reaches those who do.
            self._journalled.add_done_callback(_retrieve)
        return self._journalled

    async def write_snapshot(self) -> None:
        """Write a snapshot of what is known now. Raises what ended the ownership."""
        self._check_owned()
        self._snapshot_wanted = True
        self._commit_soon()
        if self._snapshotted is None:
            self._snapshotted = asyncio.get_running_loop().create_future()
            self._snapshotted.add_done_callback(_retrieve)
        await asyncio.shield(self._snapshotted)

    # Beside the log.

    def keep(
        self,
        values: Mapping[str, bytes | None],
        entry: bytes,
        *,
        makes_room: bool = False,
        on_kept: Callable[[], None] = lambda: None,
    ) -> asyncio.Future[None]:
        """Keep values beside the log, or remove them, with a journal entry in the same commit.

        The future fails alone when a full store refuses the values, which it does unless they make
        room.
        """
        self._check_owned()
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.add_done_callback(_retrieve)
        self._keeps.append(_PendingKeep(values, entry, makes_room, done, on_kept))
        self._commit_soon()
        return done

    async def keep_bodies(
        self, values: Mapping[int, bytes], append_times_ms: Sequence[int]
    ) -> None:
        """Keep the bodies of single messages. Raises StoreError (store_full) when there is no room.

        Nobody needs them yet: :meth:`KeptBodies.hold` says who does.
        """
        bodies = [
            KeptBody(offset, len(value), time_ms)
            for (offset, value), time_ms in zip(values.items(), append_times_ms, strict=True)
        ]
        keyed = {body_key(offset): value for offset, value in values.items()}
        on_kept = partial(self.bodies.add, bodies)
        await asyncio.shield(self.keep(keyed, kept_entry(bodies), on_kept=on_kept))

    async def keep_ids(self, below: int) -> None:
        """Keep the dedup ids of the log below an offset, which is about to be trimmed."""
        found = self.dedup.segment_below(below)
        if found is not None:
            await asyncio.shield(self.keep(found.values, found.entry, makes_room=True))

    def drop_old_ids(self) -> None:
        """Forget dedup ids whose window is over."""
        self.dedup.expire()
        found = self.dedup.expired_segments()
        if found is not None:
            self.keep(found.values, found.entry)

    async def read_kept(self, keys: list[str]) -> tuple[bytes | None, ...]:
        """Values beside the log."""
        return await self._store.read_kept(self.id, keys)

    def release_bodies(self, ranges: Iterable[tuple[int, int]]) -> None:
        """One subscription is done with the kept bodies of these offsets."""
        released = list(ranges)
        self.bodies.release(released)
        self.drop_unneeded(released)

    def drop_unneeded(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Remove the kept bodies among these that nobody needs."""
        if self.lost is not None:
            return
        while gone := lowest(self.bodies.unneeded(ranges), KEPT_VALUES_PER_COMMIT_MAX):
            keys = [body_key(offset) for first, end in gone for offset in range(first, end)]
            self.bodies.remove(gone)
            self.keep(dict.fromkeys(keys), dropped_entry(gone))

    def _check_owned(self) -> None:
        if self.lost is not None:
            raise self.lost

    def _check_sizes(self, header: codec.BatchHeader, data: bytes) -> None:
        limit = self.config.message_bytes_max + _RECORD_OVERHEAD_BYTES
        if header.records_length > limit and codec.largest_record(header, data) > limit:
            raise TooLargeError(
                f"a message is larger than the {self.config.message_bytes_max} bytes that "
                f"{self.config.name!r} allows (message_bytes_max)",
                field="value",
                details={"limit_bytes": str(self.config.message_bytes_max)},
            )

    def _check_room(self, size: int) -> None:
        over_partition = self._pending_bytes + size > PARTITION_PENDING_BYTES_MAX
        if over_partition or self._budget.bytes + size > self._budget.bytes_max:
            raise OverloadedError(
                f"partition {self.id.index} of {self.config.name!r} has {self._pending_bytes} "
                "bytes waiting for the store, which is the most it takes; send more slowly",
                retry_after_ms=200,
            )

    def _check_full(self, size: int) -> None:
        """Refuse messages of a topic or queue that holds as many bytes as it may."""
        config = self.config
        held = self.size_bytes + self.bodies.bytes
        if config.refuses_when_full and held + size > config.retention_bytes:
            raise OverloadedError(
                f"{config.kind} {config.name!r} is full: partition {self.id.index} holds {held} "
                f"bytes and retention_bytes is {config.retention_bytes}; handle and ack messages, "
                "or raise retention_bytes",
                retry_after_ms=1_000,
            )

    def _check_length(self, coming: int) -> None:
        """Refuse messages of a queue that would be longer than it may be.

        A batch of more messages than the bound lands whole when there is any room: batches are
        atomic, and it would else never land. The SDK's are smaller.
        """
        config = self.config
        share = config.partition_messages_max
        if not share:
            return
        count = self.backlog() + self._pending_messages
        if count >= share or count + coming > share >= coming:
            raise OverloadedError(
                f"queue {config.name!r} is full: partition {self.id.index} holds {count} messages, "
                f"{coming} more came, and its share of messages_max ({config.messages_max}) is "
                f"{share}; receive and ack messages, purge the queue, or raise messages_max",
                retry_after_ms=1_000,
                details={"messages": str(count), "messages_max": str(config.messages_max)},
            )

    def _check_delays(self, header: codec.BatchHeader, data: bytes) -> None:
        """Refuse messages of a queue that would expire before they may be delivered.

        What a producer wants to be refused alone it sends alone: a batch is atomic.
        """
        queue = self.config.queue
        if queue is None or not queue.message_ttl_ms:
            return
        deliver_at_ms = max(codec.column(header, data, codec.COLUMN_DELIVER_AT))
        expires_at_ms = self._store.now_ms() + queue.message_ttl_ms
        # A delay as long as the expiry would leave it a moment, by the time that it took to come.
        if deliver_at_ms + MESSAGE_TTL_MS_MIN > expires_at_ms:
            raise InvalidArgumentError(
                f"a message would expire ({expires_at_ms}, as message_ttl_ms of queue "
                f"{self.config.name!r} is {queue.message_ttl_ms}) before it may be delivered "
                f"({deliver_at_ms}), or less than {MESSAGE_TTL_MS_MIN} ms after that; deliver it "
                "sooner, or raise message_ttl_ms",
                field="deliver_at_ms",
            )

    # Group commit.

    def _commit_soon(self) -> None:
        if self._committing is None:
            self._committing = asyncio.create_task(self._commit_all(), name=f"commit {self.id}")

    async def _commit_all(self) -> None:
        try:
            while self._appends or self._journal or self._snapshot_wanted or self._keeps:
                await self._commit_next()
        except MomError as error:
            self.lose(error)
        except Exception as error:
            _log.exception("commit of %s failed", self.id)
            self.lose(MomError(f"the commit of partition {self.id} failed: {error!r}"))
        finally:
            self._committing = None

    async def _commit_next(self) -> None:
        appends = self._take_appends()
        # Counted now: those that a full store refuses are taken out of the list.
        size = sum(len(one.data) for one in appends)
        messages = sum(one.header.count for one in appends)
        taken_in = [one.ids for one in appends if one.ids is not None]
        seen = self._left_out(appends)
        keeps = self._take_keeps()
        journal = b"".join((*self._journal, seen))
        waiting: list[asyncio.Future[None]] = []
        if self._journalled is not None:
            waiting.append(self._journalled)
        self._journal, self._journalled = [], None
        snapshot = None
        wanted = self._snapshot_wanted or self.journal_bytes + len(journal) > JOURNAL_BYTES_MAX
        # What is being kept is not known yet: a snapshot of now would leave it out.
        if wanted and not self._keeps and not any(one.size_bytes for one in keeps):
            snapshot, self._snapshot_wanted = self._snapshot(), False
            if self._snapshotted is not None:
                waiting.append(self._snapshotted)
                self._snapshotted = None
        try:
            result = await self._write(appends, keeps, journal, snapshot)
        except MomError as error:
            _fail(appends, (*waiting, *_futures(keeps)), error)
            raise
        except BaseException:
            _fail(appends, (*waiting, *_futures(keeps)), self._interrupted())
            raise
        finally:
            self._pending_bytes -= size
            self._pending_messages -= messages
            self._budget.bytes -= size
            for ids in taken_in:
                self.dedup.let_go(ids)
        written = len(journal) + sum(len(one.entry) for one in keeps)
        self.journal_bytes = 0 if snapshot is not None else self.journal_bytes + written
        for one in keeps:
            one.on_kept()
        for future in (*waiting, *_futures(keeps)):
            if not future.done():
                future.set_result(None)
        if result is not None:
            self._landed(appends, result)

    def _left_out(self, appends: list[_PendingAppend]) -> bytes:
        """Leave out what landed before under the same dedup ids; the journal's entry of it."""
        if all(one.ids is None for one in appends):
            return b""
        self.dedup.expire()
        for place, one in enumerate(appends):
            if one.ids is not None:
                appends[place] = _without(one, self.dedup.window.duplicates(one.ids))
        return self.dedup.first_ids(self.high_watermark)

    def _take_keeps(self) -> list[_PendingKeep]:
        taken: list[_PendingKeep] = []
        room, count = COMMIT_BYTES_MAX, KEPT_VALUES_PER_COMMIT_MAX
        while self._keeps:
            room -= self._keeps[0].size_bytes
            count -= len(self._keeps[0].values)
            if taken and (room < 0 or count < 0):
                break
            taken.append(self._keeps.popleft())
        return taken

    def _take_appends(self) -> list[_PendingAppend]:
        taken: list[_PendingAppend] = []
        room = COMMIT_BYTES_MAX
        seen: list[frozenset[bytes]] = []
        while self._appends and len(taken) < COMMIT_BATCHES_MAX:
            following = self._appends[0]
            if taken and len(following.data) > room:
                break
            if following.ids is not None:
                if any(not following.ids.distinct.isdisjoint(one) for one in seen):
                    break  # Whether it is a duplicate is known when the one before has landed.
                seen.append(following.ids.distinct)
            room -= len(following.data)
            taken.append(self._appends.popleft())
        return taken

    async def _write(
        self,
        appends: list[_PendingAppend],
        keeps: list[_PendingKeep],
        journal: bytes,
        snapshot: bytes | None,
    ) -> CommitResult | None:
        """Commit, and on a full store commit what takes no room. None: nothing was appended."""
        self._last_append_time_ms = max(self._last_append_time_ms, self._store.now_ms())
        batches = tuple(
            NewBatch(
                one.data,
                one.records,
                self._last_append_time_ms,
                one.header.producer_id,
                one.header.sequence,
            )
            for one in appends
        )
        commit = Commit(self.id, self.epoch, self._commit_number + 1, batches, journal, snapshot)
        commit = _with_kept(commit, keeps)
        try:
            result = await self._store.commit(commit)
        except StoreError as error:
            if error.code is not ErrorCode.STORE_FULL or not commit.grows:
                raise
            refused = [one for one in keeps if one.size_bytes and not one.makes_room]
            _fail(appends, _futures(refused), error)
            appends.clear()
            keeps[:] = [one for one in keeps if not one.size_bytes or one.makes_room]
            if not journal and snapshot is None and not keeps:
                return None
            await self._store.commit(
                _with_kept(commit._replace(batches=(), journal=journal), keeps)
            )
            result = None
        self._commit_number += 1
        return result

    def _landed(self, appends: list[_PendingAppend], result: CommitResult) -> None:
        arrived: list[Arrived] = []
        for one, appended in zip(appends, result.appended, strict=True):
            if appended.outcome is AppendOutcome.APPENDED and one.ids is not None:
                self.dedup.landed(
                    self._last_append_time_ms, appended.base_offset, one.ids.hashes, one.left_out
                )
            if appended.outcome is AppendOutcome.APPENDED and one.records:
                arrived.append(
                    Arrived(appended.base_offset, self._last_append_time_ms, one.header, one.data)
                )
                self.size_bytes += len(one.data)
                self.sequences.note(one.header)
                stored = StoredBatch(
                    appended.base_offset, one.header.count, self._last_append_time_ms, one.data
                )
                if self.lost is None:
                    self._cache.append(self._tail, stored)
        if arrived:
            self.high_watermark = result.next_offset
        for one, appended in zip(appends, result.appended, strict=True):
            _reply(one, appended, result.durability, self._duplicates(one, appended))
        if arrived:
            self.arrived.wake_all()
            for listener in self.on_arrival:
                listener(arrived)

    def _duplicates(self, one: _PendingAppend, appended: Appended) -> tuple[tuple[int, int], ...]:
        """The messages of a batch that were left out of it, with the offsets of the first ones."""
        if one.ids is None or appended.base_offset < 0:
            return ()
        window = self.dedup.window
        if appended.outcome is AppendOutcome.DUPLICATE:
            return tuple(window.duplicates_of_landed(appended.base_offset, one.ids.hashes))
        firsts = ((place, window.offset_of(one.ids.hashes[place])) for place in one.left_out)
        return tuple((place, offset) for place, offset in firsts if offset is not None)

    def lose(self, error: MomError) -> None:
        """End this ownership: everyone waiting gets the error or an empty answer."""
        if self.lost is not None:
            return
        self.lost = error
        appends, self._appends = list(self._appends), deque()
        self._budget.bytes -= sum(len(one.data) for one in appends)
        for one in appends:
            if one.ids is not None:
                self.dedup.let_go(one.ids)
        self.dedup.close()
        waiting = [one for one in (self._journalled, self._snapshotted) if one is not None]
        self._journal, self._journalled, self._snapshotted = [], None, None
        keeps, self._keeps = list(self._keeps), deque()
        _fail(appends, (*waiting, *_futures(keeps)), error)
        self._cache.drop(self.id, self._tail)
        self.arrived.wake_all()
        for listener in self.on_arrival:
            listener(())
        self._on_lost(self, error)

    def _interrupted(self) -> MomError:
        return RoutingError(f"partition {self.id} moves to another owner; try again")

    async def finish(self) -> None:
        """Wait until what was accepted is committed."""
        while self._committing is not None:
            await asyncio.wait((self._committing,))

    # Reading.

    async def read(self, offset: int, bytes_max: int) -> tuple[StoredBatch, ...]:
        """Whole batches from the one that holds ``offset``.

        Raises OffsetError when the offset was trimmed, lost, or lies past the end, and
        RoutingError when it lies past the end that this owner knows, but not past the store's.
        """
        self._check_owned()
        if offset > self.high_watermark:
            await self._check_grown_elsewhere()
        self.check_offset(offset)
        if offset >= self.high_watermark:
            return ()
        batches = self._tail.read(offset, bytes_max)
        if batches:
            return batches
        return await self._store.read(self.id, offset, bytes_max)

    async def _check_grown_elsewhere(self) -> None:
        """Raise RoutingError when the log goes on in the store.

        Then this node stood still and another one owns the partition by now: a reader comes from
        there, and must not be told that its offset does not exist.
        """
        if await self._store.read(self.id, self.high_watermark, 1):
            raise self._interrupted()

    async def find(self, offset: int, bytes_max: int = FETCH_BYTES_DEFAULT) -> StoredBatch | None:
        """The batch that holds ``offset``, or the next one; None at the end of the log.

        A message that is kept beside the log comes as a batch by itself. ``bytes_max``: how much
        to read on for those who come next.
        """
        if self.bodies.next_from(offset) == offset:
            body = await self._find_body(offset)
            if body is not None:
                return body
        found = await self._find_in_log(offset, bytes_max)
        # Only now: while the log was read, what it held may have been carried over and trimmed.
        kept = self.bodies.next_from(offset)
        if kept is None or (found is not None and found.base_offset <= kept):
            return found
        return await self._find_body(kept) or found

    async def _find_in_log(self, offset: int, bytes_max: int) -> StoredBatch | None:
        found = self._tail.find(offset) or self._cache.find_in_chunk(self.id, offset)
        if found is not None:
            return found
        chunk = await self._store.read(self.id, offset, bytes_max)
        self._cache.keep_chunk(self.id, chunk)
        return chunk[0] if chunk else None

    async def _find_body(self, offset: int) -> StoredBatch | None:
        """The kept body of an offset; None when the store has none."""
        found = self._cache.find_in_chunk(self.id, offset)
        if found is not None:
            return found
        offsets = self.bodies.from_offset(offset, KEPT_READS_MAX, FETCH_BYTES_DEFAULT)
        values = await self._store.read_kept(self.id, [body_key(one) for one in offsets])
        chunk = [
            batch_of_body(one, value)
            for one, value in zip(offsets, values, strict=True)
            if value is not None
        ]
        self._cache.keep_chunk(self.id, chunk)
        return chunk[0] if chunk and chunk[0].base_offset == offset else None

    async def heads(
        self, offset: int, batches_max: int, *, bytes_per_record: int = 0
    ) -> tuple[BatchHead, ...]:
        """Headers of batches from the one that holds ``offset``, with what follows them."""
        return await self._store.read_heads(
            self.id,
            offset,
            batches_max,
            bytes_each=codec.HEADER_BYTES,
            bytes_per_record=bytes_per_record,
        )

    async def append_time_ms(self, offset: int) -> int | None:
        """When the message at ``offset``, or the next one, was appended; None at the end."""
        kept = self.bodies.next_from(offset)
        kept_ms = self.bodies.append_time_ms(kept) if kept is not None else None
        if kept == offset:
            return kept_ms
        found = await self._appended(offset)
        if found is not None and (kept is None or found.base_offset <= kept):
            return found.append_time_ms
        return kept_ms

    async def _appended(self, offset: int) -> AppendTime | None:
        """The batch of the log that holds ``offset``, or the next one, from memory if possible."""
        batch = self._tail.find(max(offset, self.log_start))
        if batch is not None:
            return AppendTime(batch.base_offset, batch.append_time_ms)
        found = self._append_times.find(offset)
        if found is not None:
            return found
        log_start = self.log_start
        heads = await self.heads(offset, 1)
        if not heads:
            return None
        found = AppendTime(heads[0].base_offset, heads[0].append_time_ms)
        if log_start == self.log_start:
            self._append_times.note(offset, found)
        return found

    def check_offset(self, offset: int) -> None:
        """Raise OffsetError unless a reader may stand at ``offset``."""
        name = f"partition {self.id.index} of {self.config.name!r}"
        details = {"log_start": str(self.log_start), "high_watermark": str(self.high_watermark)}
        if offset < self.log_start:
            raise OffsetError(
                f"offset {offset} of {name} was removed by retention; the oldest one kept is "
                f"{self.log_start}",
                code=ErrorCode.OFFSET_TRIMMED,
                field="offset",
                details=details,
            )
        if offset > self.high_watermark:
            raise OffsetError(
                f"offset {offset} of {name} is past the end; the next message gets "
                f"{self.high_watermark}",
                field="offset",
                details=details,
            )
        for first, end in self.gaps:
            if first < offset < end:
                raise OffsetError(
                    f"offset {offset} of {name} was lost by the store; go on at {end}",
                    code=ErrorCode.DATA_LOSS,
                    field="offset",
                    details=details | {"next_offset": str(end)},
                )

    async def offset_at(self, timestamp_ms: int) -> int:
        """The first offset appended at or after a time."""
        return await self._store.offset_at(self.id, timestamp_ms)

    async def plan_trim(self, rule: TrimRule) -> TrimPlan:
        """What one bounded step of :meth:`trim` would remove."""
        heads = await self.heads(0, TRIM_BATCHES_MAX + 1)
        extents = [
            BatchExtent(one.end_offset, one.append_time_ms, codec.parse_header(one.head).length)
            for one in heads
        ]
        return plan_trim(
            extents,
            rule,
            log_start=self.log_start,
            next_offset=self.high_watermark,
            size_bytes=self.size_bytes,
            batches_max=TRIM_BATCHES_MAX,
        )

    async def trim(self, rule: TrimRule) -> Trimmed:
        """Remove batches from the front by a rule."""
        trimmed = await self._store.trim(self.id, self.epoch, rule)
        if trimmed.log_start > self.log_start:
            self.log_start = trimmed.log_start
            self._append_times.clear()
        self.size_bytes = trimmed.size_bytes
        return trimmed


def _retrieve(future: asyncio.Future[None]) -> None:
    if not future.cancelled():
        future.exception()


def _without(one: _PendingAppend, left_out: tuple[int, ...]) -> _PendingAppend:
    """A batch less some of its messages; without data when none is left."""
    if not left_out:
        return one
    if len(left_out) == one.header.count:
        return one._replace(data=b"", left_out=left_out)
    data = codec.without(one.data, left_out)
    return one._replace(data=data, header=codec.parse_header(data), left_out=left_out)


def _reply(
    one: _PendingAppend,
    appended: Appended,
    durability: Durability,
    left_out: tuple[tuple[int, int], ...],
) -> None:
    if one.landed.done():
        return
    match appended.outcome:
        case AppendOutcome.APPENDED | AppendOutcome.DUPLICATE:
            duplicate = appended.outcome is AppendOutcome.DUPLICATE
            one.landed.set_result(Landed(appended.base_offset, durability, duplicate, left_out))
        case AppendOutcome.OUT_OF_ORDER:
            one.landed.set_exception(
                ProducerError(
                    f"batch {one.header.sequence} of producer {one.header.producer_id:#x} does not "
                    "follow the last one; send the missing one first",
                    code=ErrorCode.OUT_OF_ORDER_SEQUENCE,
                )
            )
        case AppendOutcome.UNKNOWN_PRODUCER:
            one.landed.set_exception(
                ProducerError(
                    f"producer {one.header.producer_id:#x} is not known and its batch has the "
                    f"sequence {one.header.sequence}, not 0; begin again under a new producer id"
                )
            )


def _futures(keeps: Sequence[_PendingKeep]) -> list[asyncio.Future[None]]:
    return [one.done for one in keeps]


def _with_kept(commit: Commit, keeps: Sequence[_PendingKeep]) -> Commit:
    """The commit with what is to be kept beside the log, in order."""
    values: dict[str, bytes | None] = {}
    for one in keeps:
        values.update(one.values)
    return commit._replace(
        journal=commit.journal + b"".join(one.entry for one in keeps),
        kept=values,
        makes_room=all(one.makes_room or not one.size_bytes for one in keeps),
    )


def _fail(
    appends: list[_PendingAppend], waiting: Iterable[asyncio.Future[None]], error: MomError
) -> None:
    for one in appends:
        if not one.landed.done():
            one.landed.set_exception(error)
            _retrieve_landed(one.landed)
    for future in waiting:
        if not future.done():
            future.set_exception(error)


def _retrieve_landed(future: asyncio.Future[Landed]) -> None:
    """Mark the error as seen: the producer may have gone."""
    future.exception()
