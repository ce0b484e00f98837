"""Clients of a cluster that lives in this process's memory, under addresses of its own.

A cluster in memory (``TestBroker``) announces its addresses here; whoever connects to one of them,
also deep inside an application under test, gets the real client, whose engine runs in the
cluster's own event loop and calls it without a socket.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from mom_client.iothread import IoThread, keep_out_of_forks
from mom_client.options import EngineOptions
from mom_core.errors import UnavailableError
from mom_core.message import Message

if TYPE_CHECKING:
    from mom_client.engine import Engine
    from mom_client.lane import Sink

ResultT = TypeVar("ResultT")


class Home(Protocol):
    """What a cluster in memory offers to its clients."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Where it and all its clients run."""

    def make_engine(
        self, addresses: Sequence[str], token: str | None, options: EngineOptions
    ) -> Engine:
        """An engine that calls it."""

    def now_ms(self) -> int:
        """Its wall clock."""

    def note_message(self) -> None:
        """A client's user has published a message. From any thread."""

    def note_call(self) -> None:
        """A client's user has called something that will be answered. From any thread."""

    def note_answer(self) -> None:
        """A call's answer is on its way to its user. From the loop."""


_homes: dict[str, Home] = {}


def announce(address: str, home: Home) -> None:
    """From now on, whoever connects to the address reaches this cluster."""
    _homes[address] = home


def withdraw(address: str) -> None:
    """Undo :func:`announce`."""
    _homes.pop(address, None)


def io_in_memory(
    addresses: Sequence[str], token: str | None, options: EngineOptions
) -> IoThread | None:
    """What a client of one of these clusters runs by; None when the addresses are of none."""
    home = next((_homes[one] for one in addresses if one in _homes), None)
    if home is None:
        return None
    return HomeIo(home, lambda: home.make_engine(addresses, token, options))


class HomeIo(IoThread):
    """An engine in the loop of its cluster, in place of a thread of its own."""

    def __init__(self, home: Home, make_engine: Callable[[], Engine]) -> None:
        super().__init__(make_engine)
        keep_out_of_forks(self)
        self._home = home

    def now_ms(self) -> int:
        """The cluster's clock."""
        return self._home.now_ms()

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._closed or self._home.loop.is_closed():
            raise UnavailableError("the client was closed; connect anew")
        if self._loop is None:
            self._engine = self._make_engine()
            self._loop = self._home.loop
            self._loop.call_soon_threadsafe(self._start_engine)
        return self._loop

    def run(
        self, work: Callable[[Engine], Coroutine[Any, Any, ResultT]], generation: int | None = None
    ) -> Future[ResultT]:
        """See :class:`IoThread`."""
        future = super().run(work, generation)
        self._home.note_call()
        future.add_done_callback(lambda _: self._home.note_answer())
        return future

    def hand_over(
        self, topic: str, message: Message, partition: int | None, sink: Sink, token: object
    ) -> None:
        """See :class:`IoThread`. Its result comes before the cluster rests."""
        super().hand_over(topic, message, partition, sink, token)
        self._home.note_message()

    def close(self, timeout_seconds: float | None = None) -> None:
        """See :class:`IoThread`."""
        engine = self._end()
        if engine is not None:
            future = asyncio.run_coroutine_threadsafe(self._close_engine(engine), self._home.loop)
            future.result(timeout_seconds)

    async def close_from_loop(self) -> None:
        """See :class:`IoThread`."""
        if asyncio.get_running_loop() is not self._home.loop:
            await super().close_from_loop()
            return
        engine = self._end()
        if engine is not None:
            await self._close_engine(engine)

    def _end(self) -> Engine | None:
        """Take no more calls; the engine to close, if there is one."""
        with self._lock:
            engine = None if self._closed or self._home.loop.is_closed() else self._engine
            self._closed = True
            return engine
