"""Administration of one cluster's MOM: calls to its leading master, with the cluster's own token.

The master's Service leads to any master, and one that does not lead names the one that does. This
speaks to masters only, over the client's connections but without its routing table, which needs a
node and, with a thousand topics, memory for each cluster.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import aiohttp
import msgspec

from mom_client.connections import Connections
from mom_client.translation import (
    KINDS_ON_WIRE,
    new_subscription_to_wire,
    new_topic_to_wire,
    subscription_of_wire,
    topic_of_wire,
)
from mom_core.errors import ErrorCode, MomError, NotFoundError, UnavailableError
from mom_core.ports import Clock
from mom_core.topics import SubscriptionConfig, TopicConfig, TopicKind
from mom_operator.observed import Mom, MomNode
from mom_operator.topics import Backlog, Counts, Standing
from mom_proto.v1 import broker_pb2, master_pb2, types_pb2

# One call, with all its redirections. A leader that died is replaced within three seconds.
CALL_MS_MAX: Final = 5_000
# A cluster's turn waits for this one, and so does the status that has to tell why nobody answers.
GLANCE_MS_MAX: Final = 2_000
RETRY_MS: Final = 200
# A page that a process without a store serves at once; a network policy may drop the request.
READY_PAGE_S_MAX: Final = 1.0
READY_PAGE_LENGTH_MAX: Final = 400
# Topics in one page of a listing: the most that a master gives.
PAGE_TOPICS: Final = 1_000
# The operator's name in what it asks of masters.
BY: Final = "operator"
ADMIN_TOKEN_NAME: Final = "operator-admin"

_DURABILITIES: Final = {
    types_pb2.DURABILITY_MEMORY: "memory",
    types_pb2.DURABILITY_OS: "os",
    types_pb2.DURABILITY_FSYNC: "fsync",
    types_pb2.DURABILITY_REPLICATED: "replicated",
    types_pb2.DURABILITY_PROVIDER: "provider",
}


class Admin:
    """Calls to the masters at ``address``, the Service's."""

    def __init__(self, address: str, token: str, clock: Clock) -> None:
        self.address = address
        self.token = token
        self._clock = clock
        self._connections = Connections(token)
        self._leader = address

    async def close(self) -> None:
        """Close the connections."""
        await self._connections.close()

    # Nodes.

    async def mom(self) -> Mom:
        """The cluster at a glance."""
        reply = await self._call("GetCluster", master_pb2.GetClusterRequest(), GLANCE_MS_MAX)
        found = master_pb2.GetClusterResponse.FromString(reply)
        return Mom(
            nodes={one.node_id: _node(one) for one in found.nodes},
            cluster_id=found.cluster_id.hex(),
            version=found.version,
            partitions=found.partitions,
            partitions_without_owner=found.partitions_without_owner,
            durability=_DURABILITIES.get(found.durability, ""),
        )

    async def expect(self, racks: Mapping[str, str]) -> None:
        """Say which nodes there should be, with their racks."""
        nodes = [
            master_pb2.ExpectedNode(node_id=node_id, rack=rack)
            for node_id, rack in sorted(racks.items())
        ]
        await self._call("ExpectNodes", master_pb2.ExpectNodesRequest(nodes=nodes))

    async def set_node_state(self, node_id: str, state: str) -> None:
        """Make a node active or draining. One that is not known needs no state."""
        request = master_pb2.SetNodeStateRequest(node_id=node_id, state=state, by=BY)
        try:
            await self._call("SetNodeState", request)
        except NotFoundError:
            return

    # Topics and queues.

    async def topics(self) -> dict[str, Standing]:
        """All topics and queues with their subscriptions, by name."""
        found: dict[str, Standing] = {}
        token = ""
        while True:
            request = master_pb2.ListTopicsRequest(
                limit=PAGE_TOPICS, page_token=token, with_subscriptions=True
            )
            reply = await self._call("ListTopics", request)
            page = master_pb2.ListTopicsResponse.FromString(reply)
            subscriptions: dict[str, dict[str, SubscriptionConfig]] = {}
            for one in page.subscriptions:
                subscriptions.setdefault(one.topic, {})[one.name] = subscription_of_wire(one)
            for topic in page.topics:
                found[topic.name] = Standing(
                    config=topic_of_wire(topic), subscriptions=subscriptions.get(topic.name, {})
                )
            token = page.next_page_token
            if not token:
                return found

    async def backlogs(self) -> Counts:
        """What waits in the whole cluster. Raises UnavailableError when only a part is known."""
        reply = await self._call("CountMessages", broker_pb2.CountMessagesRequest())
        response = broker_pb2.CountMessagesResponse.FromString(reply)
        if response.nodes_missing:
            missing = ", ".join(response.nodes_missing)
            raise UnavailableError(f"nodes do not tell what waits: {missing}")
        counts: dict[str, dict[str, Backlog]] = {}
        for one in response.totals:
            counts.setdefault(one.topic, {})[one.subscription] = Backlog(
                messages=one.messages,
                oldest_ms=one.oldest_ms,
                stalled=one.stalled_since_ms > 0,
            )
        return counts

    async def create_topic(
        self, name: str, kind: TopicKind, settings: Mapping[str, object]
    ) -> TopicConfig:
        """Make a topic or queue. Raises ConflictError when another stands there."""
        topic = new_topic_to_wire(name, kind, settings)
        reply = await self._call("CreateTopic", master_pb2.CreateTopicRequest(topic=topic))
        return topic_of_wire(master_pb2.CreateTopicResponse.FromString(reply).topic)

    async def alter_topic(
        self, name: str, kind: TopicKind, patch: Mapping[str, object]
    ) -> TopicConfig:
        """Change settings of a topic or queue."""
        request = master_pb2.AlterTopicRequest(
            name=name, kind=KINDS_ON_WIRE[kind], merge_patch=msgspec.json.encode(patch)
        )
        reply = await self._call("AlterTopic", request)
        return topic_of_wire(master_pb2.AlterTopicResponse.FromString(reply).topic)

    async def delete_topic(self, name: str, kind: TopicKind) -> None:
        """Delete a topic or queue with its messages. One that is gone is done."""
        request = master_pb2.DeleteTopicRequest(name=name, kind=KINDS_ON_WIRE[kind])
        try:
            await self._call("DeleteTopic", request)
        except NotFoundError:
            return

    async def create_subscription(
        self, topic: str, name: str, settings: Mapping[str, object]
    ) -> SubscriptionConfig:
        """Make a subscription of a topic. Raises ConflictError when another stands there."""
        wanted = new_subscription_to_wire(topic, name, settings)
        request = master_pb2.CreateSubscriptionRequest(subscription=wanted)
        reply = await self._call("CreateSubscription", request)
        made = master_pb2.CreateSubscriptionResponse.FromString(reply).subscription
        return subscription_of_wire(made)

    async def alter_subscription(
        self, topic: str, name: str, patch: Mapping[str, object]
    ) -> SubscriptionConfig:
        """Change settings of a subscription."""
        request = master_pb2.AlterSubscriptionRequest(
            topic=topic, name=name, merge_patch=msgspec.json.encode(patch)
        )
        reply = await self._call("AlterSubscription", request)
        altered = master_pb2.AlterSubscriptionResponse.FromString(reply).subscription
        return subscription_of_wire(altered)

    # Access.

    async def make_admin_token(self) -> str:
        """A new token of scope admin; those that were made before for the same end are revoked."""
        reply = await self._call("ListTokens", master_pb2.ListTokensRequest())
        for token in master_pb2.ListTokensResponse.FromString(reply).tokens:
            if token.name == ADMIN_TOKEN_NAME:
                await self._call(
                    "RevokeToken", master_pb2.RevokeTokenRequest(token_id=token.token_id)
                )
        request = master_pb2.CreateTokenRequest(name=ADMIN_TOKEN_NAME, scopes=["admin"])
        reply = await self._call("CreateToken", request)
        return master_pb2.CreateTokenResponse.FromString(reply).secret

    # The call itself.

    async def _call(self, method: str, request: Any, timeout_ms: int = CALL_MS_MAX) -> bytes:
        """Ask the leader, finding it first. Every call here may be sent twice."""
        sent = request.SerializeToString()
        deadline_ms = self._clock.monotonic_ms() + timeout_ms
        while True:
            left_ms = deadline_ms - self._clock.monotonic_ms()
            try:
                return await self._connections.call(
                    self._leader, f"/mom.v1.Master/{method}", sent, max(1, left_ms)
                )
            except MomError as error:
                self._turn(error)
                if not _finds_another(error) or left_ms <= RETRY_MS:
                    raise
            await self._clock.sleep(RETRY_MS)

    def _turn(self, error: MomError) -> None:
        """Choose whom to ask next: the leader that is named, or whomever the Service leads to."""
        if error.code is ErrorCode.NOT_LEADER and error.details.get("leader"):
            self._leader = error.details["leader"]
        elif error.code in (ErrorCode.NOT_LEADER, ErrorCode.UNAVAILABLE, ErrorCode.TIMEOUT):
            self._leader = self.address
        self._connections.keep_only({self._leader, self.address})


async def why_not_ready(host: str, port: int) -> str:
    """What the page ``/readyz`` of a process says; empty where it does not answer."""
    shown = f"[{host}]" if ":" in host else host
    timeout = aiohttp.ClientTimeout(total=READY_PAGE_S_MAX)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"http://{shown}:{port}/readyz") as response,
        ):
            return (await response.text())[:READY_PAGE_LENGTH_MAX].strip()
    except (aiohttp.ClientError, TimeoutError, OSError, UnicodeError):
        return ""


def _finds_another(error: MomError) -> bool:
    return error.code in (ErrorCode.NOT_LEADER, ErrorCode.UNAVAILABLE)


def _node(node: broker_pb2.NodeInfo) -> MomNode:
    return MomNode(
        node_id=node.node_id,
        state=node.state,
        partitions=node.partitions,
        held=node.state_by == BY,
    )
