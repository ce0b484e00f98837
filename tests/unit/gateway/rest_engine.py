"""An engine in memory with the client engine's signatures, for tests of the gateway alone."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from mom_client.options import EngineOptions
from mom_client.results import (
    Fetched,
    FetchedBatch,
    Identity,
    Published,
    PublishedBatch,
    TopicPage,
)
from mom_client.routing import OwnerRoute, RoutingSnapshot, TopicRoute
from mom_core.batch import BatchBuilder, cut, parse_header
from mom_core.errors import (
    ConflictError,
    ErrorCode,
    InvalidArgumentError,
    MomError,
    NotFoundError,
    OffsetError,
    UnauthenticatedError,
)
from mom_core.message import Message, check_message
from mom_core.partitioner import hash_range
from mom_core.topics import (
    Start,
    StartKind,
    TopicConfig,
    TopicKind,
    new_topic,
    queue_subscription,
    refuse_differences,
)
from mom_gateway.app import Dispatcher, make_app
from mom_gateway.service import Service
from mom_gateway.settings import GatewaySettings
from mom_process.system import SystemClock
from mom_proto.v1 import broker_pb2, types_pb2

TOKEN = "mom_" + "0" * 16 + "_" + "1" * 64
LEASE_END_MS = 1_700_000_030_000


class MemoryEngine:
    """Topics as lists of one-message batches. ``failure`` makes every data call fail."""

    def __init__(self) -> None:
        self.options = EngineOptions()
        self.topics: dict[str, TopicRoute] = {}
        self.logs: dict[tuple[str, int], list[bytes]] = {}
        self.leased: dict[tuple[str, int, int], int] = {}
        self.tokens: dict[str, Identity] = {}
        self.settled: list[tuple[int, int]] = []
        self.rescheduled: list[tuple[int, bool, int]] = []
        self.authentications = 0
        self.revision = 1
        self.failure: MomError | None = None
        self.arrived = asyncio.Event()
        self.waiting = asyncio.Event()
        self.cancelled = asyncio.Event()

    def add(self, name: str, kind: TopicKind = TopicKind.TOPIC, **wanted: Any) -> TopicConfig:
        """A topic or queue."""
        topic_id = f"{len(self.topics) + 1:032x}"
        config = new_topic(name, kind, wanted, topic_id=topic_id, created_at_ms=1)
        return self._put(config)

    def _put(self, config: TopicConfig) -> TopicConfig:
        count = config.partitions
        owners = tuple(OwnerRoute("n1", 1, hash_range(index, count)) for index in range(count))
        subscriptions = {}
        if config.kind is TopicKind.QUEUE:
            subscriptions[config.name] = queue_subscription(config, bytes(32))
        self.topics[config.name] = TopicRoute(
            config, bytes.fromhex(config.topic_id), owners, subscriptions
        )
        for index in range(count):
            self.logs.setdefault((config.name, index), [])
        return config

    def routing(self) -> RoutingSnapshot:
        return RoutingSnapshot(self.revision, {}, self.topics, "")

    async def topic(self, name: str) -> TopicRoute:
        if name not in self.topics:
            raise NotFoundError(f"no topic or queue {name!r}", field="topic")
        return self.topics[name]

    get_topic = topic

    async def create_topic(
        self, name: str, kind: TopicKind, settings: Mapping[str, object]
    ) -> tuple[TopicConfig, bool]:
        topic_id = f"{len(self.topics) + 1:032x}"
        wanted = new_topic(name, kind, settings, topic_id=topic_id, created_at_ms=1)
        standing = self.topics.get(name)
        if standing is None:
            return self._put(wanted), True
        refuse_differences(standing.config, wanted, settings)
        return standing.config, False

    async def list_topics(
        self, kind: TopicKind | None = None, limit: int = 0, page_token: str = ""
    ) -> TopicPage:
        names = sorted(
            name
            for name, route in self.topics.items()
            if route.config.kind is kind and name > page_token
        )
        page = names[:limit]
        more = page[-1] if len(names) > limit else ""
        return TopicPage([self.topics[name].config for name in page], more)

    async def authenticate(self, token: str) -> Identity:
        self.authentications += 1
        if token not in self.tokens:
            raise UnauthenticatedError("the token is unknown or revoked")
        return self.tokens[token]

    async def publish(
        self, topic: str, message: Message, partition: int | None = None
    ) -> Published:
        result = self._publish(topic, message, partition)
        if isinstance(result, MomError):
            raise result
        return result

    async def publish_many(
        self, topic: str, messages: Sequence[Message], partition: int | None = None
    ) -> list[Published | MomError]:
        return [self._publish(topic, message, partition) for message in messages]

    def _publish(self, topic: str, message: Message, partition: int | None) -> Published | MomError:
        if self.failure is not None:
            return self.failure
        try:
            check_message(message, self.topics[topic].config.message_bytes_max)
        except MomError as error:
            return error
        log = self.logs[topic, partition or 0]
        builder = BatchBuilder()
        builder.add(message, None)
        log.append(builder.build(base_id=bytes(16), timestamp_ms=1))
        self.arrived.set()
        return Published(
            PublishedBatch(partition or 0, len(log) - 1, 1, bytes(16), "fsync", False), 0
        )

    async def fetch(
        self, topic: str, partition: int, start: Start, *, max_bytes: int = 0, wait_ms: int = 0
    ) -> Fetched:
        log = self.logs[topic, partition]
        first = {StartKind.LATEST: len(log), StartKind.OFFSET: start.value}.get(start.kind, 0)
        if first > len(log):
            raise OffsetError(
                f"offset {first} is past the end",
                field="offset",
                details={"high_watermark": str(len(log))},
            )
        if self.failure is not None:
            raise self.failure
        if wait_ms and first == len(log):
            await self._wait(wait_ms)
        batches = [FetchedBatch(at, 1, log[at]) for at in range(first, len(log))]
        return Fetched(batches, first, len(log), len(log), 0)

    async def _wait(self, wait_ms: int) -> None:
        self.arrived.clear()
        self.waiting.set()
        try:
            async with asyncio.timeout(wait_ms / 1000):
                await self.arrived.wait()
        except TimeoutError:
            pass
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def receive(
        self,
        topic: str,
        subscription: str,
        *,
        max_messages: int = 1,
        max_bytes: int = 0,
        wait_ms: int = 0,
        lease_ms: int = 0,
    ) -> list[broker_pb2.LeasedBatch]:
        if self.failure is not None:
            raise self.failure
        log = self.logs[topic, 0]
        free = [at for at in range(len(log)) if (topic, 0, at) not in self.leased]
        if not free and wait_ms:
            await self._wait(wait_ms)
            free = [at for at in range(len(log)) if (topic, 0, at) not in self.leased]
        leased = []
        for at in free[:max_messages]:
            self.leased[topic, 0, at] = 7
            leased.append(
                broker_pb2.LeasedBatch(
                    partition=types_pb2.Partition(topic_id=self.topics[topic].topic_id, index=0),
                    base_offset=at,
                    batch=cut(log[at], 0, parse_header(log[at]).count),
                    lease_id=7,
                    lease_expires_at_ms=LEASE_END_MS,
                    deliveries=1,
                    lease_ms=lease_ms or 30_000,
                )
            )
        return leased

    async def settle(
        self, topic: str, subscription: str, ranges: Sequence[broker_pb2.SettleRange]
    ) -> list[broker_pb2.SettleResult]:
        if self.failure is not None:
            raise self.failure
        return [self._settle(topic, one) for one in ranges]

    def _settle(self, topic: str, one: broker_pb2.SettleRange) -> broker_pb2.SettleResult:
        result = broker_pb2.SettleResult()
        for offset in range(one.first_offset, one.first_offset + one.count):
            if self.leased.get((topic, 0, offset)) != one.lease_id:
                error = types_pb2.Error(
                    code=ErrorCode.LEASE_LOST.value, message="the lease ended before this call"
                )
                result.failures.add(first_offset=offset, count=1, error=error)
                continue
            self.settled.append((one.action, offset))
            if one.action == broker_pb2.SETTLE_ACTION_EXTEND:
                result.lease_expires_at_ms = LEASE_END_MS + one.delay_ms
            elif one.action == broker_pb2.SETTLE_ACTION_ACK:
                self.leased[topic, 0, offset] = 0
            else:
                del self.leased[topic, 0, offset]
        return result

    async def reschedule(
        self, topic: str, subscription: str, items: Sequence[broker_pb2.RescheduleItem]
    ) -> list[MomError | None]:
        found: list[MomError | None] = []
        for one in items:
            if self.leased.get((topic, one.partition, one.offset)):
                found.append(ConflictError("a worker has it under lease now", field="position"))
            else:
                self.rescheduled.append((one.offset, one.cancel, one.deliver_at_ms))
                found.append(None)
        return found

    async def alter_topic(self, name: str, kind: TopicKind | None, patch: bytes) -> TopicConfig:
        raise InvalidArgumentError("not here", field="partitions")


class Rest:
    """A gateway's application over a memory engine, with a client."""

    def __init__(self, **settings: Any) -> None:
        self.engine = MemoryEngine()
        settings.setdefault("auth_disabled", True)
        self.service = Service(GatewaySettings(**settings), self.engine, SystemClock())  # type: ignore[arg-type]
        self.app: Dispatcher = make_app(self.service)
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app), base_url="http://mom"
        )

    async def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        """A request; its answer must be JSON of the right media type, or empty."""
        response = await self.http.request(method, path, **options)
        if response.status_code >= 400 and not response.headers["content-type"].startswith(
            "text/plain"
        ):
            assert response.headers["content-type"] == "application/problem+json"
            assert response.json()["status"] == response.status_code
        return response

    async def ok(self, method: str, path: str, status: int = 200, **options: Any) -> Any:
        """The JSON of a request that succeeds."""
        response = await self.call(method, path, **options)
        assert response.status_code == status, response.text
        return response.json()

    async def problem(self, method: str, path: str, status: int, **options: Any) -> Any:
        """The problem of a request that fails with this status."""
        response = await self.call(method, path, **options)
        assert response.status_code == status, response.text
        return response.json()
