"""The async client.

::

    async with mom_client.connect("127.0.0.1:7071") as client:
        await client.publish("orders", {"id": 1}, key="customer-7")
        async for message in client.read("orders"):
            print(message.json())

Its connections live in a thread of their own (:mod:`mom_client.iothread`); one client may be used
from several event loops and threads. Times are seconds here, as usual in Python, where the name
does not end in ``_ms``.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeVar, Unpack, overload

import msgspec

from mom_client import arguments, operations, tracing
from mom_client.browsing import BrowsedMessage, browse
from mom_client.consumption import Consumption, Subscription
from mom_client.face import ADDRESS_DEFAULT, io_thread, member_id, split_addresses
from mom_client.iothread import IoThread, LoopSink
from mom_client.options import EngineOptions
from mom_client.received import ReceivedMessage
from mom_client.rescheduling import Place, change, outcome, several_of
from mom_client.results import DeadLetter, Operation, Published, Sought
from mom_core import limits
from mom_core.errors import MomError
from mom_core.positions import Position
from mom_core.topics import SubscriptionConfig, TopicConfig, TopicKind, parse_start

if TYPE_CHECKING:
    from mom_client.engine import Engine
    from mom_client.routing import TopicRoute
    from mom_proto.v1 import broker_pb2, master_pb2

ResultT = TypeVar("ResultT")

# publish_many hands its input over in chunks, of which so many may be under way.
CHUNK_MESSAGES: Final = 1_000
CHUNKS_MAX: Final = 16


def connect(
    addresses: str | list[str] | tuple[str, ...] = ADDRESS_DEFAULT,
    *,
    token: str | None = None,
    **options: Any,
) -> Client:
    """A client of the cluster that any of ``addresses`` (``host:port``) belongs to.

    ``options`` are the fields of :class:`mom_client.EngineOptions`. Nothing is connected before the
    first use, or ``async with``, which raises UnavailableError when no server answers.
    """
    return Client(addresses, token=token, **options)


class Client:
    """Publishes, reads, receives and administrates. Safe to use from several loops and threads."""

    def __init__(
        self,
        addresses: str | list[str] | tuple[str, ...] = ADDRESS_DEFAULT,
        *,
        token: str | None = None,
        **options: Any,
    ) -> None:
        self._io = io_thread(split_addresses(addresses), token, EngineOptions(**options))
        self._sink: tuple[asyncio.AbstractEventLoop | None, LoopSink | None] = (None, None)

    @property
    def io(self) -> IoThread:
        """The thread of its connections."""
        return self._io

    # Life.

    async def __aenter__(self) -> Client:
        try:
            await self.ready()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def ready(self) -> None:
        """Connect. Raises UnavailableError, naming what was tried, when no server answers."""
        await self._run(lambda engine: engine.ready())

    async def close(self) -> None:
        """Send what was published, then disconnect. A client can't be used after it."""
        await self._io.close_from_loop()

    async def _run(
        self, work: Callable[[Engine], Coroutine[Any, Any, ResultT]], generation: int | None = None
    ) -> ResultT:
        return await asyncio.wrap_future(self._io.run(work, generation))

    # Publishing.

    def publish(
        self,
        topic: str,
        value: Any,
        *,
        key: str | bytes | None = None,
        headers: Mapping[str, str] | None = None,
        partition: int | None = None,
        content_type: str | None = None,
        timestamp_ms: int | None = None,
        **wishes: Unpack[operations.Wishes],
    ) -> asyncio.Future[Published]:
        """Publish one message to a topic or queue.

        ``value`` is bytes, a str (stored as text) or anything that has a JSON form. The message is
        on its way when this returns, batched with others; await the result to know that it is
        durable. Messages of one key keep the order of these calls. ``wishes`` are for queues: see
        :class:`mom_client.operations.Wishes`. Raises InvalidArgumentError for
        a value that can't be sent, and OverloadedError when results are not awaited and too much
        waits; the future raises MomError when the message did not land.
        """
        loop = asyncio.get_running_loop()
        known, sink = self._sink
        if known is not loop or sink is None:
            sink = LoopSink(loop)
            self._sink = (loop, sink)
        topic = arguments.name(topic, "topic")
        if partition is not None:
            partition = arguments.partition_of(partition)
        message = operations.make_message(
            value, key, headers, content_type, timestamp_ms, wishes, self._io.now_ms
        )
        future: asyncio.Future[Published] = loop.create_future()
        traced = tracing.send_one(topic, message)
        if traced is not None:
            future.add_done_callback(traced)
        self._io.hand_over(topic, message, partition, sink, future)
        return future

    async def publish_many(
        self,
        topic: str,
        values: Iterable[Any] | AsyncIterable[Any],
        *,
        partition: int | None = None,
    ) -> list[Published | MomError]:
        """Publish many values or :class:`Message` objects; a result for each, in order.

        One that fails hurts no other: its result is the error. The input is drawn as far as there
        is room, so it may be endless for all practical purposes.
        """
        topic, partition = arguments.name(topic, "topic"), arguments.partition_of(partition)
        under_way: deque[asyncio.Future[list[Published | MomError]]] = deque()
        results: list[Published | MomError] = []
        try:
            async for chunk in _chunks(values):
                if len(under_way) >= CHUNKS_MAX:
                    results += await under_way.popleft()
                under_way.append(self._publish_chunk(topic, chunk, partition))
            while under_way:
                results += await under_way.popleft()
        finally:
            for future in under_way:
                future.cancel()
        return results

    def _publish_chunk(
        self, topic: str, chunk: operations.Chunk, partition: int | None
    ) -> asyncio.Future[list[Published | MomError]]:
        chunk.messages, traced = tracing.send_many(topic, chunk.messages)
        future = asyncio.wrap_future(
            self._io.run(lambda engine: chunk.publish(engine, topic, partition))
        )
        if traced is not None:
            future.add_done_callback(traced)
        return future

    # Reading.

    async def read(
        self,
        topic: str,
        *,
        partition: int | None = None,
        start: str = "earliest",
        follow: bool = False,
    ) -> AsyncIterator[ReceivedMessage]:
        """Read a topic's log, without any memory of how far: replay it as often as you like.

        ``start`` is ``earliest``, ``latest``, ``offset:N`` or ``timestamp:…``. The iteration ends
        where the log ended when it began, or goes on for ever with ``follow``. Messages of one
        partition come in their order.
        """
        from mom_client.log_reader import LogReader

        topic, partition = arguments.name(topic, "topic"), arguments.partition_of(partition)
        begin = parse_start(start)
        partitions = None if partition is None else (partition,)

        async def open_reader(engine: Engine) -> LogReader:
            reader = LogReader(engine, topic, partitions, begin, follow=follow)
            await reader.open()
            return reader

        generation = self._io.generation
        reader = await self._run(open_reader)
        try:
            while True:
                chunk = await self._run(lambda engine: reader.next(), generation)
                if chunk is None:
                    return
                for message in chunk.messages():
                    yield message
        finally:
            if generation == self._io.generation:
                await self._run(lambda engine: reader.close())

    def subscribe(
        self,
        topic: str,
        subscription: str,
        *,
        create: bool = True,
        start: str = "earliest",
        auto_commit: bool = True,
        member: str | None = None,
        session: float = 0,
    ) -> Subscription:
        """Read a topic as a member of a subscription: its members share the partitions.

        Use it as ``async with`` and ``async for``. A message counts as handled when the next one is
        asked for, and is committed in the background; with ``auto_commit`` False call
        :meth:`Subscription.commit`. ``create`` makes the subscription, from ``start`` on, if it
        does not stand. ``session`` is how long the member may be silent, 0 for the subscription's
        own; its heartbeats do not depend on the handler. With a ``member`` of your own choice, one
        that comes back under it within its session goes on with the partitions that it had.
        """
        return Subscription(
            self._io,
            arguments.name(topic, "topic"),
            arguments.name(subscription, "subscription"),
            create=arguments.flag(create, "create"),
            start=str(parse_start(start)),
            auto_commit=arguments.flag(auto_commit, "auto_commit"),
            member_id=member_id(member),
            session_ms=arguments.session_ms(session),
        )

    # Queues.

    async def receive(
        self,
        queue: str,
        max_messages: int = 1,
        *,
        wait: float = 0,
        lease: float = 0,
        subscription: str | None = None,
    ) -> list[ReceivedMessage]:
        """Lease messages of a queue, waiting up to ``wait`` for the first; empty at its end.

        Each is this caller's for ``lease`` (0: the queue's own), and comes again after it unless it
        was acknowledged. ``subscription`` names a queue-mode one when ``queue`` is a topic.
        """
        limit = arguments.whole(max_messages, "max_messages", 1, limits.RECEIVE_MESSAGES_MAX)
        wait_ms = arguments.duration_ms(wait, "wait", highest=limits.WAIT_MS_MAX / 1000)
        lease_ms = arguments.lease_ms(lease)
        receiving = operations.Receiving(
            arguments.name(queue, "queue"), arguments.optional_name(subscription, "subscription")
        )
        try:
            await self._run(
                lambda engine: receiving.run(
                    engine, max_messages=limit, wait_ms=wait_ms, lease_ms=lease_ms
                )
            )
        except asyncio.CancelledError:
            self._io.run(receiving.give_back)
            raise
        return receiving.messages()

    def consume(
        self,
        queue: str,
        *,
        subscription: str | None = None,
        lease: float = 0,
        at_once_max: int | None = None,
    ) -> Consumption:
        """Work on a queue: iterate over its messages for ever.

        A message is acknowledged when the next one is asked for. Leases are renewed while a handler
        runs, however long it blocks. In ``async with``, an exception gives the message at hand back
        for another try; leaving early gives back what was not begun. At most ``at_once_max``
        messages are leased at a time; None: as many as were lately handled in 0.1 s, 16 to 128.
        """
        queue = arguments.name(queue, "queue")
        subscription = arguments.optional_name(subscription, "subscription")
        if at_once_max is not None:
            at_once_max = arguments.whole(
                at_once_max, "at_once_max", 1, limits.RECEIVE_MESSAGES_MAX
            )
        return Consumption(
            self._io,
            queue,
            subscription or queue,
            at_once_max=at_once_max,
            lease_ms=arguments.lease_ms(lease),
        )

    @overload
    async def ack(self, messages: ReceivedMessage) -> None: ...
    @overload
    async def ack(self, messages: Iterable[ReceivedMessage]) -> list[MomError | None]: ...
    async def ack(
        self, messages: ReceivedMessage | Iterable[ReceivedMessage]
    ) -> list[MomError | None] | None:
        """Acknowledge: it is never delivered again.

        One message raises SettleError when its lease was lost; several give a result for each.
        """
        from mom_client.worker import ACK

        return await self._settle(messages, ACK, 0)

    @overload
    async def nack(
        self, messages: ReceivedMessage, *, delay: float = 0, count: bool = True
    ) -> None: ...
    @overload
    async def nack(
        self, messages: Iterable[ReceivedMessage], *, delay: float = 0, count: bool = True
    ) -> list[MomError | None]: ...
    async def nack(
        self,
        messages: ReceivedMessage | Iterable[ReceivedMessage],
        *,
        delay: float = 0,
        count: bool = True,
    ) -> list[MomError | None] | None:
        """Give back for another try, not before ``delay``. Results as of :meth:`ack`.

        Without ``count`` this delivery does not count towards ``max_deliveries``, and its wait is
        just ``delay``: for what could not even be begun.
        """
        from mom_client.worker import NACK, RELEASE

        action = NACK if arguments.flag(count, "count") else RELEASE
        return await self._settle(messages, action, arguments.nack_delay_ms(delay))

    @overload
    async def extend(self, messages: ReceivedMessage, lease: float) -> None: ...
    @overload
    async def extend(
        self, messages: Iterable[ReceivedMessage], lease: float
    ) -> list[MomError | None]: ...
    async def extend(
        self, messages: ReceivedMessage | Iterable[ReceivedMessage], lease: float
    ) -> list[MomError | None] | None:
        """Let leases last ``lease`` from now. Results as of :meth:`ack`."""
        from mom_client.worker import EXTEND

        return await self._settle(messages, EXTEND, arguments.extension_ms(lease))

    async def _settle(
        self, messages: ReceivedMessage | Iterable[ReceivedMessage], action: int, delay_ms: int
    ) -> list[MomError | None] | None:
        single = isinstance(messages, ReceivedMessage)
        several = arguments.several(messages, ReceivedMessage, "messages", operations.RECEIVED)
        results = await self._run(
            lambda engine: operations.settle(engine, several, action, delay_ms)
        )
        if not single:
            return results
        if results[0] is not None:
            raise results[0]
        return None

    @overload
    async def cancel(  # type: ignore[overload-overlap]  # a text also iterates over texts
        self, queue: str, messages: Place, *, subscription: str | None = None
    ) -> None: ...
    @overload
    async def cancel(
        self, queue: str, messages: Iterable[Place], *, subscription: str | None = None
    ) -> list[MomError | None]: ...
    async def cancel(
        self, queue: str, messages: Place | Iterable[Place], *, subscription: str | None = None
    ) -> list[MomError | None] | None:
        """Cancel messages that wait to be delivered: by what publishing returned, or a position.

        One message raises why it can't be (ConflictError: a worker has it; SettleError: it was
        acknowledged or cancelled; NotFoundError); several give a result for each.
        """
        queue = arguments.name(queue, "queue")
        subscription = arguments.optional_name(subscription, "subscription")
        several, single = several_of(messages)
        results = await self._run(lambda engine: change(engine, queue, subscription, several, None))
        return outcome(results, single)

    @overload
    async def reschedule(  # type: ignore[overload-overlap]  # as of cancel
        self,
        queue: str,
        messages: Place,
        *,
        delay: float = 0,
        deliver_at_ms: int = 0,
        subscription: str | None = None,
    ) -> None: ...
    @overload
    async def reschedule(
        self,
        queue: str,
        messages: Iterable[Place],
        *,
        delay: float = 0,
        deliver_at_ms: int = 0,
        subscription: str | None = None,
    ) -> list[MomError | None]: ...
    async def reschedule(
        self,
        queue: str,
        messages: Place | Iterable[Place],
        *,
        delay: float = 0,
        deliver_at_ms: int = 0,
        subscription: str | None = None,
    ) -> list[MomError | None] | None:
        """Deliver messages that wait after ``delay`` seconds from now, or not before a time; with
        neither of them at once. Results as of :meth:`cancel`.
        """
        queue = arguments.name(queue, "queue")
        subscription = arguments.optional_name(subscription, "subscription")
        several, single = several_of(messages)
        now_ms = self._io.now_ms()
        at_ms = arguments.moment("deliver_at_ms", deliver_at_ms, "delay", delay, now_ms)
        results = await self._run(
            lambda engine: change(engine, queue, subscription, several, at_ms)
        )
        return outcome(results, single)

    # Administration. Settings are the fields that REST shows, such as partitions=4.

    async def create_topic(self, name: str, **settings: object) -> TopicConfig:
        """Create a topic, or find the same standing. ConflictError names what differs."""
        return await self._run(lambda e: operations.create(e, name, TopicKind.TOPIC, settings))

    async def create_queue(self, name: str, **settings: object) -> TopicConfig:
        """Create a queue, or find the same standing. ConflictError names what differs."""
        return await self._run(lambda e: operations.create(e, name, TopicKind.QUEUE, settings))

    async def topics(self) -> list[TopicConfig]:
        """All topics, by name."""
        return await self._run(lambda e: operations.list_all(e, TopicKind.TOPIC))

    async def queues(self) -> list[TopicConfig]:
        """All queues, by name."""
        return await self._run(lambda e: operations.list_all(e, TopicKind.QUEUE))

    async def topic(self, name: str) -> TopicRoute:
        """A topic or queue with its owners and subscriptions. Raises NotFoundError."""
        return await self._run(lambda e: e.topic(name))

    async def describe(self, name: str) -> list[broker_pb2.PartitionDescription]:
        """Counts of each partition of a topic or queue."""
        return await self._run(lambda e: e.describe(name))

    async def alter(self, name: str, **settings: object) -> TopicConfig:
        """Change settings of a topic or queue; None returns one to its default."""
        return await self._run(lambda e: operations.alter(e, name, None, settings))

    async def delete(self, name: str) -> None:
        """Delete a topic or queue with all its messages. Raises NotFoundError."""
        await self._run(lambda e: e.delete_topic(name))

    async def create_subscription(
        self, topic: str, name: str, **settings: object
    ) -> SubscriptionConfig:
        """Create a subscription (``mode="stream"`` or ``"queue"``), or find the same standing."""
        return await self._run(lambda e: operations.create_subscription(e, topic, name, settings))

    async def delete_subscription(self, topic: str, name: str) -> None:
        """Delete a subscription. Raises NotFoundError."""
        await self._run(lambda e: e.delete_subscription(topic, name))

    async def alter_subscription(
        self, topic: str, name: str, **settings: object
    ) -> SubscriptionConfig:
        """Change settings of a subscription; None returns one to its default."""
        patch = msgspec.json.encode(settings)
        return await self._run(lambda e: e.alter_subscription(topic, name, patch))

    async def seek(
        self,
        topic: str,
        subscription: str,
        to: str,
        *,
        partitions: Iterable[int] = (),
        force: bool = False,
        dry_run: bool = False,
    ) -> list[Sought]:
        """Set where a stream-mode subscription reads on: to replay, or to skip.

        ``to`` is ``earliest``, ``latest``, ``offset:N`` or ``timestamp:…``. ``force`` does so while
        members read, too. ``dry_run`` sets nothing, and tells how far behind it would be.
        """
        start = str(parse_start(to, "to"))
        forced, dry = arguments.flag(force, "force"), arguments.flag(dry_run, "dry_run")
        wanted = [
            arguments.whole(one, "one of partitions", 0, limits.PARTITIONS_MAX - 1)
            for one in arguments.iterable(partitions, "partitions")
        ]
        return await self._run(
            lambda e: e.seek(
                topic, subscription, start, partitions=wanted, force=forced, dry_run=dry
            )
        )

    async def pause(self, queue: str, *, subscription: str | None = None) -> None:
        """Deliver nothing of a queue, or of a queue-mode subscription of a topic, for now.

        Receivers wait. What comes in is kept, and what was received can be acknowledged.
        """
        await self._run(lambda e: operations.set_paused(e, queue, subscription, True))

    async def resume(self, queue: str, *, subscription: str | None = None) -> None:
        """Deliver again after :meth:`pause`."""
        await self._run(lambda e: operations.set_paused(e, queue, subscription, False))

    async def purge(
        self, queue: str, *, subscription: str | None = None, leased: bool = False
    ) -> int:
        """Take away all messages that wait; how many it was. There is no undo.

        With ``leased`` also those that workers have, who are told when they acknowledge.
        """
        leased = arguments.flag(leased, "leased")
        return await self._run(lambda e: e.purge(queue, subscription or queue, leased=leased))

    async def browse(
        self,
        queue: str,
        *,
        subscription: str | None = None,
        partition: int | None = None,
        limit: int = 100,
        start: Position | str | None = None,
    ) -> list[BrowsedMessage]:
        """Look at what a queue holds and is not acknowledged, leasing and disturbing nothing.

        At most ``limit`` messages, partition after partition, or only of one. ``start`` is a
        position: that after the last message seen, to go on.
        """
        page = await self._run(
            lambda e: browse(e, queue, subscription, limit=limit, partition=partition, start=start)
        )
        return page.messages

    # Dead letters, and what is done with them.

    async def dead_letters(
        self, queue: str, **chosen: Unpack[operations.Chosen]
    ) -> list[DeadLetter]:
        """The dead letters that a queue holds, disturbing nothing."""
        wanted = operations.filter_of(**chosen)
        return await self._run(lambda e: operations.all_dead_letters(e, queue, wanted))

    async def redrive(
        self,
        queue: str,
        *,
        to: str = "",
        rate: str | float = 0,
        wait: bool = False,
        **chosen: Unpack[operations.Chosen],
    ) -> Operation:
        """Send the dead letters that a queue holds back to where they died, or ``to`` elsewhere.

        Each arrives once, whatever fails on the way. ``rate`` bounds it, as ``100/s``. It goes on
        by itself: ask for it by :meth:`operation`, or ``wait`` for its end.
        """
        wanted = operations.filter_of(**chosen)
        begun = await self._run(lambda e: e.redrive(queue, wanted, to=to, rate=rate))
        if not wait:
            return begun
        return await self._run(lambda e: operations.ended(e, begun.operation_id))

    async def operation(self, operation_id: str, *, wait: bool = False) -> Operation:
        """How far an operation is, or with ``wait`` how it ended. Raises NotFoundError."""
        known = arguments.text(operation_id, "operation_id")
        if wait:
            return await self._run(lambda e: operations.ended(e, known))
        return await self._run(lambda e: e.operation(known))

    async def operations(self, queue: str = "") -> list[Operation]:
        """All operations, or those of one queue; the newest first."""
        return await self._run(lambda e: e.operations(queue))

    async def cancel_operation(self, operation_id: str) -> Operation:
        """End an operation early; what is on its way still arrives. Raises NotFoundError."""
        known = arguments.text(operation_id, "operation_id")
        return await self._run(lambda e: e.cancel_operation(known))

    async def cluster(self) -> master_pb2.GetClusterResponse:
        """The cluster at a glance."""
        return await self._run(lambda e: e.cluster())


async def _chunks(
    values: Iterable[Any] | AsyncIterable[Any],
) -> AsyncIterator[operations.Chunk]:
    chunk = operations.Chunk()
    if isinstance(values, AsyncIterable):
        async for value in values:
            chunk.add(value)
            if chunk.count >= CHUNK_MESSAGES:
                yield chunk
                chunk = operations.Chunk()
    else:
        for value in arguments.iterable(values, "values"):
            chunk.add(value)
            if chunk.count >= CHUNK_MESSAGES:
                yield chunk
                chunk = operations.Chunk()
    if chunk.count:
        yield chunk
