"""Publishing: many messages become few calls.

Messages of one partition gather in its :class:`~mom_client.lane.Lane` while a batch is on its way
(natural batching), and go at once when none is. Lanes of one node share calls. Messages without a
key stick to a partition until its batch is closed and then go on to the next: few large batches,
spread evenly. All of it is bounded by the bytes in flight; beyond them callers wait.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import struct
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from mom_client.backoff import Backoff
from mom_client.causes import CAUSES, REFUSALS
from mom_client.connections import Connections
from mom_client.lane import Lane, OutgoingBatch, Sink, expired
from mom_client.options import (
    LINGER_MS_MAX,
    PRODUCE_BYTES_TARGET,
    PRODUCE_CALLS_PER_NODE_MAX,
    EngineOptions,
)
from mom_client.results import Places, Published, PublishedBatch
from mom_client.routing import Routing, TopicRoute
from mom_client.translation import DURABILITIES
from mom_core import limits
from mom_core.batch import dedup_hash, group_of
from mom_core.delivery.policy import Ordering
from mom_core.errors import (
    ErrorCode,
    InternalError,
    InvalidArgumentError,
    MomError,
    NotFoundError,
    UnavailableError,
)
from mom_core.ids import UUID7_RANDOM_BYTES, uuid7
from mom_core.message import BINARY, JSON, TEXT, Message, check_message
from mom_core.partitioner import Partitioner, murmur2
from mom_core.ports import Clock, Random
from mom_core.producers import LASTING_PRODUCER
from mom_core.topics import fair_header
from mom_process.wire_errors import from_proto
from mom_proto.v1 import broker_pb2, types_pb2

_log = logging.getLogger("mom_client")

_PRODUCE: Final = "/mom.v1.Broker/Produce"
_COMMON_CONTENT_TYPES: Final = frozenset({None, TEXT, JSON, BINARY})
# Of an id's digest, what chooses the partition.
_WORD: Final = struct.Struct("<I")
# Characters that are within the limit however they are encoded.
_SHORT_DEDUP_ID: Final = limits.DEDUP_ID_BYTES_MAX // 4
# Messages that one caller adds before others get the loop.
_ADDS_PER_TURN_MAX: Final = 1_000
# By how much the clocks of producers and the store are taken to differ.
_CLOCKS_DIFFER_MS: Final = 1_000
# Of what a queue with messages_max may hold, a batch is such a part at the most, so that one finds
# room before the queue is empty.
_BATCHES_OF_BOUND: Final = 4
# Topics a producer keeps ready; those with nothing in flight make room.
_PUBLISHERS_MAX: Final = limits.TOPICS_MAX
_WRONG_TURNS: Final = (ErrorCode.NOT_OWNER, ErrorCode.STALE_EPOCH, ErrorCode.UNAVAILABLE,
                       ErrorCode.TIMEOUT)  # fmt: skip


class TopicPublisher:
    """The lanes of one topic and the choice between them."""

    def __init__(self, producer: Producer, route: TopicRoute, start: int) -> None:
        self._producer = producer
        self.route = route
        self.lanes: list[Lane] = []
        self._start = start
        self._grow(route)
        self._sticky = self.lanes[self._partitioner.rotate()]

    def _grow(self, route: TopicRoute) -> None:
        self._fair_header = fair_header(route.subscriptions.values())
        for index in range(len(self.lanes), len(route.owners)):
            self.lanes.append(
                Lane(route.name, route.topic_id, index, self._producer.new_producer_id())
            )
        ranges = [owner.hash_range for owner in route.owners]
        self._partitioner = Partitioner(ranges, self._start)
        self._message_bytes_max = route.config.message_bytes_max
        queue = route.config.queue
        # A topic's subscriptions have each an ordering of their own.
        self._batch_messages_max = limits.BATCH_RECORDS_MAX
        if share := route.config.partition_messages_max:
            self._batch_messages_max = max(
                1, min(share // _BATCHES_OF_BOUND, limits.BATCH_RECORDS_MAX)
            )
        self._takes_priorities = queue is None or queue.ordering is Ordering.PRIORITY
        self._ttl_ms = queue.message_ttl_ms if queue is not None else 0

    def update(self, route: TopicRoute) -> None:
        """Take over a newer table's owners, partitions and limits of the same topic."""
        before = self.route
        self.route = route
        if fair_header(route.subscriptions.values()) != self._fair_header:
            self._close_batches()  # The messages of a batch have all a group, or none of them.
            self._grow(route)
        elif len(route.owners) != len(self.lanes) or route.config != before.config:
            self._grow(route)

    def _close_batches(self) -> None:
        for lane in self.lanes:
            if lane.building is not None:
                lane.close_batch()

    def add(self, message: Message, partition: int | None, sink: Sink, token: object) -> None:
        """Put a message into its lane. Raises MomError when it is not allowed."""
        key, dedup_id = message.key, message.dedup_id
        if (
            message.headers
            or not 0 <= message.priority <= 9
            or (message.priority and not self._takes_priorities)
            or not 0 <= message.deliver_at_ms <= limits.TIMESTAMP_MS_MAX
            or message.expires_at_ms
            or message.id is not None
            or (dedup_id is not None and not 0 < len(dedup_id) <= _SHORT_DEDUP_ID)
            or message.content_type not in _COMMON_CONTENT_TYPES
            or len(message.value) > self._message_bytes_max
            or (key is not None and len(key) > limits.KEY_BYTES_MAX)
        ):
            check_message(message, self._message_bytes_max)
            self._check_priority(message)
        key_hash = None if key is None else murmur2(key)
        dedup = None if dedup_id is None else dedup_hash(dedup_id)
        if partition is not None:
            lane = self.lanes[self.route.check_partition(partition)]
        elif key_hash is None and dedup is not None:
            # The same id must meet the same owner.
            lane = self.lanes[self._partitioner.of_hash(_WORD.unpack_from(dedup)[0])]
        elif key_hash is None:
            lane = self._sticky
            if lane.building is None:
                lane = self._rotate()
        else:
            lane = self.lanes[self._partitioner.of_hash(key_hash)]
        group = group_of(message, self._fair_header) if self._fair_header else None
        alone = self._may_be_refused(message)
        if alone and lane.building is not None:
            lane.close_batch()
        self._producer.add(lane, message, key_hash, group, dedup, sink, token)
        batch = lane.building
        if batch is not None and (alone or batch.builder.count >= self._batch_messages_max):
            lane.close_batch()

    def _may_be_refused(self, message: Message) -> bool:
        """Whether the owner may refuse a message for its delay, and with it all of its batch.

        The owner decides, by the store's clock: a message would expire before it may be delivered.
        """
        if not message.deliver_at_ms or not self._ttl_ms:
            return False
        latest_ms = self._producer.now_ms() + self._ttl_ms - _CLOCKS_DIFFER_MS
        return message.deliver_at_ms >= latest_ms

    def _check_priority(self, message: Message) -> None:
        queue = self.route.config.queue
        if message.priority and queue is not None and not self._takes_priorities:
            raise InvalidArgumentError(
                f"priority is {message.priority}, but {self.route.name!r} has ordering "
                f"{queue.ordering.value}, which knows no priorities; leave it out, or send to a "
                "queue with ordering priority",
                field="priority",
            )

    def _rotate(self) -> Lane:
        """The next lane in turn, passing by those that are in trouble if any is not."""
        for _ in self.lanes:
            lane = self.lanes[self._partitioner.rotate()]
            if not lane.troubled:
                break
        self._sticky = lane
        return lane


