"""Connections to Redis that carry many callers' commands: pipelining is the group commit.

A lane owns one connection. While its last pipeline is under way, calls gather; then all of them go
out together, the server runs them in one turn of its loop, and one fsync covers all their writes.
Commands may close each pipeline, such as the wait for replicas: one wait covers all writes, too.
Several lanes let a turn serve several pipelines. A lane that breaks fails its calls and connects
again, with full verification, for the next ones; what to try again is the caller's decision.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import chain
from typing import Any, Final, NamedTuple

from redis import exceptions
from redis.asyncio.connection import AbstractConnection

from mom_broker.storage.redis_errors import is_passing
from mom_broker.storage.redis_verify import ServerFacts
from mom_core.limits import COMMIT_BYTES_MAX

Word = bytes | str | int
Command = Sequence[Word]

# One pipeline: what the server reads in a few turns. Callers bound what waits beyond it.
PIPELINE_CALLS_MAX: Final = 256
PIPELINE_BYTES_MAX: Final = 2 * COMMIT_BYTES_MAX
CONNECT_TIMEOUT_MS: Final = 2_000
# A server that takes longer for one pipeline, its disk's fsync included, is suspended or cut off.
REPLY_TIMEOUT_MS: Final = 3_000


class Session:
    """A connection that runs one command at a time."""

    def __init__(self, connection: AbstractConnection) -> None:
        self.connection = connection

    async def run(self, *words: Word) -> Any:
        """One command and its reply. Raises redis.exceptions.RedisError."""
        packed = self.connection.pack_commands([words])
        await self.connection.send_packed_command(packed, check_health=False)
        return await self.connection.read_response(disable_decoding=True)

    async def close(self) -> None:
        """Let go of the connection."""
        with contextlib.suppress(exceptions.RedisError, OSError, TimeoutError):
            await self.connection.disconnect(nowait=True)


class Link(NamedTuple):
    """A verified connection."""

    session: Session
    facts: ServerFacts


class Answer(NamedTuple):
    """The replies to a call's commands; an error reply is an exception in its place."""

    replies: list[Any]
    facts: ServerFacts
    closing: Sequence[Any] = ()
    """The replies to the lane's closing commands, which came after all calls of the pipeline."""


class BrokenLaneError(Exception):
    """The lane can't connect, or broke; the server may have run the call or not."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class Breaks:
    """How often a lane of a store broke.

    When one connection breaks the others' server is gone, too, or no longer the primary: a lane
    whose connection is older than the last break makes a new one before it sends.
    """

    def __init__(self) -> None:
        self.count = 0


class _Call(NamedTuple):
    build: Callable[[ServerFacts], Sequence[Command]]
    size_bytes: int
    future: asyncio.Future[Answer]


class Lane:
    """One connection and the calls that wait for it."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[Link]],
        breaks: Breaks,
        closing: Sequence[Command] = (),
    ) -> None:
        self._connect = connect
        self._closing = closing
        self._breaks = breaks
        self._breaks_seen = 0
        self._link: Link | None = None
        self._calls: deque[_Call] = deque()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.load_bytes = 0
        """Bytes that wait or are under way."""

    async def call(
        self, build: Callable[[ServerFacts], Sequence[Command]], size_bytes: int
    ) -> Answer:
        """Run the commands that ``build`` makes for the lane's server, in order.

        Raises BrokenLaneError when the lane can't connect or breaks.
        """
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        size_bytes += 256  # a call without bytes is work, too
        self._calls.append(_Call(build, size_bytes, future))
        self.load_bytes += size_bytes
        self._wake.set()
        return await future

    async def close(self) -> None:
        """Fail what waits and let go of the connection."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._link is not None:
            await self._link.session.close()
            self._link = None
        _fail(self._calls, exceptions.ConnectionError("the store is closed"))
        self._calls.clear()

    async def _run(self) -> None:
        while True:
            while not self._calls:
                self._wake.clear()
                await self._wake.wait()
            calls = self._gather()
            try:
                await self._pipeline(calls)
            finally:
                self.load_bytes -= sum(call.size_bytes for call in calls)

    def _gather(self) -> list[_Call]:
        calls: list[_Call] = []
        size_bytes = 0
        while self._calls and len(calls) < PIPELINE_CALLS_MAX:
            size_bytes += self._calls[0].size_bytes
            if calls and size_bytes > PIPELINE_BYTES_MAX:
                break
            calls.append(self._calls.popleft())
        return calls

    async def _pipeline(self, calls: list[_Call]) -> None:
        try:
            if self._breaks_seen != self._breaks.count:
                await self._drop_link()
            if self._link is None:
                self._breaks_seen = self._breaks.count
                async with asyncio.timeout(CONNECT_TIMEOUT_MS / 1000):
                    self._link = await self._connect()
            # A caller that has given up needs nothing sent.
            waiting = [call for call in calls if not call.future.done()]
            async with asyncio.timeout(REPLY_TIMEOUT_MS / 1000):
                passing = await self._exchange(self._link, waiting)
            if passing:
                self._breaks.count += 1
        except asyncio.CancelledError:
            _fail(calls, exceptions.ConnectionError("the store is closed"))
            raise
        except Exception as error:
            if self._link is not None:
                self._breaks.count += 1
            await self._drop_link()
            _fail(calls, error)

    async def _exchange(self, link: Link, calls: list[_Call]) -> bool:
        """Send all calls, then take their replies. Returns whether the server must be left."""
        connection = link.session.connection
        commands = [call.build(link.facts) for call in calls]
        everything = [*chain.from_iterable(commands), *(self._closing if calls else ())]
        packed = connection.pack_commands(everything)
        await connection.send_packed_command(packed, check_health=False)
        passing = False
        answered: list[tuple[_Call, list[Any]]] = []
        for call, some in zip(calls, commands, strict=True):
            replies = await _replies(connection, len(some))
            passing = passing or any(map(is_passing, _errors(replies)))
            if self._closing:
                answered.append((call, replies))
            elif not call.future.done():
                call.future.set_result(Answer(replies, link.facts))
        closing = await _replies(connection, len(self._closing)) if answered else []
        for call, replies in answered:
            if not call.future.done():
                call.future.set_result(Answer(replies, link.facts, closing))
        return passing

    async def _drop_link(self) -> None:
        if self._link is not None:
            link, self._link = self._link, None
            await link.session.close()


async def _replies(connection: AbstractConnection, count: int) -> list[Any]:
    """The next replies; an error reply is an exception in its place."""
    replies: list[Any] = []
    for _ in range(count):
        try:
            replies.append(await connection.read_response(disable_decoding=True))
        except exceptions.ResponseError as error:
            replies.append(error)
    return replies


def _errors(replies: Sequence[Any]) -> list[Exception]:
    """The error replies. EXEC answers a list with those of its commands."""
    inner = chain.from_iterable(one if isinstance(one, list) else (one,) for one in replies)
    return [one for one in inner if isinstance(one, Exception)]


def _fail(calls: Sequence[_Call] | deque[_Call], error: Exception) -> None:
    for call in calls:
        if not call.future.done():
            call.future.set_exception(BrokenLaneError(error))
