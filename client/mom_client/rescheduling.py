"""Cancelling messages that wait to be delivered, and moving them to another time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from mom_client import arguments
from mom_client.received import ReceivedMessage
from mom_client.results import Published
from mom_core import limits
from mom_core.errors import ErrorCode, InvalidArgumentError, MomError
from mom_core.positions import Position, parse_position
from mom_process.wire_errors import from_proto
from mom_proto.v1 import broker_pb2

if TYPE_CHECKING:
    from mom_client.calls import Caller
    from mom_client.engine import Engine
    from mom_client.routing import TopicRoute

Place = Published | ReceivedMessage | Position | str
"""Which message: what publishing returned, or its position, also as text (``"0:42"``)."""
_PLACES: Final = (Published, ReceivedMessage, Position, str)
_PLACE: Final = "what publishing returned, a message or a position ('0:42')"


class Rescheduler:
    """Calls owners."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def reschedule(
        self, topic: str, subscription: str, items: Sequence[broker_pb2.RescheduleItem]
    ) -> list[MomError | None]:
        """See :meth:`mom_client.engine.Engine.reschedule`."""
        results: list[MomError | None] = [None] * len(items)
        by_partition: dict[int, list[int]] = {}
        for place, item in enumerate(items):
            by_partition.setdefault(item.partition, []).append(place)
        await asyncio.gather(
            *(
                self._at_owner(topic, subscription, index, items, places, results)
                for index, places in by_partition.items()
            )
        )
        return results

    async def _at_owner(
        self,
        topic: str,
        subscription: str,
        partition: int,
        items: Sequence[broker_pb2.RescheduleItem],
        places: Sequence[int],
        results: list[MomError | None],
    ) -> None:
        for at in range(0, len(places), limits.RESCHEDULE_MESSAGES_MAX):
            part = places[at : at + limits.RESCHEDULE_MESSAGES_MAX]
            wanted = [items[place] for place in part]
            try:
                found = await self._call(topic, subscription, partition, wanted)
            except MomError as error:
                found = [error] * len(part)
            for place, one in zip(part, found, strict=True):
                results[place] = one

    async def _call(
        self,
        topic: str,
        subscription: str,
        partition: int,
        items: Sequence[broker_pb2.RescheduleItem],
    ) -> list[MomError | None]:
        tries = 0

        def request(route: TopicRoute) -> bytes:
            nonlocal tries
            tries += 1
            return broker_pb2.RescheduleRequest(
                topic_id=route.topic_id, subscription=subscription, items=items
            ).SerializeToString()

        def parse(reply: bytes) -> list[MomError | None]:
            found = [
                from_proto(one) if one.code else None
                for one in broker_pb2.RescheduleResponse.FromString(reply).results
            ]
            for one in found:
                if one is not None and one.retriable:
                    raise one
            return found

        found = await self._caller.at_owner(topic, partition, "Reschedule", request, parse)
        if tries > 1:
            # A cancellation that was sent twice and found its message gone did so itself.
            for place, item in enumerate(items):
                error = found[place]
                if item.cancel and error and error.code is ErrorCode.ALREADY_SETTLED:
                    found[place] = None
        return found


async def change(
    engine: Engine,
    queue: str,
    subscription: str | None,
    messages: Sequence[Place],
    deliver_at_ms: int | None,
) -> list[MomError | None]:
    """Move messages to a time, or cancel them (None); a result for each, None is success.

    What is no position fails by itself. Raises InvalidArgumentError for a wrong time.
    """
    _check_time(deliver_at_ms)
    results: list[MomError | None] = [None] * len(messages)
    items: list[broker_pb2.RescheduleItem] = []
    places: list[int] = []
    for place, one in enumerate(messages):
        try:
            position = position_of(one)
        except InvalidArgumentError as error:
            results[place] = error
            continue
        items.append(_item(position, deliver_at_ms))
        places.append(place)
    found = await engine.reschedule(queue, subscription or queue, items)
    for place, result in zip(places, found, strict=True):
        results[place] = result
    return results


def several_of(messages: Place | Iterable[Place]) -> tuple[list[Place], bool]:
    """The messages, and whether it is a single one. Raises InvalidArgumentError."""
    places = arguments.several(messages, _PLACES, "messages", _PLACE)
    return places, isinstance(messages, _PLACES)


def position_of(one: Place) -> Position:
    """Where a message is. Raises InvalidArgumentError."""
    if isinstance(one, Position):
        partition = arguments.whole(one.partition, "partition", 0, limits.PARTITIONS_MAX - 1)
        return Position(partition, arguments.whole(one.offset, "offset", 0, limits.OFFSET_MAX))
    if isinstance(one, str):
        return parse_position(one, "message")
    return Position(one.partition, one.offset)


def outcome(results: list[MomError | None], single: bool) -> list[MomError | None] | None:
    """What a call returns: nothing for a single one, whose error it raises."""
    if not single:
        return results
    if results[0] is not None:
        raise results[0]
    return None


def _check_time(deliver_at_ms: int | None) -> None:
    if deliver_at_ms is not None and not 0 <= deliver_at_ms <= limits.TIMESTAMP_MS_MAX:
        raise InvalidArgumentError(
            f"deliver_at_ms is {deliver_at_ms}; 0 to {limits.TIMESTAMP_MS_MAX} is allowed",
            field="deliver_at_ms",
        )


def _item(position: Position, deliver_at_ms: int | None) -> broker_pb2.RescheduleItem:
    return broker_pb2.RescheduleItem(
        partition=position.partition,
        offset=position.offset,
        cancel=deliver_at_ms is None,
        deliver_at_ms=deliver_at_ms or 0,
    )
