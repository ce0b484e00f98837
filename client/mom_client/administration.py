"""Administration of queues: their dead letters, purging, and operations."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Final

from mom_client.calls import Caller
from mom_client.queues import Queues
from mom_client.results import DeadLetter, DeadLetterPage, Operation
from mom_client.routing import TopicRoute
from mom_core import batch as codec
from mom_core.dead_letters import DeadLetterFilter, facts_of
from mom_core.errors import InvalidArgumentError
from mom_core.ids import id_text
from mom_core.limits import BROWSE_MESSAGES_MAX
from mom_core.operations import parse_rate
from mom_core.topics import SubscriptionMode, TopicKind
from mom_proto.v1 import broker_pb2

# Dead letters all go to the first partition of their queue.
DEAD_PARTITION: Final = 0


class Administration:
    """Calls to the owners of queues, and to any node about operations."""

    def __init__(self, caller: Caller, queues: Queues) -> None:
        self._caller = caller
        self._queues = queues

    async def dead_letters(
        self, queue: str, wanted: DeadLetterFilter, *, offset: int, limit: int
    ) -> DeadLetterPage:
        """See :meth:`mom_client.engine.Engine.dead_letters`."""
        wanted.check()
        await self._check_queue(queue)
        found: list[DeadLetter] = []
        while True:
            response = await self._queues.browse(
                queue, queue, DEAD_PARTITION, offset=offset, max_messages=BROWSE_MESSAGES_MAX
            )
            for one in _dead_letters(response, wanted):
                if len(found) >= limit:
                    return DeadLetterPage(found, one.offset)
                found.append(one)
            offset = response.next_offset
            if not offset:
                return DeadLetterPage(found, 0)

    async def _check_queue(self, name: str) -> TopicRoute:
        route = await self._caller.routing.topic(name)
        if route.config.kind is not TopicKind.QUEUE:
            raise InvalidArgumentError(
                f"{name!r} is a topic: its dead letters are read as any of its messages. Only "
                "those of a queue can be browsed and redriven",
                field="queue",
            )
        return route

    async def purge(self, topic: str, subscription: str, *, leased: bool) -> int:
        """See :meth:`mom_client.engine.Engine.purge`."""
        route = await self._caller.routing.topic(topic)
        if route.subscription(subscription).mode is not SubscriptionMode.QUEUE:
            raise InvalidArgumentError(
                f"subscription {subscription!r} of {topic!r} is a stream, which has nothing to "
                "purge; seek it to latest",
                field="subscription",
            )
        purged = 0
        for partition in range(len(route.owners)):
            purged += await self._purge_partition(topic, subscription, partition, leased)
        return purged

    async def _purge_partition(
        self, topic: str, subscription: str, partition: int, leased: bool
    ) -> int:
        def request(route: TopicRoute) -> bytes:
            return broker_pb2.PurgeSubscriptionRequest(
                topic_id=route.topic_id,
                subscription=subscription,
                partition=partition,
                leased=leased,
            ).SerializeToString()

        parse: Callable[[bytes], int] = lambda reply: (  # noqa: E731
            broker_pb2.PurgeSubscriptionResponse.FromString(reply).purged
        )
        return await self._caller.at_owner(topic, partition, "PurgeSubscription", request, parse)

    async def redrive(
        self, queue: str, wanted: DeadLetterFilter, *, to: str, rate: str | float
    ) -> Operation:
        """See :meth:`mom_client.engine.Engine.redrive`."""
        wanted.check()
        rate_per_s = parse_rate(rate)
        await self._check_queue(queue)
        # Chosen here, so that a call which is sent again begins nothing twice.
        operation_id = uuid.uuid4().hex

        def request(route: TopicRoute) -> bytes:
            return broker_pb2.StartRedriveRequest(
                operation_id=operation_id,
                topic_id=route.topic_id,
                filter=filter_to_wire(wanted),
                to=to,
                rate_per_s=rate_per_s,
            ).SerializeToString()

        return await self._caller.at_owner(
            queue, DEAD_PARTITION, "StartRedrive", request, _operation
        )

    async def operation(self, operation_id: str) -> Operation:
        """See :meth:`mom_client.engine.Engine.operation`."""
        request = broker_pb2.GetOperationRequest(operation_id=operation_id)
        reply = await self._caller.at_any("GetOperation", request.SerializeToString())
        return _operation(reply)

    async def operations(self, queue: str) -> list[Operation]:
        """See :meth:`mom_client.engine.Engine.operations`."""
        request = broker_pb2.ListOperationsRequest(queue=queue)
        reply = await self._caller.at_any("ListOperations", request.SerializeToString())
        found = broker_pb2.ListOperationsResponse.FromString(reply).operations
        return [operation_of_wire(one) for one in found]

    async def cancel_operation(self, operation_id: str) -> Operation:
        """See :meth:`mom_client.engine.Engine.cancel_operation`."""
        request = broker_pb2.CancelOperationRequest(operation_id=operation_id)
        reply = await self._caller.at_any("CancelOperation", request.SerializeToString())
        return _operation(reply)


def _dead_letters(
    response: broker_pb2.BrowseResponse, wanted: DeadLetterFilter
) -> list[DeadLetter]:
    found = []
    for batch in response.batches:
        for offset, message in enumerate(codec.decode(batch.batch), batch.base_offset):
            facts = facts_of(message.headers)
            if facts is not None and wanted.holds(offset, message, facts):
                found.append(DeadLetter(offset, batch.state, message, facts))
    return found


def filter_to_wire(wanted: DeadLetterFilter) -> broker_pb2.DeadLetterFilter:
    """Which dead letters are meant, as it travels."""
    return broker_pb2.DeadLetterFilter(
        reason=wanted.reason,
        topic=wanted.topic,
        subscription=wanted.subscription,
        offsets=wanted.offsets,
        ids=[bytes.fromhex(one) for one in wanted.ids],
    )


def _operation(reply: bytes) -> Operation:
    return operation_of_wire(broker_pb2.Operation.FromString(reply))


def operation_of_wire(operation: broker_pb2.Operation) -> Operation:
    """An operation, as it came."""
    wanted = operation.filter
    return Operation(
        operation_id=operation.operation_id,
        kind=operation.kind,
        queue=operation.queue,
        state=operation.state,
        total=operation.total,
        done=operation.done,
        left=operation.left,
        error=operation.error,
        created_at_ms=operation.created_at_ms,
        ended_at_ms=operation.ended_at_ms or None,
        to=operation.to,
        rate_per_s=operation.rate_per_s,
        filter=DeadLetterFilter(
            reason=wanted.reason,
            topic=wanted.topic,
            subscription=wanted.subscription,
            offsets=tuple(wanted.offsets),
            ids=tuple(id_text(one) for one in wanted.ids),
        ),
    )
