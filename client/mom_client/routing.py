"""The routing table: which node owns which partition, kept fresh by one stream.

A task follows ``WatchRouting`` at one process, any that answers: nodes and masters serve it alike,
so that nothing here waits on a master. When the stream ends it goes on to the next known address.
A caller that was told ``not_owner``, or got no answer from an owner, waits here for a newer table;
when none comes within :data:`SUSPECT_MS`, the process behind the stream itself is left for another.

An owner that can't be reached from here is asked for a while through another node, which passes
calls on one hop: the one behind the stream, or any where that is a master.

Where a gateway's URL was given, calls go through it until a node has been seen to answer from here:
a client behind an Ingress or a tunnel waits for no node that it can't reach. See :meth:`reach`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from mom_client.addresses import check_address, is_gateway, through
from mom_client.backoff import Backoff
from mom_client.connections import Connections
from mom_client.options import EngineOptions
from mom_client.translation import subscription_of_wire, topic_of_wire
from mom_core.errors import (
    ErrorCode,
    InvalidArgumentError,
    MomError,
    NotFoundError,
    UnavailableError,
)
from mom_core.names import check_name
from mom_core.partitioner import HashRange
from mom_core.ports import Clock, Random
from mom_core.topics import SubscriptionConfig, TopicConfig
from mom_proto.v1 import broker_pb2

_WATCH: Final = "/mom.v1.Broker/WatchRouting"

# Complaints without news for this long mean that the stream itself may be dead.
SUSPECT_MS: Final = 1_500
# How long an owner that could not be reached is asked through another process.
UNREACHABLE_MS: Final = 2_000
# A node that is asked whether it can be reached from here has so long to answer, and is asked again
# after so long. Both only where calls can go through a gateway meanwhile.
REACH_TIMEOUT_MS: Final = 1_000
REACH_AGAIN_MS: Final = 15_000
REACH_AT_ONCE_MAX: Final = 8
# How long after a creation its topic may be missing from the table before that is an error.
APPEAR_MS_MAX: Final = 5_000
# Addresses named in an error message.
_TRIED_SHOWN_MAX: Final = 8

_log = logging.getLogger("mom_client")


class NodeRoute(NamedTuple):
    """A node as clients see it."""

    node_id: str
    address: str
    rack: str
    state: str
    """``active``, ``cordoned``, ``draining`` or ``lost``."""
    partitions: int


class OwnerRoute(NamedTuple):
    """Who owns a partition."""

    node_id: str
    """Empty: nobody now."""
    epoch: int
    hash_range: HashRange


class TopicRoute(msgspec.Struct, frozen=True):
    """A topic or queue with its owners, in the order of the partition index."""

    config: TopicConfig
    topic_id: bytes
    owners: tuple[OwnerRoute, ...]
    subscriptions: dict[str, SubscriptionConfig]

    @property
    def name(self) -> str:
        """The topic's name."""
        return self.config.name

    def check_partition(self, partition: int) -> int:
        """Return ``partition`` if there is such a one, else raise InvalidArgumentError."""
        count = len(self.owners)
        if isinstance(partition, bool) or not 0 <= partition < count:
            raise InvalidArgumentError(
                f"{self.name!r} has no partition {partition}; it has 0 to {count - 1}",
                field="partition",
            )
        return partition

    def subscription(self, name: str) -> SubscriptionConfig:
        """A subscription of the topic. Raises NotFoundError."""
        try:
            return self.subscriptions[name]
        except KeyError:
            raise NotFoundError(
                f"{self.name!r} has no subscription {name!r}; create it first", field="subscription"
            ) from None


class RoutingSnapshot(NamedTuple):
    """The routing table. Its mappings are live: they change with the cluster."""

    revision: int
    """Grows with each change; 0: nothing known yet."""
    nodes: Mapping[str, NodeRoute]
    topics: Mapping[str, TopicRoute]
    master_address: str
    """``host:port`` of the leading master; empty when none leads."""


CreateMissing = Callable[[str], Awaitable[None]]


def topic_route(routing: broker_pb2.TopicRouting) -> TopicRoute:
    """A topic as the wire has it."""
    return TopicRoute(
        config=topic_of_wire(routing.topic),
        topic_id=routing.topic.topic_id,
        owners=tuple(
            OwnerRoute(one.node_id, one.epoch, HashRange(one.hash_first, one.hash_last + 1))
            for one in routing.owners
        ),
        subscriptions={one.name: subscription_of_wire(one) for one in routing.subscriptions},
    )


def node_route(node: broker_pb2.NodeInfo) -> NodeRoute:
    """A node as the wire has it."""
    return NodeRoute(node.node_id, node.address, node.rack, node.state, node.partitions)


