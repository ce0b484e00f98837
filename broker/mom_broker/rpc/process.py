"""The life of a server process: start, serve until told to stop, drain, end."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import click
import uvloop
from prometheus_client import CollectorRegistry

from mom_broker.rpc.http import Check, HealthServer
from mom_core.errors import ErrorCode, MomError
from mom_core.ports import Clock, Random, Store
from mom_process.addresses import advertised, parse_address
from mom_process.flags import access_of, open_notice
from mom_process.log_lines import configure_logging
from mom_process.stopping import stop_event
from mom_process.system import SystemClock, SystemRandom

_log = logging.getLogger(__name__)

# Between two tries to open a store that is away: it is asked for seldom, and back within a second.
STORE_RETRY_MS: Final = 500


class Server(Protocol):
    """A master or node."""

    registry: CollectorRegistry

    def ready(self) -> tuple[bool, str]:
        """Whether it should be sent work, and why not."""

    async def start(self) -> None:
        """Serve."""

    async def stop(self) -> None:
        """Hand over and end."""


class ServerStart(NamedTuple):
    """What the flags of every master and node come to."""

    server_id: str
    listen: str
    advertise: str
    cluster_token: str | None
    open_to_all: bool
    clock: Clock
    random: Random


def run_server(
    make: Callable[[ServerStart, Store], Server],
    open_store: Callable[..., Store],
    *,
    store: str,
    store_wait_ms: int,
    listen: str,
    advertise: str,
    id: str,
    http_port: int,
    auth: str,
    cluster_token: str | None,
    cluster_token_file: Path | None,
    allow_unauthenticated_network_access: bool,
    log_format: str,
    log_level: str,
    **store_flags: Any,
) -> None:
    """Run a server as its flags say until SIGTERM or SIGINT, then drain it and end the process.

    The parameters are the flags of :func:`mom_broker.rpc.flags.server_flags`. A second signal ends
    the process at once. ``http_port`` below 0 serves no health pages. A store that is away at the
    start is waited for; one with unsafe settings is refused at once. Raises click's exception, for
    its one line, when a flag can't be.
    """
    configure_logging(log_format, log_level)
    clock, random = SystemClock(), SystemRandom()
    try:
        address = parse_address(listen)
        access = access_of(
            address,
            auth=auth,
            allow_unauthenticated=allow_unauthenticated_network_access,
            cluster_token=cluster_token,
            cluster_token_file=cluster_token_file,
        )
        start = ServerStart(
            id or f"{socket.gethostname()}-{address.port}",
            listen,
            advertised(address, advertise),
            access.cluster_token,
            access.open_to_all,
            clock,
            random,
        )
        made = open_store(store, clock, **store_flags)
    except MomError as error:
        raise click.ClickException(error.message) from None
    if access.open_to_all:
        _log.warning(open_notice(address))
    try:
        serving = _serve(
            made, lambda store: make(start, store), address.host, http_port, store_wait_ms
        )
        uvloop.run(serving)
    except MomError as error:
        raise click.ClickException(error.message) from None


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
                stays = not error.retriable or error.code is ErrorCode.STORE_MISCONFIGURED
                if stays or self._clock.monotonic_ms() >= deadline_ms:
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
    stop = stop_event()
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


async def _health(
    ready: Check, registry: CollectorRegistry, host: str, port: int
) -> HealthServer | None:
    if port < 0:
        return None
    health = HealthServer(host, port, ready=ready, registry=registry)
    await health.start()
    return health
