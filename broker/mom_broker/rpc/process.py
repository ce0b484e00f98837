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
from mom_core.errors import MomError
from mom_core.ports import Store

_log = logging.getLogger(__name__)

EXIT_REFUSED: Final = 1
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
    store: Store, make: Callable[[Store], Server], *, http_host: str, http_port: int
) -> None:
    """Run a server over a store until SIGTERM or SIGINT, then drain it and end the process.

    A second signal ends the process at once. ``http_port`` below 0 serves no health pages.
    """
    try:
        uvloop.run(_serve(store, make, http_host, http_port))
    except MomError as error:
        print(f"error: {error.message}", file=sys.stderr)  # noqa: T201 - the process's last word
        sys.exit(EXIT_REFUSED)


async def _serve(
    store: Store, make: Callable[[Store], Server], http_host: str, http_port: int
) -> None:
    stop = _stop_event()
    server = make(store)
    health = await _health(server.ready, server.registry, http_host, http_port)
    opened = False
    try:
        await store.open()
        opened = True
        await server.start()
        await stop.wait()
        _log.info("stopping: handing over and finishing what was accepted")
        await server.stop()
    finally:
        if health is not None:
            await health.stop()
        if opened:
            await store.close()


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
