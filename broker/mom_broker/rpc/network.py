"""Where channels to processes and servers for them come from: gRPC over TCP.

Masters and nodes take a :class:`Network`, and all that they say to each other and to clients goes
through what it makes. :mod:`mom_broker.rpc.in_process` is the other one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import grpc

from mom_process.addresses import Address, check_free, taken

Options = Sequence[tuple[str, Any]]


class Network(Protocol):
    """Makes both ends of calls."""

    def channel(self, address: str, options: Options) -> grpc.aio.Channel:
        """A channel to the process at ``host:port``, which need not be there yet."""

    def server(
        self, interceptors: Sequence[Any], options: Options, calls_max: int
    ) -> grpc.aio.Server:
        """A server that listens nowhere yet."""

    def bind(self, server: grpc.aio.Server, listen: Address) -> int:
        """Let a server listen, before its start; returns the port. Port 0 chooses a free one.

        Raises InvalidArgumentError when the port is taken.
        """


class GrpcNetwork:
    """TCP."""

    def channel(self, address: str, options: Options) -> grpc.aio.Channel:
        """See :class:`Network`, as for every method here."""
        return grpc.aio.insecure_channel(address, options=options)

    def server(
        self, interceptors: Sequence[Any], options: Options, calls_max: int
    ) -> grpc.aio.Server:
        return grpc.aio.server(
            interceptors=interceptors, options=options, maximum_concurrent_rpcs=calls_max
        )

    def bind(self, server: grpc.aio.Server, listen: Address) -> int:
        check_free(listen)
        try:
            return server.add_insecure_port(str(listen))
        except RuntimeError:
            raise taken(listen) from None
