"""The Master service: who may call what, and the wire forms around the work."""

from __future__ import annotations

import asyncio
import base64
import binascii
from bisect import bisect_right
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from typing import Any, Final

import grpc

from mom_broker.master.cluster import Cluster
from mom_broker.master.intents import parse_state
from mom_broker.master.leadership import Leadership
from mom_broker.master.registry import NODES_MAX, Registry, Session
from mom_broker.master.tokens import TokenAdmin
from mom_broker.master.topics import TopicAdmin
from mom_broker.master.totals import Totals
from mom_broker.rpc.auth import Authenticator
from mom_broker.rpc.messages import (
    KINDS,
    MODES,
    node_messages,
    owner_messages,
    subscription_message,
    topic_message,
)
from mom_broker.storage.catalog_view import CatalogView
from mom_core.access import CLUSTER, Action, TokenRecord, allowed, require
from mom_core.errors import InvalidArgumentError
from mom_core.names import check_name
from mom_core.topics import TopicConfig, TopicKind
from mom_proto.v1 import broker_pb2, master_pb2, master_pb2_grpc, types_pb2

Context = grpc.aio.ServicerContext[Any, Any]

LIST_LIMIT_DEFAULT: Final = 100
LIST_LIMIT_MAX: Final = 1_000

_KIND_OF: Final = {message: kind for kind, message in KINDS.items()}
_MODE_OF: Final = {message: mode for mode, message in MODES.items()}
# Settings that travel as optional fields of the same name.
_TOPIC_FIELDS: Final = (
    "partitions",
    "retention_ms",
    "retention_bytes",
    "message_bytes_max",
    "messages_max",
    "retain_until_acked",
    "dedup_window_ms",
)
_SUBSCRIPTION_FIELDS: Final = ("start", "session_ms")


