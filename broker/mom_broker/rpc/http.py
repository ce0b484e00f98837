"""The small HTTP server of a master or node: health for the orchestrator, metrics for Prometheus.

``/healthz``: the process is alive, else restart it. ``/readyz``: send it work. ``/metrics``: the
registry of this process object; several nodes in one process each have their own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from mom_process.addresses import Address, open_socket
from mom_process.web_server import WebServer

# Probes and scrapes are few; more connections than this are someone's mistake.
HTTP_CONNECTIONS_MAX: Final = 64
_STOP_S: Final = 1
_TEXT: Final = b"text/plain; charset=utf-8"

Check = Callable[[], tuple[bool, str]]
"""Whether all is well, and one line that says why or why not."""

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


def always_well() -> tuple[bool, str]:
    """The check of a process whose answering is proof enough."""
    return True, "ok"


class HealthServer:
    """Serves /healthz, /readyz and /metrics."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        ready: Check,
        alive: Check = always_well,
        registry: CollectorRegistry,
    ) -> None:
        self._asked = Address(host, port)
        self._checks = {"/readyz": ready, "/healthz": alive}
        self._registry = registry
        self._server: WebServer | None = None
        self._task: asyncio.Task[None] | None = None
        self.port = port
        """The port that is bound, after :meth:`start`."""

    async def start(self) -> None:
        """Listen. Raises InvalidArgumentError when the port is taken, naming who has it."""
        listening = open_socket(self._asked, "http-port")
        self.port = listening.getsockname()[1]
        config = uvicorn.Config(
            self._app,
            interface="asgi3",  # a bound method is taken for ASGI 2 otherwise
            lifespan="off",
            log_config=None,
            access_log=False,
            limit_concurrency=HTTP_CONNECTIONS_MAX,
            timeout_graceful_shutdown=_STOP_S,
        )
        self._server = WebServer(config)
        self._task = asyncio.create_task(self._server.serve([listening]), name="health server")
        await self._server.up.wait()

    async def stop(self) -> None:
        """Stop listening and end the connections."""
        if self._server is not None and self._task is not None:
            self._server.should_exit = True
            await self._task

    async def _app(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        assert scope["type"] == "http", "only HTTP is offered here"
        status, kind, body = self._answer(scope["path"])
        headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _answer(self, path: str) -> tuple[int, bytes, bytes]:
        if path == "/metrics":
            return 200, CONTENT_TYPE_LATEST.encode(), generate_latest(self._registry)
        check = self._checks.get(path)
        if check is None:
            return 404, _TEXT, b"no such page: /healthz, /readyz and /metrics are served\n"
        well, reason = check()
        return (200 if well else 503), _TEXT, f"{reason}\n".encode()
