"""Administration at the leading master.

After a change, each call waits (bounded) until this client's own routing table shows it, so that
what was just made can be used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mom_client.calls import Caller
from mom_client.results import Identity, TopicPage
from mom_client.routing import APPEAR_MS_MAX, TopicRoute, topic_route
from mom_client.translation import (
    KINDS_ON_WIRE,
    new_subscription_to_wire,
    new_topic_to_wire,
    subscription_of_wire,
    topic_of_wire,
)
from mom_core.errors import ErrorCode, MomError
from mom_core.names import check_name
from mom_core.topics import SubscriptionConfig, TopicConfig, TopicKind
from mom_proto.v1 import broker_pb2, master_pb2, types_pb2


class Admin:
    """Calls to the master."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._routing = caller.routing

    async def create_missing(self, name: str) -> None:
        """Create a topic with the defaults, in development."""
        await self.create_topic(name, TopicKind.TOPIC, {})

    # Topics and queues.

    async def create_topic(
        self, name: str, kind: TopicKind, settings: Mapping[str, object]
    ) -> tuple[TopicConfig, bool]:
        """See :meth:`mom_client.engine.Engine.create_topic`."""
        wanted = new_topic_to_wire(name, kind, settings)
        request = master_pb2.CreateTopicRequest(topic=wanted)
        reply = await self._caller.at_master("CreateTopic", request.SerializeToString())
        response = master_pb2.CreateTopicResponse.FromString(reply)
        made = topic_of_wire(response.topic)
        found = self._routing.snapshot.topics.get(made.name)
        if found is None or found.config.topic_id != made.topic_id:
            self._routing.forget(made.name, made.topic_id)
            await self._routing.appeared(made.name)
        return made, response.created

    async def get_topic(self, name: str) -> TopicRoute:
        """See :meth:`mom_client.engine.Engine.get_topic`."""
        check_name(name)
        request = master_pb2.GetTopicRequest(name=name)
        reply = await self._caller.at_master("GetTopic", request.SerializeToString())
        response = master_pb2.GetTopicResponse.FromString(reply)
        return topic_route(
            broker_pb2.TopicRouting(
                topic=response.topic,
                owners=response.owners,
                subscriptions=response.subscriptions,
            )
        )

    async def list_topics(self, kind: TopicKind | None, limit: int, page_token: str) -> TopicPage:
        """See :meth:`mom_client.engine.Engine.list_topics`."""
        request = master_pb2.ListTopicsRequest(kind=_kind(kind), limit=limit, page_token=page_token)
        reply = await self._caller.at_master("ListTopics", request.SerializeToString())
        response = master_pb2.ListTopicsResponse.FromString(reply)
        return TopicPage([topic_of_wire(one) for one in response.topics], response.next_page_token)

    async def alter_topic(self, name: str, kind: TopicKind | None, patch: bytes) -> TopicConfig:
        """See :meth:`mom_client.engine.Engine.alter_topic`."""
        check_name(name)
        request = master_pb2.AlterTopicRequest(name=name, kind=_kind(kind), merge_patch=patch)
        reply = await self._caller.at_master("AlterTopic", request.SerializeToString())
        altered = topic_of_wire(master_pb2.AlterTopicResponse.FromString(reply).topic)

        def shown() -> bool:
            found = self._routing.snapshot.topics.get(name)
            return found is not None and found.config == altered

        await self._routing.until(shown, APPEAR_MS_MAX)
        return altered

    async def delete_topic(self, name: str, kind: TopicKind | None) -> None:
        """See :meth:`mom_client.engine.Engine.delete_topic`."""
        check_name(name)
        before = self._routing.snapshot.topics.get(name)
        request = master_pb2.DeleteTopicRequest(name=name, kind=_kind(kind))
        await self._caller.at_master(
            "DeleteTopic", request.SerializeToString(), on_repeat=_was_not_found
        )
        if before is not None:
            self._routing.forget(name, "")

    # Subscriptions.

    async def create_subscription(
        self, topic: str, name: str, settings: Mapping[str, object]
    ) -> tuple[SubscriptionConfig, bool]:
        """See :meth:`mom_client.engine.Engine.create_subscription`."""
        wanted = new_subscription_to_wire(topic, name, settings)
        request = master_pb2.CreateSubscriptionRequest(subscription=wanted)
        reply = await self._caller.at_master("CreateSubscription", request.SerializeToString())
        response = master_pb2.CreateSubscriptionResponse.FromString(reply)
        made = subscription_of_wire(response.subscription)

        def shown() -> bool:
            found = self._routing.snapshot.topics.get(topic)
            return found is not None and name in found.subscriptions

        await self._routing.until(shown, APPEAR_MS_MAX)
        return made, response.created

    async def alter_subscription(self, topic: str, name: str, patch: bytes) -> SubscriptionConfig:
        """See :meth:`mom_client.engine.Engine.alter_subscription`."""
        check_name(topic, "topic")
        check_name(name)
        request = master_pb2.AlterSubscriptionRequest(topic=topic, name=name, merge_patch=patch)
        reply = await self._caller.at_master("AlterSubscription", request.SerializeToString())
        altered = subscription_of_wire(
            master_pb2.AlterSubscriptionResponse.FromString(reply).subscription
        )

        def shown() -> bool:
            found = self._routing.snapshot.topics.get(topic)
            return found is not None and found.subscriptions.get(name) == altered

        await self._routing.until(shown, APPEAR_MS_MAX)
        return altered

    async def delete_subscription(self, topic: str, name: str) -> None:
        """See :meth:`mom_client.engine.Engine.delete_subscription`."""
        check_name(topic, "topic")
        check_name(name)
        request = master_pb2.DeleteSubscriptionRequest(topic=topic, name=name)
        await self._caller.at_master(
            "DeleteSubscription", request.SerializeToString(), on_repeat=_was_not_found
        )

        def gone() -> bool:
            found = self._routing.snapshot.topics.get(topic)
            return found is None or name not in found.subscriptions

        await self._routing.until(gone, APPEAR_MS_MAX)

    # Access.

    async def create_token(
        self, name: str, scopes: Sequence[str], lifetime_ms: int
    ) -> tuple[master_pb2.Token, str]:
        """See :meth:`mom_client.engine.Engine.create_token`."""
        request = master_pb2.CreateTokenRequest(name=name, scopes=scopes, lifetime_ms=lifetime_ms)
        reply = await self._caller.at_master(
            "CreateToken", request.SerializeToString(), repeatable=False
        )
        response = master_pb2.CreateTokenResponse.FromString(reply)
        return response.token, response.secret

    async def list_tokens(self) -> list[master_pb2.Token]:
        """See :meth:`mom_client.engine.Engine.list_tokens`."""
        reply = await self._caller.at_master("ListTokens", b"")
        return list(master_pb2.ListTokensResponse.FromString(reply).tokens)

    async def revoke_token(self, token_id: str) -> None:
        """See :meth:`mom_client.engine.Engine.revoke_token`."""
        request = master_pb2.RevokeTokenRequest(token_id=token_id)
        await self._caller.at_master(
            "RevokeToken", request.SerializeToString(), on_repeat=_was_not_found
        )

    async def authenticate(self, token: str) -> Identity:
        """See :meth:`mom_client.engine.Engine.authenticate`."""
        request = broker_pb2.AuthenticateRequest(token=token).SerializeToString()
        reply = await self._caller.at_any("Authenticate", request)
        response = broker_pb2.AuthenticateResponse.FromString(reply)
        return Identity(response.name, tuple(response.scopes), response.cache_ms)

    # The cluster.

    async def cluster(self) -> master_pb2.GetClusterResponse:
        """See :meth:`mom_client.engine.Engine.cluster`."""
        reply = await self._caller.at_master("GetCluster", b"")
        return master_pb2.GetClusterResponse.FromString(reply)

    async def nodes(self) -> list[broker_pb2.NodeInfo]:
        """See :meth:`mom_client.engine.Engine.nodes`."""
        reply = await self._caller.at_master("ListNodes", b"")
        return list(master_pb2.ListNodesResponse.FromString(reply).nodes)

    async def set_node_state(self, node_id: str, state: str) -> broker_pb2.NodeInfo:
        """See :meth:`mom_client.engine.Engine.set_node_state`."""
        request = master_pb2.SetNodeStateRequest(node_id=node_id, state=state)
        reply = await self._caller.at_master("SetNodeState", request.SerializeToString())
        return master_pb2.SetNodeStateResponse.FromString(reply).node


def _kind(kind: TopicKind | None) -> types_pb2.TopicKind.ValueType:
    return types_pb2.TOPIC_KIND_UNSPECIFIED if kind is None else KINDS_ON_WIRE[kind]


def _was_not_found(error: MomError) -> bool:
    """A deletion that was sent twice and found nothing has been done by the first."""
    return error.code is ErrorCode.NOT_FOUND
