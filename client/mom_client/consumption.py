"""The user's side of a subscription and of a queue's worker, async and sync.

Messages come over from the I/O thread in chunks and are decoded here, in the user's thread. What is
handled goes back as notes that nobody waits for; closing waits until they have arrived.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from mom_client import operations
from mom_client.iothread import IoThread
from mom_client.received import ReceivedMessage
from mom_core.errors import FencedError

if TYPE_CHECKING:
    from mom_client.engine import Engine
    from mom_client.member import Member, MemberChunk
    from mom_client.worker import HeldLease, QueueWorker

ResultT = TypeVar("ResultT")

# Within a chunk, a slow handler's progress is noted this often.
NOTE_SECONDS: Final = 0.5


class _Steps:
    """A generation of the I/O thread, and how to run there."""

    def __init__(self, io: IoThread) -> None:
        self._io = io
        self._generation = io.generation
        self._active: Generator[ReceivedMessage, None, None] | None = None

    async def _run(self, work: Callable[[Engine], Coroutine[Any, Any, ResultT]]) -> ResultT:
        return await asyncio.wrap_future(self._io.run(work, self._generation))

    def _wait(self, work: Callable[[Engine], Coroutine[Any, Any, ResultT]]) -> ResultT:
        future = self._io.run(work, self._generation)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def _post(self, callback: Callable[[], object]) -> None:
        self._io.post(callback, self._generation)

    def _activate(
        self, messages: Generator[ReceivedMessage, None, None]
    ) -> contextlib.closing[Generator[ReceivedMessage, None, None]]:
        """An iteration that :meth:`_leave` can end, should nobody else do so in time."""
        self._active = messages
        return contextlib.closing(messages)

    def _leave(self) -> None:
        """Note what was handled: an async iteration that was left is closed some time later.

        That is too late for the next one, which would be given what follows meanwhile, or be left
        itself.
        """
        active, self._active = self._active, None
        if active is not None:
            active.close()

    @property
    def _inherited(self) -> bool:
        """Whether this is a copy in a forked child."""
        return self._generation != self._io.generation


class _SubscriptionSteps(_Steps):
    """What both faces of a subscription share."""

    def __init__(
        self,
        io: IoThread,
        topic: str,
        subscription: str,
        *,
        create: bool,
        start: str,
        auto_commit: bool,
        member_id: str,
        session_ms: int,
    ) -> None:
        super().__init__(io)
        self._topic = topic
        self._subscription = subscription
        self._create = create
        self._start = start
        self._auto_commit = auto_commit
        self._member_id = member_id
        self._session_ms = session_ms
        self._member: Member | None = None
        self._seen: dict[int, tuple[MemberChunk, int]] = {}

    @property
    def partitions(self) -> list[int]:
        """The partitions that this member has now."""
        return self._member.partitions if self._member is not None else []

    async def _open(self, engine: Engine) -> Member:
        from mom_client.member import Member

        await operations.ensure_stream(
            engine, self._topic, self._subscription, create=self._create, start=self._start
        )
        member = Member(engine, self._topic, self._subscription, self._member_id, self._session_ms)
        await member.open()
        return member

    def _handled(self, chunk: MemberChunk) -> Generator[ReceivedMessage, None, None]:
        """Yield a chunk's messages; each is handled when the next one is asked for."""
        member = self._member
        assert member is not None, "a chunk without a member"
        chunk.begun = True
        held = chunk.held
        noted = time.monotonic()
        position = chunk.first
        finished = False
        try:
            for message in chunk.messages():
                if held.stopped:
                    return
                if not self._auto_commit:
                    self._seen[held.partition] = (chunk, message.offset + 1)
                yield message
                position = message.offset + 1
                if self._auto_commit and time.monotonic() - noted > NOTE_SECONDS:
                    noted = time.monotonic()
                    self._post(lambda offset=position: member.handled(held, offset))  # type: ignore[misc]
            finished = True
        finally:
            if self._auto_commit:
                self._post(lambda: member.handled(held, position))
            self._post(lambda: member.done(held))
            if not finished:  # The user left in the middle, and may come back for the rest.
                self._post(lambda: member.read_again(held, position))

    async def _commit(self, engine: Engine) -> None:
        member = self._member
        if member is not None:
            seen, self._seen = self._seen, {}
            lost = [
                partition
                for partition, (chunk, offset) in seen.items()
                if not member.handled(chunk.held, offset)
            ]
            await member.commit()
            if lost:
                raise FencedError(
                    f"partitions {lost} of {self._topic!r} went to another member before this "
                    "commit: their messages come there again"
                )


class Subscription(_SubscriptionSteps):
    """A member of a subscription: ``async with`` it, or just iterate."""

    async def __aenter__(self) -> Subscription:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """Join. Raises NotFoundError; UnavailableError."""
        if self._member is None:
            self._member = await self._run(self._open)

    async def __aiter__(self) -> AsyncIterator[ReceivedMessage]:
        await self.open()
        self._leave()
        while True:
            member = self._member
            if member is None:
                return
            chunk = await self._run(lambda engine, member=member: member.next())  # type: ignore[misc]
            with self._activate(self._handled(chunk)) as messages:
                for message in messages:
                    yield message

    async def commit(self) -> None:
        """Commit what was handled, up to the last message given when ``auto_commit`` is off.

        Raises FencedError when a partition went to another member meanwhile.
        """
        await self._run(self._commit)

    async def close(self) -> None:
        """Commit what was handled and leave, so that others take over at once."""
        self._leave()
        member, self._member = self._member, None
        if member is not None and not self._inherited:
            await self._run(lambda engine: member.close())


