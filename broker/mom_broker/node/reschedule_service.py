"""Reschedule: cancelling messages that wait to be delivered, or moving them to another time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from mom_broker.node.ownership import OwnedPartition
from mom_broker.node.placed import PlacedPartitions, Remote
from mom_core.access import Action, Identity
from mom_core.delivery import WaitingResult, Wanted
from mom_core.errors import ErrorCode, InvalidArgumentError, MomError, NotFoundError, error_of
from mom_core.limits import RESCHEDULE_MESSAGES_MAX, TIMESTAMP_MS_MAX
from mom_core.positions import Position
from mom_core.topics import SubscriptionMode
from mom_process.wire_errors import to_proto
from mom_proto.v1 import broker_pb2, types_pb2

_REFUSALS: Final = {
    WaitingResult.UNKNOWN: (ErrorCode.NOT_FOUND, "no message has this position"),
    WaitingResult.LEASED: (ErrorCode.CONFLICT, "a worker has it under lease now"),
    WaitingResult.DEAD: (ErrorCode.CONFLICT, "it is on its way to the dead letters"),
    WaitingResult.SETTLED: (
        ErrorCode.ALREADY_SETTLED,
        "it was acknowledged, cancelled or removed before",
    ),
    WaitingResult.EXPIRES: (
        ErrorCode.INVALID_ARGUMENT,
        "it expires before the time that it is to be delivered at",
    ),
}


class RescheduleService:
    """Changes what waits; the servicer speaks gRPC around it."""

    def __init__(self, partitions: PlacedPartitions) -> None:
        self._partitions = partitions

    async def reschedule(
        self, identity: Identity, request: broker_pb2.RescheduleRequest
    ) -> broker_pb2.RescheduleResponse:
        """Cancel or move each message at its partition's owner; each has its own result."""
        if len(request.items) > RESCHEDULE_MESSAGES_MAX:
            raise InvalidArgumentError(
                f"{len(request.items)} messages; at most {RESCHEDULE_MESSAGES_MAX} are allowed",
                field="items",
            )
        await self._check_mode(identity, request)
        results: list[types_pb2.Error] = [types_pb2.Error() for _ in request.items]
        by_partition: dict[int, list[int]] = {}
        for place, item in enumerate(request.items):
            by_partition.setdefault(item.partition, []).append(place)
        await asyncio.gather(
            *(
                self._in_partition(identity, request, index, places, results)
                for index, places in by_partition.items()
            )
        )
        return broker_pb2.RescheduleResponse(results=results)

    async def _check_mode(self, identity: Identity, request: broker_pb2.RescheduleRequest) -> None:
        topic = await self._partitions.topic(identity, Action.READ, request.topic_id)
        subscription = await self._partitions.subscription(topic, request.subscription)
        if subscription.mode is not SubscriptionMode.QUEUE:
            raise InvalidArgumentError(
                f"subscription {subscription.name!r} of {topic.name!r} is in {subscription.mode} "
                "mode, which delivers by the log's order; only a queue's messages can be moved",
                field="subscription",
            )

    async def _in_partition(
        self,
        identity: Identity,
        request: broker_pb2.RescheduleRequest,
        index: int,
        places: Sequence[int],
        results: list[types_pb2.Error],
    ) -> None:
        items = [request.items[place] for place in places]
        try:
            placed = await self._partitions.place(
                identity, Action.READ, request.topic_id, index, forwarded=request.forwarded
            )
            if isinstance(placed, Remote):
                found = await self._forward(placed.address, request, items)
            else:
                found = await self._here(placed, request.subscription, items)
        except MomError as error:
            found = [to_proto(error)] * len(items)
        for place, one in zip(places, found, strict=True):
            results[place] = one

    async def _forward(
        self,
        address: str,
        request: broker_pb2.RescheduleRequest,
        items: Sequence[broker_pb2.RescheduleItem],
    ) -> list[types_pb2.Error]:
        forwarded = broker_pb2.RescheduleRequest(
            topic_id=request.topic_id,
            subscription=request.subscription,
            items=items,
            forwarded=True,
        )
        reply = await self._partitions.forward(
            address, "Reschedule", forwarded, broker_pb2.RescheduleResponse
        )
        return list(reply.results)

    async def _here(
        self, owned: OwnedPartition, name: str, items: Sequence[broker_pb2.RescheduleItem]
    ) -> list[types_pb2.Error]:
        reader = owned.subscriptions.readers.get(name)
        if reader is None:
            raise NotFoundError(f"subscription {name!r} was deleted", field="subscription")
        results: list[types_pb2.Error] = [types_pb2.Error() for _ in items]
        good: list[int] = []
        for place, item in enumerate(items):
            if item.deliver_at_ms > TIMESTAMP_MS_MAX:
                results[place] = to_proto(_too_late(item))
            else:
                good.append(place)
        outcomes = await reader.change_waiting([_wanted(items[place]) for place in good])
        for place, outcome in zip(good, outcomes, strict=True):
            if outcome is not WaitingResult.DONE:
                results[place] = to_proto(_refused(outcome, items[place], name))
        return results


def _wanted(item: broker_pb2.RescheduleItem) -> Wanted:
    return Wanted(item.offset, None if item.cancel else item.deliver_at_ms)


def _too_late(item: broker_pb2.RescheduleItem) -> MomError:
    return InvalidArgumentError(
        f"deliver_at_ms is {item.deliver_at_ms}; 0 to {TIMESTAMP_MS_MAX} is allowed",
        field="deliver_at_ms",
    )


def _refused(outcome: WaitingResult, item: broker_pb2.RescheduleItem, name: str) -> MomError:
    code, reason = _REFUSALS[outcome]
    field = "deliver_at_ms" if outcome is WaitingResult.EXPIRES else "position"
    where = Position(item.partition, item.offset)
    return error_of(code.value, f"message {where} of {name!r}: {reason}", field=field)
