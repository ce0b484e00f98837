"""Produce, Fetch and Subscribe: the calls on the log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Final

from mom_broker.node.metrics import NodeMetrics
from mom_broker.node.ownership import OwnedPartition
from mom_broker.node.partition import Landed, Partition
from mom_broker.node.placed import Placed, PlacedPartitions, Remote
from mom_broker.node.signal import WaitingRoom
from mom_broker.rpc.messages import DURABILITIES
from mom_core.access import Action, Identity
from mom_core.errors import InvalidArgumentError, MomError, OffsetError
from mom_core.limits import FETCH_BYTES_DEFAULT, FETCH_BYTES_MAX, WAIT_MS_MAX
from mom_core.ports import StoredBatch
from mom_process.wire_errors import to_proto
from mom_proto.v1 import broker_pb2, types_pb2

# Credit that a subscriber may have given in advance.
CREDIT_BYTES_MAX: Final = 1 << 30


class LogService:
    """Appends and reads for one caller at a time; the servicer speaks gRPC around it."""

    def __init__(
        self, partitions: PlacedPartitions, room: WaitingRoom, metrics: NodeMetrics
    ) -> None:
        self._partitions = partitions
        self._room = room
        self._metrics = metrics

    # Produce.

    async def produce(
        self, identity: Identity, request: broker_pb2.ProduceRequest
    ) -> broker_pb2.ProduceResponse:
        """Append each batch at its owner; each has its own result."""
        results: dict[int, broker_pb2.ProduceResult] = {}
        waiting: list[tuple[int, OwnedPartition, asyncio.Future[Landed]]] = []
        remote: dict[str, list[int]] = {}
        for place, item in enumerate(request.batches):
            try:
                placed = await self._place(
                    identity, Action.WRITE, item.partition, forwarded=request.forwarded
                )
                if isinstance(placed, Remote):
                    remote.setdefault(placed.address, []).append(place)
                else:
                    waiting.append((place, placed, placed.log.append(item.batch)))
            except MomError as error:
                results[place] = self._refused(error)
        forwards = [
            self._forward_produce(address, request, places, results)
            for address, places in remote.items()
        ]
        if forwards:
            await asyncio.gather(*forwards)
        for place, owned, landing in waiting:
            results[place] = await self._landed(owned, landing, request.batches[place])
        return broker_pb2.ProduceResponse(
            results=[results[place] for place in range(len(request.batches))]
        )

    async def _landed(
        self,
        owned: OwnedPartition,
        landing: asyncio.Future[Landed],
        item: broker_pb2.ProduceBatch,
    ) -> broker_pb2.ProduceResult:
        try:
            landed = await landing
        except MomError as error:
            return self._refused(error)
        if landed.duplicate:
            self._metrics.duplicate_batches.inc()
        else:
            self._metrics.appended_bytes.inc(len(item.batch))
            self._metrics.appended_messages.inc(int.from_bytes(item.batch[12:16], "little"))
        return broker_pb2.ProduceResult(
            base_offset=landed.base_offset,
            epoch=owned.log.epoch,
            durability=DURABILITIES[landed.durability],
            duplicate=landed.duplicate,
            duplicate_places=[place for place, _ in landed.left_out],
            duplicate_offsets=[offset for _, offset in landed.left_out],
        )

    def _refused(self, error: MomError) -> broker_pb2.ProduceResult:
        self._metrics.refused_batches.labels(error.code.value).inc()
        return broker_pb2.ProduceResult(error=to_proto(error))

    async def _forward_produce(
        self,
        address: str,
        request: broker_pb2.ProduceRequest,
        places: Sequence[int],
        results: dict[int, broker_pb2.ProduceResult],
    ) -> None:
        forwarded = broker_pb2.ProduceRequest(
            batches=[request.batches[place] for place in places], forwarded=True
        )
        try:
            reply = await self._partitions.forward(
                address, "Produce", forwarded, broker_pb2.ProduceResponse
            )
        except MomError as error:
            for place in places:
                results[place] = self._refused(error)
            return
        results.update(zip(places, reply.results, strict=True))

    async def _place(
        self,
        identity: Identity,
        action: Action,
        partition: types_pb2.Partition,
        *,
        forwarded: bool,
    ) -> Placed:
        return await self._partitions.place(
            identity, action, partition.topic_id, partition.index, forwarded=forwarded
        )

    # Fetch.

    async def fetch(
        self, identity: Identity, request: broker_pb2.FetchRequest
    ) -> broker_pb2.FetchResponse:
        """Read each partition, waiting until one has something."""
        bytes_max = _bytes_max(request.max_bytes)
        wait_ms = min(request.wait_ms, WAIT_MS_MAX)
        local: dict[int, OwnedPartition] = {}
        remote: dict[str, list[int]] = {}
        results: dict[int, broker_pb2.FetchResult] = {}
        for place, item in enumerate(request.partitions):
            try:
                placed = await self._place(
                    identity, Action.READ, item.partition, forwarded=request.forwarded
                )
                if isinstance(placed, Remote):
                    remote.setdefault(placed.address, []).append(place)
                else:
                    local[place] = placed
            except MomError as error:
                results[place] = _fetch_error(item.partition, error)
        if results or (local and remote) or len(remote) > 1:
            # What is known now is not held back for what may come elsewhere.
            wait_ms = 0
        await asyncio.gather(
            self._fetch_local(request, local, results, bytes_max, wait_ms),
            *(
                self._forward_fetch(address, request, places, results, bytes_max, wait_ms)
                for address, places in remote.items()
            ),
        )
        return broker_pb2.FetchResponse(
            results=[results[place] for place in range(len(request.partitions))]
        )

    async def _forward_fetch(
        self,
        address: str,
        request: broker_pb2.FetchRequest,
        places: Sequence[int],
        results: dict[int, broker_pb2.FetchResult],
        bytes_max: int,
        wait_ms: int,
    ) -> None:
        forwarded = broker_pb2.FetchRequest(
            partitions=[request.partitions[place] for place in places],
            max_bytes=bytes_max,
            wait_ms=wait_ms,
            forwarded=True,
        )
        try:
            reply = await self._partitions.forward(
                address, "Fetch", forwarded, broker_pb2.FetchResponse, wait_ms=wait_ms
            )
        except MomError as error:
            for place in places:
                results[place] = _fetch_error(request.partitions[place].partition, error)
            return
        results.update(zip(places, reply.results, strict=True))

    async def _fetch_local(
        self,
        request: broker_pb2.FetchRequest,
        local: dict[int, OwnedPartition],
        results: dict[int, broker_pb2.FetchResult],
        bytes_max: int,
        wait_ms: int,
    ) -> None:
        if not local:
            return
        clock = self._partitions.clock
        deadline_ms = clock.monotonic_ms() + wait_ms
        offsets: dict[int, int] = {}
        while True:
            room = bytes_max
            found = False
            for place, owned in local.items():
                item = request.partitions[place]
                try:
                    if place not in offsets:
                        offsets[place] = await start_offset(owned.log, item)
                    result = await self._read(owned.log, item, offsets[place], max(room, 1), found)
                except MomError as error:
                    result = _fetch_error(item.partition, error)
                results[place] = result
                size = sum(len(batch.batch) for batch in result.batches)
                room -= size
                found = found or size > 0 or result.HasField("error")
            left_ms = deadline_ms - clock.monotonic_ms()
            if found or left_ms <= 0:
                return
            signals = [owned.log.arrived for owned in local.values()]
            if await self._room.wait(signals, left_ms) is None:
                return

    async def _read(
        self,
        log: Partition,
        item: broker_pb2.FetchPartition,
        offset: int,
        bytes_max: int,
        already_found: bool,
    ) -> broker_pb2.FetchResult:
        batches = await log.read(offset, bytes_max)
        if already_found and batches and len(batches[0].data) > bytes_max:
            batches = ()
        self._metrics.fetched_bytes.inc(sum(len(batch.data) for batch in batches))
        return fetch_result(item.partition, log, offset, batches)

    # Subscribe.

    async def subscribe(
        self, identity: Identity, requests: AsyncIterator[broker_pb2.SubscribeRequest]
    ) -> AsyncIterator[broker_pb2.FetchResult]:
        """Read one partition for as long as the reader has credit and stays."""
        first = await anext(aiter(requests), None)
        if first is None or not first.HasField("start"):
            raise InvalidArgumentError(
                "the first message of Subscribe must say where to start", field="start"
            )
        placed = await self._place(identity, Action.READ, first.start.partition, forwarded=True)
        assert isinstance(placed, OwnedPartition), "a forwarded call is never placed elsewhere"
        credit = _Credit(first.credit_bytes)
        gives = asyncio.create_task(credit.follow(requests))
        try:
            offset = await start_offset(placed.log, first.start)
            while await credit.some() and not self._room.closed:
                batches = await placed.log.read(offset, min(credit.bytes, FETCH_BYTES_MAX))
                if not batches:
                    await self._room.wait([placed.log.arrived], WAIT_MS_MAX)
                    continue
                credit.bytes -= sum(len(batch.data) for batch in batches)
                self._metrics.fetched_bytes.inc(sum(len(batch.data) for batch in batches))
                yield fetch_result(first.start.partition, placed.log, offset, batches)
                offset = batches[-1].end_offset
        finally:
            gives.cancel()


class _Credit:
    """The bytes that a subscriber can still take."""

    def __init__(self, credit_bytes: int) -> None:
        self.bytes = credit_bytes
        self._more = asyncio.Event()
        self._ended = False

    async def follow(self, requests: AsyncIterator[broker_pb2.SubscribeRequest]) -> None:
        try:
            async for request in requests:
                self.bytes = min(self.bytes + request.credit_bytes, CREDIT_BYTES_MAX)
                self._more.set()
        finally:
            self._ended = True
            self._more.set()

    async def some(self) -> bool:
        """Wait until there is credit; False when the subscriber has said that it is done."""
        while self.bytes <= 0 and not self._ended:
            self._more.clear()
            await self._more.wait()
        return self.bytes > 0


async def start_offset(log: Partition, item: broker_pb2.FetchPartition) -> int:
    """The offset at which a read begins. Raises InvalidArgumentError when it is not said."""
    match item.WhichOneof("start"):
        case "offset":
            return item.offset
        case "timestamp_ms":
            return max(log.log_start, await log.offset_at(item.timestamp_ms))
        case "earliest":
            return log.log_start
        case "latest":
            return log.high_watermark
        case _:
            raise InvalidArgumentError(
                "say where to start: offset, timestamp_ms, earliest or latest", field="start"
            )


def fetch_result(
    partition: types_pb2.Partition, log: Partition, offset: int, batches: Sequence[StoredBatch]
) -> broker_pb2.FetchResult:
    """What was read of a partition, as it travels."""
    return broker_pb2.FetchResult(
        partition=partition,
        batches=[
            broker_pb2.LogBatch(
                base_offset=batch.base_offset,
                append_time_ms=batch.append_time_ms,
                batch=batch.data,
            )
            for batch in batches
        ],
        next_offset=batches[-1].end_offset if batches else offset,
        high_watermark=log.high_watermark,
        log_start=log.log_start,
        start_offset=offset,
    )


def _fetch_error(partition: types_pb2.Partition, error: MomError) -> broker_pb2.FetchResult:
    result = broker_pb2.FetchResult(partition=partition, error=to_proto(error))
    if isinstance(error, OffsetError):
        result.log_start = int(error.details.get("log_start", 0))
        result.high_watermark = int(error.details.get("high_watermark", 0))
    return result


def _bytes_max(asked: int) -> int:
    return min(asked or FETCH_BYTES_DEFAULT, FETCH_BYTES_MAX)
