"""From what a call names to the partition here, or to the node that has it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, NamedTuple

from google.protobuf.message import Message as ProtoMessage

from mom_broker.node.forwarding import Forwarder, ReplyT
from mom_broker.node.metrics import NodeMetrics
from mom_broker.node.ownership import OwnedPartition, Ownership
from mom_broker.storage.catalog_view import CatalogView
from mom_core.access import Action, Identity, require
from mom_core.errors import InvalidArgumentError, NotFoundError, RoutingError
from mom_core.names import PartitionId
from mom_core.ports import Clock
from mom_core.topics import SubscriptionConfig, TopicConfig

# A client may know of a topic a moment before this node's view does.
VIEW_LAG_MS: Final = 1_000


class Remote(NamedTuple):
    """The partition is another node's."""

    address: str


Placed = OwnedPartition | Remote


class PlacedPartitions:
    """The one place where a call's topic is known, allowed, and found here or elsewhere."""

    def __init__(
        self,
        view: CatalogView,
        ownership: Ownership,
        forwarder: Forwarder,
        metrics: NodeMetrics,
        clock: Clock,
    ) -> None:
        self.view = view
        self.ownership = ownership
        self.clock = clock
        self._forwarder = forwarder
        self._metrics = metrics

    async def topic(self, identity: Identity, action: Action, topic_id: bytes) -> TopicConfig:
        """The topic of an id. Raises NotFoundError or ForbiddenError."""
        topic_hex = topic_id.hex()
        config = self.view.topics_by_id.get(topic_hex)
        if config is None:
            config = await self._late_topic(topic_hex)
        require(identity, action, config.name)
        return config

    async def _late_topic(self, topic_hex: str) -> TopicConfig:
        try:
            async with asyncio.timeout(VIEW_LAG_MS / 1000):
                while (config := self.view.topics_by_id.get(topic_hex)) is None:
                    await self.view.changed()
                return config
        except TimeoutError:
            raise NotFoundError(
                f"no topic or queue has the id {topic_hex}: it was deleted, or made again under "
                "another id; ask for the routing table again",
                field="topic_id",
            ) from None

    async def subscription(self, config: TopicConfig, name: str) -> SubscriptionConfig:
        """A subscription of a topic by its name. Raises NotFoundError."""
        deadline_ms = self.clock.monotonic_ms() + VIEW_LAG_MS
        while True:
            found = self.view.subscriptions.get(config.topic_id, {}).get(name)
            if found is not None:
                return found
            left_ms = deadline_ms - self.clock.monotonic_ms()
            try:
                await asyncio.wait_for(self.view.changed(), max(0, left_ms) / 1000)
            except TimeoutError:
                raise NotFoundError(
                    f"{config.kind.value} {config.name!r} has no subscription {name!r}; "
                    "create it first",
                    field="subscription",
                ) from None

    async def place(
        self,
        identity: Identity,
        action: Action,
        topic_id: bytes,
        index: int,
        *,
        forwarded: bool,
    ) -> Placed:
        """The partition here, or the address of its owner.

        Raises NotFoundError, ForbiddenError, InvalidArgumentError when the topic has no such
        partition, or RoutingError when no owner can be reached.
        """
        config = await self.topic(identity, action, topic_id)
        if index >= config.partitions:
            raise InvalidArgumentError(
                f"partition {index} is out of range: {config.name!r} has {config.partitions} "
                f"(0 to {config.partitions - 1})",
                field="partition",
            )
        partition = PartitionId(config.topic_id, index)
        owned = self.ownership.owned.get(partition)
        if owned is not None:
            return owned
        if forwarded or self.ownership.wanted_epoch(partition) is not None:
            return await self.ownership.get(partition)
        return Remote(self._forwarder.owner_address(partition))

    def owner_address(self, partitions: Sequence[PartitionId]) -> str:
        """Where the owner of the first partition that has one answers. Raises RoutingError."""
        for partition in partitions[:-1]:
            try:
                return self._forwarder.owner_address(partition)
            except RoutingError:
                continue
        return self._forwarder.owner_address(partitions[-1])

    async def forward(
        self,
        address: str,
        method: str,
        request: ProtoMessage,
        reply_type: type[ReplyT],
        *,
        wait_ms: int = 0,
    ) -> ReplyT:
        """Pass a call on to another node."""
        self._metrics.forwarded_calls.inc()
        return await self._forwarder.call(address, method, request, reply_type, wait_ms=wait_ms)
