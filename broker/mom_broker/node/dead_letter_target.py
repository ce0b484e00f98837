"""Where dead letters land: a topic or queue of this cluster, at whichever node owns it."""

from __future__ import annotations

from collections.abc import Sequence

from mom_broker.node.log_service import LogService
from mom_broker.rpc.auth import CLUSTER_IDENTITY
from mom_broker.storage.catalog_view import CatalogView
from mom_core.errors import MomError
from mom_core.names import PartitionId
from mom_core.topics import TopicConfig, fair_header
from mom_process.wire_errors import from_proto
from mom_proto.v1 import broker_pb2, types_pb2


class DeadLetterTarget:
    """Appends as any producer does, in the name of the cluster."""

    def __init__(self, view: CatalogView, logs: LogService) -> None:
        self._view = view
        self._logs = logs

    def topic(self, name: str) -> TopicConfig | None:
        """A topic or queue; None when there is none."""
        return self._view.topics.get(name)

    def fair_header(self, topic_id: str) -> str:
        """The header by which a subscription of a topic takes turns; empty: none does."""
        return fair_header(self._view.subscriptions.get(topic_id, {}).values())

    async def append(
        self, partition: PartitionId, batches: Sequence[bytes]
    ) -> list[MomError | None]:
        """Append batches at their owner; an error for each that did not land."""
        wire = types_pb2.Partition(
            topic_id=bytes.fromhex(partition.topic_id), index=partition.index
        )
        request = broker_pb2.ProduceRequest(
            batches=[broker_pb2.ProduceBatch(partition=wire, batch=one) for one in batches]
        )
        response = await self._logs.produce(CLUSTER_IDENTITY, request)
        return [
            from_proto(one.error) if one.HasField("error") else None for one in response.results
        ]
