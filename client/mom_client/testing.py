"""MOM in memory for unit tests: no process, no sockets, and a clock that the test moves.

::

    from mom_client.testing import TestBroker

    async def test_a_failed_mail_comes_again():
        async with TestBroker() as broker:
            client = broker.client()
            await client.create_queue("emails", retry_backoff_ms=5_000)
            await client.publish("emails", "hi")
            [message] = await client.receive("emails")
            await client.nack(message)
            assert await client.receive("emails") == []
            await broker.clock.advance(5)
            [message] = await client.receive("emails")

It is the real master, node and client over the store in memory; only the time is another one. It
stands still unless the test moves it, so a call that waits (``receive`` with ``wait``) waits until
something comes or another task advances the clock. docs/testing.md has more.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
import time
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from mom_client import client as async_client
from mom_client import in_memory
from mom_client import sync as sync_client
from mom_client.options import EngineOptions
from mom_core.cadence import Cadence
from mom_process.system import SystemRandom
from mom_process.virtual_time import VirtualClock, VirtualLoop

if TYPE_CHECKING:
    from mom_broker.in_memory import InMemoryCluster
    from mom_client.engine import Engine

ResultT = TypeVar("ResultT")

_HOUR_MS: Final = 3_600_000
# Nobody dies here, so nobody needs to be looked after, and a day of the clock is soon over. Nor is
# anything to be gathered: what is done at once happens at the same time.
_CADENCE: Final = Cadence(
    heartbeat_interval_ms=_HOUR_MS,
    heartbeat_timeout_ms=5 * _HOUR_MS,
    leader_renew_ms=_HOUR_MS,
    leader_lease_ms=5 * _HOUR_MS,
    placement_debounce_ms=0,
    routing_beat_ms=_HOUR_MS,
    retention_sweep_ms=10_000,
)
# After each answer that comes to the test's own tasks they get so many turns of their loop, and
# then its threads a moment, before the clock goes on.
_TURNS: Final = 20
_MOMENT_S: Final = 0.001
# Time that a start or a stop may take of the machine's own: a defect, if it comes to that.
_PATIENCE_S: Final = 60.0

_numbers: Final = itertools.count(1)
_log = logging.getLogger("mom_client")


class Clock:
    """The broker's clock, which only the test moves."""

    def __init__(self, home: _Home) -> None:
        self._home = home

    def now_ms(self) -> int:
        """The broker's wall clock, milliseconds since the Unix epoch."""
        return self._home.now_ms()

    async def advance(self, seconds: float) -> None:
        """Let time go on, and all happen that is due meanwhile, each thing at its time.

        Whenever something comes to tasks of the test (a worker gets a message, say), time stands
        still until they have done with it, as far as they wait for nothing but the broker.
        """
        loop = self._home.loop
        end_s = loop.time() + _checked(seconds)
        await self._settled()
        while True:
            reached_s = await asyncio.wrap_future(loop.travel(end_s))
            await self._settled()
            if reached_s >= end_s:
                return

    def advance_sync(self, seconds: float) -> None:
        """As :meth:`advance`, for tests without asyncio, whose workers are threads."""
        loop = self._home.loop
        end_s = loop.time() + _checked(seconds)
        reached_s = -1.0
        while reached_s < end_s:
            reached_s = loop.travel(end_s).result()
            self._settled_sync()

    async def _settled(self) -> None:
        """Wait until neither the test's tasks nor the broker have more to do."""
        seen = -1
        while seen != self._home.activity:
            seen = self._home.activity
            for _ in range(_TURNS):
                await asyncio.sleep(0)
            if seen != self._home.quiet_at and self._home.has_other_threads():
                await asyncio.sleep(_MOMENT_S)
            await asyncio.wrap_future(self._home.loop.rest())
        self._home.quiet_at = seen

    def _settled_sync(self) -> None:
        seen = -1
        while seen != self._home.activity:
            seen = self._home.activity
            if seen != self._home.quiet_at and self._home.has_other_threads():
                time.sleep(_MOMENT_S)
            self._home.loop.rest().result()
        self._home.quiet_at = seen


