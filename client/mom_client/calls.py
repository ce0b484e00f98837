"""One call to the owner of a partition, or to the leading master, repeated while that is safe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from mom_client.backoff import Backoff
from mom_client.causes import telling
from mom_client.connections import Connections
from mom_client.options import EngineOptions
from mom_client.routing import Routing, TopicRoute
from mom_core.errors import ErrorCode, MomError, UnavailableError
from mom_core.limits import WAIT_MS_MAX
from mom_core.ports import Clock, Random

ResultT = TypeVar("ResultT")

_WRONG_TURNS: Final = (
    ErrorCode.NOT_OWNER,
    ErrorCode.NOT_LEADER,
    ErrorCode.STALE_EPOCH,
    ErrorCode.UNAVAILABLE,
    ErrorCode.TIMEOUT,
)


class Caller:
    """Finds who is responsible, calls, and tries again within the request timeout."""

    def __init__(
        self,
        routing: Routing,
        connections: Connections,
        options: EngineOptions,
        *,
        clock: Clock,
        random: Random,
    ) -> None:
        self.routing = routing
        self.connections = connections
        self.options = options
        self.clock = clock
        self._random = random

    def backoff(self) -> Backoff:
        """Waits between tries."""
        return Backoff(self._random)

    def deadline_ms(self, wait_ms: int = 0) -> int:
        """When a call that begins now and waits ``wait_ms`` has to be given up."""
        return self.clock.monotonic_ms() + wait_ms + self.options.request_timeout_ms

    async def call_address(
        self, address: str, method: str, request: bytes, deadline_ms: int
    ) -> bytes:
        """One try at one address, noting when it can't be reached."""
        timeout_ms = max(1, deadline_ms - self.clock.monotonic_ms())
        timeout_ms = min(timeout_ms, WAIT_MS_MAX + self.options.request_timeout_ms)
        try:
            return await self.connections.call(address, method, request, timeout_ms)
        except UnavailableError:
            self.routing.mark_unreachable(address)
            raise

    async def wait(self, error: MomError, revision: int, backoff: Backoff) -> None:
        """Wait before another try: for news of the table after a wrong turn, else just wait."""
        delay_ms = backoff.next_ms(error)
        if error.code in _WRONG_TURNS:
            await self.routing.refreshed(revision, delay_ms)
            if error.code is ErrorCode.UNAVAILABLE:
                await self.clock.sleep(delay_ms)  # News need not concern the one that is gone.
        else:
            await self.clock.sleep(delay_ms)

    async def at_owner(
        self,
        topic: str,
        partition: int,
        method: str,
        request: Callable[[TopicRoute], bytes],
        parse: Callable[[bytes], ResultT],
        *,
        wait_ms: int = 0,
    ) -> ResultT:
        """Call the owner of a partition.

        ``parse`` reads the reply and raises what its item reports. Raises the most telling error
        when the time is over.
        """
        deadline_ms = self.deadline_ms(wait_ms)
        backoff = self.backoff()
        cause: MomError | None = None
        while True:
            route = await self.routing.topic(topic)
            route.check_partition(partition)
            revision = self.routing.snapshot.revision
            try:
                address = self.routing.address(route.owners[partition])
                if not address:
                    raise UnavailableError(
                        f"{topic!r} partition {partition} has no owner now: no node is up, or its "
                        "partitions are just being moved"
                    )
                sent = request(route)
                return parse(
                    await self.call_address(address, f"/mom.v1.Broker/{method}", sent, deadline_ms)
                )
            except MomError as error:
                if not error.retriable:
                    raise
                cause = telling(cause, error)
                if self.clock.monotonic_ms() >= deadline_ms:
                    raise cause from None
                await self.wait(error, revision, backoff)

    async def at_any(self, method: str, request: bytes) -> bytes:
        """Call any process that serves Broker, one after the other until one answers."""
        await self.routing.ready()
        deadline_ms = self.deadline_ms()
        for address in self.routing.candidates():
            try:
                return await self.call_address(
                    address, f"/mom.v1.Broker/{method}", request, deadline_ms
                )
            except MomError as error:
                if not error.retriable and error.code is not ErrorCode.METHOD_NOT_ALLOWED:
                    raise
        raise self.routing.unavailable(f"no server answers {method}")

    async def at_master(
        self,
        method: str,
        request: bytes,
        *,
        repeatable: bool = True,
        on_repeat: Callable[[MomError], bool] | None = None,
    ) -> bytes:
        """Call the leading master.

        With ``repeatable`` False a call that may have been carried out is not sent again.
        ``on_repeat`` may accept an error of a repeated call as success (the reply is then empty).
        """
        deadline_ms = self.deadline_ms()
        backoff = self.backoff()
        cause: MomError | None = None
        repeated = False
        await self.routing.ready()
        while True:
            snapshot = self.routing.snapshot
            try:
                return await self.call_address(
                    self.routing.leader(), f"/mom.v1.Master/{method}", request, deadline_ms
                )
            except MomError as error:
                if repeated and on_repeat is not None and on_repeat(error):
                    return b""
                sent = bool(snapshot.master_address) and error.code is not ErrorCode.NOT_LEADER
                if not error.retriable or (sent and not repeatable):
                    raise
                cause = telling(cause, error)
                if self.clock.monotonic_ms() >= deadline_ms:
                    raise cause from None
                repeated = repeated or sent
                await self.wait(error, snapshot.revision, backoff)
