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
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from mom_broker.node.cache import BatchCache, Tail
from mom_broker.node.signal import Signal
from mom_core import batch as codec
from mom_core.errors import (
    ErrorCode,
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
    NODE_PENDING_BYTES_MAX,
    PARTITION_PENDING_BYTES_MAX,
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

_log = logging.getLogger(__name__)

# A record is its value and some: names of fields, key, headers within their own limits.
_RECORD_OVERHEAD_BYTES: Final = 64 * 1024


class Landed(NamedTuple):
    """Where a batch is in the log, durably."""

    base_offset: int
    durability: Durability
    duplicate: bool


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
        self._config = config
        self._store = store
        self._cache = cache
        self._tail = Tail()
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
        self._committing: asyncio.Task[None] | None = None

    @property
    def config(self) -> TopicConfig:
        """The topic's settings now."""
        return self._config()

    # Appending.

    def append(self, data: bytes) -> asyncio.Future[Landed]:
        """Queue a batch from outside for the next commit; the result is durable when it comes.

        Raises CorruptBatchError, TooLargeError, OverloadedError, or what ended the ownership.
        """
        self._check_owned()
        header = codec.verify(data)
        self._check_sizes(header, data)
        self._check_room(len(data))
        self._check_length()
        landed: asyncio.Future[Landed] = asyncio.get_running_loop().create_future()
        self._appends.append(_PendingAppend(data, header, landed))
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

    def want_snapshot(self) -> None:
        """Write a snapshot with the next commit."""
        self._snapshot_wanted = True
        self._commit_soon()

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
        config = self.config
        if config.refuses_when_full and self.size_bytes + size > config.retention_bytes:
            raise OverloadedError(
                f"{config.kind} {config.name!r} is full: partition {self.id.index} holds "
                f"{self.size_bytes} bytes and retention_bytes is {config.retention_bytes}; handle "
                "and ack messages, or raise retention_bytes",
                retry_after_ms=1_000,
            )

    def _check_length(self) -> None:
        """Refuse messages of a queue that is as long as it may be.

        A batch that comes below the bound lands whole: batches are atomic, and one that is larger
        than the bound would else never land.
        """
        config = self.config
        share = config.partition_messages_max
        if not share:
            return
        count = self.backlog() + self._pending_messages
        if count >= share:
            raise OverloadedError(
                f"queue {config.name!r} is full: partition {self.id.index} holds {count} messages, "
                f"and its share of messages_max ({config.messages_max}) is {share}; receive and "
                "ack messages, purge the queue, or raise messages_max",
                retry_after_ms=1_000,
                details={"messages": str(count), "messages_max": str(config.messages_max)},
            )

    # Group commit.

    def _commit_soon(self) -> None:
        if self._committing is None:
            self._committing = asyncio.create_task(self._commit_all(), name=f"commit {self.id}")

    async def _commit_all(self) -> None:
        try:
            while self._appends or self._journal or self._snapshot_wanted:
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
        journal = b"".join(self._journal)
        journalled, self._journal, self._journalled = self._journalled, [], None
        snapshot = None
        if self._snapshot_wanted or self.journal_bytes + len(journal) > JOURNAL_BYTES_MAX:
            snapshot, self._snapshot_wanted = self._snapshot(), False
        try:
            result = await self._write(appends, journal, snapshot)
        except MomError as error:
            _fail(appends, journalled, error)
            raise
        except BaseException:
            _fail(appends, journalled, self._interrupted())
            raise
        finally:
            self._pending_bytes -= size
            self._pending_messages -= messages
            self._budget.bytes -= size
        self.journal_bytes = 0 if snapshot is not None else self.journal_bytes + len(journal)
        if journalled is not None:
            journalled.set_result(None)
        if result is not None:
            self._landed(appends, result)

    def _take_appends(self) -> list[_PendingAppend]:
        taken: list[_PendingAppend] = []
        room = COMMIT_BYTES_MAX
        while self._appends and len(taken) < COMMIT_BATCHES_MAX:
            if taken and len(self._appends[0].data) > room:
                break
            room -= len(self._appends[0].data)
            taken.append(self._appends.popleft())
        return taken

    async def _write(
        self, appends: list[_PendingAppend], journal: bytes, snapshot: bytes | None
    ) -> CommitResult | None:
        """Commit, and on a full store commit what takes no room. None: nothing was appended."""
        self._last_append_time_ms = max(self._last_append_time_ms, self._store.now_ms())
        batches = tuple(
            NewBatch(
                one.data,
                one.header.count,
                self._last_append_time_ms,
                one.header.producer_id,
                one.header.sequence,
            )
            for one in appends
        )
        commit = Commit(self.id, self.epoch, self._commit_number + 1, batches, journal, snapshot)
        try:
            result = await self._store.commit(commit)
        except StoreError as error:
            if error.code is not ErrorCode.STORE_FULL:
                raise
            _fail(appends, None, error)
            appends.clear()
            if not journal and snapshot is None:
                return None
            await self._store.commit(commit._replace(batches=()))
            result = None
        self._commit_number += 1
        return result

    def _landed(self, appends: list[_PendingAppend], result: CommitResult) -> None:
        arrived: list[Arrived] = []
        for one, appended in zip(appends, result.appended, strict=True):
            if appended.outcome is AppendOutcome.APPENDED:
                arrived.append(
                    Arrived(appended.base_offset, self._last_append_time_ms, one.header, one.data)
                )
                self.size_bytes += len(one.data)
                stored = StoredBatch(
                    appended.base_offset, one.header.count, self._last_append_time_ms, one.data
                )
                if self.lost is None:
                    self._cache.append(self._tail, stored)
        if arrived:
            self.high_watermark = result.next_offset
        for one, appended in zip(appends, result.appended, strict=True):
            _reply(one, appended, result.durability)
        if arrived:
            self.arrived.wake_all()
            for listener in self.on_arrival:
                listener(arrived)

    def lose(self, error: MomError) -> None:
        """End this ownership: everyone waiting gets the error or an empty answer."""
        if self.lost is not None:
            return
        self.lost = error
        appends, self._appends = list(self._appends), deque()
        self._budget.bytes -= sum(len(one.data) for one in appends)
        journalled, self._journal, self._journalled = self._journalled, [], None
        _fail(appends, journalled, error)
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

    async def find(self, offset: int) -> StoredBatch | None:
        """The batch that holds ``offset``, or the next one; None at the end of the log."""
        found = self._tail.find(offset) or self._cache.find_in_chunk(self.id, offset)
        if found is not None:
            return found
        chunk = await self._store.read(self.id, offset, FETCH_BYTES_DEFAULT)
        self._cache.keep_chunk(self.id, chunk)
        return chunk[0] if chunk else None

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

    async def trim(self, rule: TrimRule) -> Trimmed:
        """Remove batches from the front by a rule."""
        trimmed = await self._store.trim(self.id, self.epoch, rule)
        self.log_start = max(self.log_start, trimmed.log_start)
        self.size_bytes = trimmed.size_bytes
        return trimmed


def _retrieve(future: asyncio.Future[None]) -> None:
    if not future.cancelled():
        future.exception()


def _reply(one: _PendingAppend, appended: Appended, durability: Durability) -> None:
    if one.landed.done():
        return
    match appended.outcome:
        case AppendOutcome.APPENDED | AppendOutcome.DUPLICATE:
            duplicate = appended.outcome is AppendOutcome.DUPLICATE
            one.landed.set_result(Landed(appended.base_offset, durability, duplicate))
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


def _fail(
    appends: list[_PendingAppend], journalled: asyncio.Future[None] | None, error: MomError
) -> None:
    for one in appends:
        if not one.landed.done():
            one.landed.set_exception(error)
            _retrieve_landed(one.landed)
    if journalled is not None and not journalled.done():
        journalled.set_exception(error)


def _retrieve_landed(future: asyncio.Future[Landed]) -> None:
    """Mark the error as seen: the producer may have gone."""
    future.exception()
