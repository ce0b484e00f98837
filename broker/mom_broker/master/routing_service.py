"""The Broker service as a master offers it: the routing table, and for the rest the way to nodes.

So a client that knows nothing but a master's address finds the whole cluster. Every master serves
it, leading or not.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from functools import partial
from typing import Any, Final, NoReturn

import grpc

from mom_broker.routing.watch import RoutingWatch
from mom_broker.rpc.auth import Authenticator
from mom_broker.storage.catalog_view import CatalogView
from mom_core.catalog import NodeState
from mom_core.errors import RoutingError
from mom_core.limits import ROUTING_BEAT_MS
from mom_proto.v1 import broker_pb2, broker_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]

# Nodes named in a refusal: enough to find one that answers, few enough for an error's size.
NODES_NAMED_MAX: Final = 8
# What a client is told to wait while there is no node to go to.
NO_NODE_RETRY_MS: Final = 250

_METHODS: Final = [
    method.name for method in broker_pb2.DESCRIPTOR.services_by_name["Broker"].methods
]


class RoutingService(broker_pb2_grpc.BrokerServicer):
    """Serves WatchRouting; any other call is refused with the addresses of nodes.

    The methods that refuse are made from the protocol's own list, so that none is forgotten.
    """

    def __init__(
        self,
        view: CatalogView,
        authenticator: Authenticator,
        beat_ms: int = ROUTING_BEAT_MS,
    ) -> None:
        self._view = view
        self._authenticator = authenticator
        self._watch = RoutingWatch(view, from_master=True, beat_ms=beat_ms)
        for method in _METHODS:
            if method not in vars(RoutingService):
                setattr(self, method, self._refuser(method))

    def stop(self) -> None:
        """End the routing streams; clients go on with another process."""
        self._watch.stop()

    async def WatchRouting(
        self, request: broker_pb2.WatchRoutingRequest, context: Context
    ) -> AsyncIterator[broker_pb2.RoutingUpdate]:
        """See the proto."""
        who = partial(self._authenticator.identity_of, context)
        async with aclosing(
            self._watch.updates(who, request)  # type: ignore[type-var]
        ) as updates:
            async for update in updates:
                yield update

    def _refuser(self, method: str) -> Callable[[Any, Context], NoReturn]:
        def refuse(_request: Any, _context: Context) -> NoReturn:
            raise self._refusal(method)

        return refuse

    def _refusal(self, method: str) -> RoutingError:
        """The error of a call that only nodes serve: not_owner, with their addresses."""
        nodes = [
            node.address
            for _, node in sorted(self._view.nodes.items())
            if node.state is not NodeState.LOST
        ][:NODES_NAMED_MAX]
        where = f"ask a node: {', '.join(nodes)}" if nodes else "no node is registered now"
        return RoutingError(
            f"this is a master, which serves WatchRouting and not {method}; {where}",
            retry_after_ms=None if nodes else NO_NODE_RETRY_MS,
            details={"nodes": ",".join(nodes)},
        )
