"""How far all subscriptions of a topic have handled a partition.

Queue-mode subscriptions have their state on the partition itself. The groups of stream mode are
coordinated by the owner of partition 0: it is asked, where that is another node.
"""

from __future__ import annotations

from mom_broker.node.group import read_from
from mom_broker.node.ownership import OwnedPartition
from mom_broker.node.placed import PlacedPartitions
from mom_core.names import PartitionId
from mom_core.topics import SubscriptionConfig, SubscriptionMode
from mom_proto.v1 import broker_pb2


class AckedFloors:
    """Finds the offset below which no subscription needs a message any more."""

    def __init__(self, partitions: PlacedPartitions) -> None:
        self._partitions = partitions

    def has_subscriptions(self, owned: OwnedPartition) -> bool:
        """Whether there is anybody to wait for."""
        return bool(self._configs(owned.log.id))

    async def of(self, owned: OwnedPartition) -> int | None:
        """That offset; None when there is no subscription, or not all are known here yet.

        Raises MomError when the coordinator does not answer.
        """
        configs = self._configs(owned.log.id)
        streams = [one.name for one in configs.values() if one.mode is SubscriptionMode.STREAM]
        found = await self._committed(owned.log.id) if streams else {}
        for name, reader in owned.subscriptions.readers.items():
            found[name] = reader.delivery.log_floor()
        if not configs or not configs.keys() <= found.keys():
            return None
        return min(found[name] for name in configs)

    def _configs(self, partition: PartitionId) -> dict[str, SubscriptionConfig]:
        return self._partitions.view.subscriptions.get(partition.topic_id, {})

    async def _committed(self, partition: PartitionId) -> dict[str, int]:
        """The committed offsets of the topic's groups."""
        first = PartitionId(partition.topic_id, 0)
        owned = self._partitions.ownership.owned.get(first)
        if owned is None:
            return await self._ask(first, partition.index)
        configs = self._configs(partition)
        return {
            name: read_from(
                configs[name], partition.index, one.state.lease(partition.index).committed
            )
            for name, one in owned.subscriptions.groups.items()
            if name in configs and partition.index < one.state.partition_count
        }

    async def _ask(self, first: PartitionId, index: int) -> dict[str, int]:
        request = broker_pb2.DescribePartitionsRequest(
            topic_id=bytes.fromhex(first.topic_id), partitions=[index]
        )
        reply = await self._partitions.forward(
            self._partitions.owner_address([first]),
            "DescribePartitions",
            request,
            broker_pb2.DescribePartitionsResponse,
        )
        return {
            each.name: each.committed_offset
            for one in reply.partitions
            if one.partition == index and not one.node_id
            for each in one.subscriptions
        }
