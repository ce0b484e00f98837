"""The calls on subscriptions: leases of queue mode, and the groups of stream mode."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, Final

from mom_broker.node import lags
from mom_broker.node.group import GroupCoordinator, read_from
from mom_broker.node.metrics import NodeMetrics
from mom_broker.node.ownership import OwnedPartition
from mom_broker.node.placed import PlacedPartitions, Remote
from mom_broker.node.queue import LeasedSlice, QueueReader
from mom_broker.node.signal import WaitingRoom
from mom_broker.rpc.messages import MODES
from mom_broker.storage.starts import end_of, offset_of
from mom_core import batch as codec
from mom_core.access import Action, Identity
from mom_core.delivery import Leased, Outstanding, SettleAction, SettleOutcome
from mom_core.errors import (
    InvalidArgumentError,
    MomError,
    NotFoundError,
    RoutingError,
    error_of,
)
from mom_core.limits import (
    BROWSE_MESSAGES_MAX,
    FETCH_BYTES_DEFAULT,
    FETCH_BYTES_MAX,
    LEASE_MS_MAX,
    LEASE_MS_MIN,
    RECEIVE_MESSAGES_MAX,
    SETTLE_DELAY_MS_MAX,
    SETTLE_RANGES_MAX,
    WAIT_MS_MAX,
)
from mom_core.names import PartitionId
from mom_core.ports import Store, StoredBatch
from mom_core.receipts import why_not_settled
from mom_core.topics import (
    StartKind,
    SubscriptionConfig,
    SubscriptionMode,
    TopicConfig,
    parse_start,
)
from mom_process.wire_errors import to_proto
from mom_proto.v1 import broker_pb2, types_pb2

ACTIONS: Final = {
    broker_pb2.SETTLE_ACTION_ACK: SettleAction.ACK,
    broker_pb2.SETTLE_ACTION_NACK: SettleAction.NACK,
    broker_pb2.SETTLE_ACTION_EXTEND: SettleAction.EXTEND,
    broker_pb2.SETTLE_ACTION_RELEASE: SettleAction.RELEASE,
    broker_pb2.SETTLE_ACTION_BEGIN: SettleAction.BEGIN,
}
# A receive over several partitions gives each at least this much room.
_ROOM_BYTES_MIN: Final = 64 * 1024


class SubscriptionService:
    """Leases, settles and coordinates; the servicer speaks gRPC around it."""

    def __init__(
        self,
        partitions: PlacedPartitions,
        room: WaitingRoom,
        metrics: NodeMetrics,
        store: Store,
    ) -> None:
        self._partitions = partitions
        self._room = room
        self._metrics = metrics
        self._store = store
        self._turn = 0

    async def subscription(
        self, identity: Identity, topic_id: bytes, name: str, mode: SubscriptionMode
    ) -> tuple[TopicConfig, SubscriptionConfig]:
        """What a call names. Raises NotFoundError, ForbiddenError, InvalidArgumentError."""
        topic = await self._partitions.topic(identity, Action.READ, topic_id)
        subscription = await self._partitions.subscription(topic, name)
        if subscription.mode is not mode:
            raise InvalidArgumentError(
                f"subscription {name!r} of {topic.name!r} is in {subscription.mode} mode; this "
                f"call is for {mode} mode",
                field="subscription",
            )
        return topic, subscription

    # Receive.

    async def receive(
        self, identity: Identity, request: broker_pb2.ReceiveRequest
    ) -> broker_pb2.ReceiveResponse:
        """Lease messages from the partitions that this node owns, waiting for the first one."""
        topic, subscription = await self.subscription(
            identity, request.topic_id, request.subscription, SubscriptionMode.QUEUE
        )
        lease_ms = checked_lease_ms(request.lease_ms or subscription.queue.lease_ms)
        messages_max = min(request.max_messages, RECEIVE_MESSAGES_MAX)
        bytes_max = min(request.max_bytes or FETCH_BYTES_DEFAULT, FETCH_BYTES_MAX)
        deadline_ms = self._partitions.clock.monotonic_ms() + min(request.wait_ms, WAIT_MS_MAX)
        turn: int | None = None
        while True:
            readers = await self.readers(topic, subscription.name, request)
            if isinstance(readers, Remote):
                return await self._forward_receive(readers.address, request)
            if messages_max == 0:
                slices: list[LeasedSlice] = []
                found = self._peek(readers)
            else:
                # Whoever was told of a message has waited for it.
                told = turn is None and any(one.come() for one in readers)
                leasing = self.lease(
                    readers,
                    messages_max,
                    bytes_max,
                    lease_ms,
                    is_new=turn is None and not told,
                    tells_begin=request.tells_begin,
                )
                slices = await leasing if leasing is not None else []
                found = bool(slices)
            left_ms = deadline_ms - self._partitions.clock.monotonic_ms()
            if found or left_ms <= 0 or self._room.closed:
                return self.leased(request.topic_id, slices, readers, lease_ms)
            for one in readers:
                one.wake()
            turn = turn or self._room.turn()
            # A partition that comes meanwhile may have something, too.
            signals = [self._partitions.ownership.changed, *(one.ready for one in readers)]
            await self._room.wait(signals, left_ms, turn)

    async def readers(
        self, topic: TopicConfig, name: str, request: broker_pb2.ReceiveRequest
    ) -> list[QueueReader] | Remote:
        """The readers here, in turn; or the node that has the first of the partitions."""
        wanted = [PartitionId(topic.topic_id, one) for one in _wanted(topic, request.partitions)]
        ownership = self._partitions.ownership
        ours = [one for one in wanted if ownership.wanted_epoch(one) is not None]
        if not ours:
            if request.forwarded:
                raise RoutingError(
                    f"this node owns no partition of {topic.name!r} that the call names; ask for "
                    "the routing table again",
                    retry_after_ms=50,
                )
            return Remote(self._partitions.owner_address(wanted))
        readers = [
            owned.subscriptions.readers[name]
            for one in ours
            if (owned := ownership.owned.get(one)) is not None
            and name in owned.subscriptions.readers
        ]
        if not readers:
            readers = [await self._reader(ours[0], name)]
        self._turn += 1
        turn = self._turn % len(readers)
        return readers[turn:] + readers[:turn]

    async def _reader(self, partition: PartitionId, name: str) -> QueueReader:
        owned = await self._partitions.ownership.get(partition)
        reader = owned.subscriptions.readers.get(name)
        if reader is None:
            raise NotFoundError(f"subscription {name!r} was deleted", field="subscription")
        return reader

    def lease(
        self,
        readers: Sequence[QueueReader],
        messages_max: int,
        bytes_max: int,
        lease_ms: int,
        *,
        is_new: bool,
        tells_begin: bool,
    ) -> Coroutine[Any, Any, list[LeasedSlice]] | None:
        """Lease what is ready now, up to the bounds; what is returned gives the messages.

        ``is_new``: who asks has not waited in line for it. Who does not tell when it begins gets a
        suspect alone, whatever other partitions have. Raises OverloadedError when too many are
        leased, or what ended an ownership.
        """
        chosen: list[tuple[QueueReader, Leased]] = []
        error: MomError | None = None
        room = messages_max
        for reader in readers:
            ready = reader.has_ready_for_newcomers() if is_new else reader.has_ready()
            if room <= 0 or not ready:
                continue
            alone = not tells_begin and reader.next_is_alone()
            if alone and chosen:
                continue
            try:
                leased = reader.lease(room, lease_ms, tells_begin=tells_begin)
            except MomError as failure:
                error = failure
                continue
            if leased is not None:
                chosen.append((reader, leased))
                room -= sum(one.end - one.first for one in leased.ranges)
                if alone:
                    break
        if error is not None and not chosen:
            raise error
        return _slices(chosen, bytes_max) if chosen else None

    def _peek(self, readers: Iterable[QueueReader]) -> bool:
        """Whether anything is ready. One message is then kept for who asks, and comes for it."""
        ready = next((one for one in readers if one.has_more_ready()), None)
        if ready is not None:
            ready.tell_peek()
        # A peek takes nothing, so whoever waits behind it must look too.
        for reader in readers:
            reader.wake()
        return ready is not None

    def leased(
        self,
        topic_id: bytes,
        slices: Sequence[LeasedSlice],
        readers: Sequence[QueueReader],
        lease_ms: int,
    ) -> broker_pb2.ReceiveResponse:
        """What was leased, as it travels."""
        self._metrics.leased_messages.inc(
            sum(int.from_bytes(one.data[12:16], "little") for one in slices)
        )
        return broker_pb2.ReceiveResponse(
            batches=[
                broker_pb2.LeasedBatch(
                    partition=types_pb2.Partition(topic_id=topic_id, index=one.partition),
                    base_offset=one.base_offset,
                    batch=one.data,
                    lease_id=one.lease_id,
                    lease_expires_at_ms=one.deadline_ms,
                    deliveries=one.deliveries,
                    append_time_ms=one.append_time_ms,
                    lease_ms=lease_ms,
                    suspect=one.suspect,
                )
                for one in slices
            ],
            more_ready=any(one.has_ready() for one in readers),
        )

    async def _forward_receive(
        self, address: str, request: broker_pb2.ReceiveRequest
    ) -> broker_pb2.ReceiveResponse:
        forwarded = broker_pb2.ReceiveRequest()
        forwarded.CopyFrom(request)
        forwarded.forwarded = True
        return await self._partitions.forward(
            address,
            "Receive",
            forwarded,
            broker_pb2.ReceiveResponse,
            wait_ms=min(request.wait_ms, WAIT_MS_MAX),
        )

    # Settle.

    async def settle(
        self, identity: Identity, request: broker_pb2.SettleRequest
    ) -> broker_pb2.SettleResponse:
        """Settle each range at its partition's owner; each offset has its own result."""
        if len(request.ranges) > SETTLE_RANGES_MAX:
            raise InvalidArgumentError(
                f"{len(request.ranges)} ranges; at most {SETTLE_RANGES_MAX} are allowed",
                field="ranges",
            )
        _, subscription = await self.subscription(
            identity, request.topic_id, request.subscription, SubscriptionMode.QUEUE
        )
        results: list[broker_pb2.SettleResult] = [broker_pb2.SettleResult() for _ in request.ranges]
        durable: dict[asyncio.Future[None], list[int]] = {}
        remote: dict[str, list[int]] = {}
        for place, item in enumerate(request.ranges):
            try:
                placed = await self._partitions.place(
                    identity,
                    Action.READ,
                    request.topic_id,
                    item.partition,
                    forwarded=request.forwarded,
                )
                if isinstance(placed, Remote):
                    remote.setdefault(placed.address, []).append(place)
                else:
                    future = self._settle_here(placed, subscription, item, results[place])
                    if future is not None:
                        durable.setdefault(future, []).append(place)
            except MomError as error:
                results[place] = _all_failed(item, error)
        await asyncio.gather(
            *(
                self._forward_settle(address, request, places, results)
                for address, places in remote.items()
            ),
            *(
                self._settled(future, request, places, results)
                for future, places in durable.items()
            ),
        )
        return broker_pb2.SettleResponse(results=results)

    def _settle_here(
        self,
        owned: OwnedPartition,
        subscription: SubscriptionConfig,
        item: broker_pb2.SettleRange,
        result: broker_pb2.SettleResult,
    ) -> asyncio.Future[None] | None:
        action = ACTIONS.get(item.action)
        if action is None:
            raise InvalidArgumentError(f"unknown settle action {item.action}", field="action")
        _check_delay(action, item.delay_ms)
        reader = owned.subscriptions.readers.get(subscription.name)
        if reader is None:
            raise NotFoundError(f"subscription {subscription.name!r} was deleted")
        first, end = item.first_offset, item.first_offset + item.count
        outcomes, future = reader.settle(action, item.lease_id, first, end, item.delay_ms)
        failed = sum(
            _add_failure(result, outcome, subscription.name, item.partition)
            for outcome in outcomes
            if outcome.error is not None
        )
        self._metrics.settled_messages.labels(action.value).inc(item.count - failed)
        if action is SettleAction.EXTEND:
            result.lease_expires_at_ms = self._store.now_ms() + item.delay_ms
        return future

    async def _settled(
        self,
        future: asyncio.Future[None],
        request: broker_pb2.SettleRequest,
        places: Sequence[int],
        results: list[broker_pb2.SettleResult],
    ) -> None:
        try:
            await asyncio.shield(future)
        except MomError as error:
            for place in places:
                results[place] = _all_failed(request.ranges[place], error)

    async def _forward_settle(
        self,
        address: str,
        request: broker_pb2.SettleRequest,
        places: Sequence[int],
        results: list[broker_pb2.SettleResult],
    ) -> None:
        forwarded = broker_pb2.SettleRequest(
            topic_id=request.topic_id,
            subscription=request.subscription,
            ranges=[request.ranges[place] for place in places],
            forwarded=True,
        )
        try:
            reply = await self._partitions.forward(
                address, "Settle", forwarded, broker_pb2.SettleResponse
            )
        except MomError as error:
            for place in places:
                results[place] = _all_failed(request.ranges[place], error)
            return
        for place, result in zip(places, reply.results, strict=True):
            results[place] = result

    # Browse.

    async def browse(
        self, identity: Identity, request: broker_pb2.BrowseRequest
    ) -> broker_pb2.BrowseResponse:
        """Show messages of one partition that are not settled, disturbing nothing."""
        _, subscription = await self.subscription(
            identity, request.topic_id, request.subscription, SubscriptionMode.QUEUE
        )
        placed = await self._partitions.place(
            identity,
            Action.READ,
            request.topic_id,
            request.partition,
            forwarded=request.forwarded,
        )
        if isinstance(placed, Remote):
            forwarded = broker_pb2.BrowseRequest()
            forwarded.CopyFrom(request)
            forwarded.forwarded = True
            return await self._partitions.forward(
                placed.address, "Browse", forwarded, broker_pb2.BrowseResponse
            )
        reader = placed.subscriptions.readers.get(subscription.name)
        if reader is None:
            raise NotFoundError(f"subscription {subscription.name!r} was deleted")
        messages_max = min(max(1, request.max_messages), BROWSE_MESSAGES_MAX)
        response = broker_pb2.BrowseResponse()
        room = FETCH_BYTES_MAX
        for one in reader.outstanding(request.offset, messages_max):
            offset = one.first
            while offset < one.end and room > 0:
                batch = await placed.log.find(offset)
                if batch is None or batch.base_offset >= one.end:
                    response.next_offset = one.end  # The rest of it is no more.
                    break
                room -= _add_browsed(response, one, batch, offset)
                offset = response.next_offset
            if room <= 0:
                break
        return response

    # Groups.

    async def _coordinated(
        self,
        identity: Identity,
        request: broker_pb2.AcquirePartitionsRequest
        | broker_pb2.CommitOffsetsRequest
        | broker_pb2.ReleasePartitionsRequest
        | broker_pb2.SeekSubscriptionRequest,
    ) -> tuple[TopicConfig, SubscriptionConfig, GroupCoordinator | Remote]:
        topic, subscription = await self.subscription(
            identity, request.topic_id, request.subscription, SubscriptionMode.STREAM
        )
        placed = await self._partitions.place(
            identity, Action.READ, request.topic_id, 0, forwarded=request.forwarded
        )
        if isinstance(placed, Remote):
            return topic, subscription, placed
        coordinator = placed.subscriptions.groups.get(subscription.name)
        if coordinator is None:
            raise NotFoundError(f"subscription {subscription.name!r} was deleted")
        return topic, subscription, coordinator

    async def acquire(
        self, identity: Identity, request: broker_pb2.AcquirePartitionsRequest
    ) -> broker_pb2.AcquirePartitionsResponse:
        """Join or stay in a group."""
        _, subscription, found = await self._coordinated(identity, request)
        if isinstance(found, Remote):
            request.forwarded = True
            return await self._partitions.forward(
                found.address, "AcquirePartitions", request, broker_pb2.AcquirePartitionsResponse
            )
        session_ms = request.session_ms or subscription.session_ms
        view = await found.acquire(request.member_id, session_ms)
        return broker_pb2.AcquirePartitionsResponse(
            leases=[
                broker_pb2.PartitionLease(
                    partition=one.partition,
                    generation=one.generation,
                    committed_offset=read_from(subscription, one.partition, one.committed),
                    revoking=one.partition in view.revoking,
                )
                for one in view.held
            ],
            members=len(found.state.members),
            # Three tries before the session ends, and moves are seen within a second.
            heartbeat_ms=min(session_ms // 3, 1_000),
        )

    async def commit(
        self, identity: Identity, request: broker_pb2.CommitOffsetsRequest
    ) -> broker_pb2.CommitOffsetsResponse:
        """Store how far partitions were handled; each has its own result."""
        _, _, found = await self._coordinated(identity, request)
        if isinstance(found, Remote):
            request.forwarded = True
            return await self._partitions.forward(
                found.address, "CommitOffsets", request, broker_pb2.CommitOffsetsResponse
            )
        return broker_pb2.CommitOffsetsResponse(
            results=await asyncio.gather(
                *(self._commit(found, request.member_id, one) for one in request.commits)
            )
        )

    async def _commit(
        self, coordinator: GroupCoordinator, member_id: str, item: broker_pb2.OffsetCommit
    ) -> types_pb2.Error:
        try:
            await coordinator.commit(member_id, item.partition, item.generation, item.offset)
        except MomError as error:
            return to_proto(error)
        return types_pb2.Error()

    async def release(
        self, identity: Identity, request: broker_pb2.ReleasePartitionsRequest
    ) -> broker_pb2.ReleasePartitionsResponse:
        """Give partitions up, or leave the group."""
        _, _, found = await self._coordinated(identity, request)
        if isinstance(found, Remote):
            request.forwarded = True
            return await self._partitions.forward(
                found.address, "ReleasePartitions", request, broker_pb2.ReleasePartitionsResponse
            )
        await found.release(request.member_id, request.partitions)
        return broker_pb2.ReleasePartitionsResponse()

    async def seek(
        self, identity: Identity, request: broker_pb2.SeekSubscriptionRequest
    ) -> broker_pb2.SeekSubscriptionResponse:
        """Set a subscription's offsets, or say what would be set."""
        topic, _, found = await self._coordinated(identity, request)
        if isinstance(found, Remote):
            request.forwarded = True
            return await self._partitions.forward(
                found.address, "SeekSubscription", request, broker_pb2.SeekSubscriptionResponse
            )
        indexes = _wanted(topic, request.partitions)
        offsets = [(one, await self._seek_offset(topic, one, request.to)) for one in indexes]
        if not request.dry_run:
            await found.seek(offsets, force=request.force)
        return broker_pb2.SeekSubscriptionResponse(
            offsets=[
                broker_pb2.OffsetCommit(
                    partition=one, offset=offset, generation=found.state.lease(one).generation
                )
                for one, offset in offsets
            ],
            lags=[
                await lags.lag_of(self._store, PartitionId(topic.topic_id, one), offset)
                for one, offset in offsets
            ],
        )

    async def _seek_offset(self, topic: TopicConfig, index: int, to: str) -> int:
        start = parse_start(to, "to")
        partition = PartitionId(topic.topic_id, index)
        if start.kind is not StartKind.OFFSET:
            return await offset_of(self._store, partition, start)
        end = await end_of(self._store, partition)
        if start.value > end:
            raise InvalidArgumentError(
                f"offset {start.value} is past the end of partition {index}, which is at {end}",
                field="to",
            )
        return start.value

    # Describe.

    async def describe(
        self, identity: Identity, request: broker_pb2.DescribePartitionsRequest, node_id: str
    ) -> broker_pb2.DescribePartitionsResponse:
        """Counts of the partitions that this node owns.

        The owner of partition 0 coordinates the topic's groups: it tells of them for the other
        partitions too, in descriptions without a node id.
        """
        topic = await self._partitions.topic(identity, Action.READ, request.topic_id)
        wanted = _wanted(topic, request.partitions)
        described = await asyncio.gather(*(self._describe(topic, one, node_id) for one in wanted))
        return broker_pb2.DescribePartitionsResponse(
            partitions=[one for one in described if one.node_id or one.subscriptions]
        )

    async def _describe(
        self, topic: TopicConfig, index: int, node_id: str
    ) -> broker_pb2.PartitionDescription:
        owned = self._partitions.ownership.owned.get(PartitionId(topic.topic_id, index))
        if owned is not None:
            description = await self._description(owned, node_id)
        else:
            description = broker_pb2.PartitionDescription(partition=index)
        await self._add_groups(topic, description)
        return description

    async def _add_groups(
        self, topic: TopicConfig, description: broker_pb2.PartitionDescription
    ) -> None:
        coordinating = self._partitions.ownership.owned.get(PartitionId(topic.topic_id, 0))
        if coordinating is None:
            return
        index = description.partition
        configs = self._partitions.view.subscriptions.get(topic.topic_id, {})
        for name, one in sorted(coordinating.subscriptions.groups.items()):
            if name not in configs or index >= one.state.partition_count:
                continue
            lease = one.state.lease(index)
            committed = read_from(configs[name], index, lease.committed)
            partition = PartitionId(topic.topic_id, index)
            description.subscriptions.add(
                name=name,
                mode=MODES[SubscriptionMode.STREAM],
                committed_offset=committed,
                member_id=lease.holder or "",
                members=len(one.state.members),
                stalled_since_ms=one.stalled_since_ms.get(index, 0),
                lag=await lags.lag_of(self._store, partition, committed),
            )

    async def _description(
        self, owned: OwnedPartition, node_id: str
    ) -> broker_pb2.PartitionDescription:
        log = owned.log
        description = broker_pb2.PartitionDescription(
            partition=log.id.index,
            node_id=node_id,
            epoch=log.epoch,
            log_start=log.log_start,
            high_watermark=log.high_watermark,
            size_bytes=log.size_bytes,
        )
        for name, reader in sorted(owned.subscriptions.readers.items()):
            counts = reader.counts()
            one = description.subscriptions.add(
                name=name,
                mode=MODES[SubscriptionMode.QUEUE],
                ready=counts.ready,
                delayed=counts.delayed,
                leased=counts.leased,
                dead=counts.dead,
                paused=reader.policy.paused,
                workers=reader.workers,
                stalled_since_ms=reader.stalled_since_ms,
            )
            await lags.add_ages(log, reader, self._store.now_ms(), one)
        return description


async def _slices(
    chosen: Sequence[tuple[QueueReader, Leased]], bytes_max: int
) -> list[LeasedSlice]:
    if len(chosen) == 1:
        reader, leased = chosen[0]
        return await reader.slices(leased, bytes_max)
    share_bytes = min(bytes_max, max(bytes_max // len(chosen), _ROOM_BYTES_MIN))
    results = await asyncio.gather(
        *(reader.slices(leased, share_bytes) for reader, leased in chosen),
        return_exceptions=True,
    )
    slices = [one for result in results if isinstance(result, list) for one in result]
    errors = [one for one in results if isinstance(one, BaseException)]
    if errors and not slices:
        raise errors[0]
    return slices


def _add_browsed(
    response: broker_pb2.BrowseResponse, one: Outstanding, batch: StoredBatch, offset: int
) -> int:
    """Show what a stored batch holds of a range from an offset on; how many bytes it has."""
    first = max(offset, batch.base_offset)
    end = min(one.end, batch.end_offset)
    data = codec.cut(batch.data, first - batch.base_offset, end - batch.base_offset)
    response.batches.add(
        base_offset=first,
        batch=data,
        state=one.state,
        deliveries=one.deliveries,
        append_time_ms=batch.append_time_ms,
        until_ms=one.until_ms,
    )
    response.next_offset = end
    return len(data)


def _wanted(topic: TopicConfig, asked: Sequence[int]) -> list[int]:
    for index in asked:
        if index >= topic.partitions:
            raise InvalidArgumentError(
                f"partition {index} is out of range: {topic.name!r} has {topic.partitions} "
                f"(0 to {topic.partitions - 1})",
                field="partition",
            )
    return list(asked) or list(range(topic.partitions))


def checked_lease_ms(lease_ms: int) -> int:
    """The length of a lease. Raises InvalidArgumentError when it is out of bounds."""
    if not LEASE_MS_MIN <= lease_ms <= LEASE_MS_MAX:
        raise InvalidArgumentError(
            f"lease_ms is {lease_ms}; {LEASE_MS_MIN} to {LEASE_MS_MAX} is allowed",
            field="lease_ms",
        )
    return lease_ms


def _check_delay(action: SettleAction, delay_ms: int) -> None:
    if action is SettleAction.EXTEND:
        checked_lease_ms(delay_ms)
    elif delay_ms > SETTLE_DELAY_MS_MAX:
        raise InvalidArgumentError(
            f"delay_ms is {delay_ms}; 0 to {SETTLE_DELAY_MS_MAX} is allowed", field="delay_ms"
        )


def _add_failure(
    result: broker_pb2.SettleResult, outcome: SettleOutcome, name: str, partition: int
) -> int:
    assert outcome.error is not None, "a success is no failure"
    count = outcome.end - outcome.first
    message = why_not_settled(outcome.error, name, partition, outcome.first, count)
    assert message is not None, "an error that is none of a lease"
    result.failures.add(
        first_offset=outcome.first,
        count=count,
        error=to_proto(error_of(outcome.error.value, message, field="receipt")),
    )
    return count


def _all_failed(item: broker_pb2.SettleRange, error: MomError) -> broker_pb2.SettleResult:
    result = broker_pb2.SettleResult()
    result.failures.add(first_offset=item.first_offset, count=item.count, error=to_proto(error))
    return result
