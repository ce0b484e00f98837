"""A member of a stream-mode subscription. Loop-native.

Its heartbeats run in the client's own loop, so that a handler that blocks loses nothing. What the
handler has finished is committed in the background, at most every COMMIT_INTERVAL_MS. When the
coordinator wants a partition for another member, the member stops reading it, lets the handler
finish the message at hand, commits and releases it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from mom_client.log_reader import CHUNKS_AHEAD_MAX, FOLLOW_WAIT_MS, fetch_bytes
from mom_client.received import ReceivedMessage, messages_of_fetch
from mom_client.results import Fetched
from mom_core.errors import ErrorCode, FencedError, MomError, OffsetError
from mom_core.topics import Start, StartKind
from mom_proto.v1 import broker_pb2

if TYPE_CHECKING:
    from mom_client.engine import Engine

COMMIT_INTERVAL_MS: Final = 200
# Between heartbeats that fail.
BEAT_RETRY_MS: Final = 500
MEMBER_ID_BYTES: Final = 12

_log = logging.getLogger("mom_client")


class HeldPartition:
    """A partition that the member reads, under one generation."""

    __slots__ = ("ahead", "committed", "generation", "partition", "position", "pull", "read_from",
                 "revoked", "room", "stopped", "with_user")  # fmt: skip

    def __init__(self, lease: broker_pb2.PartitionLease) -> None:
        self.partition = lease.partition
        self.generation = lease.generation
        self.read_from = lease.committed_offset
        self.position = lease.committed_offset
        """Handled so far."""
        self.committed = lease.committed_offset
        self.pull: asyncio.Task[None] | None = None
        self.stopped = False
        """No more of it is given to the handler."""
        self.revoked = False
        """To be released as soon as the handler has none of it."""
        self.with_user = 0
        """Chunks that the handler has."""
        self.ahead = 0
        """Chunks that were read and are not done with."""
        self.room = asyncio.Event()
        self.room.set()


class MemberChunk:
    """Messages of one partition for the handler."""

    __slots__ = ("_fetched", "_topic", "_topic_id", "begun", "held")

    def __init__(self, topic: str, topic_id: bytes, held: HeldPartition, fetched: Fetched) -> None:
        self.held = held
        self.begun = False
        """Whether the handler has it."""
        self._topic = topic
        self._topic_id = topic_id
        self._fetched = fetched

    @property
    def first(self) -> int:
        """The offset at which the chunk begins."""
        return self._fetched.start_offset

    def messages(self) -> list[ReceivedMessage]:
        """The messages, decoded by whoever calls."""
        return messages_of_fetch(self._topic, self._topic_id, self.held.partition, self._fetched)


class Member:
    """One member of one group."""

    def __init__(
        self, engine: Engine, topic: str, subscription: str, member_id: str, session_ms: int
    ) -> None:
        self._engine = engine
        self._topic = topic
        self._topic_id = b""
        self._subscription = subscription
        self._member_id = member_id
        self._session_ms = session_ms
        self._held: dict[int, HeldPartition] = {}
        self._chunks: asyncio.Queue[MemberChunk | MomError] = asyncio.Queue(CHUNKS_AHEAD_MAX)
        self._given: MemberChunk | None = None
        self._beat: asyncio.Task[None] | None = None
        self._committer: asyncio.Task[None] | None = None
        self._to_commit = asyncio.Event()
        self._releases: set[asyncio.Task[None]] = set()
        self._heartbeat_ms = BEAT_RETRY_MS
        self.on_stopped: Callable[[HeldPartition], None] | None = None
        """Called when no more of a partition may be handled: ``revoked`` after the message at hand,
        else at once, since another member has it."""

    @property
    def partitions(self) -> list[int]:
        """The partitions that the member has now."""
        return sorted(self._held)

    # Life.

    async def open(self) -> None:
        """Join. Raises NotFoundError."""
        self._topic_id = (await self._engine.topic(self._topic)).topic_id
        await self._acquire()
        loop = asyncio.get_running_loop()
        self._beat = loop.create_task(self._keep_beating())
        self._committer = loop.create_task(self._keep_committing())

    async def close(self) -> None:
        """Commit what was handled and leave."""
        tasks = [one for one in (self._beat, self._committer) if one is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for held in self._held.values():
            self._stop(held)
        try:
            await self.commit()
            await self._engine.release_partitions(self._topic, self._subscription, self._member_id)
        except MomError as error:
            _log.warning(
                "leaving %r of %r: %s. Others take over after the session's timeout",
                self._subscription, self._topic, error.message,
            )  # fmt: skip
        await asyncio.gather(*self._releases, return_exceptions=True)

    async def _keep_beating(self) -> None:
        while True:
            await asyncio.sleep(self._heartbeat_ms / 1000)
            try:
                await self._acquire()
            except MomError as error:
                if not error.retriable:
                    await self._chunks.put(error)
                    return
                self._heartbeat_ms = BEAT_RETRY_MS

    async def _acquire(self) -> None:
        answer = await self._engine.acquire_partitions(
            self._topic, self._subscription, self._member_id, session_ms=self._session_ms
        )
        self._heartbeat_ms = answer.heartbeat_ms or BEAT_RETRY_MS
        leases = {lease.partition: lease for lease in answer.leases}
        for partition in [one for one in self._held if one not in leases]:
            self._stop(self._held.pop(partition))
        fresh = [lease for lease in leases.values() if self._is_fresh(lease)]
        for lease in fresh:
            self._begin(lease, len(leases))
        for lease in leases.values():
            if lease.revoking:
                self._revoke(self._held.get(lease.partition), lease)

    def _is_fresh(self, lease: broker_pb2.PartitionLease) -> bool:
        held = self._held.get(lease.partition)
        return not lease.revoking and (held is None or held.generation != lease.generation)

    # Reading.

    def _begin(self, lease: broker_pb2.PartitionLease, count: int) -> HeldPartition:
        before = self._held.get(lease.partition)
        if before is not None:
            self._stop(before)
        held = self._held[lease.partition] = HeldPartition(lease)
        held.pull = asyncio.get_running_loop().create_task(self._pull(held, fetch_bytes(count)))
        return held

    def _stop(self, held: HeldPartition) -> None:
        held.stopped = True
        if held.pull is not None:
            held.pull.cancel()
        if self.on_stopped is not None:
            self.on_stopped(held)

    def halt(self, held: HeldPartition) -> None:
        """Read no more of a partition, and keep it from others."""
        held.stopped = True
        if held.pull is not None:
            held.pull.cancel()

    async def _pull(self, held: HeldPartition, bytes_max: int) -> None:
        offset = held.read_from
        while True:
            await held.room.wait()
            try:
                fetched = await self._engine.fetch(
                    self._topic,
                    held.partition,
                    Start(StartKind.OFFSET, offset),
                    max_bytes=bytes_max,
                    wait_ms=FOLLOW_WAIT_MS,
                )
            except OffsetError as error:
                if error.code is not ErrorCode.OFFSET_TRIMMED or "log_start" not in error.details:
                    await self._chunks.put(error)
                    return
                log_start = int(error.details["log_start"])
                _log.warning(
                    "%r partition %d: retention removed offsets %d to %d before %r had read them",
                    self._topic, held.partition, offset, log_start - 1, self._subscription,
                )  # fmt: skip
                offset = log_start
            except MomError as error:
                if not error.retriable:
                    await self._chunks.put(error)
                    return
            else:
                if fetched.batches:
                    _step(held, 1)
                    await self._chunks.put(MemberChunk(self._topic, self._topic_id, held, fetched))
                offset = fetched.next_offset

    async def next(self) -> MemberChunk:
        """The next messages for the handler. Raises what ended the membership.

        What an earlier call gave to a caller that was cancelled meanwhile comes first.
        """
        given = self._given
        if given is not None and not given.begun and not given.held.stopped:
            return given
        while True:
            chunk = await self._chunks.get()
            if isinstance(chunk, MomError):
                raise chunk
            if not chunk.held.stopped:
                chunk.held.with_user += 1
                self._given = chunk
                return chunk

    # Handled.

    def handled(self, held: HeldPartition, offset: int) -> bool:
        """The handler has finished everything below ``offset``; whether that still counts here."""
        current = self._held.get(held.partition, held)
        if current.generation != held.generation:
            return False
        current.position = max(current.position, offset)
        self._to_commit.set()
        return held.partition in self._held

    def done(self, held: HeldPartition) -> None:
        """The handler has no more of a chunk."""
        held.with_user -= 1
        _step(held, -1)
        if held.revoked and not held.with_user:
            self._release(held)

    def read_again(self, held: HeldPartition, offset: int) -> None:
        """Give what follows ``offset`` once more: the handler left a chunk in the middle."""
        if held.stopped or self._held.get(held.partition) is not held:
            return
        self._stop(held)
        lease = broker_pb2.PartitionLease(
            partition=held.partition,
            generation=held.generation,
            committed_offset=offset,
        )
        fresh = self._begin(lease, len(self._held))
        fresh.position = held.position
        fresh.committed = held.committed

    def _revoke(self, held: HeldPartition | None, lease: broker_pb2.PartitionLease) -> None:
        if held is None:
            held = self._held[lease.partition] = HeldPartition(lease)
        if held.revoked:
            return
        held.revoked = True
        self._stop(held)
        if not held.with_user:
            self._release(held)

    def _release(self, held: HeldPartition) -> None:
        task = asyncio.get_running_loop().create_task(self._commit_and_release(held))
        self._releases.add(task)
        task.add_done_callback(self._releases.discard)

    async def _commit_and_release(self, held: HeldPartition) -> None:
        try:
            await self._commit_some([held])
            await self._engine.release_partitions(
                self._topic, self._subscription, self._member_id, (held.partition,)
            )
        except MomError as error:
            _log.warning(
                "releasing %r partition %d: %s", self._topic, held.partition, error.message
            )
        if self._held.get(held.partition) is held:
            del self._held[held.partition]

    async def commit(self) -> None:
        """Commit what was handled, now. Raises FencedError when a partition was lost meanwhile."""
        errors = await self._commit_some(list(self._held.values()))
        for error in errors:
            raise error

    async def _keep_committing(self) -> None:
        while True:
            await self._to_commit.wait()
            self._to_commit.clear()
            try:
                for error in await self._commit_some(list(self._held.values())):
                    _log.warning("a commit was refused: %s", error.message)
            except MomError as error:
                _log.warning("a commit failed and is tried again: %s", error.message)
                self._to_commit.set()
            await asyncio.sleep(COMMIT_INTERVAL_MS / 1000)

    async def _commit_some(self, some: Sequence[HeldPartition]) -> list[MomError]:
        due = [(held, held.position) for held in some if held.position > held.committed]
        if not due:
            return []
        results = await self._engine.commit_offsets(
            self._topic,
            self._subscription,
            self._member_id,
            [
                broker_pb2.OffsetCommit(
                    partition=held.partition, generation=held.generation, offset=position
                )
                for held, position in due
            ],
        )
        errors = []
        for (held, position), error in zip(due, results, strict=True):
            if error is None:
                held.committed = position
                continue
            errors.append(error)
            if isinstance(error, FencedError) and self._held.get(held.partition) is held:
                self._stop(self._held.pop(held.partition))
        return errors


def _step(held: HeldPartition, chunks: int) -> None:
    """Count chunks of one partition: one that is handled slowly must not fill the others' room."""
    held.ahead += chunks
    if held.ahead < CHUNKS_AHEAD_MAX:
        held.room.set()
    else:
        held.room.clear()
