"""Calls from one MOM process to another: the Transport port over gRPC.

One channel an address, kept while it is used; a bound on how many, since addresses come and go with
pods. A channel reconnects by itself, quickly: the network between peers is near, and failover waits
for it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Any, Final, NamedTuple

import grpc

from mom_broker.rpc.errors import from_rpc_error
from mom_broker.rpc.network import GrpcNetwork, Network
from mom_core.errors import MomError
from mom_core.limits import GRPC_MESSAGE_BYTES_MAX

# Peers of one process: more than a large cluster has nodes, and a channel is about 100 KiB.
PEER_CHANNELS_MAX: Final = 256

CHANNEL_OPTIONS: Final = (
    ("grpc.max_receive_message_length", GRPC_MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", GRPC_MESSAGE_BYTES_MAX),
    # A peer that is cut off or stopped answers no ping: its calls end within 4 s.
    ("grpc.keepalive_time_ms", 2_000),
    ("grpc.keepalive_timeout_ms", 2_000),
    # The one above alone does nothing in grpcio 1.85.
    ("grpc.http2.ping_timeout_ms", 2_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 500),
    # gRPC's "minimum backoff" is in truth how long one connection attempt may take.
    ("grpc.min_reconnect_backoff_ms", 1_000),
    # A pod that comes back has another address under its name.
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),
    ("grpc.enable_http_proxy", 0),
    # Else objects of one process that stand for several share sockets, and fail together.
    ("grpc.use_local_subchannel_pool", 1),
)


class _Peer(NamedTuple):
    channel: grpc.aio.Channel
    calls: dict[str, Any]


class GrpcTransport:
    """Bytes to a peer and back. Sends the cluster's own token, if there is one."""

    def __init__(self, cluster_token: str | None = None, network: Network | None = None) -> None:
        self._network = network or GrpcNetwork()
        self.metadata: tuple[tuple[str, str], ...] = (
            (("authorization", f"Bearer {cluster_token}"),) if cluster_token else ()
        )
        """To send along with calls on a channel of :meth:`channel`."""
        # Least recently used first.
        self._peers: OrderedDict[str, _Peer] = OrderedDict()
        self._closing: set[asyncio.Task[None]] = set()

    async def call(self, address: str, method: str, request: bytes, timeout_ms: int) -> bytes:
        """See :class:`mom_core.ports.Transport`."""
        peer = self._peer(address)
        call = peer.calls.get(method)
        if call is None:
            # No serializers: bytes in, bytes out.
            call = peer.channel.unary_unary(method)
            peer.calls[method] = call
        try:
            reply: bytes = await call(request, timeout=timeout_ms / 1000, metadata=self.metadata)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, address) from None
        return reply

    def channel(self, address: str) -> grpc.aio.Channel:
        """The channel to a peer, for streams. It belongs to the transport."""
        return self._peer(address).channel

    def error_of(self, error: grpc.aio.AioRpcError, address: str) -> MomError:
        """What a failed call on a channel of :meth:`channel` means."""
        return from_rpc_error(error, address)

    async def close(self) -> None:
        """End all channels and the calls on them."""
        peers = list(self._peers.values())
        self._peers.clear()
        await asyncio.gather(*(peer.channel.close() for peer in peers), *self._closing)

    def _peer(self, address: str) -> _Peer:
        peer = self._peers.get(address)
        if peer is None:
            peer = _Peer(self._network.channel(address, CHANNEL_OPTIONS), {})
            self._peers[address] = peer
            if len(self._peers) > PEER_CHANNELS_MAX:
                self._forget(self._peers.popitem(last=False)[1])
        self._peers.move_to_end(address)
        return peer

    def _forget(self, peer: _Peer) -> None:
        closing = asyncio.ensure_future(peer.channel.close(grace=1))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
