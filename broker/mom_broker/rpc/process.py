"""The life of a server process: start, serve until told to stop, drain, end."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Callable
from typing import Final, Protocol

import uvloop
from prometheus_client import CollectorRegistry

from mom_broker.rpc.http import Check, HealthServer
from mom_broker.rpc.system import SystemClock
from mom_core.errors import MomError
from mom_core.ports import Clock, Store

_log = logging.getLogger(__name__)

EXIT_REFUSED: Final = 1
# Between two tries to open a store that is away: it is asked for seldom, and back within a second.
STORE_RETRY_MS: Final = 500
_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class Server(Protocol):
    """A master or node."""

    registry: CollectorRegistry

    def ready(self) -> tuple[bool, str]:
        """Whether it should be sent work, and why not."""

    async def start(self) -> None:
        """Serve."""

    async def stop(self) -> None:
        """Hand over and end."""


def run_server(
    store: Store,
    make: Callable[[Store], Server],
    *,
    http_host: str,
    http_port: int,
    store_wait_ms: int = 0,
) -> None:
    """Run a server over a store until SIGTERM or SIGINT, then drain it and end the process.

    A second signal ends the process at once. ``http_port`` below 0 serves no health pages. A store
    that is away at the start is waited for; one with unsafe settings is refused at once.
    """
    try:
        uvloop.run(_serve(store, make, http_host, http_port, store_wait_ms))
    except MomError as error:
        print(f"error: {error.message}", file=sys.stderr)  # noqa: T201 - the process's last word
        sys.exit(EXIT_REFUSED)


class StoreGate:
    """Opens a store, waiting for one that is away, and says meanwhile what it waits for."""

    def __init__(self, store: Store, ready: Check, clock: Clock) -> None:
        self._store = store
        self._ready = ready
        self._clock = clock
        self._waiting = "opening the store"
        self.opened = False

    def ready(self) -> tuple[bool, str]:
        """Whether the server is ready; before the store is open, why it is not."""
        return self._ready() if self.opened else (False, self._waiting)

    async def open(self, wait_ms: int) -> None:
        """Open the store. Raises the last error after ``wait_ms``, and at once one that stays."""
        deadline_ms = self._clock.monotonic_ms() + wait_ms
        while not self.opened:
            try:
                await self._store.open()
                self.opened = True
            except MomError as error:
                if not error.retriable or self._clock.monotonic_ms() >= deadline_ms:
                    raise
                if self._waiting != error.message:
                    _log.warning("waiting for the store: %s", error.message)
                self._waiting = error.message
                await self._clock.sleep(STORE_RETRY_MS)


async def _serve(
    store: Store,
    make: Callable[[Store], Server],
    http_host: str,
    http_port: int,
    store_wait_ms: int,
) -> None:
    stop = _stop_event()
    server = make(store)
    gate = StoreGate(store, server.ready, SystemClock())
    health = await _health(gate.ready, server.registry, http_host, http_port)
    try:
        if not await _opened(gate, store_wait_ms, stop):
            return
        await server.start()
        await stop.wait()
        _log.info("stopping: handing over and finishing what was accepted")
        await server.stop()
    finally:
        if health is not None:
            await health.stop()
        if gate.opened:
            await store.close()


async def _opened(gate: StoreGate, wait_ms: int, stop: asyncio.Event) -> bool:
    """Whether the store was opened before the process was told to stop."""
    opening = asyncio.create_task(gate.open(wait_ms))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({opening, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not opening.done():
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
        return gate.opened
    opening.result()
    return True


def _stop_event() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        stop.set()
        for one in _STOP_SIGNALS:
            loop.remove_signal_handler(one)
            signal.signal(one, signal.SIG_DFL)

    for one in _STOP_SIGNALS:
        loop.add_signal_handler(one, on_signal)
    return stop


async def _health(
    ready: Check, registry: CollectorRegistry, host: str, port: int
) -> HealthServer | None:
    if port < 0:
        return None
    health = HealthServer(host, port, ready=ready, registry=registry)
    await health.start()
    return health