class TestBroker:
    """A broker of one test; ``async with`` it, or ``with`` it.

    ``start_ms`` is where its clock begins, milliseconds since the Unix epoch; None: now. Raises
    ImportError, with what to install, where MOM is installed without its servers.
    """

    __test__ = False  # For pytest: no class of tests, whatever its name.

    def __init__(self, *, start_ms: int | None = None) -> None:
        now_ms = time.time_ns() // 1_000_000
        self._home = _Home(now_ms if start_ms is None else start_ms)
        self.clock = Clock(self._home)

    @property
    def address(self) -> str:
        """For code that connects by itself: ``mom_client.connect`` with it reaches this broker."""
        return self._home.address

    def client(self, **options: Any) -> async_client.Client:
        """A client, which ends with the broker. ``options`` as of :func:`mom_client.connect`."""
        return async_client.connect(self.address, **options)

    def sync_client(self, **options: Any) -> sync_client.Client:
        """A client for code without asyncio."""
        return sync_client.connect(self.address, **options)

    def __enter__(self) -> TestBroker:
        self._home.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._home.stop()

    async def __aenter__(self) -> TestBroker:
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await asyncio.sleep(0)  # What was just cancelled lets go of the broker first.
        await asyncio.to_thread(self._home.stop)


class _Home:
    """The loop, its thread, the cluster in it and the engines of its clients."""

    def __init__(self, start_ms: int) -> None:
        self.address = ""
        self.loop = VirtualLoop()
        self.activity = 0
        """Grows with each message, call and answer."""
        self.quiet_at = -1
        """The activity at which all had settled."""
        self._clock = VirtualClock(self.loop, start_ms)
        self._cluster: InMemoryCluster | None = None
        self._engines: list[Engine] = []
        self._counting = threading.Lock()
        self._waiting = 0
        """Calls that are not answered yet."""
        self._thread = threading.Thread(target=self._run, name="mom-test-broker", daemon=True)

    # For clients: see mom_client.in_memory.Home.

    def now_ms(self) -> int:
        return self._clock.now_ms()

    def make_engine(
        self, addresses: Sequence[str], token: str | None, options: EngineOptions
    ) -> Engine:
        from mom_client.connections import Connections
        from mom_client.engine import Engine

        assert self._cluster is not None, "an address that is announced has a cluster"
        connections = Connections(token, self._cluster.open_channel)
        engine = Engine(
            addresses,
            token=token,
            options=options,
            clock=self._clock,
            random=SystemRandom(),
            connections=connections,
        )
        self._engines.append(engine)
        return engine

    def note_message(self) -> None:
        with self._counting:
            self.activity += 1

    def note_call(self) -> None:
        with self._counting:
            self.activity += 1
            self._waiting += 1

    def note_answer(self) -> None:
        with self._counting:
            self.activity += 1
            self._waiting -= 1
        self.loop.pause()

    def has_other_threads(self) -> bool:
        """Whether there are any but the caller's and the broker's."""
        return threading.active_count() > 2

    # Life.

    def start(self) -> None:
        cluster = _cluster(f"test-broker-{next(_numbers)}", self._clock)
        self._cluster = cluster
        self.loop.on_long_rest = self._tell_who_waits
        self._thread.start()
        self._wait(self._start(cluster))
        self.address = cluster.addresses[0]
        in_memory.announce(self.address, self)

    async def _start(self, cluster: InMemoryCluster) -> None:
        # Until it stands, time takes what it needs.
        self.loop.runs_free = True
        await cluster.start(1)
        self.loop.runs_free = False

    def stop(self) -> None:
        if self.loop.is_closed():
            return
        in_memory.withdraw(self.address)
        try:
            self._wait(self._stop())
        finally:
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(_PATIENCE_S)

    async def _stop(self) -> None:
        self.loop.runs_free = True
        for engine in self._engines:
            await engine.close()
        if self._cluster is not None:
            await self._cluster.stop()

    def _wait(self, work: Coroutine[Any, Any, ResultT]) -> ResultT:
        future: Future[ResultT] = asyncio.run_coroutine_threadsafe(work, self.loop)
        return future.result(_PATIENCE_S)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()
        self.loop.finish()

    def _tell_who_waits(self) -> None:
        if self._waiting > 0:
            self.loop.on_long_rest = None
            _log.warning(
                "%d calls to the TestBroker wait, and its clock stands still: if nothing else is "
                "to come, advance the clock in another task, or call without a wait",
                self._waiting,
            )


def _cluster(host: str, clock: VirtualClock) -> InMemoryCluster:
    try:
        from mom_broker.in_memory import InMemoryCluster
    except ImportError as error:
        raise ImportError(
            f"TestBroker runs MOM's own servers, and {error.name} of theirs is missing: install "
            "them with pip install 'mom-mq[server]'"
        ) from error
    return InMemoryCluster(host, clock, SystemRandom(), cadence=_CADENCE)


def _checked(seconds: float) -> float:
    if seconds < 0:
        raise ValueError(f"the clock can't go back: seconds is {seconds}")
    return seconds
