"""Whether the operator is well: the truth about its watches, and pages that tell it.

A process that answers but hears nothing is not alive. So ``/healthz`` fails when a watch has heard
nothing of the API server for long, when the watch of our resources is deaf (listings find what it
has not told), or when a leader does not work.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Protocol

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

# Longer than a watch's silence and its retries: else an API server that restarts ends us, too.
CONTACT_MS_MAX: Final = 300_000
# Listings in a row that find changes no watch has told.
DEAF_LISTINGS_MAX: Final = 2

Check = Callable[[], tuple[bool, str]]


class Watched(Protocol):
    """A mirror of one kind."""

    kind: str
    contact_ms: int | None


class Hearing:
    """Whether the watch of our resources hears what listings find."""

    def __init__(self) -> None:
        self._told = False
        self._deaf_listings = 0

    def told(self) -> None:
        """The watch told something."""
        self._told = True
        self._deaf_listings = 0

    def listed(self, missed: int) -> None:
        """A listing found so many changes that nobody had told."""
        if missed and not self._told:
            self._deaf_listings += 1
        elif not missed:
            self._deaf_listings = 0
        self._told = False

    @property
    def deaf(self) -> bool:
        """Whether it missed changes again and again and told none."""
        return self._deaf_listings >= DEAF_LISTINGS_MAX


def alive(
    now_ms: int, watched: Iterable[Watched], hearing: Hearing, *, leading: bool, working: bool
) -> tuple[bool, str]:
    """Whether to go on, and one line that says why not."""
    for one in watched:
        if one.contact_ms is not None and now_ms - one.contact_ms > CONTACT_MS_MAX:
            silent_s = (now_ms - one.contact_ms) // 1000
            return False, f"nothing was heard of {one.kind} for {silent_s} s"
    if hearing.deaf:
        return False, "the watch of our resources is deaf: listings find what it has not told"
    if leading and not working:
        return False, "this operator leads and does not work"
    return True, "leads" if leading else "stands by"


class Pages:
    """Serves /healthz, /readyz and /metrics."""

    def __init__(
        self, host: str, port: int, *, well: Check, ready: Check, metrics: CollectorRegistry
    ) -> None:
        self._host = host
        self._port = port
        self._checks = {"/healthz": well, "/readyz": ready}
        self._metrics = metrics
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen. Raises OSError when the port is taken."""
        app = web.Application()
        for path, check in self._checks.items():
            app.router.add_get(path, self._page(check))
        app.router.add_get("/metrics", self._show_metrics)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        # asyncio takes "::" for IPv6 alone, and no host for all there is.
        host = None if self._host in ("", "::") else self._host
        await web.TCPSite(self._runner, host, self._port).start()

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    def _page(self, check: Check) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def page(_: web.Request) -> web.Response:
            well, text = check()
            return web.Response(status=200 if well else 503, text=f"{text}\n")

        return page

    async def _show_metrics(self, _: web.Request) -> web.Response:
        body = generate_latest(self._metrics)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})
