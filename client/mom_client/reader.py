"""Reading one partition's log."""

from __future__ import annotations

from mom_client.calls import Caller
from mom_client.results import Fetched, FetchedBatch
from mom_client.routing import TopicRoute
from mom_core.topics import Start, StartKind
from mom_process.wire_errors import from_proto
from mom_proto.v1 import broker_pb2, types_pb2


class Reader:
    """Fetches at owners."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def fetch(
        self, topic: str, partition: int, start: Start, *, max_bytes: int, wait_ms: int
    ) -> Fetched:
        """See :meth:`mom_client.engine.Engine.fetch`."""

        def request(route: TopicRoute) -> bytes:
            item = broker_pb2.FetchPartition(
                partition=types_pb2.Partition(topic_id=route.topic_id, index=partition)
            )
            match start.kind:
                case StartKind.OFFSET:
                    item.offset = start.value
                case StartKind.TIMESTAMP:
                    item.timestamp_ms = start.value
                case StartKind.EARLIEST:
                    item.earliest = True
                case StartKind.LATEST:
                    item.latest = True
            return broker_pb2.FetchRequest(
                partitions=[item], max_bytes=max_bytes, wait_ms=wait_ms
            ).SerializeToString()

        return await self._caller.at_owner(
            topic, partition, "Fetch", request, _fetched, wait_ms=wait_ms
        )


def _fetched(reply: bytes) -> Fetched:
    result = broker_pb2.FetchResponse.FromString(reply).results[0]
    if result.HasField("error"):
        raise from_proto(result.error)
    return Fetched(
        [FetchedBatch(one.base_offset, one.append_time_ms, one.batch) for one in result.batches],
        result.start_offset,
        result.next_offset,
        result.high_watermark,
        result.log_start,
    )