class MasterService(master_pb2_grpc.MasterServicer):
    """Serves what a leader serves; any other master answers not_leader."""

    def __init__(
        self,
        view: CatalogView,
        authenticator: Authenticator,
        leadership: Leadership,
        registry: Registry,
        topics: TopicAdmin,
        tokens: TokenAdmin,
        cluster: Cluster,
        totals: Totals,
    ) -> None:
        self._view = view
        self._authenticator = authenticator
        self._leadership = leadership
        self._registry = registry
        self._topics = topics
        self._tokens = tokens
        self._cluster = cluster
        self._totals = totals

    def _require(self, context: Context, action: Action, resource: str = CLUSTER) -> None:
        """Refuse callers that may not, then any call when another master leads."""
        require(self._authenticator.identity_of(context), action, resource)
        self._leadership.require()

    # Nodes.

    async def RegisterNode(
        self, request_iterator: AsyncIterator[master_pb2.NodeBeat], context: Context
    ) -> AsyncIterator[master_pb2.MasterBeat]:
        """A node's stream: its heartbeats in, what is placed on it out."""
        self._require(context, Action.ADMIN)
        beats = aiter(request_iterator)
        try:
            first = await anext(beats)
        except StopAsyncIteration:
            return
        # The term may have ended meanwhile, and nobody would end a session that joins after it.
        self._leadership.require()
        session = await self._registry.join(first)
        reader = asyncio.create_task(self._read(beats, session), name="heartbeats")
        try:
            while not reader.done():
                # Before the wait, too: it may have been ended while it was written down.
                if session.error is not None:
                    raise session.error
                session.wake.clear()
                yield self._registry.reply(session)
                await _first(session.wake.wait(), reader)
            if session.error is not None:
                raise session.error
            reader.result()
        finally:
            self._registry.gone(session)
            reader.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await reader

    async def _read(self, beats: AsyncIterator[master_pb2.NodeBeat], session: Session) -> None:
        async for beat in beats:
            await self._registry.beat(session, beat)

    async def ListNodes(
        self, request: master_pb2.ListNodesRequest, context: Context
    ) -> master_pb2.ListNodesResponse:
        self._require(context, Action.DESCRIBE)
        nodes = node_messages(self._view.nodes, self._registry.placed())
        return master_pb2.ListNodesResponse(nodes=nodes)

    async def SetNodeState(
        self, request: master_pb2.SetNodeStateRequest, context: Context
    ) -> master_pb2.SetNodeStateResponse:
        self._require(context, Action.ADMIN)
        state = parse_state(request.state)
        record = await self._registry.set_state(request.node_id, state, _program(request.by))
        shown = node_messages({record.node_id: record}, self._registry.placed())
        return master_pb2.SetNodeStateResponse(node=shown[0])

    async def ExpectNodes(
        self, request: master_pb2.ExpectNodesRequest, context: Context
    ) -> master_pb2.ExpectNodesResponse:
        self._require(context, Action.ADMIN)
        if len(request.nodes) > NODES_MAX:
            raise InvalidArgumentError(
                f"{len(request.nodes)} nodes are expected; {NODES_MAX} are supported", field="nodes"
            )
        for node in request.nodes:
            check_name(node.node_id, "node_id")
        missing = await self._registry.expect({one.node_id: one.rack for one in request.nodes})
        return master_pb2.ExpectNodesResponse(missing=missing)

    async def CountMessages(
        self, request: broker_pb2.CountMessagesRequest, context: Context
    ) -> broker_pb2.CountMessagesResponse:
        self._require(context, Action.ADMIN)
        return await self._totals.count()

    async def GetCluster(
        self, request: master_pb2.GetClusterRequest, context: Context
    ) -> master_pb2.GetClusterResponse:
        self._require(context, Action.DESCRIBE)
        return await self._cluster.describe()

    # Topics and queues.

    async def CreateTopic(
        self, request: master_pb2.CreateTopicRequest, context: Context
    ) -> master_pb2.CreateTopicResponse:
        wanted = request.topic
        self._require(context, Action.ADMIN, wanted.name)
        kind = _kind(wanted.kind) or TopicKind.TOPIC
        settings = _named(wanted, _TOPIC_FIELDS)
        config, created = await self._topics.create(wanted.name, kind, settings)
        return master_pb2.CreateTopicResponse(topic=topic_message(config), created=created)

    async def GetTopic(
        self, request: master_pb2.GetTopicRequest, context: Context
    ) -> master_pb2.GetTopicResponse:
        self._require(context, Action.DESCRIBE, request.name)
        config = self._topics.get(request.name)
        found = self._view.assignments.get(config.topic_id)
        subscriptions = self._view.subscriptions.get(config.topic_id, {})
        return master_pb2.GetTopicResponse(
            topic=topic_message(config),
            owners=owner_messages(config, found.assignment if found is not None else None),
            subscriptions=[subscription_message(one) for _, one in sorted(subscriptions.items())],
        )

    async def ListTopics(
        self, request: master_pb2.ListTopicsRequest, context: Context
    ) -> master_pb2.ListTopicsResponse:
        identity = self._authenticator.identity_of(context)
        self._leadership.require()
        limit = _limit(request.limit)
        kind = _kind(request.kind)
        names = sorted(
            name
            for name, config in self._view.topics.items()
            if (kind is None or config.kind is kind) and allowed(identity, Action.DESCRIBE, name)
        )
        start = bisect_right(names, _decode_page(request.page_token)) if request.page_token else 0
        page = names[start : start + limit]
        more = start + limit < len(names)
        topics = [self._view.topics[name] for name in page]
        return master_pb2.ListTopicsResponse(
            topics=[topic_message(topic) for topic in topics],
            next_page_token=_encode_page(page[-1]) if more else "",
            subscriptions=self._subscriptions(topics) if request.with_subscriptions else (),
        )

    def _subscriptions(self, topics: list[TopicConfig]) -> list[types_pb2.Subscription]:
        return [
            subscription_message(one)
            for topic in topics
            for _, one in sorted(self._view.subscriptions.get(topic.topic_id, {}).items())
        ]

    async def AlterTopic(
        self, request: master_pb2.AlterTopicRequest, context: Context
    ) -> master_pb2.AlterTopicResponse:
        self._require(context, Action.ADMIN, request.name)
        config = await self._topics.alter(request.name, _kind(request.kind), request.merge_patch)
        return master_pb2.AlterTopicResponse(topic=topic_message(config))

    async def DeleteTopic(
        self, request: master_pb2.DeleteTopicRequest, context: Context
    ) -> master_pb2.DeleteTopicResponse:
        self._require(context, Action.ADMIN, request.name)
        await self._topics.delete(request.name, _kind(request.kind))
        return master_pb2.DeleteTopicResponse()

    # Subscriptions.

    async def CreateSubscription(
        self, request: master_pb2.CreateSubscriptionRequest, context: Context
    ) -> master_pb2.CreateSubscriptionResponse:
        wanted = request.subscription
        self._require(context, Action.ADMIN, wanted.topic)
        settings = _named(wanted, _SUBSCRIPTION_FIELDS)
        if wanted.mode:
            mode = _MODE_OF.get(wanted.mode)
            if mode is None:
                raise InvalidArgumentError(
                    f"mode is {wanted.mode}; stream or queue is allowed", field="mode"
                )
            settings["mode"] = mode.value
        config, created = await self._topics.create_subscription(
            wanted.topic, wanted.name, settings
        )
        return master_pb2.CreateSubscriptionResponse(
            subscription=subscription_message(config), created=created
        )

    async def AlterSubscription(
        self, request: master_pb2.AlterSubscriptionRequest, context: Context
    ) -> master_pb2.AlterSubscriptionResponse:
        self._require(context, Action.ADMIN, request.topic)
        config = await self._topics.alter_subscription(
            request.topic, request.name, request.merge_patch
        )
        return master_pb2.AlterSubscriptionResponse(subscription=subscription_message(config))

    async def DeleteSubscription(
        self, request: master_pb2.DeleteSubscriptionRequest, context: Context
    ) -> master_pb2.DeleteSubscriptionResponse:
        self._require(context, Action.ADMIN, request.topic)
        await self._topics.delete_subscription(request.topic, request.name)
        return master_pb2.DeleteSubscriptionResponse()

    # Tokens.

    async def CreateToken(
        self, request: master_pb2.CreateTokenRequest, context: Context
    ) -> master_pb2.CreateTokenResponse:
        self._require(context, Action.ADMIN)
        text, record = await self._tokens.create(
            request.name, list(request.scopes), request.lifetime_ms
        )
        return master_pb2.CreateTokenResponse(token=_token_message(record), secret=text)

    async def ListTokens(
        self, request: master_pb2.ListTokensRequest, context: Context
    ) -> master_pb2.ListTokensResponse:
        self._require(context, Action.ADMIN)
        records = await self._tokens.list()
        return master_pb2.ListTokensResponse(tokens=[_token_message(one) for one in records])

    async def RevokeToken(
        self, request: master_pb2.RevokeTokenRequest, context: Context
    ) -> master_pb2.RevokeTokenResponse:
        self._require(context, Action.ADMIN)
        await self._tokens.revoke(request.token_id)
        return master_pb2.RevokeTokenResponse()


