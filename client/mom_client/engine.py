"""The client's engine: one event loop's connection to a cluster, without a thread of its own.

The SDK runs one in its I/O thread and the gateway one in its own loop. Each call finds the process
that is responsible in the routing table, which :mod:`mom_client.routing` keeps fresh, and repeats
what is safe to repeat within a bounded time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from typing import Any

from mom_client.admin import Admin
from mom_client.administration import Administration
from mom_client.calls import Caller
from mom_client.connections import Connections
from mom_client.group import Groups
from mom_client.lease_room import LeaseRoom
from mom_client.lease_streams import ArrivedLease, LeaseStreams
from mom_client.options import EngineOptions
from mom_client.producer import Producer
from mom_client.queues import Leased, Queues
from mom_client.reader import Reader
from mom_client.rescheduling import Rescheduler
from mom_client.results import (
    DeadLetterPage,
    Fetched,
    Identity,
    Operation,
    Published,
    Sought,
    TopicPage,
)
from mom_client.routing import Routing, RoutingSnapshot, TopicRoute
from mom_core.dead_letters import DeadLetterFilter
from mom_core.errors import MomError
from mom_core.message import Message
from mom_core.ports import Clock, Random
from mom_core.topics import Start, SubscriptionConfig, TopicConfig, TopicKind
from mom_process.system import SystemClock, SystemRandom
from mom_proto.v1 import broker_pb2, master_pb2


class Engine:
    """Everything a client does, on the loop that called :meth:`start`.

    ``addresses`` are any nodes or masters, ``host:port``, and the others are learnt from them; or
    the URL of a gateway, for a place from which nodes can't be reached.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        *,
        token: str | None = None,
        options: EngineOptions = EngineOptions(),  # noqa: B008 - frozen
        clock: Clock | None = None,
        random: Random | None = None,
        connections: Connections | None = None,
    ) -> None:
        self.options = options
        self._clock: Clock = clock or SystemClock()
        self._random: Random = random or SystemRandom()
        self._connections = connections or Connections(token)
        self._routing = Routing(
            addresses, self._connections, options, clock=self._clock, random=self._random
        )
        caller = Caller(
            self._routing, self._connections, options, clock=self._clock, random=self._random
        )
        self._admin = Admin(caller)
        if options.auto_create:
            self._routing.create_missing = self._admin.create_missing
        self._producer = Producer(
            self._routing, self._connections, options, clock=self._clock, random=self._random
        )
        self._reader = Reader(caller)
        self._queues = Queues(caller)
        self._administration = Administration(caller, self._queues)
        self._rescheduler = Rescheduler(caller)
        self._caller = caller
        self._groups = Groups(caller)
        self.suspect_turn = asyncio.Lock()
        """Of all workers of this client, one handles a suspect at a time. See QueueWorker.begin."""

    @property
    def clock(self) -> Clock:
        """What times are measured with here."""
        return self._clock

    # Life.

    async def start(self) -> None:
        """Begin to follow the routing table. Returns at once, also when no server answers yet."""
        self._routing.start()

    async def close(self) -> None:
        """Send what was published and not yet sent, then let go of all connections.

        Bounded by the delivery timeout. Calls that wait end with UnavailableError.
        """
        await self._producer.close()
        await self._routing.close()
        await self._connections.close()

    async def pause(self) -> None:
        """Close all connections until :meth:`resume`; what is under way is tried again after it."""
        await self._connections.pause()

    def resume(self) -> None:
        """Connect again on demand."""
        self._connections.resume()

    def busy(self, tasks: Collection[asyncio.Task[Any]]) -> bool:
        """Whether any of the loop's tasks does more than follow the routing table."""
        return self._producer.in_flight_bytes > 0 or any(
            not self._routing.owns(task) for task in tasks
        )

    # Passing on calls of others: what a gateway does for clients that reach no node.

    async def relay(
        self, method: str, request: bytes, *, target: str, timeout_ms: int, authorization: str
    ) -> bytes:
        """Make a call as it is, under its caller's authorization; raises what the peer reports.

        ``target`` is whom the caller chose, if it is a process of this cluster; else any that
        serves the method. With an empty ``authorization`` it is this engine's own.
        """
        address = self._relay_address(method, target)
        return await self._connections.call(
            address, method, request, timeout_ms, authorization or None
        )

    def relay_stream(
        self, method: str, request: bytes, *, target: str, authorization: str
    ) -> AsyncGenerator[bytes, None]:
        """As :meth:`relay`, for a method that answers with a stream."""
        address = self._relay_address(method, target)
        return self._connections.stream(address, method, request, authorization or None)

    def _relay_address(self, method: str, target: str) -> str:
        candidates = self._routing.candidates()
        if target in candidates:
            return target
        if method.startswith("/mom.v1.Master/"):
            return self._routing.leader()
        return self._routing.any_node() or candidates[0]

    @property
    def producer(self) -> Producer:
        """The publishing part, for those who hand over many messages at a time."""
        return self._producer

    # Routing.

    def routing(self) -> RoutingSnapshot:
        """The routing table as known now: nodes, topics, master_address, revision (0: none yet)."""
        return self._routing.snapshot

    async def ready(self) -> RoutingSnapshot:
        """The routing table, waiting for the first one.

        Raises UnavailableError, naming what was tried, when no server answers in time.
        """
        return await self._routing.ready()

    async def topic(self, name: str) -> TopicRoute:
        """A topic or queue, from the cache; refreshed once when it is not there.

        Raises NotFoundError, or UnavailableError when no server answers in time.
        """
        return await self._routing.topic(name)

    # Publishing.

    async def publish(
        self, topic: str, message: Message, partition: int | None = None
    ) -> Published:
        """Publish one message, batched with what others publish at the same time.

        Waits while too many bytes are in flight. Raises MomError when it did not land, or when that
        is unknown at the end of the delivery timeout (TimedOutError).
        """
        return await self._producer.publish(topic, message, partition)

    async def publish_many(
        self, topic: str, messages: Sequence[Message], partition: int | None = None
    ) -> list[Published | MomError]:
        """Publish many; results in the order of the messages. Raises nothing for one of them."""
        return await self._producer.publish_many(topic, messages, partition)

    # Reading.

    async def fetch(
        self, topic: str, partition: int, start: Start, *, max_bytes: int = 0, wait_ms: int = 0
    ) -> Fetched:
        """Read batches of one partition, waiting up to ``wait_ms`` for the first one.

        Raises OffsetError (offset_trimmed has ``log_start`` in its details), NotFoundError.
        """
        return await self._reader.fetch(
            topic, partition, start, max_bytes=max_bytes, wait_ms=wait_ms
        )

    # Queues and queue-mode subscriptions.

    async def receive(
        self,
        topic: str,
        subscription: str,
        *,
        max_messages: int = 1,
        max_bytes: int = 0,
        wait_ms: int = 0,
        lease_ms: int = 0,
        tells_begin: bool = False,
    ) -> Leased:
        """Lease up to ``max_messages``, waiting up to ``wait_ms`` for the first; empty at its end.

        ``tells_begin``: see ``ReceiveStreamStart`` in broker.proto. Waits at all owners, and leases
        at the ones that have something.
        """
        return await self._queues.receive(
            topic,
            subscription,
            max_messages=max_messages,
            max_bytes=max_bytes,
            wait_ms=wait_ms,
            lease_ms=lease_ms,
            tells_begin=tells_begin,
        )

    def lease_streams(
        self,
        topic: str,
        subscription: str,
        *,
        room: LeaseRoom,
        lease_ms: int,
        accept: Callable[[ArrivedLease], None],
    ) -> LeaseStreams:
        """Messages as the owners push them, for a worker that has ``room`` for so many."""
        return LeaseStreams(
            self._caller,
            topic,
            subscription,
            room=room,
            lease_ms=lease_ms,
            accept=accept,
        )

    async def settle(
        self, topic: str, subscription: str, ranges: Sequence[broker_pb2.SettleRange]
    ) -> list[broker_pb2.SettleResult]:
        """Acknowledge, give back or extend, at all owners; a result for each range, in order.

        A range whose owner could not be reached in time has a failure for all of it.
        """
        return await self._queues.settle(topic, subscription, ranges)

    async def reschedule(
        self, topic: str, subscription: str, items: Sequence[broker_pb2.RescheduleItem]
    ) -> list[MomError | None]:
        """Cancel messages that wait, or move them to another time; a result for each, in order.

        None is success, and durable.
        """
        return await self._rescheduler.reschedule(topic, subscription, items)

    async def browse(
        self,
        topic: str,
        subscription: str,
        partition: int,
        *,
        offset: int = 0,
        max_messages: int = 100,
    ) -> broker_pb2.BrowseResponse:
        """Look at messages of one partition without leasing them."""
        return await self._queues.browse(
            topic, subscription, partition, offset=offset, max_messages=max_messages
        )

    # Administration of queues.

    async def dead_letters(
        self,
        queue: str,
        wanted: DeadLetterFilter = DeadLetterFilter(),  # noqa: B008 - frozen
        *,
        offset: int = 0,
        limit: int = 100,
    ) -> DeadLetterPage:
        """Look at the dead letters that a queue holds, from an offset on, disturbing nothing.

        Raises InvalidArgumentError for a topic, or a filter that nothing can meet.
        """
        return await self._administration.dead_letters(queue, wanted, offset=offset, limit=limit)

    async def redrive(
        self,
        queue: str,
        wanted: DeadLetterFilter = DeadLetterFilter(),  # noqa: B008 - frozen
        *,
        to: str = "",
        rate: str | float = 0,
    ) -> Operation:
        """Begin to send the dead letters that a queue holds back to where they died, or ``to``.

        ``rate`` is ``100/s``, ``30/m``, ``5/h`` or messages a second; 0: as fast as it goes. It
        goes on by itself: see :meth:`operation`. Raises InvalidArgumentError, NotFoundError.
        """
        return await self._administration.redrive(queue, wanted, to=to, rate=rate)

    async def operation(self, operation_id: str) -> Operation:
        """How far an operation is. Raises NotFoundError."""
        return await self._administration.operation(operation_id)

    async def operations(self, queue: str = "") -> list[Operation]:
        """All operations, or those of one queue; the newest first."""
        return await self._administration.operations(queue)

    async def cancel_operation(self, operation_id: str) -> Operation:
        """End an operation early. Raises NotFoundError."""
        return await self._administration.cancel_operation(operation_id)

    async def purge(self, topic: str, subscription: str, *, leased: bool = False) -> int:
        """Take away all that waits in a queue or queue-mode subscription; how many that was.

        With ``leased`` also what workers have: they are told when they acknowledge.
        """
        return await self._administration.purge(topic, subscription, leased=leased)

    # Stream-mode subscriptions.

    async def acquire_partitions(
        self, topic: str, subscription: str, member_id: str, *, session_ms: int = 0
    ) -> broker_pb2.AcquirePartitionsResponse:
        """Join or stay in a group and learn which partitions to read."""
        return await self._groups.acquire(topic, subscription, member_id, session_ms=session_ms)

    async def commit_offsets(
        self,
        topic: str,
        subscription: str,
        member_id: str,
        commits: Sequence[broker_pb2.OffsetCommit],
    ) -> list[MomError | None]:
        """Store how far partitions were handled; a result for each commit, None is success."""
        return await self._groups.commit(topic, subscription, member_id, commits)

    async def release_partitions(
        self, topic: str, subscription: str, member_id: str, partitions: Sequence[int] = ()
    ) -> None:
        """Give partitions up; all of them, and leave, when none is named."""
        await self._groups.release(topic, subscription, member_id, partitions)

    async def seek(
        self,
        topic: str,
        subscription: str,
        to: str,
        *,
        partitions: Sequence[int] = (),
        force: bool = False,
        dry_run: bool = False,
    ) -> list[Sought]:
        """Set a subscription's offsets, and how far it is behind from there.

        ``to`` is a start position. With ``dry_run`` nothing is set.
        """
        return await self._groups.seek(
            topic, subscription, to, partitions=partitions, force=force, dry_run=dry_run
        )

    async def describe(self, topic: str) -> list[broker_pb2.PartitionDescription]:
        """Counts of all partitions and subscriptions, in the order of the partition index.

        A partition without a reachable owner has an empty node_id and zeros.
        """
        return await self._groups.describe(topic)

    # Administration, at the leading master.

    async def create_topic(
        self, name: str, kind: TopicKind, settings: Mapping[str, object]
    ) -> tuple[TopicConfig, bool]:
        """Create a topic or queue with settings of the shown form, and whether it is new.

        Raises InvalidArgumentError, and ConflictError when it stands with another value of a
        setting that is named; its details have the ``differences``.
        """
        return await self._admin.create_topic(name, kind, settings)

    async def get_topic(self, name: str) -> TopicRoute:
        """A topic with owners and subscriptions, as the master knows it. Raises NotFoundError."""
        return await self._admin.get_topic(name)

    async def list_topics(
        self, kind: TopicKind | None = None, limit: int = 0, page_token: str = ""
    ) -> TopicPage:
        """Topics and queues in the order of their names. ``limit`` 1 to 1,000; 0 is 100."""
        return await self._admin.list_topics(kind, limit, page_token)

    async def alter_topic(self, name: str, kind: TopicKind | None, patch: bytes) -> TopicConfig:
        """Apply a JSON merge patch of the shown form."""
        return await self._admin.alter_topic(name, kind, patch)

    async def delete_topic(self, name: str, kind: TopicKind | None = None) -> None:
        """Delete a topic or queue with all its messages. Raises NotFoundError."""
        await self._admin.delete_topic(name, kind)

    async def create_subscription(
        self, topic: str, name: str, settings: Mapping[str, object]
    ) -> tuple[SubscriptionConfig, bool]:
        """Create a subscription with settings of the shown form, and whether it is new.

        Raises InvalidArgumentError, NotFoundError, and ConflictError as :meth:`create_topic`.
        """
        return await self._admin.create_subscription(topic, name, settings)

    async def delete_subscription(self, topic: str, name: str) -> None:
        """Delete a subscription. Raises NotFoundError."""
        await self._admin.delete_subscription(topic, name)

    async def alter_subscription(self, topic: str, name: str, patch: bytes) -> SubscriptionConfig:
        """Apply a JSON merge patch of the shown form. Raises NotFoundError."""
        return await self._admin.alter_subscription(topic, name, patch)

    async def create_token(
        self, name: str, scopes: Sequence[str], lifetime_ms: int = 0
    ) -> tuple[master_pb2.Token, str]:
        """Make a token; the text is its secret, which nobody can show again."""
        return await self._admin.create_token(name, scopes, lifetime_ms)

    async def list_tokens(self) -> list[master_pb2.Token]:
        """All tokens, without secrets."""
        return await self._admin.list_tokens()

    async def revoke_token(self, token_id: str) -> None:
        """Make a token void. Raises NotFoundError."""
        await self._admin.revoke_token(token_id)

    async def cluster(self) -> master_pb2.GetClusterResponse:
        """The cluster at a glance."""
        return await self._admin.cluster()

    async def nodes(self) -> list[broker_pb2.NodeInfo]:
        """Nodes as the master sees them."""
        return await self._admin.nodes()

    async def set_node_state(self, node_id: str, state: str) -> broker_pb2.NodeInfo:
        """Set a node to ``active``, ``cordoned`` or ``draining``. Raises NotFoundError."""
        return await self._admin.set_node_state(node_id, state)

    async def authenticate(self, token: str) -> Identity:
        """Who a token stands for, by any node. Raises UnauthenticatedError."""
        return await self._admin.authenticate(token)
