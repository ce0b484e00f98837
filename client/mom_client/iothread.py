"""The client's own thread with its own event loop, in which its engine lives.

So a handler that blocks its loop, or a script that has none, starves neither heartbeats nor lease
renewals, and one client serves several event loops.

**Handing over.** Published messages go through a deque with one wake-up for many, and their results
go back with one wake-up for each loop and turn. Everything else runs as a coroutine in the thread.

**Forking.** gRPC's threads do not survive a fork and its locks may be held at that moment (seen
with grpcio 1.85: children that abort in ``Mutex::Fer``). But gRPC ends its threads when the last
channel is gone, within milliseconds. So before a fork each client closes its connections and stops
its thread, and waits until gRPC's threads have ended. In the parent, the same engine and loop go on
afterwards, at once if anything was under way: batches that were on their way are sent again under
their sequence numbers and land once. The child starts with nothing: a new engine with new producer
ids, made when it is first used. It keeps the parent's loop untouched, since closing it would take
the parent's sockets out of an epoll that both share.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import contextvars
import gc
import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar, TypeVarTuple, Unpack

from mom_client.options import PUBLISH_WAITING_BYTES_MAX
from mom_client.results import Published, PublishedBatch
from mom_core.errors import InternalError, MomError, OverloadedError, UnavailableError
from mom_core.message import Message

if TYPE_CHECKING:
    from mom_client.engine import Engine
    from mom_client.lane import Sink

ResultT = TypeVar("ResultT")
_ArgumentsT = TypeVarTuple("_ArgumentsT")

# Messages taken from the deque before the loop does other things.
TAKES_PER_TURN_MAX: Final = 2_000
# Before a fork: for connections to close, and for gRPC's threads to end.
QUIESCE_SECONDS_MAX: Final = 5.0
GRPC_THREADS_SECONDS_MAX: Final = 2.0
# At the interpreter's exit, for a client that was not closed.
EXIT_SECONDS_MAX: Final = 10.0
_GRPC_THREADS: Final = ("grpc_global_tim", "event_engine", "lifeguard", "timer_manager")

_log = logging.getLogger("mom_client")

_Handed = tuple[str, Message, "int | None", "Sink", object]


class _IoLoop(asyncio.SelectorEventLoop):
    """A loop that a forked child neither closes nor complains about."""

    def __init__(self) -> None:
        super().__init__()
        self._owner_pid = os.getpid()

    def call_soon_threadsafe(
        self,
        callback: Callable[[Unpack[_ArgumentsT]], object],
        *args: *_ArgumentsT,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        """As of any loop, but nothing happens after its end.

        gRPC hands the ends of calls that were cancelled just before from one client's loop to
        another's, also to one that was closed meanwhile: nobody waits there any more.
        """
        try:
            return super().call_soon_threadsafe(callback, *args, context=context)
        except RuntimeError:
            if not self.is_closed():
                raise
            handle = asyncio.Handle(callback, args, self, context)
            handle.cancel()
            return handle

    def __del__(self) -> None:
        if os.getpid() == self._owner_pid:
            super().__del__()


class IoThread:
    """One engine in a thread that starts with the first use."""

    def __init__(self, make_engine: Callable[[], Engine]) -> None:
        self._make_engine = make_engine
        self._closed = False
        self.generation = 0
        """Grows in a forked child: what was opened under another one is the parent's."""
        self._reset()
        _threads.add(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._engine: Engine | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._handed: deque[_Handed] = deque()
        self._handed_bytes = 0
        """All that was ever handed over. Only the thread itself adds to ``_taken_bytes``."""
        self._taken_bytes = 0
        self._draining = False

    # Starting and stopping.

    def now_ms(self) -> int:
        """The wall clock of users of this client, milliseconds since the Unix epoch."""
        return time.time_ns() // 1_000_000

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        """The loop, started or resumed if it is not running. The lock is held."""
        if self._closed:
            raise UnavailableError("the client was closed; connect anew")
        if self._loop is None:
            self._engine = self._make_engine()
            self._loop = _IoLoop()
            self._loop.call_soon(self._start_engine)
        if self._thread is None:
            self._start_thread()
        return self._loop

    def _start_thread(self) -> None:
        self._thread = threading.Thread(target=self._run_loop, name="mom-client", daemon=True)
        self._thread.start()

    def _run_loop(self) -> None:
        loop = self._loop
        assert loop is not None, "a thread without a loop"
        asyncio.set_event_loop(loop)
        loop.run_forever()
        if self._closed:
            _end_loop(loop)

    def _start_engine(self) -> None:
        assert self._engine is not None, "a thread without an engine"
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._engine.start())
        task.add_done_callback(lambda done: done.exception())

    def close(self, timeout_seconds: float | None = None) -> None:
        """Flush and end. Blocks; a later use raises UnavailableError."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            loop, engine = self._loop, self._engine
            if loop is not None and self._thread is None:
                self._start_thread()
        if loop is None or engine is None:
            return
        future = asyncio.run_coroutine_threadsafe(self._close_engine(engine), loop)
        try:
            future.result(timeout_seconds)
        finally:
            loop.call_soon_threadsafe(loop.stop)
            if self._thread is not None:
                self._thread.join()
            self._loop = self._engine = self._thread = None

    async def close_from_loop(self) -> None:
        """As :meth:`close`, for a caller that may not block."""
        await asyncio.to_thread(self.close)

    async def _close_engine(self, engine: Engine) -> None:
        while self._handed:
            self._drain()
            await asyncio.sleep(0)
            if engine.producer.full:
                await engine.producer.flush()
        await engine.close()

    # Coroutines.

    def run(
        self, work: Callable[[Engine], Coroutine[Any, Any, ResultT]], generation: int | None = None
    ) -> Future[ResultT]:
        """Run a coroutine in the thread. Cancelling the future cancels it.

        Raises UnavailableError when what it belongs to was opened before a fork.
        """
        with self._lock:
            self._check_generation(generation)
            loop = self._running_loop()
            assert self._engine is not None, "a loop without an engine"
            if threading.current_thread() is self._thread:
                raise RuntimeError("a call into the client from the client's own thread")
            return asyncio.run_coroutine_threadsafe(work(self._engine), loop)

    def post(self, callback: Callable[[], object], generation: int) -> None:
        """Call something in the thread, soon. Nothing happens in a forked child."""
        with self._lock:
            if generation == self.generation and not self._closed:
                self._running_loop().call_soon_threadsafe(callback)

    def _check_generation(self, generation: int | None) -> None:
        if generation is not None and generation != self.generation:
            raise UnavailableError(
                "this was opened before the process forked and belongs to the parent; open it anew "
                "in this process"
            )

    # Published messages.

    def hand_over(
        self, topic: str, message: Message, partition: int | None, sink: Sink, token: object
    ) -> None:
        """Publish a message; its result goes to the sink.

        Raises OverloadedError when too many bytes wait to be taken.
        """
        size = len(message.value)
        with self._lock:
            waiting = self._handed_bytes - self._taken_bytes
            if waiting + size > PUBLISH_WAITING_BYTES_MAX and self._handed:
                raise OverloadedError(
                    f"{waiting} bytes wait to be published, and at most "
                    f"{PUBLISH_WAITING_BYTES_MAX} may: await the results of earlier publishes "
                    "before publishing more",
                    retry_after_ms=100,
                )
            self._handed.append((topic, message, partition, sink, token))
            self._handed_bytes += size
            if self._draining and self._thread is not None:
                return
            loop = self._running_loop()
            if not self._draining:
                self._draining = True
                loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        """Take what was handed over. A defect fails it, for nobody else would take it."""
        try:
            self._take_handed()
        except Exception as error:
            _log.exception("messages that were handed over could not be taken")
            self._fail_handed(
                InternalError(f"a defect in MOM's client: {type(error).__name__}: {error}")
            )
        assert self._engine is not None, "messages without an engine"
        handed = self._handed
        if not handed:
            # No lock here: a fork holds it while this thread comes to rest. What is appended
            # between these two looks either sees the flag down, or is seen.
            self._draining = False
            if not handed:
                return
            self._draining = True
        if self._engine.producer.full:
            self._engine.producer.on_room = self._room
        else:
            asyncio.get_running_loop().call_soon(self._drain)

    def _take_handed(self) -> None:
        assert self._engine is not None, "messages without an engine"
        producer = self._engine.producer
        handed = self._handed
        turns = TAKES_PER_TURN_MAX
        taken = 0
        try:
            while handed and turns and not producer.full:
                topic, message, partition, sink, token = handed[0]
                producer.submit(topic, message, partition, sink, token)
                handed.popleft()
                taken += len(message.value)
                turns -= 1
        finally:
            self._taken_bytes += taken

    def _fail_handed(self, error: MomError) -> None:
        for _ in range(len(self._handed)):
            _, message, _, sink, token = self._handed.popleft()
            self._taken_bytes += len(message.value)
            sink.settle(error, 0, [token])

    def _room(self) -> None:
        assert self._engine is not None, "room without an engine"
        self._engine.producer.on_room = None
        asyncio.get_running_loop().call_soon(self._drain)

    # Forking.

    def pause(self) -> Future[None] | None:
        """Take the lock and begin to close all connections; None: there is nothing to close."""
        self._lock.acquire()
        if self._thread is None or self._loop is None or self._engine is None:
            return None
        return asyncio.run_coroutine_threadsafe(self._engine.pause(), self._loop)

    def stop(self) -> None:
        """Stop the thread and keep everything else."""
        thread, loop = self._thread, self._loop
        if thread is not None and loop is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(QUIESCE_SECONDS_MAX)
            self._thread = None

    def after_fork_in_parent(self) -> None:
        """Go on, at once if anything is under way."""
        if self._loop is not None and self._engine is not None and not self._closed:
            self._loop.call_soon(self._engine.resume)
            if self._handed or self._engine.busy(asyncio.all_tasks(self._loop)):
                self._start_thread()
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """Begin with nothing."""
        if self._loop is not None:
            _abandoned.append((self._loop, self._engine))
        self.generation += 1
        self._reset()


def keep_out_of_forks(io: IoThread) -> None:
    """Let forks and the end of the process pass by one that has no thread."""
    _threads.discard(io)


def _end_loop(loop: asyncio.AbstractEventLoop) -> None:
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


class LoopSink:
    """Results of publishes for the futures of one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._settled: list[tuple[PublishedBatch | MomError, int, list[object]]] = []

    def settle(
        self, outcome: PublishedBatch | MomError, first_index: int, tokens: list[object]
    ) -> None:
        """Note results; they go over together at the end of this turn."""
        if not self._settled:
            asyncio.get_running_loop().call_soon(self._go_over)
        self._settled.append((outcome, first_index, tokens))

    def _go_over(self) -> None:
        settled, self._settled = self._settled, []
        # A loop that was closed has nobody left who waits.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(_deliver, settled)


