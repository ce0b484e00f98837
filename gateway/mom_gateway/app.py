"""The gateway put together: the application, and the server that runs it."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

import uvicorn
from fastapi import FastAPI

from mom_client.engine import Engine
from mom_client.options import EngineOptions
from mom_core.ports import Clock
from mom_gateway.calls import Route
from mom_gateway.dispatch import Dispatcher
from mom_gateway.http import json_bytes
from mom_gateway.openapi import Entry, build_document
from mom_gateway.operations import Described
from mom_gateway.routes import browsing, leases, messages, records, rescheduling
from mom_gateway.routes.cluster import CLUSTER
from mom_gateway.routes.dead_letters import DEAD_LETTERS
from mom_gateway.routes.health import HEALTH
from mom_gateway.routes.operations import OPERATIONS
from mom_gateway.routes.purges import PURGES
from mom_gateway.routes.queues import QUEUES
from mom_gateway.routes.subscriptions import SUBSCRIPTIONS
from mom_gateway.routes.tokens import TOKENS
from mom_gateway.routes.topics import TOPICS
from mom_gateway.service import Service
from mom_gateway.settings import GatewaySettings
from mom_process.addresses import Address, open_socket
from mom_process.system import SystemClock
from mom_process.web_server import WebServer

_log = logging.getLogger(__name__)

PLAIN_ROUTES: Final[tuple[Route, ...]] = (
    *records.ROUTES,
    *messages.ROUTES,
    *rescheduling.ROUTES,
    *browsing.ROUTES,
    *leases.ROUTES,
)
CONTROL_ROUTES: Final[tuple[Described, ...]] = (
    TOPICS,
    QUEUES,
    SUBSCRIPTIONS,
    DEAD_LETTERS,
    PURGES,
    OPERATIONS,
    CLUSTER,
    TOKENS,
    HEALTH,
)
# Longer than proxies keep idle connections (nginx 60 s, Traefik 90 s): whoever closes first must
# not be the server, or a request that is just on its way fails.
_KEEP_ALIVE_S: Final = 120
# How long a message is tried while a limit is reached, before its sender gets Retry-After.
REFUSAL_TIMEOUT_MS: Final = 1_000


def entries() -> list[Entry]:
    """Every route with its description."""
    control = [entry for described in CONTROL_ROUTES for entry in described.operations]
    plain = [(route.method, route.path, route.operation) for route in PLAIN_ROUTES]
    order = {path: index for index, path in enumerate(sorted({path for _, path, _ in control}))}
    return sorted([*control, *plain], key=lambda entry: order.get(entry[1], len(order)))


def create_app(settings: GatewaySettings, engine: Engine, clock: Clock | None = None) -> Dispatcher:
    """The ASGI application over a started engine."""
    return make_app(Service(settings, engine, clock or SystemClock()))


def make_app(service: Service) -> Dispatcher:
    """The ASGI application of a service."""
    api = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    api.state.service = service
    api.state.openapi = json_bytes(build_document(entries()))
    for described in CONTROL_ROUTES:
        api.include_router(described.router)
    return Dispatcher(service, PLAIN_ROUTES, api)


class Gateway:
    """One gateway: its engine, its application, its HTTP server. Lives on one event loop."""

    def __init__(self, settings: GatewaySettings, clock: Clock | None = None) -> None:
        """Raises InvalidArgumentError when the settings may not be used together."""
        settings.check()
        self._settings = settings
        self._clock = clock or SystemClock()
        options = EngineOptions(
            delivery_timeout_ms=settings.try_ms,
            request_timeout_ms=settings.try_ms,
            # Long enough for a passing crowd; then the sender is told to come again later.
            refusal_timeout_ms=min(REFUSAL_TIMEOUT_MS, settings.try_ms),
        )
        self._engine = Engine(settings.nodes, token=settings.cluster_token, options=options)
        self._service = Service(settings, self._engine, self._clock)
        self._server: WebServer | None = None
        self._serving: asyncio.Task[None] | None = None
        self._bound: Address | None = None

    @property
    def url(self) -> str:
        """Where it is reached, once started."""
        assert self._bound is not None, "the gateway was not started"
        return f"http://{self._bound}"

    @property
    def port(self) -> int:
        """The port that is bound, once started."""
        assert self._bound is not None, "the gateway was not started"
        return self._bound.port

    async def start(self) -> None:
        """Begin to serve. Does not wait for nodes: until one answers, /readyz is 503.

        Raises InvalidArgumentError that names the process which has the port.
        """
        listening = open_socket(self._settings.listen)
        self._bound = Address(self._settings.listen.host, listening.getsockname()[1])
        await self._engine.start()
        config = uvicorn.Config(
            make_app(self._service),
            interface="asgi3",
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=max(1, self._settings.stop_ms // 1000),
        )
        self._server = WebServer(config)
        self._serving = asyncio.create_task(self._server.serve(sockets=[listening]))
        _log.info("serving REST", extra={"url": self.url})

    async def stop(self) -> None:
        """Drain and end: unready at once, long polls answered, requests under way finished."""
        self._service.draining = True
        self._service.polls.end()
        if self._server is not None and self._serving is not None:
            if self._settings.drain_ms:
                # Connections that are in use learn by Connection: close that they end.
                await self._clock.sleep(self._settings.drain_ms)
            self._server.should_exit = True
            await self._serving
        await self._engine.close()
