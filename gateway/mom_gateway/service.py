"""What every route works with: the engine, the settings, and the bounds that requests share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, TypeVar

from mom_core import limits
from mom_core.access import CLUSTER, Action, Identity, allowed
from mom_core.errors import ConflictError, NotFoundError, OverloadedError
from mom_core.names import check_name
from mom_core.ports import Clock
from mom_core.topics import TopicKind
from mom_gateway.access import Access, require
from mom_gateway.http import BodyMemory, ClientGoneError, Receive
from mom_gateway.metrics import RequestMetrics
from mom_gateway.settings import GatewaySettings

if TYPE_CHECKING:
    from mom_client.engine import Engine
    from mom_client.routing import TopicRoute

ResultT = TypeVar("ResultT")


# Work that was cancelled ends at once, unless it has something to give back first.
ENDING_S_MAX: Final = 1.0


class Service:
    """The state of one gateway: nothing that a restart would lose."""

    def __init__(self, settings: GatewaySettings, engine: Engine, clock: Clock) -> None:
        self.settings = settings
        self.engine = engine
        self.clock = clock
        self.access = Access(engine, clock, open_to_all=settings.auth_disabled)
        self.body_memory = BodyMemory(limits.GATEWAY_BODIES_BYTES_MAX)
        self.polls = Polls()
        self.draining = False
        self.requests = 0
        self.metrics = RequestMetrics(
            {
                "mom_gateway_requests_in_hand": ("Requests under way.", lambda: self.requests),
                "mom_gateway_long_polls": ("Requests that wait.", lambda: len(self.polls)),
                "mom_gateway_body_bytes": (
                    "Bytes of request bodies in memory.",
                    lambda: self.body_memory.held_bytes,
                ),
                "mom_gateway_ready": ("1 when /readyz is 200.", lambda: float(self.ready()[0])),
            }
        )

    def ready(self) -> tuple[bool, str]:
        """Whether requests are welcome here, and why not.

        A store or node that is down does not make a gateway unready: it is the one that can tell
        clients so, with Retry-After.
        """
        if self.draining:
            return False, "draining: this gateway is stopping"
        if not self.engine.routing().revision:
            return False, "no routing table yet: no node has answered"
        return True, "ready"

    def begin_request(self) -> None:
        """Count a request in. Raises OverloadedError at the limit."""
        if self.requests >= self.settings.requests_max:
            raise OverloadedError(
                f"the gateway has {self.requests} requests in hand, as many as it may have. Try "
                "again in a second, or ask another replica"
            )
        self.requests += 1

    def require(self, identity: Identity, action: Action, resource: str = CLUSTER) -> None:
        """Raise ForbiddenError unless the identity may do this."""
        require(identity, action, resource)

    def may_describe(self, identity: Identity, resource: str) -> bool:
        """Whether the identity may see that this topic or queue exists."""
        return allowed(identity, Action.DESCRIBE, resource)

    async def topic(self, name: str, kind: TopicKind) -> TopicRoute:
        """The topic or queue of this name.

        Raises NotFoundError when there is none, or it is of the other kind; InvalidArgumentError
        for a name that none can have.
        """
        try:
            route = await self.engine.topic(name)
        except NotFoundError:
            check_name(name, kind.value)
            raise NotFoundError(
                f"{kind.value} {name!r} does not exist; create it with PUT "
                f"/v1/{kind.value}s/{name}",
                field=kind.value,
            ) from None
        check_kind(name, route.config.kind, kind)
        return route

    async def topic_or_new(self, name: str, kind: TopicKind) -> tuple[TopicRoute, bool]:
        """As :meth:`topic`, but made if it is missing and ``auto_create`` is set; and whether."""
        try:
            return await self.topic(name, kind), False
        except NotFoundError:
            if not self.settings.auto_create:
                raise
        try:
            _, created = await self.engine.create_topic(name, kind, {})
        except ConflictError:
            created = False  # Another request made it first, or it is of the other kind.
        return await self.topic(name, kind), created

    async def wait(
        self,
        work: Coroutine[Any, Any, ResultT],
        receive: Receive,
        empty: ResultT,
        abandon: Callable[[ResultT], None] = lambda result: None,
    ) -> ResultT:
        """The result of ``work``, or ``empty`` when the gateway begins to drain.

        When the client goes away ``work`` is cancelled and ClientGoneError raised when it has
        ended, so that what it worked on can be closed; ``abandon`` gets a result that came all the
        same, so that what it holds can be given back.
        """
        task = asyncio.ensure_future(work)
        gone = asyncio.ensure_future(_disconnected(receive))
        self.polls.add(task)
        try:
            await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
            if task.done() and not gone.done():
                return empty if task.cancelled() else task.result()
            raise ClientGoneError
        except (ClientGoneError, asyncio.CancelledError):
            task.add_done_callback(lambda done: _abandon(done, abandon))
            task.cancel()
            await asyncio.wait((task,), timeout=ENDING_S_MAX)
            raise
        finally:
            self.polls.discard(task)
            gone.cancel()


def _abandon(task: asyncio.Future[ResultT], abandon: Callable[[ResultT], None]) -> None:
    # Nobody hears of an error here, and retrieving it keeps the loop from reporting it.
    if not task.cancelled() and task.exception() is None:
        abandon(task.result())


NO_TOPIC_ID = "0" * 32
"""For settings of a topic whose id the master will give."""


def check_kind(name: str, found: TopicKind, wanted: TopicKind) -> None:
    """Raise NotFoundError that says where to look when ``name`` is of the other kind."""
    if found is not wanted:
        raise NotFoundError(
            f"{name!r} is a {found.value}, not a {wanted.value}; use /v1/{found.value}s/{name}",
            field=wanted.value,
        )


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Polls:
    """The requests that wait for messages, so that a drain can end them early."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Future[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def add(self, task: asyncio.Future[Any]) -> None:
        """Count a waiting request in."""
        self._tasks.add(task)

    def discard(self, task: asyncio.Future[Any]) -> None:
        """Count it out."""
        self._tasks.discard(task)

    def end(self) -> None:
        """Let every waiting request answer now, with what it has."""
        for task in self._tasks:
            task.cancel()