def _deliver(settled: list[tuple[PublishedBatch | MomError, int, list[Any]]]) -> None:
    for outcome, first_index, futures in settled:
        if isinstance(outcome, MomError):
            for future in futures:
                if not future.done():
                    future.set_exception(outcome)
        else:
            for index, future in enumerate(futures, first_index):
                if not future.done():
                    future.set_result(Published(outcome, index))


class ThreadSink:
    """Results of publishes for threads that wait."""

    def settle(
        self, outcome: PublishedBatch | MomError, first_index: int, tokens: list[object]
    ) -> None:
        """Wake each of them."""
        for index, future in enumerate(tokens, first_index):
            assert isinstance(future, Future), "a token of another sink"
            if future.done():
                continue
            if isinstance(outcome, MomError):
                future.set_exception(outcome)
            else:
                future.set_result(Published(outcome, index))


# Forks and the end of the process.

_threads: weakref.WeakSet[IoThread] = weakref.WeakSet()
_forking: list[IoThread] = []
_abandoned: list[object] = []


def _before_fork() -> None:
    _forking[:] = list(_threads)
    pausing = [future for one in _forking if (future := one.pause()) is not None]
    if pausing:
        concurrent.futures.wait(pausing, QUIESCE_SECONDS_MAX)
        # The loops still run: it takes some turns until cancelled calls have let go.
        _await_grpc_threads()
    for one in _forking:
        one.stop()


