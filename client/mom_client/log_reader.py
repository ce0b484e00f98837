"""Reading a topic's log over several partitions, some bytes ahead of the user. Loop-native."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from mom_client.options import FETCH_BYTES_TARGET, PREFETCH_BYTES_MAX
from mom_client.received import ReceivedMessage, messages_of_fetch
from mom_client.results import Fetched
from mom_core import limits
from mom_core.errors import MomError
from mom_core.topics import Start, StartKind

if TYPE_CHECKING:
    from mom_client.engine import Engine

# Chunks fetched ahead, of at most FETCH_BYTES_TARGET each.
CHUNKS_AHEAD_MAX: Final = PREFETCH_BYTES_MAX // FETCH_BYTES_TARGET
FETCH_BYTES_MIN: Final = 64 * limits.KIB
FOLLOW_WAIT_MS: Final = 25_000


def fetch_bytes(partitions: int) -> int:
    """How much to fetch at a time from each of so many partitions."""
    share = PREFETCH_BYTES_MAX // max(partitions, 1)
    return max(FETCH_BYTES_MIN, min(FETCH_BYTES_TARGET, share))


class LogChunk:
    """What one fetch of one partition gave."""

    __slots__ = ("_end", "_fetched", "_topic", "_topic_id", "partition")

    def __init__(
        self, topic: str, topic_id: bytes, partition: int, fetched: Fetched, end: int | None
    ) -> None:
        self.partition = partition
        self._topic = topic
        self._topic_id = topic_id
        self._fetched = fetched
        self._end = end

    def messages(self) -> list[ReceivedMessage]:
        """The messages, decoded by whoever calls."""
        return messages_of_fetch(
            self._topic, self._topic_id, self.partition, self._fetched, self._end
        )


class LogReader:
    """Partitions from a start on: to the end that each has when it is first read, or for ever."""

    def __init__(
        self,
        engine: Engine,
        topic: str,
        partitions: Sequence[int] | None,
        start: Start,
        *,
        follow: bool,
    ) -> None:
        self._engine = engine
        self._topic = topic
        self._partitions = partitions
        self._start = start
        self._follow = follow
        self._chunks: asyncio.Queue[LogChunk | MomError | None] = asyncio.Queue(CHUNKS_AHEAD_MAX)
        self._pulls: list[asyncio.Task[None]] = []
        self._left = 0

    async def open(self) -> None:
        """Begin. Raises NotFoundError, InvalidArgumentError."""
        route = await self._engine.topic(self._topic)
        partitions = self._partitions
        if partitions is None:
            partitions = range(len(route.owners))
        for partition in partitions:
            route.check_partition(partition)
        self._left = len(partitions)
        bytes_max = fetch_bytes(self._left)
        loop = asyncio.get_running_loop()
        self._pulls = [
            loop.create_task(self._pull(route.topic_id, partition, bytes_max))
            for partition in partitions
        ]

    async def next(self) -> LogChunk | None:
        """The next messages; None at the end."""
        while self._left:
            chunk = await self._chunks.get()
            if isinstance(chunk, LogChunk):
                return chunk
            if chunk is not None:
                raise chunk
            self._left -= 1
        return None

    async def _pull(self, topic_id: bytes, partition: int, bytes_max: int) -> None:
        try:
            await self._pull_to_end(topic_id, partition, bytes_max)
        except MomError as error:
            await self._chunks.put(error)
        else:
            await self._chunks.put(None)

    async def _pull_to_end(self, topic_id: bytes, partition: int, bytes_max: int) -> None:
        start = self._start
        end: int | None = None
        wait_ms = FOLLOW_WAIT_MS if self._follow else 0
        while True:
            try:
                fetched = await self._engine.fetch(
                    self._topic, partition, start, max_bytes=bytes_max, wait_ms=wait_ms
                )
            except MomError as error:
                if not self._follow or not error.retriable:
                    raise
                continue  # A reader that follows outlives any outage; each try is bounded.
            if not self._follow and end is None:
                end = fetched.high_watermark
            if fetched.batches:
                await self._chunks.put(LogChunk(self._topic, topic_id, partition, fetched, end))
            start = Start(StartKind.OFFSET, fetched.next_offset)
            if end is not None and (fetched.next_offset >= end or not fetched.batches):
                return

    async def close(self) -> None:
        """End."""
        for pull in self._pulls:
            pull.cancel()
        await asyncio.gather(*self._pulls, return_exceptions=True)
