"""The one hop from a node to a partition's owner, for clients that can't reach the owner."""

from __future__ import annotations

from typing import Final, TypeVar

from google.protobuf.message import Message as ProtoMessage

from mom_broker.storage.catalog_view import CatalogView
from mom_core.errors import RoutingError
from mom_core.names import PartitionId
from mom_core.ports import Transport

ReplyT = TypeVar("ReplyT", bound=ProtoMessage)

# Beyond the wait that a call asks for: a group commit, a failover of the owner, and the way.
CALL_TIMEOUT_MS: Final = 10_000


class Forwarder:
    """Finds owners and passes calls on to them."""

    def __init__(self, node_id: str, view: CatalogView, transport: Transport) -> None:
        self._node_id = node_id
        self._view = view
        self._transport = transport

    def owner_address(self, partition: PartitionId) -> str:
        """Where the owner of a partition of another node answers.

        Raises RoutingError when there is none, or it is this node itself.
        """
        found = self._view.assignments.get(partition.topic_id)
        owners = found.assignment.owners if found is not None else ()
        owner = owners[partition.index] if partition.index < len(owners) else None
        node = self._view.nodes.get(owner.node_id) if owner is not None else None
        if owner is None or node is None or owner.node_id == self._node_id:
            raise RoutingError(
                f"partition {partition} has no owner that can be reached now; try again",
                retry_after_ms=200,
            )
        return node.address

    async def call(
        self,
        address: str,
        method: str,
        request: ProtoMessage,
        reply_type: type[ReplyT],
        *,
        wait_ms: int = 0,
    ) -> ReplyT:
        """Call the Broker method of another node with a request marked as forwarded."""
        reply = await self._transport.call(
            address,
            f"/mom.v1.Broker/{method}",
            request.SerializeToString(),
            wait_ms + CALL_TIMEOUT_MS,
        )
        return reply_type.FromString(reply)