class Routing:
    """The table and the task that follows it."""

    def __init__(
        self,
        addresses: Sequence[str],
        connections: Connections,
        options: EngineOptions,
        *,
        clock: Clock,
        random: Random,
    ) -> None:
        if not addresses:
            raise InvalidArgumentError("at least one address is needed", field="addresses")
        self._seeds = tuple(dict.fromkeys(check_address(one) for one in addresses))
        self._connections = connections
        self._options = options
        self._clock = clock
        self._random = random
        self._nodes: dict[str, NodeRoute] = {}
        self._topics: dict[str, TopicRoute] = {}
        self.snapshot = RoutingSnapshot(0, self._nodes, self._topics, "")
        self.create_missing: CreateMissing | None = None
        """Set in development: makes a topic that does not exist."""
        self.on_change: list[Callable[[], None]] = []
        """Called after each update."""
        self.created: set[str] = set()
        """Topics that ``create_missing`` made; bounded by what is published to."""
        self._connected = ""
        self._at_master = False
        self._failures: dict[str, str] = {}
        self._fatal: MomError | None = None
        self._unreachable_until: dict[str, int] = {}
        self._gateway = next((one for one in self._seeds if is_gateway(one)), "")
        self._reached: set[str] = set()
        self._reaching: asyncio.Task[None] | None = None
        self._complaint_ms: int | None = None
        self._changed: asyncio.Future[None] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._stream: asyncio.Task[None] | None = None
        self._lookups: dict[str, asyncio.Task[TopicRoute]] = {}
        self._closed = False

    # Life.

    def start(self) -> None:
        """Begin to follow the table."""
        self._watch = asyncio.get_running_loop().create_task(self._follow())
        if self._gateway and self._options.direct:
            self._reaching = asyncio.get_running_loop().create_task(self._keep_reaching())

    async def close(self) -> None:
        """Stop following; those who wait get UnavailableError."""
        self._closed = True
        tasks = [
            one for one in (self._watch, self._reaching, *self._lookups.values()) if one is not None
        ]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._notify()

    def owns(self, task: asyncio.Task[Any]) -> bool:
        """Whether a task only follows the table."""
        return task in (self._watch, self._stream, self._reaching)

    # Reading the table.

    async def ready(self) -> RoutingSnapshot:
        """The table, waiting for the first one. UnavailableError names what was tried."""
        deadline_ms = self._clock.monotonic_ms() + self._options.connect_timeout_ms
        while self.snapshot.revision == 0:
            if self._fatal is not None:
                raise self._fatal
            left_ms = deadline_ms - self._clock.monotonic_ms()
            if left_ms <= 0 or self._closed:
                raise self.unavailable("no server answers")
            await self.changed(left_ms)
        return self.snapshot

    async def topic(self, name: str) -> TopicRoute:
        """A topic, looked up once at a server when the table does not have it.

        Raises NotFoundError, or UnavailableError when no server answers.
        """
        found = self._topics.get(name)
        if found is not None:
            return found
        check_name(name, "topic")
        await self.ready()
        found = self._topics.get(name)
        if found is not None:
            return found
        lookup = self._lookups.get(name)
        if lookup is None:
            lookup = asyncio.get_running_loop().create_task(self._look_up(name))
            self._lookups[name] = lookup
            lookup.add_done_callback(lambda done: self._looked_up(name, done))
        return await asyncio.shield(lookup)

    def _looked_up(self, name: str, done: asyncio.Task[TopicRoute]) -> None:
        self._lookups.pop(name, None)
        if not done.cancelled():
            done.exception()  # Those who waited may all be gone by now.

    async def _look_up(self, name: str) -> TopicRoute:
        await self._refresh_topic(name)
        if name not in self._topics and self.create_missing is not None:
            await self.create_missing(name)
            self.created.add(name)
            _log.warning("%r did not exist: created it, since auto_create is on", name)
            await self.appeared(name)
        try:
            return self._topics[name]
        except KeyError:
            raise NotFoundError(
                f"there is no topic or queue {name!r}; create it first", field="topic"
            ) from None

    async def _refresh_topic(self, name: str) -> None:
        """Ask one server anew, since the stream may not have brought a new topic yet."""
        request = broker_pb2.WatchRoutingRequest(topics=[name]).SerializeToString()
        error: MomError | None = None
        for address in self.candidates():
            try:
                async with asyncio.timeout(self._options.connect_timeout_ms / 1000):
                    async with contextlib.aclosing(
                        self._connections.stream(address, _WATCH, request)
                    ) as replies:
                        async for reply in replies:
                            update = broker_pb2.RoutingUpdate.FromString(reply)
                            self._merge_topics(update)
                            self._notify()
                            return
            except TimeoutError:
                self._failures[address] = "no answer in time"
            except MomError as failure:
                self._failures[address] = failure.message
                error = failure
        if error is not None and not error.retriable:
            raise error
        raise self.unavailable(f"the topic {name!r} could not be looked up")

    async def appeared(self, name: str) -> None:
        """Wait until a topic that was just made is in the table with all its owners.

        Raises UnavailableError when it is not there at all after APPEAR_MS_MAX.
        """

        def owned() -> bool:
            found = self._topics.get(name)
            return found is not None and all(owner.node_id for owner in found.owners)

        if not await self.until(owned, APPEAR_MS_MAX) and name not in self._topics:
            raise UnavailableError(
                f"{name!r} was created, but the nodes do not know it after {APPEAR_MS_MAX} ms"
            )

    def forget(self, name: str, unless_topic_id: str) -> None:
        """Drop a topic that was just deleted or replaced, ahead of the stream's news."""
        found = self._topics.get(name)
        if found is not None and found.config.topic_id != unless_topic_id:
            del self._topics[name]
            self._notify()

    def address(self, partition_owner: OwnerRoute) -> str:
        """Where to send a call for an owner; empty when it has no address now."""
        node = self._nodes.get(partition_owner.node_id)
        if node is None:
            return ""
        until = self._unreachable_until.get(node.address)
        if until is not None and not self._gateway:
            if self._clock.monotonic_ms() < until:
                return self.any_node() or node.address
            del self._unreachable_until[node.address]
        return self.reach(node.address)

    def reach(self, address: str) -> str:
        """How a process is reached from here: as it is, or by way of the gateway."""
        if not self._gateway or not address or address in self._reached:
            return address
        return through(self._gateway, address)

    def leader(self) -> str:
        """Where the leading master is reached. Raises UnavailableError while none leads."""
        if not self.snapshot.master_address:
            raise UnavailableError(
                "no master leads now, so nothing can be administered; sends and receives go on. "
                "Check that a mom-master runs"
            )
        return self.reach(self.snapshot.master_address)

    def any_node(self) -> str:
        """A node that passes calls on: the one behind the stream, else any; empty without one."""
        if self._connected and not self._at_master:
            return self._connected
        live = [node.address for node in self._nodes.values() if node.state != "lost"]
        return next((one for one in live if one not in self._unreachable_until), "")

    def mark_unreachable(self, address: str) -> None:
        """Note that no call gets through to an address."""
        self._unreachable_until[address] = self._clock.monotonic_ms() + UNREACHABLE_MS
        self._reached.discard(address)

    async def _keep_reaching(self) -> None:
        """Find out which nodes and masters can be reached from here, and ask again now and then."""
        not_before_ms: dict[str, int] = {}
        while True:
            known = {node.address for node in self._nodes.values() if node.state != "lost"}
            known = (known | {self.snapshot.master_address}) - {""}
            self._reached &= known
            now_ms = self._clock.monotonic_ms()
            due = [
                one for one in known - self._reached if not_before_ms.get(one, now_ms) <= now_ms
            ][:REACH_AT_ONCE_MAX]
            if not due:
                await self.changed(REACH_AGAIN_MS)
                continue
            answers = await asyncio.gather(
                *(self._connections.serves(one, REACH_TIMEOUT_MS) for one in due)
            )
            for one, reached in zip(due, answers, strict=True):
                not_before_ms[one] = now_ms + REACH_AGAIN_MS
                if reached:
                    self._reached.add(one)
            not_before_ms = {one: at for one, at in not_before_ms.items() if one in known}

    # Waiting for news.

    async def changed(self, timeout_ms: int) -> None:
        """Wait for the next update of the table, at most ``timeout_ms``."""
        if self._closed:
            raise UnavailableError("the client was closed")
        if self._changed is None:
            self._changed = asyncio.get_running_loop().create_future()
        await asyncio.wait((self._changed,), timeout=timeout_ms / 1000)

    async def refreshed(self, revision: int, wait_ms: int) -> None:
        """After a wrong turn taken with the table of ``revision``: wait for a newer one.

        Returns after ``wait_ms`` also without one.
        """
        if self.snapshot.revision > revision:
            return
        self.complain(revision)
        await self.changed(wait_ms)

    def complain(self, revision: int) -> None:
        """Note a wrong turn. Complaints without news make the watch go on to another process."""
        if self.snapshot.revision > revision:
            return
        now_ms = self._clock.monotonic_ms()
        if self._complaint_ms is None:
            self._complaint_ms = now_ms
        elif now_ms - self._complaint_ms > SUSPECT_MS:
            self._complaint_ms = None
            if self._stream is not None:
                self._stream.cancel()

    async def until(self, holds: Callable[[], bool], timeout_ms: int) -> bool:
        """Wait until the table shows something, at most ``timeout_ms``; whether it does."""
        deadline_ms = self._clock.monotonic_ms() + timeout_ms
        while not holds():
            left_ms = deadline_ms - self._clock.monotonic_ms()
            if left_ms <= 0:
                return False
            await self.changed(left_ms)
        return True

    def unavailable(self, what: str) -> UnavailableError:
        """An error that names every address tried and what came of it."""
        tried = [
            f"{address} ({_short(self._failures.get(address, 'no answer yet'))})"
            for address in self.candidates()
        ]
        more = len(tried) - _TRIED_SHOWN_MAX
        shown = ", ".join(tried[:_TRIED_SHOWN_MAX]) + (f" and {more} more" if more > 0 else "")
        return UnavailableError(
            f"{what}; tried {shown}. Check that MOM runs and that the address is right",
            details={"addresses": ",".join(self.candidates())},
        )

    # Following.

    def candidates(self) -> list[str]:
        """All addresses that may serve the table: first the one that does, last those that failed.

        A node that went silent takes a while to fail, and an old table has it as one that is up.
        """
        live = [node.address for node in self._nodes.values() if node.state != "lost"]
        if self._gateway:  # It finds the others by itself.
            live = [address for address in live if address in self._reached]
        known = [self._connected, *live, *self._seeds, self.reach(self.snapshot.master_address)]
        found = [address for address in dict.fromkeys(known) if address]
        return sorted(found, key=self._failures.__contains__)

    async def _follow(self) -> None:
        backoff = Backoff(self._random)
        loop = asyncio.get_running_loop()
        while not self._closed:
            for address in self.candidates():
                self._stream = loop.create_task(self._follow_at(address, backoff))
                try:
                    await asyncio.wait((self._stream,))
                finally:
                    self._stream.cancel()
                if not self._stream.cancelled() and self._stream.exception() is not None:
                    _log.error(
                        "no routing table from %s", address, exc_info=self._stream.exception()
                    )
                self._stream = None
                if self._connected == address:
                    self._connected = ""
                    break  # The candidates have changed since.
            await self._clock.sleep(backoff.next_ms())

    async def _follow_at(self, address: str, backoff: Backoff) -> None:
        request = broker_pb2.WatchRoutingRequest().SerializeToString()
        try:
            replies = self._connections.stream(address, _WATCH, request)
            async with contextlib.aclosing(replies):
                first = asyncio.timeout(self._options.connect_timeout_ms / 1000)
                async with first:
                    async for reply in replies:
                        first.reschedule(None)
                        backoff.reset()
                        self._connected = address
                        self._failures.pop(address, None)
                        self._fatal = None
                        self._apply(broker_pb2.RoutingUpdate.FromString(reply))
            self._failures[address] = "the server ended the stream"
        except TimeoutError:
            self._failures[address] = "no answer in time"
        except MomError as error:
            self._failures[address] = error.message
            if error.code in (ErrorCode.UNAUTHENTICATED, ErrorCode.FORBIDDEN):
                self._fatal = error
                self._notify()

    def _apply(self, update: broker_pb2.RoutingUpdate) -> None:
        self._at_master = update.from_master
        if update.full:
            self._topics.clear()
        if update.full or update.nodes_changed:
            self._nodes.clear()
            self._nodes.update((one.node_id, node_route(one)) for one in update.nodes)
            self._connections.keep_only(self._of_use(update.master_address))
            self._unreachable_until.clear()
        for name in update.removed:
            self._topics.pop(name, None)
        self._merge_topics(update)
        # A revision of another store (it was emptied) may be lower; callers only compare for news.
        revision = max(update.revision, self.snapshot.revision + 1)
        self.snapshot = RoutingSnapshot(revision, self._nodes, self._topics, update.master_address)
        self._complaint_ms = None
        self._notify()

    def _of_use(self, master_address: str) -> set[str]:
        """The addresses that connections are kept to.

        Calls to a node that was found lost end now, so that they go to the next owner: it may be
        silent, and they would wait for their timeout.
        """
        lost = {node.address for node in self._nodes.values() if node.state == "lost"}
        live = {node.address for node in self._nodes.values()} - lost
        return {self._connected, master_address, *live, *self._seeds} - (lost - {self._connected})

    def _merge_topics(self, update: broker_pb2.RoutingUpdate) -> None:
        for one in update.topics:
            self._topics[one.topic.name] = topic_route(one)

    def _notify(self) -> None:
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)
        self._changed = None
        for listener in self.on_change:
            listener()


def _short(reason: str) -> str:
    """gRPC's reasons are long; the last part is the cause."""
    for marker in ("last error: ", "Failed to connect to remote host: "):
        reason = reason.rpartition(marker)[2]
    return reason if len(reason) <= 160 else f"{reason[:157]}..."
