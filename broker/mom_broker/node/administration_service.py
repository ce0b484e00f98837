"""The calls of administrators on queues: purging, and operations on dead letters."""

from __future__ import annotations

import asyncio

from mom_broker.node.operations import Operations
from mom_broker.node.placed import PlacedPartitions, Remote
from mom_broker.rpc.messages import filter_of_message, operation_message
from mom_core.access import Action, Identity, allowed, require
from mom_core.errors import InvalidArgumentError, NotFoundError
from mom_core.names import check_name
from mom_core.operations import OperationRecord, check_operation_id, parse_rate
from mom_core.ports import Store
from mom_core.topics import SubscriptionMode, TopicConfig, TopicKind
from mom_proto.v1 import broker_pb2


class AdministrationService:
    """Purges and redrives; the servicer speaks gRPC around it."""

    def __init__(self, partitions: PlacedPartitions, operations: Operations, store: Store) -> None:
        self._partitions = partitions
        self._operations = operations
        self._store = store

    async def purge(
        self, identity: Identity, request: broker_pb2.PurgeSubscriptionRequest
    ) -> broker_pb2.PurgeSubscriptionResponse:
        """Take away what waits in one partition. Durable on return."""
        topic = await self._partitions.topic(identity, Action.ADMIN, request.topic_id)
        subscription = await self._partitions.subscription(topic, request.subscription)
        if subscription.mode is not SubscriptionMode.QUEUE:
            raise InvalidArgumentError(
                f"subscription {subscription.name!r} of {topic.name!r} is in stream mode, which "
                "has nothing to purge; seek it to latest",
                field="subscription",
            )
        placed = await self._partitions.place(
            identity,
            Action.ADMIN,
            request.topic_id,
            request.partition,
            forwarded=request.forwarded,
        )
        if isinstance(placed, Remote):
            request.forwarded = True
            return await self._partitions.forward(
                placed.address, "PurgeSubscription", request, broker_pb2.PurgeSubscriptionResponse
            )
        reader = placed.subscriptions.readers.get(subscription.name)
        if reader is None:
            raise NotFoundError(f"subscription {subscription.name!r} was deleted")
        await reader.caught_up()
        purged = 0
        for count in reader.purge(leased=request.leased):
            purged += count
            await asyncio.sleep(0)  # The node's other work goes on between two steps.
        await reader.durable()
        if placed.log.lost is not None:
            raise placed.log.lost  # The last steps are of no owner any more.
        return broker_pb2.PurgeSubscriptionResponse(purged=purged)

    # Operations.

    async def start_redrive(
        self, identity: Identity, request: broker_pb2.StartRedriveRequest
    ) -> broker_pb2.Operation:
        """Begin to send dead letters back."""
        topic = await self._partitions.topic(identity, Action.ADMIN, request.topic_id)
        _check_queue(topic)
        wanted = filter_of_message(request.filter)
        wanted.check()
        record = OperationRecord(
            operation_id=check_operation_id(request.operation_id),
            queue=topic.name,
            topic_id=topic.topic_id,
            filter=wanted,
            to=self._target(identity, topic, request.to),
            rate_per_s=parse_rate(request.rate_per_s, "rate_per_s"),
            created_at_ms=self._store.now_ms(),
        )
        return operation_message(await self._operations.begin(record))

    def _target(self, identity: Identity, queue: TopicConfig, name: str) -> str:
        """Where dead letters are to go, empty for back. Raises when that can't be."""
        if not name:
            return ""
        check_name(name, "to")
        require(identity, Action.ADMIN, name)
        if name == queue.name:
            raise InvalidArgumentError(
                f"the dead letters are in {name!r} already; name another topic or queue, or none "
                "to send them back",
                field="to",
            )
        if name not in self._partitions.view.topics:
            raise NotFoundError(
                f"there is no topic or queue {name!r} to send dead letters to; create it first",
                field="to",
            )
        return name

    async def get_operation(
        self, identity: Identity, request: broker_pb2.GetOperationRequest
    ) -> broker_pb2.Operation:
        """How an operation is."""
        record = await self._operations.get(check_operation_id(request.operation_id))
        require(identity, Action.DESCRIBE, record.queue)
        return operation_message(record)

    async def list_operations(
        self, identity: Identity, request: broker_pb2.ListOperationsRequest
    ) -> broker_pb2.ListOperationsResponse:
        """All operations that the caller may know of, the newest first."""
        return broker_pb2.ListOperationsResponse(
            operations=[
                operation_message(one)
                for one in await self._operations.all()
                if request.queue in ("", one.queue)
                and allowed(identity, Action.DESCRIBE, one.queue)
            ]
        )

    async def cancel_operation(
        self, identity: Identity, request: broker_pb2.CancelOperationRequest
    ) -> broker_pb2.Operation:
        """Ask for the end of an operation."""
        record = await self._operations.get(check_operation_id(request.operation_id))
        require(identity, Action.ADMIN, record.queue)
        return operation_message(await self._operations.cancel(record.operation_id))


def _check_queue(topic: TopicConfig) -> None:
    if topic.kind is not TopicKind.QUEUE:
        raise InvalidArgumentError(
            f"{topic.name!r} is a topic: its dead letters stay in its log, to be read as any of "
            "its messages. Only those of a queue can be redriven",
            field="queue",
        )
