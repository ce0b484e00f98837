"""How calls travel, as the address says: by gRPC to a process, or by HTTP through a gateway."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Collection
from typing import TYPE_CHECKING

from mom_client.addresses import is_gateway
from mom_client.http_wire import GatewayCalls
from mom_client.wire import GrpcChannels, GrpcStream, open_tcp_channel

if TYPE_CHECKING:
    import grpc


class Connections:
    """The Transport port over both. Belongs to the event loop on which it is first used."""

    def __init__(
        self,
        token: str | None = None,
        open_channel: Callable[[str], grpc.aio.Channel] = open_tcp_channel,
    ) -> None:
        self._channels = GrpcChannels(token, open_channel)
        self._gateways = GatewayCalls(token)

    async def call(
        self,
        address: str,
        method: str,
        request: bytes,
        timeout_ms: int,
        authorization: str | None = None,
    ) -> bytes:
        """See :meth:`mom_client.wire.GrpcChannels.call`."""
        if is_gateway(address):
            return await self._gateways.call(address, method, request, timeout_ms)
        return await self._channels.call(address, method, request, timeout_ms, authorization)

    def stream(
        self, address: str, method: str, request: bytes, authorization: str | None = None
    ) -> AsyncGenerator[bytes, None]:
        """Call a method that answers with a stream. Raises as :meth:`call`."""
        if is_gateway(address):
            return self._gateways.stream(address, method, request)
        return self._channels.stream(address, method, request, authorization)

    async def open(self, address: str, method: str) -> GrpcStream:
        """Begin a call with a stream each way to ``host:port``, not through a gateway."""
        return await self._channels.open(address, method)

    async def serves(self, address: str, timeout_ms: int) -> bool:
        """Whether a process can be reached at ``host:port`` from here."""
        return await self._channels.serves(address, timeout_ms)

    def keep_only(self, addresses: Collection[str]) -> None:
        """Close connections to processes that are no more."""
        self._channels.keep_only(addresses)

    async def pause(self) -> None:
        """Close all connections until :meth:`resume`, for a fork.

        Calls under way end with UnavailableError, and new ones wait.
        """
        await self._channels.pause()
        await self._gateways.pause()

    def resume(self) -> None:
        """Connect again on demand."""
        self._channels.resume()
        self._gateways.resume()

    async def close(self) -> None:
        """Close all connections. Calls under way end with UnavailableError."""
        await self._channels.close()
        await self._gateways.close()
