"""Reading partitions to standard output: alone, or as a member of a stream-mode subscription.

A member prints, flushes, and only then commits: after a crash some may be printed twice, and none
is missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from mom_cli.records import finish, record_line, write_lines
from mom_client.results import Fetched
from mom_core.batch import decode
from mom_core.errors import ErrorCode, FencedError, MomError
from mom_core.message import Message
from mom_core.topics import Start, StartKind
from mom_proto.v1 import broker_pb2

if TYPE_CHECKING:
    from mom_client.engine import Engine

# A long poll; ends by itself below the bound of the server.
WAIT_MS: Final = 30_000


class Record(NamedTuple):
    """A message with its place in a partition."""

    offset: int
    append_time_ms: int
    message: Message


def records_of(fetched: Fetched) -> list[Record]:
    """The records of a fetch from its start offset on."""
    return [
        Record(offset, batch.append_time_ms, message)
        for batch in fetched.batches
        for offset, message in enumerate(decode(batch.data), start=batch.base_offset)
        if offset >= fetched.start_offset
    ]


class Sink:
    """Where all partitions' records come together; takes at most ``limit`` of them."""

    def __init__(self, topic: str, form: str, limit: int | None) -> None:
        self.taken = 0
        self._topic = topic
        self._form = form
        self._limit = limit
        self._writing = asyncio.Lock()

    @property
    def full(self) -> bool:
        """Whether the limit is reached."""
        return self._limit is not None and self.taken >= self._limit

    async def write(self, partition: int, records: Sequence[Record]) -> int:
        """Write records and return how many of them: fewer when the limit is reached."""
        async with self._writing:
            if self._limit is not None:
                records = records[: self._limit - self.taken]
            self.taken += len(records)
            lines = [
                record_line(
                    self._topic, partition, one.offset, one.append_time_ms, one.message, self._form
                )
                for one in records
            ]
            await write_lines(lines)
            return len(records)


class PartitionReader:
    """Reads one partition in order."""

    def __init__(
        self,
        engine: Engine,
        topic: str,
        partition: int,
        start: Start,
        *,
        until_end: bool,
        commit: Callable[[int], Awaitable[None]] | None = None,
    ) -> None:
        self._engine = engine
        self._topic = topic
        self.partition = partition
        self._start = start
        self._commit = commit
        self._until_end = until_end
        self._end: int | None = None
        self.offset = -1
        """Where it goes on; -1 before the first step."""

    @property
    def at_end(self) -> bool:
        """Whether what was there at the first step has been read, and no more is wanted."""
        return self._until_end and self._end is not None and self.offset >= self._end

    async def step(self, sink: Sink) -> None:
        """Read once, waiting when there is nothing new, and hand over to the sink."""
        try:
            fetched = await self._engine.fetch(
                self._topic,
                self.partition,
                self._start,
                wait_ms=0 if self._end is None else WAIT_MS,
            )
        except MomError as error:
            self._skip_trimmed(error)
            return
        if self._end is None:
            self._end = fetched.high_watermark
        await finish(self._hand_over(fetched, self._end, sink))

    async def _hand_over(self, fetched: Fetched, end: int, sink: Sink) -> None:
        records = records_of(fetched)
        if self._until_end:
            records = [one for one in records if one.offset < end]
        taken = await sink.write(self.partition, records)
        whole = taken == len(records)
        before = self.offset
        self._go_on(fetched.next_offset if whole else records[taken].offset)
        if self._commit is not None and self.offset != before:
            await self._commit(self.offset)

    def _go_on(self, offset: int) -> None:
        self.offset = offset
        self._start = Start(StartKind.OFFSET, offset)

    def _skip_trimmed(self, error: MomError) -> None:
        """Go on where the log begins now, if retention overtook this reader, and say so."""
        overtaken = error.code is ErrorCode.OFFSET_TRIMMED and self.offset >= 0
        if not overtaken or "log_start" not in error.details:
            raise error
        log_start = int(error.details["log_start"])
        click.echo(
            f"mom: partition {self.partition}: retention removed offsets {self.offset} to "
            f"{log_start - 1} before they were read",
            err=True,
        )
        self._go_on(log_start)