async def _first(wait: Any, reader: asyncio.Task[None]) -> None:
    """Wait for a wake-up or the reader's end."""
    waiting = asyncio.ensure_future(wait)
    try:
        await asyncio.wait({waiting, reader}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()


def _program(name: str) -> str:
    """The name of a program that changes a node's state. Raises InvalidArgumentError."""
    return check_name(name, "by") if name else ""


def _kind(message: types_pb2.TopicKind.ValueType) -> TopicKind | None:
    if not message:
        return None
    kind = _KIND_OF.get(message)
    if kind is None:
        raise InvalidArgumentError(f"kind is {message}; topic or queue is allowed", field="kind")
    return kind


def _named(
    wanted: types_pb2.Topic | types_pb2.Subscription, fields: Iterable[str]
) -> dict[str, object]:
    """The settings that a caller gave."""
    settings: dict[str, object] = {
        field: getattr(wanted, field)
        for field in fields
        if wanted.HasField(field)  # type: ignore[arg-type]
    }
    return settings | {field.name: value for field, value in wanted.queue.ListFields()}


def _limit(limit: int) -> int:
    if limit > LIST_LIMIT_MAX:
        raise InvalidArgumentError(
            f"limit is {limit}; 1 to {LIST_LIMIT_MAX} is allowed", field="limit"
        )
    return limit or LIST_LIMIT_DEFAULT


def _encode_page(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode()).decode().rstrip("=")


def _decode_page(token: str) -> str:
    try:
        return base64.b64decode(
            token + "=" * (-len(token) % 4), altchars=b"-_", validate=True
        ).decode()
    except (binascii.Error, ValueError):
        raise InvalidArgumentError(
            "page_token is none that a list call answered; leave it out to begin anew",
            field="page_token",
        ) from None


def _token_message(record: TokenRecord) -> master_pb2.Token:
    return master_pb2.Token(
        token_id=record.token_id,
        name=record.name,
        scopes=record.scopes,
        created_at_ms=record.created_at_ms,
        expires_at_ms=record.expires_at_ms or 0,
    )