class _FutureSink:
    """Each token is a future of this loop."""

    def settle(
        self, outcome: PublishedBatch | MomError, first_index: int, tokens: list[object]
    ) -> None:
        for index, future in enumerate(tokens, first_index):
            assert isinstance(future, asyncio.Future), "a token of another sink"
            if future.done():
                continue  # Its caller was cancelled.
            if isinstance(outcome, MomError):
                future.set_exception(outcome)
            else:
                future.set_result(Published(outcome, index))


class ManySink:
    """Each token is a place in one list of results; one future for all of them."""

    __slots__ = ("_left", "done", "results")

    def __init__(self, count: int, done: asyncio.Future[None]) -> None:
        self.results: list[Published | MomError] = [_UNSETTLED] * count
        self._left = count
        self.done = done

    def settle(
        self, outcome: PublishedBatch | MomError, first_index: int, tokens: list[object]
    ) -> None:
        """Fill in the results of one batch."""
        results = self.results
        if isinstance(outcome, MomError):
            for token in tokens:
                results[token] = outcome  # type: ignore[call-overload]
        else:
            for index, token in enumerate(tokens, first_index):
                results[token] = Published(outcome, index)  # type: ignore[call-overload]
        self._left -= len(tokens)
        if not self._left and not self.done.done():
            self.done.set_result(None)

    def refuse(self, place: int, error: MomError) -> None:
        """Fill in one message that was never sent."""
        self.settle(error, 0, [place])


