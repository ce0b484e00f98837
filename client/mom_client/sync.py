"""The sync client, for scripts and for servers without asyncio. Its methods are the async ones'.

::

    with mom_client.sync.connect("127.0.0.1:7071") as client:
        client.publish("orders", {"id": 1})
        for message in client.read("orders"):
            print(message.json())
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import Future
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, overload

import msgspec

from mom_client import arguments, operations, tracing
from mom_client.browsing import BrowsedMessage, browse
from mom_client.client import CHUNK_MESSAGES, CHUNKS_MAX
from mom_client.consumption import SyncConsumption, SyncSubscription
from mom_client.face import ADDRESS_DEFAULT, io_thread, member_id, split_addresses
from mom_client.iothread import IoThread, ThreadSink
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

_SINK = ThreadSink()


def connect(
    addresses: str | list[str] | tuple[str, ...] = ADDRESS_DEFAULT,
    *,
    token: str | None = None,
    **options: Any,
) -> Client:
    """A client of the cluster that any of ``addresses`` (``host:port``) belongs to.

    Nothing is connected before the first use, or ``with``, which raises UnavailableError when no
    server answers.
    """
    return Client(addresses, token=token, **options)


class Client:
    """Publishes, reads, receives and administrates. Safe to use from several threads."""

    def __init__(
        self,
        addresses: str | list[str] | tuple[str, ...] = ADDRESS_DEFAULT,
        *,
        token: str | None = None,
        **options: Any,
    ) -> None:
        self._io = io_thread(split_addresses(addresses), token, EngineOptions(**options))

    @classmethod
    def sharing(cls, io: IoThread) -> Client:
        """A client over the connections of another, which closes them."""
        client = cls.__new__(cls)
        client._io = io
        return client

    # Life.

    def __enter__(self) -> Client:
        try:
            self.ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def ready(self) -> None:
        """Connect. Raises UnavailableError, naming what was tried, when no server answers."""
        self._wait(lambda engine: engine.ready())

    def close(self) -> None:
        """Send what was published, then disconnect. A client can't be used after it."""
        self._io.close()

    def _wait(
        self, work: Callable[[Engine], Coroutine[Any, Any, ResultT]], generation: int | None = None
    ) -> ResultT:
        future = self._io.run(work, generation)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # A KeyboardInterrupt, say.
            raise

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
    ) -> Published:
        """Publish one message and wait until it is durable. Raises MomError when it did not land.

        For many messages, :meth:`publish_many` and :meth:`publish_soon` are much faster.
        """
        return self.publish_soon(
            topic,
            value,
            key=key,
            headers=headers,
            partition=partition,
            content_type=content_type,
            timestamp_ms=timestamp_ms,
            **wishes,
        ).result()

    def publish_soon(
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
    ) -> Future[Published]:
        """Publish one message without waiting; the future has the result.

        Raises OverloadedError when too much waits.
        """
        topic = arguments.name(topic, "topic")
        if partition is not None:
            partition = arguments.partition_of(partition)
        message = operations.make_message(
            value, key, headers, content_type, timestamp_ms, wishes, self._io.now_ms
        )
        future: Future[Published] = Future()
        # A result that is under way can't be cancelled, which set_result relies on.
        future.set_running_or_notify_cancel()
        traced = tracing.send_one(topic, message)
        if traced is not None:
            future.add_done_callback(traced)
        self._io.hand_over(topic, message, partition, _SINK, future)
        return future

    def publish_many(
        self, topic: str, values: Iterable[Any], *, partition: int | None = None
    ) -> list[Published | MomError]:
        """Publish many values or :class:`Message` objects; a result for each, in order.

        One that fails hurts no other: its result is the error. The input is drawn as far as there
        is room.
        """
        topic, partition = arguments.name(topic, "topic"), arguments.partition_of(partition)
        under_way: deque[Future[list[Published | MomError]]] = deque()
        results: list[Published | MomError] = []
        for chunk in _chunks(values):
            if len(under_way) >= CHUNKS_MAX:
                results += under_way.popleft().result()
            under_way.append(self._publish_chunk(topic, chunk, partition))
        for future in under_way:
            results += future.result()
        return results

    def _publish_chunk(
        self, topic: str, chunk: operations.Chunk, partition: int | None
    ) -> Future[list[Published | MomError]]:
        chunk.messages, traced = tracing.send_many(topic, chunk.messages)
        future = self._io.run(lambda engine: chunk.publish(engine, topic, partition))
        if traced is not None:
            future.add_done_callback(traced)
        return future

    # Reading.

    def read(
        self,
        topic: str,
        *,
        partition: int | None = None,
        start: str = "earliest",
        follow: bool = False,
    ) -> Iterator[ReceivedMessage]:
        """Read a topic's log; see :meth:`mom_client.Client.read`."""
        from mom_client.log_reader import LogReader

        topic, partition = arguments.name(topic, "topic"), arguments.partition_of(partition)
        begin = parse_start(start)
        partitions = None if partition is None else (partition,)

        async def open_reader(engine: Engine) -> LogReader:
            reader = LogReader(engine, topic, partitions, begin, follow=follow)
            await reader.open()
            return reader

        generation = self._io.generation
        reader = self._wait(open_reader)
        try:
            while True:
                chunk = self._wait(lambda engine: reader.next(), generation)
                if chunk is None:
                    return
                yield from chunk.messages()
        finally:
            if generation == self._io.generation:
                self._wait(lambda engine: reader.close())

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
    ) -> SyncSubscription:
        """Read as a member of a subscription; see :meth:`mom_client.Client.subscribe`."""
        return SyncSubscription(
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

    def receive(
        self,
        queue: str,
        max_messages: int = 1,
        *,
        wait: float = 0,
        lease: float = 0,
        subscription: str | None = None,
    ) -> list[ReceivedMessage]:
        """Lease messages of a queue; see :meth:`mom_client.Client.receive`."""
        limit = arguments.whole(max_messages, "max_messages", 1, limits.RECEIVE_MESSAGES_MAX)
        wait_ms = arguments.duration_ms(wait, "wait", highest=limits.WAIT_MS_MAX / 1000)
        lease_ms = arguments.lease_ms(lease)
        receiving = operations.Receiving(
            arguments.name(queue, "queue"), arguments.optional_name(subscription, "subscription")
        )
        try:
            self._wait(
                lambda engine: receiving.run(
                    engine, max_messages=limit, wait_ms=wait_ms, lease_ms=lease_ms
                )
            )
        except KeyboardInterrupt:
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
    ) -> SyncConsumption:
        """Work on a queue; see :meth:`mom_client.Client.consume`."""
        queue = arguments.name(queue, "queue")
        subscription = arguments.optional_name(subscription, "subscription")
        if at_once_max is not None:
            at_once_max = arguments.whole(
                at_once_max, "at_once_max", 1, limits.RECEIVE_MESSAGES_MAX
            )
        return SyncConsumption(
            self._io,
            queue,
            subscription or queue,
            at_once_max=at_once_max,
            lease_ms=arguments.lease_ms(lease),
        )

    @overload
    def ack(self, messages: ReceivedMessage) -> None: ...
    @overload
    def ack(self, messages: Iterable[ReceivedMessage]) -> list[MomError | None]: ...
    def ack(
        self, messages: ReceivedMessage | Iterable[ReceivedMessage]
    ) -> list[MomError | None] | None:
        """Acknowledge; see :meth:`mom_client.Client.ack`."""
        from mom_client.worker import ACK

        return self._settle(messages, ACK, 0)

    @overload
    def nack(self, messages: ReceivedMessage, *, delay: float = 0, count: bool = True) -> None: ...
    @overload
    def nack(
        self, messages: Iterable[ReceivedMessage], *, delay: float = 0, count: bool = True
    ) -> list[MomError | None]: ...
    def nack(
        self,
        messages: ReceivedMessage | Iterable[ReceivedMessage],
        *,
        delay: float = 0,
        count: bool = True,
    ) -> list[MomError | None] | None:
        """Give back for another try; see :meth:`mom_client.Client.nack`."""
        from mom_client.worker import NACK, RELEASE

        return self._settle(
            messages,
            NACK if arguments.flag(count, "count") else RELEASE,
            arguments.nack_delay_ms(delay),
        )

    @overload
    def extend(self, messages: ReceivedMessage, lease: float) -> None: ...
    @overload
    def extend(
        self, messages: Iterable[ReceivedMessage], lease: float
    ) -> list[MomError | None]: ...
    def extend(
        self, messages: ReceivedMessage | Iterable[ReceivedMessage], lease: float
    ) -> list[MomError | None] | None:
        """Let leases last ``lease`` from now; see :meth:`mom_client.Client.extend`."""
        from mom_client.worker import EXTEND

        return self._settle(messages, EXTEND, arguments.extension_ms(lease))

    def _settle(
        self, messages: ReceivedMessage | Iterable[ReceivedMessage], action: int, delay_ms: int
    ) -> list[MomError | None] | None:
        single = isinstance(messages, ReceivedMessage)
        several = arguments.several(messages, ReceivedMessage, "messages", operations.RECEIVED)
        results = self._wait(lambda engine: operations.settle(engine, several, action, delay_ms))
        if not single:
            return results
        if results[0] is not None:
            raise results[0]
        return None

    @overload
    def cancel(  # type: ignore[overload-overlap]  # a text also iterates over texts
        self, queue: str, messages: Place, *, subscription: str | None = None
    ) -> None: ...
    @overload
    def cancel(
        self, queue: str, messages: Iterable[Place], *, subscription: str | None = None
    ) -> list[MomError | None]: ...
    def cancel(
        self, queue: str, messages: Place | Iterable[Place], *, subscription: str | None = None
    ) -> list[MomError | None] | None:
        """Cancel messages that wait to be delivered: by what publishing returned, or a position.

        One message raises why it can't be (ConflictError: a worker has it; SettleError: it was
        acknowledged or cancelled; NotFoundError); several give a result for each.
        """
        queue = arguments.name(queue, "queue")
        subscription = arguments.optional_name(subscription, "subscription")
        several, single = several_of(messages)
        results = self._wait(lambda engine: change(engine, queue, subscription, several, None))
        return outcome(results, single)

    @overload
    def reschedule(  # type: ignore[overload-overlap]  # as of cancel
        self,
        queue: str,
        messages: Place,
        *,
        delay: float = 0,
        deliver_at_ms: int = 0,
        subscription: str | None = None,
    ) -> None: ...
    @overload
    def reschedule(
        self,
        queue: str,
        messages: Iterable[Place],
        *,
        delay: float = 0,
        deliver_at_ms: int = 0,
        subscription: str | None = None,
    ) -> list[MomError | None]: ...
    def reschedule(
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
        results = self._wait(lambda engine: change(engine, queue, subscription, several, at_ms))
        return outcome(results, single)

    # Administration. Settings are the fields that REST shows, such as partitions=4.

    def create_topic(self, name: str, **settings: object) -> TopicConfig:
        """Create a topic, or find the same standing. ConflictError names what differs."""
        return self._wait(lambda e: operations.create(e, name, TopicKind.TOPIC, settings))

    def create_queue(self, name: str, **settings: object) -> TopicConfig:
        """Create a queue, or find the same standing. ConflictError names what differs."""
        return self._wait(lambda e: operations.create(e, name, TopicKind.QUEUE, settings))

    def topics(self) -> list[TopicConfig]:
        """All topics, by name."""
        return self._wait(lambda e: operations.list_all(e, TopicKind.TOPIC))

    def queues(self) -> list[TopicConfig]:
        """All queues, by name."""
        return self._wait(lambda e: operations.list_all(e, TopicKind.QUEUE))

    def topic(self, name: str) -> TopicRoute:
        """A topic or queue with its owners and subscriptions. Raises NotFoundError."""
        return self._wait(lambda e: e.topic(name))

    def describe(self, name: str) -> list[broker_pb2.PartitionDescription]:
        """Counts of each partition of a topic or queue."""
        return self._wait(lambda e: e.describe(name))

    def alter(self, name: str, **settings: object) -> TopicConfig:
        """Change settings of a topic or queue; None returns one to its default."""
        return self._wait(lambda e: operations.alter(e, name, None, settings))

    def delete(self, name: str) -> None:
        """Delete a topic or queue with all its messages. Raises NotFoundError."""
        self._wait(lambda e: e.delete_topic(name))

    def create_subscription(self, topic: str, name: str, **settings: object) -> SubscriptionConfig:
        """Create a subscription (``mode="stream"`` or ``"queue"``), or find the same standing."""
        return self._wait(lambda e: operations.create_subscription(e, topic, name, settings))

    def delete_subscription(self, topic: str, name: str) -> None:
        """Delete a subscription. Raises NotFoundError."""
        self._wait(lambda e: e.delete_subscription(topic, name))

    def alter_subscription(self, topic: str, name: str, **settings: object) -> SubscriptionConfig:
        """Change settings of a subscription; None returns one to its default."""
        patch = msgspec.json.encode(settings)
        return self._wait(lambda e: e.alter_subscription(topic, name, patch))

    def seek(
        self,
        topic: str,
        subscription: str,
        to: str,
        *,
        partitions: Iterable[int] = (),
        force: bool = False,
        dry_run: bool = False,
    ) -> list[Sought]:
        """Set where a subscription reads on; see :meth:`mom_client.Client.seek`."""
        start = str(parse_start(to, "to"))
        forced, dry = arguments.flag(force, "force"), arguments.flag(dry_run, "dry_run")
        wanted = [
            arguments.whole(one, "one of partitions", 0, limits.PARTITIONS_MAX - 1)
            for one in arguments.iterable(partitions, "partitions")
        ]
        return self._wait(
            lambda e: e.seek(
                topic, subscription, start, partitions=wanted, force=forced, dry_run=dry
            )
        )

    def pause(self, queue: str, *, subscription: str | None = None) -> None:
        """Deliver nothing for now; see :meth:`mom_client.Client.pause`."""
        self._wait(lambda e: operations.set_paused(e, queue, subscription, True))

    def resume(self, queue: str, *, subscription: str | None = None) -> None:
        """Deliver again after :meth:`pause`."""
        self._wait(lambda e: operations.set_paused(e, queue, subscription, False))

    def purge(self, queue: str, *, subscription: str | None = None, leased: bool = False) -> int:
        """Take away what waits; see :meth:`mom_client.Client.purge`."""
        leased = arguments.flag(leased, "leased")
        return self._wait(lambda e: e.purge(queue, subscription or queue, leased=leased))

    def browse(
        self,
        queue: str,
        *,
        subscription: str | None = None,
        partition: int | None = None,
        limit: int = 100,
        start: Position | str | None = None,
    ) -> list[BrowsedMessage]:
        """Look at what a queue holds, leasing nothing; see :meth:`mom_client.Client.browse`."""
        page = self._wait(
            lambda e: browse(e, queue, subscription, limit=limit, partition=partition, start=start)
        )
        return page.messages

    # Dead letters, and what is done with them.

    def dead_letters(self, queue: str, **chosen: Unpack[operations.Chosen]) -> list[DeadLetter]:
        """The dead letters that a queue holds, disturbing nothing."""
        wanted = operations.filter_of(**chosen)
        return self._wait(lambda e: operations.all_dead_letters(e, queue, wanted))

    def redrive(
        self,
        queue: str,
        *,
        to: str = "",
        rate: str | float = 0,
        wait: bool = False,
        **chosen: Unpack[operations.Chosen],
    ) -> Operation:
        """Send dead letters back; see :meth:`mom_client.Client.redrive`."""
        wanted = operations.filter_of(**chosen)
        begun = self._wait(lambda e: e.redrive(queue, wanted, to=to, rate=rate))
        if not wait:
            return begun
        return self._wait(lambda e: operations.ended(e, begun.operation_id))

    def operation(self, operation_id: str, *, wait: bool = False) -> Operation:
        """How far an operation is, or with ``wait`` how it ended. Raises NotFoundError."""
        known = arguments.text(operation_id, "operation_id")
        if wait:
            return self._wait(lambda e: operations.ended(e, known))
        return self._wait(lambda e: e.operation(known))

    def operations(self, queue: str = "") -> list[Operation]:
        """All operations, or those of one queue; the newest first."""
        return self._wait(lambda e: e.operations(queue))

    def cancel_operation(self, operation_id: str) -> Operation:
        """End an operation early; what is on its way still arrives. Raises NotFoundError."""
        known = arguments.text(operation_id, "operation_id")
        return self._wait(lambda e: e.cancel_operation(known))

    def cluster(self) -> master_pb2.GetClusterResponse:
        """The cluster at a glance."""
        return self._wait(lambda e: e.cluster())


def _chunks(values: Iterable[Any]) -> Iterator[operations.Chunk]:
    following = iter(arguments.iterable(values, "values"))
    while some := list(islice(following, CHUNK_MESSAGES)):
        chunk = operations.Chunk()
        for value in some:
            chunk.add(value)
        yield chunk