def _await_grpc_threads() -> None:
    """Wait until gRPC has ended its threads, which it does after the last channel is gone.

    Where the application has gRPC channels of its own, they stay, and its forks are as safe as they
    were before.
    """
    begin = time.monotonic()
    collect_at = begin + GRPC_THREADS_SECONDS_MAX / 4
    while _grpc_threads_running():
        now = time.monotonic()
        if now > begin + GRPC_THREADS_SECONDS_MAX:
            _log.warning("forking while gRPC channels of this process are open")
            return
        if now > collect_at:
            gc.collect()  # A channel in a reference cycle would hold them.
            collect_at = begin + GRPC_THREADS_SECONDS_MAX
        time.sleep(0.002)


def _grpc_threads_running() -> bool:
    for task in Path("/proc/self/task").glob("*/comm"):
        with contextlib.suppress(OSError):  # It ended meanwhile.
            if task.read_text().strip().startswith(_GRPC_THREADS):
                return True
    return False


def _after_fork_in_parent() -> None:
    for one in _forking:
        one.after_fork_in_parent()
    _forking.clear()


def _after_fork_in_child() -> None:
    for one in _forking:
        one.after_fork_in_child()
    _forking.clear()


def _at_exit() -> None:
    for one in list(_threads):
        try:
            one.close(EXIT_SECONDS_MAX)
        except Exception as error:
            _log.warning("closing a client at exit failed: %r", error)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )
atexit.register(_at_exit)
