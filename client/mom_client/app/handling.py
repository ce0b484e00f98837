"""What workers and subscribers share: handlers that run in a limited number, and their failures."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from mom_client.app.handler import Handler
from mom_client.app.threads import HandlerThreads
from mom_client.iothread import IoThread
from mom_client.received import ReceivedMessage

if TYPE_CHECKING:
    from mom_client.engine import Engine

ResultT = TypeVar("ResultT")

# A handler that was cancelled gets so long to clean up.
CANCEL_SECONDS_MAX = 1.0

log = logging.getLogger("mom_client")


class Problems:
    """What does not work now, by the name of the worker, or of the subscriber and its partition."""

    def __init__(self) -> None:
        self.now: dict[str, str] = {}

    def tell(self, name: str, what: str, error: BaseException) -> None:
        """Note a problem, and log it with where it was raised."""
        said = f"{what}: {type(error).__name__}: {error}"
        self.now[name] = said
        log.error("%s: %s", name, said, exc_info=error)

    def over(self, name: str) -> None:
        """It works again."""
        if self.now.pop(name, None) is not None:
            log.info("%s works again", name)

    def forget(self, name: str) -> None:
        """It is not this process's any more, or the process ends."""
        self.now.pop(name, None)


class Runner(Protocol):
    """One worker or subscriber of a running application."""

    name: str

    async def open(self) -> None:
        """Begin. Raises MomError."""

    async def run(self) -> None:
        """Handle messages until it is cancelled. Raises what ended it."""

    def stop(self) -> None:
        """Begin nothing more and release what was not begun."""

    async def close(self, over: asyncio.Event) -> None:
        """Let handlers finish until ``over`` is set, send the acks that are due, leave. It can be
        opened again."""


class Calls:
    """Calls into the client's thread."""

    def __init__(self, io: IoThread) -> None:
        self._io = io
        self._generation = io.generation

    async def run(self, work: Callable[[Engine], Coroutine[Any, Any, ResultT]]) -> ResultT:
        """Run a coroutine there and wait for its result."""
        return await asyncio.wrap_future(self._io.run(work, self._generation))

    def post(self, callback: Callable[[], object]) -> None:
        """Call something there, soon."""
        self._io.post(callback, self._generation)


class Handling:
    """Runs a handler once at a time for each of its slots."""

    def __init__(self, handler: Handler, at_once_max: int) -> None:
        self.handler = handler
        self.stopping = asyncio.Event()
        self._slots = asyncio.Semaphore(at_once_max)
        self._threads = HandlerThreads(handler.name, at_once_max)

    async def once(self, message: ReceivedMessage) -> Exception | None:
        """Run the handler; what it raised, None for success."""
        async with self._slots:
            try:
                await self.handler.run(message, self._threads)
            except Exception as error:
                return error
            except SystemExit as error:  # Else it would end the process, and the next one, too.
                return RuntimeError(f"the handler raised {error!r}")
            except asyncio.CancelledError as error:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
                return RuntimeError(f"the handler ended itself: {error!r}")
        return None

    async def pause(self, seconds: float, *more: asyncio.Event) -> bool:
        """Wait between two tries; whether the time passed, and nothing is to stop."""
        waits = [asyncio.ensure_future(one.wait()) for one in (self.stopping, *more)]
        try:
            done, _ = await asyncio.wait(
                waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
            return not done
        finally:
            for one in waits:
                one.cancel()

    def close(self) -> None:
        """End the threads."""
        self._threads.close()


async def finish(tasks: set[asyncio.Task[None]], over: asyncio.Event) -> None:
    """Wait for tasks until ``over`` is set, then cancel them."""
    left = set(tasks)
    waiting = asyncio.ensure_future(over.wait())
    try:
        while left and not over.is_set():
            done, _ = await asyncio.wait({*left, waiting}, return_when=asyncio.FIRST_COMPLETED)
            left -= done
    finally:
        waiting.cancel()
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left, timeout=CANCEL_SECONDS_MAX)


async def end(task: asyncio.Task[Any]) -> None:
    """Cancel a task of our own, and wait for it."""
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
