"""How much waits in each queue and subscription of the cluster: the sum of what its nodes say."""

from __future__ import annotations

import asyncio
from typing import Final

from mom_broker.storage.catalog_view import CatalogView
from mom_core.catalog import NodeRecord, NodeState
from mom_core.errors import MomError
from mom_core.ports import Transport
from mom_core.watchdog import earliest_ms
from mom_proto.v1 import broker_pb2

# A node that takes longer is told as missing: who asks has a status to write.
COUNT_MS_MAX: Final = 3_000


class Totals:
    """Asks the nodes."""

    def __init__(self, view: CatalogView, transport: Transport) -> None:
        self._view = view
        self._transport = transport

    async def count(self) -> broker_pb2.CountMessagesResponse:
        """The sums, and who did not answer."""
        nodes = [one for one in self._view.nodes.values() if one.state is not NodeState.LOST]
        answers = await asyncio.gather(*(self._ask(one) for one in nodes))
        sums: dict[tuple[str, str], broker_pb2.SubscriptionTotal] = {}
        for answer in answers:
            for one in answer.totals if answer is not None else ():
                total = sums.setdefault((one.topic, one.subscription), one)
                if total is not one:
                    total.messages += one.messages
                    total.oldest_ms = max(total.oldest_ms, one.oldest_ms)
                    total.stalled_since_ms = earliest_ms(
                        total.stalled_since_ms, one.stalled_since_ms
                    )
        missing = [node.node_id for node, one in zip(nodes, answers, strict=True) if one is None]
        return broker_pb2.CountMessagesResponse(
            totals=[one for _, one in sorted(sums.items())], nodes_missing=sorted(missing)
        )

    async def _ask(self, node: NodeRecord) -> broker_pb2.CountMessagesResponse | None:
        request = broker_pb2.CountMessagesRequest().SerializeToString()
        method = "/mom.v1.Broker/CountMessages"
        try:
            reply = await self._transport.call(node.address, method, request, COUNT_MS_MAX)
        except MomError:
            return None
        return broker_pb2.CountMessagesResponse.FromString(reply)
