"""Looking at what a queue holds, over all its partitions, without leasing any of it.

A look at a partition comes from its owner's memory, so that of several partitions is no snapshot:
what moves meanwhile may be seen in neither state or in both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mom_client import arguments
from mom_client.operations import check_queue
from mom_client.received import Origin, ReceivedMessage
from mom_core.batch import decode
from mom_core.errors import InvalidArgumentError
from mom_core.limits import BROWSE_MESSAGES_MAX, FETCH_BYTES_MAX, OFFSET_MAX
from mom_core.positions import Position, parse_position
from mom_proto.v1 import broker_pb2

if TYPE_CHECKING:
    from mom_client.engine import Engine
    from mom_client.routing import TopicRoute


class BrowsedMessage(ReceivedMessage, frozen=True, eq=False, gc=False, kw_only=True):
    """A message that is not acknowledged, as it waits. It has no lease of this caller."""

    state: str
    """``ready``, ``delayed``, ``leased``, ``dead`` (on its way to the dead letters) or ``leaving``
    (a redrive sends it elsewhere)."""
    until_ms: int
    """When a delayed one may be delivered, or a lease ends, milliseconds since the Unix epoch by
    the cluster's clock; 0: neither."""

    @property
    def position(self) -> str:
        """Partition and offset as text: by it a message that waits is cancelled or moved."""
        return str(Position(self.partition, self.offset))


class BrowsePage(NamedTuple):
    """One page of what a queue holds, partition after partition."""

    messages: list[BrowsedMessage]
    next_position: Position | None
    """Where the next page begins; None at the end."""


async def browse(
    engine: Engine,
    queue: str,
    subscription: str | None,
    *,
    limit: int,
    partition: int | None = None,
    start: Position | str | None = None,
) -> BrowsePage:
    """The first ``limit`` messages from ``start`` on, however many bytes they have."""
    limit = arguments.whole(limit, "limit", 1, OFFSET_MAX)
    partition = arguments.partition_of(partition)
    if isinstance(start, str):
        start = parse_position(start, "start")
    elif not isinstance(start, Position | None):
        raise arguments.wrong("start", start, "a position, such as '0:42', or None")
    position = start
    found: list[BrowsedMessage] = []
    while True:
        page = await browse_page(
            engine,
            queue,
            subscription or queue,
            limit=limit - len(found),
            partition=partition,
            start=position,
        )
        found += page.messages
        position = page.next_position
        if position is None or len(found) >= limit:
            return BrowsePage(found, position)


async def browse_page(
    engine: Engine,
    topic: str,
    subscription: str,
    *,
    limit: int,
    partition: int | None = None,
    start: Position | None = None,
) -> BrowsePage:
    """At most ``limit`` messages, and about 8 MiB of them.

    Raises NotFoundError, and InvalidArgumentError for a subscription of stream mode or a partition
    that the queue does not have.
    """
    await check_queue(engine, topic, subscription)
    route = await engine.topic(topic)
    start = start or Position(partition or 0, 0)
    found: list[BrowsedMessage] = []
    size_bytes = 0
    for index in _partitions(route, partition, start):
        offset = start.offset if index == start.partition else 0
        while True:
            # One more than is wanted tells whether there is a next page.
            wanted = min(limit + 1 - len(found), BROWSE_MESSAGES_MAX)
            response = await engine.browse(
                topic, subscription, index, offset=offset, max_messages=wanted
            )
            found += _messages(topic, route.topic_id, index, response)
            if len(found) > limit:
                return BrowsePage(found[:limit], Position(index, found[limit].offset))
            size_bytes += sum(len(one.batch) for one in response.batches)
            offset = response.next_offset
            if not offset:
                break
            if size_bytes >= FETCH_BYTES_MAX:
                return BrowsePage(found, Position(index, offset))
    return BrowsePage(found, None)


def _partitions(route: TopicRoute, partition: int | None, start: Position) -> range:
    """Which partitions are looked at."""
    first = route.check_partition(start.partition)
    if partition is None:
        return range(first, len(route.owners))
    if partition != first:
        raise InvalidArgumentError(
            f"the position {start} is not in partition {partition}: leave one of them out",
            field="partition",
        )
    return range(first, first + 1)


def _messages(
    topic: str, topic_id: bytes, partition: int, response: broker_pb2.BrowseResponse
) -> list[BrowsedMessage]:
    found = []
    for batch in response.batches:
        origin = Origin(
            topic, topic_id, partition, batch.append_time_ms, deliveries=batch.deliveries
        )
        found += [
            BrowsedMessage(message, offset, origin, state=batch.state, until_ms=batch.until_ms)
            for offset, message in enumerate(decode(batch.batch), batch.base_offset)
        ]
    return found