async def read_all(readers: Sequence[PartitionReader], sink: Sink) -> None:
    """Run readers side by side until all are at their ends, or the sink is full."""

    async def read(reader: PartitionReader) -> None:
        while not sink.full and not reader.at_end:
            await reader.step(sink)

    tasks = [asyncio.create_task(read(reader)) for reader in readers]
    pending = set(tasks)
    try:
        while pending and not sink.full:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
    finally:
        await _cancel(tasks)


async def _cancel(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _until(event: asyncio.Event) -> None:
    await event.wait()


class Held:
    """A partition that this member reads now."""

    def __init__(self, reader: PartitionReader, lease: broker_pb2.PartitionLease) -> None:
        self.reader = reader
        self.generation = lease.generation
        self.revoked = asyncio.Event()
        self.task: asyncio.Task[None] | None = None


class GroupReader:
    """A member of a stream-mode subscription."""

    def __init__(
        self,
        engine: Engine,
        topic: str,
        subscription: str,
        member_id: str,
        sink: Sink,
        *,
        until_end: bool,
    ) -> None:
        self._engine = engine
        self._topic = topic
        self._subscription = subscription
        self._member_id = member_id
        self._sink = sink
        self._until_end = until_end
        self._held: dict[int, Held] = {}
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Read until the sink is full or the partitions are at their ends; then leave."""
        try:
            while not self._finished():
                answer = await self._engine.acquire_partitions(
                    self._topic, self._subscription, self._member_id
                )
                self._take(answer.leases)
                await self._wait(answer.heartbeat_ms)
        finally:
            tasks = [one.task for one in self._held.values() if one.task is not None]
            await _cancel(tasks)
            await self._engine.release_partitions(self._topic, self._subscription, self._member_id)

    def _finished(self) -> bool:
        """Also raises what a partition's reading ended with."""
        for held in self._held.values():
            if held.task is not None and held.task.done():
                held.task.result()
        at_end = self._until_end and all(one.reader.at_end for one in self._held.values())
        return self._sink.full or (bool(self._held) and at_end)

    async def _wait(self, heartbeat_ms: int) -> None:
        """Until the next heartbeat is due, or something happened that makes it due now."""
        self._wake.clear()
        try:
            async with asyncio.timeout(heartbeat_ms / 1000):
                await self._wake.wait()
        except TimeoutError:
            return

    def _take(self, leases: Sequence[broker_pb2.PartitionLease]) -> None:
        current = {lease.partition: lease for lease in leases}
        for partition, held in list(self._held.items()):
            lease = current.get(partition)
            if lease is None or lease.generation != held.generation:
                assert held.task is not None, "a held partition has its task"
                held.task.cancel()
                del self._held[partition]
            elif lease.revoking:
                held.revoked.set()
        for partition, lease in current.items():
            if partition not in self._held and not lease.revoking:
                self._begin(lease)

    def _begin(self, lease: broker_pb2.PartitionLease) -> None:
        reader = PartitionReader(
            self._engine,
            self._topic,
            lease.partition,
            Start(StartKind.OFFSET, lease.committed_offset),
            until_end=self._until_end,
            commit=partial(self._commit, lease.partition, lease.generation),
        )
        reader.offset = lease.committed_offset
        held = Held(reader, lease)
        held.task = asyncio.create_task(self._read(held))
        self._held[lease.partition] = held

    async def _read(self, held: Held) -> None:
        reader = held.reader
        try:
            while not (self._sink.full or reader.at_end or held.revoked.is_set()):
                await self._step(held)
            if held.revoked.is_set():
                await self._engine.release_partitions(
                    self._topic, self._subscription, self._member_id, [reader.partition]
                )
        except FencedError:
            self._held.pop(reader.partition, None)  # Another member has it: it reads on.
        finally:
            self._wake.set()

    async def _step(self, held: Held) -> None:
        """One step of reading, given up when the partition is to go to another member."""
        step = asyncio.create_task(held.reader.step(self._sink))
        revoked = asyncio.create_task(_until(held.revoked))
        try:
            await asyncio.wait({step, revoked}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            revoked.cancel()
            step.cancel()
            await asyncio.wait({step})
        if not step.cancelled():
            step.result()

    async def _commit(self, partition: int, generation: int, offset: int) -> None:
        commit = broker_pb2.OffsetCommit(partition=partition, generation=generation, offset=offset)
        (error,) = await self._engine.commit_offsets(
            self._topic, self._subscription, self._member_id, [commit]
        )
        if error is not None:
            raise error