class SyncSubscription(_SubscriptionSteps):
    """A member of a subscription: ``with`` it, or just iterate."""

    def __enter__(self) -> SyncSubscription:
        self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def open(self) -> None:
        """Join. Raises NotFoundError; UnavailableError."""
        if self._member is None:
            self._member = self._wait(self._open)

    def __iter__(self) -> Iterator[ReceivedMessage]:
        self.open()
        self._leave()
        while True:
            member = self._member
            if member is None:
                return
            chunk = self._wait(lambda engine, member=member: member.next())  # type: ignore[misc]
            with self._activate(self._handled(chunk)) as messages:
                yield from messages

    def commit(self) -> None:
        """See :meth:`Subscription.commit`."""
        self._wait(self._commit)

    def close(self) -> None:
        """Commit what was handled and leave, so that others take over at once."""
        self._leave()
        member, self._member = self._member, None
        if member is not None and not self._inherited:
            self._wait(lambda engine: member.close())


class _ConsumptionSteps(_Steps):
    """What both faces of a worker share."""

    def __init__(
        self,
        io: IoThread,
        queue: str,
        subscription: str,
        *,
        at_once_max: int | None,
        lease_ms: int,
    ) -> None:
        super().__init__(io)
        self._queue = queue
        self._subscription = subscription
        self._at_once_max = at_once_max
        self._lease_ms = lease_ms
        self._worker: QueueWorker | None = None
        self._at_hand: tuple[HeldLease, int] | None = None

    async def _open(self, engine: Engine) -> QueueWorker:
        from mom_client.worker import QueueWorker

        worker = QueueWorker(
            engine,
            self._queue,
            self._subscription,
            at_once_max=self._at_once_max,
            lease_ms=self._lease_ms,
        )
        await worker.open()
        return worker

    def ack(self) -> None:
        """Acknowledge the message at hand now, before leaving the iteration."""
        from mom_client.worker import ACK

        self._settle_at_hand(ACK)

    def nack(self, delay: float = 0) -> None:
        """Give the message at hand back for another try, not before ``delay`` seconds."""
        from mom_client.worker import NACK

        self._settle_at_hand(NACK, int(delay * 1000))

    def _settle_at_hand(self, action: int, delay_ms: int = 0) -> None:
        worker, at_hand = self._worker, self._at_hand
        self._at_hand = None
        if worker is not None and at_hand is not None:
            lease, offset = at_hand
            self._post(lambda: worker.settle(lease, offset, action, delay_ms))

    def _handled(
        self, worker: QueueWorker, lease: HeldLease
    ) -> Generator[ReceivedMessage, None, None]:
        """Yield a lease's messages; each is acknowledged when the next one is asked for."""
        from mom_client.worker import ACK

        lease.begun = True
        after = lease.first
        finished = False
        try:
            for message in lease.messages():
                if not worker.is_held(lease, message.offset):
                    continue
                self._at_hand = (lease, message.offset)
                after = message.offset + 1
                yield message
                self._settle_at_hand(ACK)
            after = lease.end
            finished = True
        finally:
            if after < lease.end:  # The user left in the middle.
                self._post(lambda: worker.give_back(lease, after))
            if not finished:  # And may come back for more.
                self._post(worker.leave)

    def _begin_again(self) -> None:
        """End an iteration that was left, whose last message may not have been handled."""
        from mom_client.worker import RELEASE

        self._leave()
        self._settle_at_hand(RELEASE)


class Consumption(_ConsumptionSteps):
    """A worker of a queue: ``async with`` it, or just iterate."""

    async def __aenter__(self) -> Consumption:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None and issubclass(kind, Exception):
            self.nack()
        await self.close()

    async def open(self) -> None:
        """Begin. Raises NotFoundError; UnavailableError."""
        if self._worker is None:
            self._worker = await self._run(self._open)

    async def __aiter__(self) -> AsyncIterator[ReceivedMessage]:
        await self.open()
        self._begin_again()
        while True:
            worker = self._worker
            if worker is None:
                return
            leases = await self._run(lambda engine, worker=worker: worker.next())  # type: ignore[misc]
            for lease in leases:
                if lease.suspect and not await self._run(
                    lambda engine, worker=worker, lease=lease: worker.begin(lease)  # type: ignore[misc]
                ):
                    continue
                with self._activate(self._handled(worker, lease)) as messages:
                    for message in messages:
                        yield message

    async def close(self) -> None:
        """Send the acks that are due and give back the rest."""
        self._leave()
        worker, self._worker = self._worker, None
        if worker is not None and not self._inherited:
            await self._run(lambda engine: worker.close())


class SyncConsumption(_ConsumptionSteps):
    """A worker of a queue: ``with`` it, or just iterate."""

    def __enter__(self) -> SyncConsumption:
        self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None and issubclass(kind, Exception):
            self.nack()
        self.close()

    def open(self) -> None:
        """Begin. Raises NotFoundError; UnavailableError."""
        if self._worker is None:
            self._worker = self._wait(self._open)

    def __iter__(self) -> Iterator[ReceivedMessage]:
        self.open()
        self._begin_again()
        while True:
            worker = self._worker
            if worker is None:
                return
            leases = self._wait(lambda engine, worker=worker: worker.next())  # type: ignore[misc]
            for lease in leases:
                if lease.suspect and not self._wait(
                    lambda engine, worker=worker, lease=lease: worker.begin(lease)  # type: ignore[misc]
                ):
                    continue
                with self._activate(self._handled(worker, lease)) as messages:
                    yield from messages

    def close(self) -> None:
        """Send the acks that are due and give back the rest."""
        self._leave()
        worker, self._worker = self._worker, None
        if worker is not None and not self._inherited:
            self._wait(lambda engine: worker.close())
