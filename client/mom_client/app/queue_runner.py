"""A worker of an application: a queue's messages, some at a time.

A message is received when a handler is free for it, so that none waits here while another worker is
idle, unless ``prefetch`` allows some. Its lease is renewed by the client's own thread while the
handler runs. A handler whose lease was lost is cancelled, for another worker has the message now; a
sync one can't be, and its ack is refused.

When a worker dies, each message that it had is suspected of having ended it. A suspect is handled
while no other handler runs, so that no neighbour is ended with it again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from mom_client import operations
from mom_client.app.handler import Handler
from mom_client.app.handling import Calls, Handling, finish, log
from mom_client.app.payload import PayloadError
from mom_client.app.retry import Retry
from mom_client.iothread import IoThread
from mom_client.received import ReceivedMessage

if TYPE_CHECKING:
    from mom_client.engine import Engine
    from mom_client.worker import HeldLease, QueueWorker

TRIES_DEFAULT = 1


class WorkerSettings(NamedTuple):
    """What ``@app.worker`` says."""

    queue: str
    subscription: str
    concurrency: int
    prefetch: int
    lease_ms: int
    retry: Retry


class _Taken(NamedTuple):
    """A message under its lease."""

    lease: HeldLease
    message: ReceivedMessage


class QueueRunner:
    """Receives, runs the handler, acknowledges or gives back."""

    def __init__(self, io: IoThread, handler: Handler, settings: WorkerSettings) -> None:
        self._settings = settings
        self.name = f"worker {settings.queue!r} ({handler.name})"
        self._calls = Calls(io)
        self._handling = Handling(handler, settings.concurrency)
        self._worker: QueueWorker | None = None
        self._ready: deque[_Taken] = deque()
        self._suspects: deque[_Taken] = deque()
        self._suspect_runs = False
        self._others_first = 0
        """How many other messages have their turn before the next suspect."""
        self._receiving: asyncio.Task[list[HeldLease]] | None = None
        self._running: dict[tuple[HeldLease, int], asyncio.Task[None]] = {}
        self._lost: set[tuple[HeldLease, int]] = set()
        self._changed = asyncio.Event()

    # Life.

    async def open(self) -> None:
        """Begin. Raises NotFoundError, InvalidArgumentError when it is no queue."""
        self._loop = asyncio.get_running_loop()
        self._ready.clear()
        self._suspects.clear()
        self._worker = await self._calls.run(self._open)

    async def _open(self, engine: Engine) -> QueueWorker:
        from mom_client.worker import QueueWorker

        settings = self._settings
        await operations.check_queue(engine, settings.queue, settings.subscription)
        worker = QueueWorker(
            engine,
            settings.queue,
            settings.subscription,
            at_once_max=settings.concurrency + settings.prefetch,
            lease_ms=settings.lease_ms,
        )
        worker.on_lost = self._tell_lost
        await worker.open()
        return worker

    async def run(self) -> None:
        """Receive as handlers become free."""
        worker = self._worker
        assert worker is not None, "a worker that was not opened"
        try:
            while True:
                self._changed.clear()
                self._start_ready(worker)
                self._receive(worker)
                await self._changed.wait()
                if self._receiving is not None and self._receiving.done():
                    receiving, self._receiving = self._receiving, None
                    self._take(receiving.result())
        finally:
            if self._receiving is not None:
                self._receiving.cancel()
                self._receiving = None

    def _receive(self, worker: QueueWorker) -> None:
        """Ask for as many as there is room for, while handlers go on."""
        room = self._settings.concurrency + self._settings.prefetch
        wanted = room - len(self._running) - len(self._ready) - len(self._suspects)
        if wanted > 0 and self._receiving is None:
            self._receiving = self._loop.create_task(
                self._calls.run(lambda engine: worker.next(max_messages=wanted))
            )
            self._receiving.add_done_callback(lambda _: self._changed.set())

    def _take(self, leases: list[HeldLease]) -> None:
        for lease in leases:
            lease.begun = True
            taken = self._suspects if lease.suspect else self._ready
            taken.extend(_Taken(lease, message) for message in lease.messages())

    def stop(self) -> None:
        """Begin nothing more; release what waits here."""
        self._handling.stopping.set()
        worker = self._worker
        if worker is None:
            return
        from mom_client.worker import RELEASE

        for taken in (*self._ready, *self._suspects):
            lease, offset = taken.lease, taken.message.offset
            self._calls.post(lambda lease=lease, at=offset: worker.settle(lease, at, RELEASE))  # type: ignore[misc]
        self._ready.clear()
        self._suspects.clear()
        self._calls.post(worker.leave)

    async def close(self, over: asyncio.Event) -> None:
        """See :class:`~mom_client.app.handling.Runner`."""
        await finish(set(self._running.values()), over)
        worker, self._worker = self._worker, None
        if worker is not None:
            await self._calls.run(lambda engine: worker.close())
        self._handling.close()

    # Leases that were lost: told by the client's thread.

    def _tell_lost(self, lease: HeldLease, first: int, end: int) -> None:
        with suppress(RuntimeError):  # The loop was closed, and with it all handlers.
            self._loop.call_soon_threadsafe(self._lose, lease, first, end)

    def _lose(self, lease: HeldLease, first: int, end: int) -> None:
        for (held, offset), task in list(self._running.items()):
            if held is lease and first <= offset < end:
                self._lost.add((held, offset))
                if self._handling.handler.is_async:
                    task.cancel()

    # Handling.

    def _start_ready(self, worker: QueueWorker) -> None:
        if self._suspect_runs:
            return
        while (
            self._ready
            and len(self._running) < self._settings.concurrency
            and (not self._suspects or self._others_first > 0)
        ):
            self._others_first -= self._start(worker, self._ready.popleft())
        while self._suspects and not self._running:
            self._suspect_runs = self._start(worker, self._suspects.popleft())
            self._others_first = self._settings.concurrency

    def _start(self, worker: QueueWorker, taken: _Taken) -> bool:
        """Run the handler; False: the message is another worker's by now."""
        if not worker.is_held(taken.lease, taken.message.offset):
            return False
        place = (taken.lease, taken.message.offset)
        self._running[place] = self._loop.create_task(self._handle(worker, taken))
        return True

    async def _handle(self, worker: QueueWorker, taken: _Taken) -> None:
        from mom_client.worker import ACK, RELEASE

        lease, message = taken
        offset = message.offset
        try:
            if lease.suspect and not await self._calls.run(lambda engine: worker.begin(lease)):
                return
            error = await self._try(message)
        except asyncio.CancelledError:
            if (lease, offset) in self._lost:
                log.warning("%s: the lease of %r was lost: handler cancelled", self.name, message)
            else:  # The grace period of a shutdown is over, which is not the message's fault.
                self._calls.post(lambda: worker.settle(lease, offset, RELEASE))
            return
        finally:
            self._running.pop((lease, offset), None)
            self._suspect_runs = False
            self._lost.discard((lease, offset))
            self._changed.set()
        if error is None:
            self._calls.post(lambda: worker.settle(lease, offset, ACK))
            return
        delay_ms = int(self._settings.retry.wait_seconds(max(1, message.deliveries)) * 1000)
        self._calls.post(lambda: worker.fail(lease, offset, delay_ms))

    async def _try(self, message: ReceivedMessage) -> Exception | None:
        retry = self._settings.retry
        tries = retry.tries or TRIES_DEFAULT
        failures = 0
        while (error := await self._handling.once(message)) is not None:
            failures += 1
            log.warning(
                "%s: delivery %d of %r failed, try %d of %d: %s: %s",
                self.name, message.deliveries, message, failures, tries, type(error).__name__,
                error, exc_info=error,
            )  # fmt: skip
            if failures >= tries or isinstance(error, PayloadError):
                return error
            if not await self._handling.pause(retry.wait_seconds(failures)):
                return error
        return None
