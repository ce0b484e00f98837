"""A subscriber of an application: a topic's messages, each partition in its order.

Partitions go on independently: each has a lane, whose handler runs for one message at a time. A
message that fails is tried again after a wait, while its partition waits with it, since order is
what a stream promises. When the policy gives up, the message is parked in the dead-letter topic, or
the partition stops until the process restarts or another member gets it. What was handled is
committed by the client's own thread.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from mom_client import operations
from mom_client.app.handler import Handler
from mom_client.app.handling import Calls, Handling, Problems, finish, log
from mom_client.app.parking import Parking
from mom_client.app.payload import PayloadError
from mom_client.app.retry import Retry
from mom_client.consumption import NOTE_SECONDS
from mom_client.iothread import IoThread
from mom_client.received import ReceivedMessage
from mom_core.errors import MomError

if TYPE_CHECKING:
    from mom_client.engine import Engine
    from mom_client.member import HeldPartition, Member, MemberChunk

# Of a handler that has a way to give up.
TRIES_DEFAULT = 5


class SubscriberSettings(NamedTuple):
    """What ``@app.subscriber`` says."""

    topic: str
    subscription: str
    create: bool
    start: str
    concurrency: int
    session_ms: int
    member_id: str
    retry: Retry
    dead_letter: str
    stops: bool
    """Whether it stops a partition when it gives up, where there are no dead letters."""

    @property
    def tries(self) -> int | None:
        """After how many it gives up; None: never."""
        if self.retry.tries is not None or not (self.dead_letter or self.stops):
            return self.retry.tries
        return TRIES_DEFAULT


class _Left(Exception):
    """The message at hand stays unhandled: the partition goes elsewhere, or the app ends."""


class _GaveUp(Exception):
    """The partition stops."""


class _Lane:
    """One held partition."""

    def __init__(self, held: HeldPartition) -> None:
        self.held = held
        self.chunks: asyncio.Queue[MemberChunk] = asyncio.Queue()
        """Bounded by the member, which reads no more than a few ahead of a partition."""
        self.stopped = asyncio.Event()
        self.task: asyncio.Task[None] | None = None


class StreamRunner:
    """A member of the group, with a lane for each partition it has."""

    def __init__(
        self, io: IoThread, handler: Handler, settings: SubscriberSettings, problems: Problems
    ) -> None:
        self._settings = settings
        self.name = f"subscriber {settings.topic!r}/{settings.subscription!r} ({handler.name})"
        self._calls = Calls(io)
        self._problems = problems
        self._handling = Handling(handler, settings.concurrency)
        self._parking = Parking(self._calls, settings.dead_letter, settings.subscription)
        self._member: Member | None = None
        self._lanes: dict[int, _Lane] = {}

    # Life.

    async def open(self) -> None:
        """Join. Raises NotFoundError, InvalidArgumentError when it is no stream."""
        self._loop = asyncio.get_running_loop()
        await self._parking.check()
        self._lanes.clear()
        self._member = await self._calls.run(self._open)

    async def _open(self, engine: Engine) -> Member:
        from mom_client.member import Member

        settings = self._settings
        await operations.ensure_stream(
            engine,
            settings.topic,
            settings.subscription,
            create=settings.create,
            start=settings.start,
        )
        member = Member(
            engine,
            settings.topic,
            settings.subscription,
            settings.member_id,
            settings.session_ms,
        )
        member.on_stopped = self._tell_stopped
        await member.open()
        return member

    async def run(self) -> None:
        """Give each partition's messages to its lane."""
        member = self._member
        assert member is not None, "a subscriber that was not opened"
        while True:
            chunk = await self._calls.run(lambda engine: member.next())
            chunk.begun = True
            lane = self._lane(member, chunk.held)
            lane.chunks.put_nowait(chunk)
            if lane.task is None or lane.task.done():  # It stopped while this was on its way.
                self._drop(member, lane)

    def stop(self) -> None:
        """Begin no message more."""
        self._handling.stopping.set()
        for lane in self._lanes.values():
            lane.stopped.set()

    async def close(self, over: asyncio.Event) -> None:
        """See :class:`~mom_client.app.handling.Runner`."""
        await finish({one.task for one in self._lanes.values() if one.task is not None}, over)
        member, self._member = self._member, None
        if member is not None:
            await self._calls.run(lambda engine: member.close())
        self._handling.close()

    # Partitions that were taken away: told by the client's thread.

    def _tell_stopped(self, held: HeldPartition) -> None:
        with suppress(RuntimeError):  # The loop was closed, and with it all lanes.
            self._loop.call_soon_threadsafe(self._take_away, held)

    def _take_away(self, held: HeldPartition) -> None:
        lane = self._lanes.get(held.partition)
        if lane is None or lane.held is not held:
            return
        lane.stopped.set()
        self._problems.forget(self._place(held.partition))
        # One that is revoked waits for the message at hand. One that is lost is another member's.
        if not held.revoked and lane.task is not None and self._handling.handler.is_async:
            lane.task.cancel()

    # Handling.

    def _place(self, partition: int) -> str:
        return f"{self.name} partition {partition}"

    def _lane(self, member: Member, held: HeldPartition) -> _Lane:
        before = self._lanes.get(held.partition)
        if before is not None and before.held is held:
            return before
        lane = self._lanes[held.partition] = _Lane(held)
        lane.task = self._loop.create_task(
            self._work(member, lane, before.task if before is not None else None)
        )
        return lane

    async def _work(self, member: Member, lane: _Lane, before: asyncio.Task[None] | None) -> None:
        """Handle a partition's messages until it is stopped."""
        stopped: asyncio.Task[Any] = self._loop.create_task(lane.stopped.wait())
        try:
            if before is not None:  # No message of a partition is handled beside another.
                await asyncio.wait({before})
            while not lane.stopped.is_set():
                chunk = await self._next_chunk(lane, stopped)
                if chunk is not None:
                    await self._handle_chunk(member, lane, chunk)
        except _GaveUp:
            self._calls.post(lambda: member.halt(lane.held))
        except Exception as error:
            place = self._place(lane.held.partition)
            self._problems.tell(place, "stopped, until this process restarts", error)
            self._calls.post(lambda: member.halt(lane.held))
        finally:
            stopped.cancel()
            self._drop(member, lane)

    async def _next_chunk(self, lane: _Lane, stopped: asyncio.Task[Any]) -> MemberChunk | None:
        getting = self._loop.create_task(lane.chunks.get())
        try:
            waits: set[asyncio.Task[Any]] = {getting, stopped}
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            return getting.result() if getting.done() else None
        finally:
            getting.cancel()

    def _drop(self, member: Member, lane: _Lane) -> None:
        """The member releases a partition when the handler has none of it."""
        while not lane.chunks.empty():
            lane.chunks.get_nowait()
            self._calls.post(lambda: member.done(lane.held))

    async def _handle_chunk(self, member: Member, lane: _Lane, chunk: MemberChunk) -> None:
        held = lane.held
        position = chunk.first
        noted = time.monotonic()
        try:
            for message in chunk.messages():
                if lane.stopped.is_set():
                    return
                await self._handle(lane, message)
                position = message.offset + 1
                if time.monotonic() - noted > NOTE_SECONDS:
                    noted = time.monotonic()
                    self._calls.post(lambda at=position: member.handled(held, at))  # type: ignore[misc]
        except _Left:
            return
        finally:
            self._calls.post(lambda: member.handled(held, position))
            self._calls.post(lambda: member.done(held))

    async def _handle(self, lane: _Lane, message: ReceivedMessage) -> None:
        """Handle or park a message. Raises _Left, _GaveUp."""
        place = self._place(message.partition)
        failures = 0
        while (error := await self._handling.once(message)) is not None:
            failures += 1
            if self._gives_up(failures, error):
                await self._give_up(lane, place, message, error, failures)
                break
            self._problems.tell(place, f"try {failures} of {message!r} failed", error)
            await self._pause(lane, failures)
        self._problems.over(place)

    def _gives_up(self, failures: int, error: Exception) -> bool:
        tries = self._settings.tries
        if tries is None:
            return False
        return failures >= tries or isinstance(error, PayloadError)

    async def _pause(self, lane: _Lane, failures: int) -> None:
        seconds = self._settings.retry.wait_seconds(failures)
        if not await self._handling.pause(seconds, lane.stopped):
            raise _Left

    async def _give_up(
        self, lane: _Lane, place: str, message: ReceivedMessage, error: Exception, failures: int
    ) -> None:
        if not self._settings.dead_letter:
            self._problems.tell(
                place,
                f"stopped at {message!r} after {failures} tries, until this process restarts; "
                "`mom subscription seek` goes on behind it",
                error,
            )
            raise _GaveUp
        parking_failures = 0
        while True:
            try:
                parked = await self._parking.park(message, error, failures)
            except MomError as refused:
                parking_failures += 1
                self._problems.tell(place, f"parking {message!r} failed", refused)
                await self._pause(lane, parking_failures)
            else:
                log.warning(
                    "%s: parked %r in %r%s after %d tries: %s: %s", place, message,
                    self._settings.dead_letter,
                    "" if parked.stored else ", where it was parked before,",
                    failures, type(error).__name__, error,
                    exc_info=error,
                )  # fmt: skip
                return