_UNSETTLED: Final = MomError("not settled")
_FUTURES: Final = _FutureSink()


class Producer:
    """Lanes of all topics, and the calls that empty them."""

    def __init__(
        self,
        routing: Routing,
        connections: Connections,
        options: EngineOptions,
        *,
        clock: Clock,
        random: Random,
    ) -> None:
        if not 0 <= options.linger_ms <= LINGER_MS_MAX:
            raise InvalidArgumentError(
                f"linger_ms is {options.linger_ms}; 0 to {LINGER_MS_MAX} is allowed",
                field="linger_ms",
            )
        self._routing = routing
        self._connections = connections
        self._options = options
        self._batch_bytes = min(options.batch_bytes_target, limits.BATCH_BYTES_MAX // 2)
        self._clock = clock
        self._random = random
        self._publishers: dict[str, TopicPublisher] = {}
        self._unresolved: dict[str, list[tuple[Message, int | None, Sink, object]]] = {}
        self._active: dict[Lane, None] = {}
        self._backoffs: dict[Lane, Backoff] = {}
        self._calls: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._in_flight_bytes = 0
        self._room_waiters: deque[asyncio.Future[None]] = deque()
        self.on_room: Callable[[], None] | None = None
        """Called when there is room again after :attr:`full` was true."""
        self.on_retry: Callable[[MomError], None] | None = None
        """Called with the reason when a batch could not land and will be tried again."""
        self._pumping = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ms = 0
        self._flushing = 0
        self._drained: asyncio.Future[None] | None = None
        self._closed = False
        routing.on_change.append(self._routing_changed)

    # Entering.

    @property
    def full(self) -> bool:
        """Whether callers have to wait for room."""
        return self._in_flight_bytes >= self._options.in_flight_bytes_max

    @property
    def in_flight_bytes(self) -> int:
        """Bytes of messages that were taken and are not yet settled."""
        return self._in_flight_bytes

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch, by the clock of this process."""
        return self._clock.now_ms()

    def new_producer_id(self) -> int:
        """A random producer id; never 0, which means none, nor one of MOM's own."""
        return int.from_bytes(self._random.bytes(8), "big") % LASTING_PRODUCER | 1

    async def publish(
        self, topic: str, message: Message, partition: int | None = None
    ) -> Published:
        """Publish one message; see :meth:`mom_client.engine.Engine.publish`."""
        future: asyncio.Future[Published] = asyncio.get_running_loop().create_future()
        if self._room_waiters or self.full:
            await self._room()
        self.submit(topic, message, partition, _FUTURES, future)
        return await future

    async def publish_many(
        self, topic: str, messages: Sequence[Message], partition: int | None = None
    ) -> list[Published | MomError]:
        """Publish many; see :meth:`mom_client.engine.Engine.publish_many`."""
        if not messages:
            return []
        sink = ManySink(len(messages), asyncio.get_running_loop().create_future())
        for place, message in enumerate(messages):
            if self._room_waiters or self.full:
                await self._room()
            elif place % _ADDS_PER_TURN_MAX == _ADDS_PER_TURN_MAX - 1:
                await asyncio.sleep(0)
            self.submit(topic, message, partition, sink, place)
        await sink.done
        return sink.results

    def submit(
        self, topic: str, message: Message, partition: int | None, sink: Sink, token: object
    ) -> None:
        """Take a message without waiting; whatever becomes of it goes to the sink."""
        try:
            publisher = self._publishers.get(topic)
            if publisher is None:
                self._submit_unresolved(topic, message, partition, sink, token)
            else:
                publisher.add(message, partition, sink, token)
        except MomError as error:
            sink.settle(error, 0, [token])
        except Exception as error:
            sink.settle(_defect("a message could not be put into its batch", error), 0, [token])

    def _submit_unresolved(
        self, topic: str, message: Message, partition: int | None, sink: Sink, token: object
    ) -> None:
        if self._closed:
            raise UnavailableError("the client was closed")
        size = len(message.value)
        waiting = self._unresolved.get(topic)
        if waiting is None:
            waiting = self._unresolved[topic] = []
            self._spawn(self._resolve(topic))
        waiting.append((message, partition, sink, token))
        self._in_flight_bytes += size

    async def _resolve(self, topic: str) -> None:
        failure: MomError | None = None
        try:
            route = await self._routing.topic(topic)
            self._publishers[topic] = self._new_publisher(route)
        except MomError as error:
            failure = error
        except Exception as error:
            failure = _defect(f"{topic!r} could not be looked up", error)
        for message, partition, sink, token in self._unresolved.pop(topic):
            self._release(len(message.value))
            if failure is not None:
                sink.settle(failure, 0, [token])
            else:
                self.submit(topic, message, partition, sink, token)
        self._tell_drained()

    def _new_publisher(self, route: TopicRoute) -> TopicPublisher:
        if len(self._publishers) >= _PUBLISHERS_MAX:
            idle = [
                name
                for name, one in self._publishers.items()
                if all(lane.idle for lane in one.lanes)
            ]
            for name in idle:
                del self._publishers[name]
        return TopicPublisher(self, route, int(self._random.fraction() * len(route.owners)))

    def add(
        self,
        lane: Lane,
        message: Message,
        key_hash: int | None,
        group: int | None,
        dedup: bytes | None,
        sink: Sink,
        token: object,
    ) -> None:
        """Append a message to a lane's open batch."""
        batch = lane.building
        if batch is not None and batch.size + len(message.value) > self._batch_bytes:
            lane.close_batch()
            batch = None
        if batch is None:
            batch = self._open(lane)
        builder = batch.builder
        try:
            builder.add(message, key_hash, group, dedup)
        except BaseException:
            if not builder.count:
                lane.give_up(batch)
            raise
        size = builder.size_bytes
        self._in_flight_bytes += size - batch.size
        batch.size = size
        if message.id is not None:
            batch.own_ids = batch.own_ids or {}
            batch.own_ids[builder.count - 1] = message.id
        runs = batch.runs
        if runs and runs[-1][0] is sink:
            runs[-1][1].append(token)
        else:
            runs.append((sink, [token]))
        if size >= self._batch_bytes:
            lane.close_batch()

    def _open(self, lane: Lane) -> OutgoingBatch:
        now_ms = self._clock.now_ms()
        opened_ms = self._clock.monotonic_ms()
        if lane not in self._active:
            self._active[lane] = None
        if not self._pumping:
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._pump)
        return lane.open(
            uuid7(now_ms, self._random.bytes(UUID7_RANDOM_BYTES)),
            now_ms,
            opened_ms,
            opened_ms + self._options.delivery_timeout_ms,
        )

    # Room.

    async def _room(self) -> None:
        """Wait for room, in the order of arrival."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._room_waiters.append(waiter)
        try:
            if not self.full and self._room_waiters[0] is waiter:
                waiter.set_result(None)
            await waiter
        finally:
            self._room_waiters.remove(waiter)
            self._wake_room_waiter()

    def _wake_room_waiter(self) -> None:
        if self._room_waiters and not self.full and not self._room_waiters[0].done():
            self._room_waiters[0].set_result(None)

    def _release(self, size: int) -> None:
        was_full = self.full
        self._in_flight_bytes -= size
        self._wake_room_waiter()
        if was_full and not self.full and self.on_room is not None:
            self.on_room()

    # Sending.

    def _kick(self) -> None:
        if not self._pumping and not self._closed:
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        """Send all that can go now. A defect fails what waits, which nobody would send."""
        self._pumping = False
        outgoing: dict[str, list[tuple[Lane, OutgoingBatch]]] = {}
        try:
            wake_ms = self._take_ready(outgoing)
            for address in tuple(outgoing):
                calls = _split(outgoing[address])
                del outgoing[address]
                for call in calls:
                    self._calls[address] = self._calls.get(address, 0) + 1
                    self._spawn(self._send(address, call))
            self._set_timer(wake_ms)
        except Exception as error:
            self._fail_waiting(_defect("sending failed", error), outgoing)
        self._tell_drained()

    def _take_ready(self, outgoing: dict[str, list[tuple[Lane, OutgoingBatch]]]) -> int:
        """Take what can go now from all lanes; when to look at them again, 0: never."""
        now_ms = self._clock.monotonic_ms()
        room: dict[str, int] = {}
        wake_ms = 0
        for lane in tuple(self._active):
            self._fill(lane, now_ms, outgoing, room)
            self._expire(lane, now_ms)
            if lane.idle:
                self._rest(lane)
                continue
            at_ms = self._next_look_ms(lane)
            wake_ms = min(wake_ms or at_ms, at_ms)
        return wake_ms

    def _rest(self, lane: Lane) -> None:
        del self._active[lane]
        self._backoffs.pop(lane, None)

    def _fail_waiting(
        self, error: MomError, taken: dict[str, list[tuple[Lane, OutgoingBatch]]]
    ) -> None:
        """Fail what is not on its way, ``taken`` included."""
        for lane, batch in itertools.chain.from_iterable(taken.values()):
            self._give_up(lane, batch, error)
        for lane in tuple(self._active):
            for batch in lane.drain():
                self._give_up(lane, batch, error)
            if lane.idle:
                self._rest(lane)

    def _give_up(self, lane: Lane, batch: OutgoingBatch, error: MomError) -> None:
        lane.give_up(batch)
        self._finish(batch, error)

    def _fill(
        self,
        lane: Lane,
        now_ms: int,
        outgoing: dict[str, list[tuple[Lane, OutgoingBatch]]],
        room: dict[str, int],
    ) -> None:
        linger_ms = self._options.linger_ms
        while lane.ready(now_ms, linger_ms, flushing=self._flushing > 0) is not None:
            address = self._address(lane)
            if not address:
                return
            if address not in room:
                calls_left = PRODUCE_CALLS_PER_NODE_MAX - self._calls.get(address, 0)
                room[address] = calls_left * PRODUCE_BYTES_TARGET
            if room[address] <= 0:
                return
            if lane.needs_producer_id:
                lane.producer_id = self.new_producer_id()
            try:
                batch = lane.take(compress=self._options.compress)
            except Exception as error:
                self._give_up(lane, lane.queue[0], _defect("a batch could not be made", error))
                continue
            room[address] -= len(batch.data)
            outgoing.setdefault(address, []).append((lane, batch))

    def _address(self, lane: Lane) -> str:
        if not self._known(lane):
            return ""
        return self._routing.address(self._publishers[lane.topic_name].route.owners[lane.index])

    def _known(self, lane: Lane) -> bool:
        publisher = self._publishers.get(lane.topic_name)
        return publisher is not None and publisher.route.topic_id == lane.topic_id

    def _next_look_ms(self, lane: Lane) -> int:
        """When a lane has to be looked at again, if nothing else happens before."""
        waiting = lane.queue[0] if lane.queue else lane.building
        if waiting is None:
            return lane.in_flight[0].deadline_ms
        if lane.hold_until_ms:
            return min(lane.hold_until_ms, waiting.deadline_ms)
        if lane.in_flight and not lane.queue:
            return waiting.opened_ms + self._options.linger_ms
        return waiting.deadline_ms

    def _set_timer(self, wake_ms: int) -> None:
        if self._timer is not None:
            if wake_ms and self._timer_ms <= wake_ms and not self._timer.cancelled():
                return
            self._timer.cancel()
            self._timer = None
        if wake_ms:
            delay_ms = max(wake_ms - self._clock.monotonic_ms(), 1)
            self._timer_ms = wake_ms
            self._timer = asyncio.get_running_loop().call_later(delay_ms / 1000, self._timer_fired)

    def _timer_fired(self) -> None:
        self._timer = None
        self._kick()

    def _expire(self, lane: Lane, now_ms: int) -> None:
        for batch in lane.expire(now_ms):
            self._finish(batch, expired(lane, batch, batch.last_error))

    async def _send(self, address: str, items: list[tuple[Lane, OutgoingBatch]]) -> None:
        revision = self._routing.snapshot.revision
        outcomes: Sequence[broker_pb2.ProduceResult | MomError]
        try:
            outcomes = await self._call(address, items)
        except MomError as error:
            outcomes = [error] * len(items)
            if error.code is ErrorCode.UNAVAILABLE:
                self._routing.mark_unreachable(address)
        except Exception as error:
            outcomes = [_defect(f"a call to {address} failed", error)] * len(items)
        finally:
            self._calls[address] -= 1
            if not self._calls[address]:
                del self._calls[address]
        lost = False
        for (lane, batch), outcome in zip(items, outcomes, strict=True):
            try:
                lost |= self._returned(lane, batch, outcome)
            except Exception as error:
                self._give_up(lane, batch, _defect("an answer could not be read", error))
        if lost:
            self._routing.complain(revision)
        self._kick()

    async def _call(
        self, address: str, items: list[tuple[Lane, OutgoingBatch]]
    ) -> Sequence[broker_pb2.ProduceResult]:
        now_ms = self._clock.monotonic_ms()
        deadline_ms = min(batch.deadline_ms for _, batch in items)
        timeout_ms = max(1, min(self._options.request_timeout_ms, deadline_ms - now_ms))
        request = broker_pb2.ProduceRequest()
        for lane, batch in items:
            request.batches.add(
                partition=types_pb2.Partition(topic_id=lane.topic_id, index=lane.index),
                batch=batch.data,
            )
        reply = await self._connections.call(
            address, _PRODUCE, request.SerializeToString(), timeout_ms
        )
        results = broker_pb2.ProduceResponse.FromString(reply).results
        assert len(results) == len(items), "a node must answer for each batch"
        return results

    def _returned(
        self, lane: Lane, batch: OutgoingBatch, outcome: broker_pb2.ProduceResult | MomError
    ) -> bool:
        """Settle or requeue one batch; whether the routing table seems to be old."""
        if not isinstance(outcome, MomError):
            if not outcome.HasField("error"):
                lane.landed(batch)
                self._backoffs.pop(lane, None)
                self._finish(batch, self._published(lane, batch, outcome))
                return False
            outcome = from_proto(outcome.error)
        now_ms = self._clock.monotonic_ms()
        if outcome.code in REFUSALS:
            refused_ms = batch.opened_ms + self._options.refusal_timeout_ms
            batch.deadline_ms = min(batch.deadline_ms, refused_ms)
        final = lane.failed(batch, outcome, now_ms)
        if final is not None:
            self._finish(batch, final)
            return False
        if not self._known(lane):
            self._abandon_lane(lane)
            return False
        if outcome.code is ErrorCode.OUT_OF_ORDER_SEQUENCE:
            return False
        if self.on_retry is not None and outcome.code in CAUSES:
            self.on_retry(outcome)
        backoff = self._backoffs.setdefault(lane, Backoff(self._random))
        lane.hold_until_ms = max(lane.hold_until_ms, now_ms + backoff.next_ms(outcome))
        return outcome.code in _WRONG_TURNS

    def _published(
        self, lane: Lane, batch: OutgoingBatch, result: broker_pb2.ProduceResult
    ) -> PublishedBatch:
        return PublishedBatch(
            partition=lane.index,
            base_offset=result.base_offset,
            epoch=result.epoch,
            base_id=batch.base_id,
            durability=DURABILITIES.get(result.durability, ""),
            duplicate=result.duplicate,
            created=lane.topic_name in self._routing.created,
            own_ids=batch.own_ids,
            places=places_of(batch.builder.count, result),
        )

    def _finish(self, batch: OutgoingBatch, outcome: PublishedBatch | MomError) -> None:
        batch.settle(outcome)
        self._release(batch.size)

    # The routing table.

    def _routing_changed(self) -> None:
        for name, publisher in tuple(self._publishers.items()):
            route = self._routing.snapshot.topics.get(name)
            if route is publisher.route:
                continue
            if route is not None and route.topic_id == publisher.route.topic_id:
                self._update(publisher, route)
            elif self._routing.snapshot.revision:
                del self._publishers[name]
                self._abandon(publisher)
        self._kick()

    def _update(self, publisher: TopicPublisher, route: TopicRoute) -> None:
        before = publisher.route.owners
        publisher.update(route)
        for lane, owner, old in zip(publisher.lanes, route.owners, before, strict=False):
            if owner != old:
                lane.hold_until_ms = 0  # What kept it back may be over.

    def _abandon(self, publisher: TopicPublisher) -> None:
        for lane in publisher.lanes:
            self._abandon_lane(lane)

    def _abandon_lane(self, lane: Lane) -> None:
        """The topic is no more; what is on its way ends by itself."""
        error = NotFoundError(
            f"{lane.topic_name!r} was deleted while messages waited to be sent", field="topic"
        )
        for batch in lane.drain():
            self._finish(batch, error)

    # The end.

    async def flush(self) -> None:
        """Wait until all that was published is settled."""
        self._flushing += 1
        try:
            while self._active or self._unresolved:
                self._kick()
                if self._drained is None:
                    self._drained = asyncio.get_running_loop().create_future()
                await asyncio.shield(self._drained)
        finally:
            self._flushing -= 1

    def _tell_drained(self) -> None:
        if self._drained is not None and not self._active and not self._unresolved:
            self._drained.set_result(None)
            self._drained = None

    async def close(self) -> None:
        """Flush within the delivery timeout; what is left then fails with TimedOutError."""
        await self.flush()
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _defect(what: str, error: Exception) -> MomError:
    """The error of messages that an exception which nobody expects here has stopped. Logged."""
    _log.error("%s: %s: %s", what, type(error).__name__, error, exc_info=error)
    return InternalError(f"{what}, by a defect in MOM's client: {type(error).__name__}: {error}")


def places_of(count: int, result: broker_pb2.ProduceResult) -> Places | None:
    """Where each message of a batch is, when some of them are duplicates."""
    if not result.duplicate_places:
        return None
    firsts = dict(zip(result.duplicate_places, result.duplicate_offsets, strict=True))
    following = itertools.count(result.base_offset)
    offsets = [firsts[one] if one in firsts else next(following) for one in range(count)]
    return Places(offsets, frozenset(firsts))


def _split(
    items: list[tuple[Lane, OutgoingBatch]],
) -> list[list[tuple[Lane, OutgoingBatch]]]:
    """Calls of about PRODUCE_BYTES_TARGET, at least one batch each."""
    calls: list[list[tuple[Lane, OutgoingBatch]]] = []
    size = PRODUCE_BYTES_TARGET
    for item in items:
        if size + len(item[1].data) > PRODUCE_BYTES_TARGET:
            calls.append([])
            size = 0
        calls[-1].append(item)
        size += len(item[1].data)
    return calls
