"""Stream-mode subscriptions: calls to the coordinator, who is the owner of partition 0."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from mom_client.calls import Caller
from mom_client.results import Sought
from mom_client.routing import TopicRoute
from mom_core.errors import MomError
from mom_process.wire_errors import from_proto
from mom_proto.v1 import broker_pb2

_COORDINATOR = 0


class Groups:
    """Joins, commits, leaves, and describes."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def acquire(
        self, topic: str, subscription: str, member_id: str, *, session_ms: int
    ) -> broker_pb2.AcquirePartitionsResponse:
        """See :meth:`mom_client.engine.Engine.acquire_partitions`."""

        def request(route: TopicRoute) -> bytes:
            route.subscription(subscription)
            return broker_pb2.AcquirePartitionsRequest(
                topic_id=route.topic_id,
                subscription=subscription,
                member_id=member_id,
                session_ms=session_ms,
            ).SerializeToString()

        return await self._caller.at_owner(
            topic,
            _COORDINATOR,
            "AcquirePartitions",
            request,
            broker_pb2.AcquirePartitionsResponse.FromString,
        )

    async def commit(
        self,
        topic: str,
        subscription: str,
        member_id: str,
        commits: Sequence[broker_pb2.OffsetCommit],
    ) -> list[MomError | None]:
        """See :meth:`mom_client.engine.Engine.commit_offsets`."""

        def request(route: TopicRoute) -> bytes:
            return broker_pb2.CommitOffsetsRequest(
                topic_id=route.topic_id,
                subscription=subscription,
                member_id=member_id,
                commits=commits,
            ).SerializeToString()

        def parse(reply: bytes) -> list[MomError | None]:
            results = broker_pb2.CommitOffsetsResponse.FromString(reply).results
            return [from_proto(one) if one.code else None for one in results]

        return await self._caller.at_owner(topic, _COORDINATOR, "CommitOffsets", request, parse)

    async def release(
        self, topic: str, subscription: str, member_id: str, partitions: Sequence[int]
    ) -> None:
        """See :meth:`mom_client.engine.Engine.release_partitions`."""

        def request(route: TopicRoute) -> bytes:
            return broker_pb2.ReleasePartitionsRequest(
                topic_id=route.topic_id,
                subscription=subscription,
                member_id=member_id,
                partitions=partitions,
            ).SerializeToString()

        await self._caller.at_owner(topic, _COORDINATOR, "ReleasePartitions", request, bytes)

    async def seek(
        self,
        topic: str,
        subscription: str,
        to: str,
        *,
        partitions: Sequence[int],
        force: bool,
        dry_run: bool,
    ) -> list[Sought]:
        """See :meth:`mom_client.engine.Engine.seek`."""

        def request(route: TopicRoute) -> bytes:
            for partition in partitions:
                route.check_partition(partition)
            return broker_pb2.SeekSubscriptionRequest(
                topic_id=route.topic_id,
                subscription=subscription,
                to=to,
                partitions=partitions,
                force=force,
                dry_run=dry_run,
            ).SerializeToString()

        def parse(reply: bytes) -> list[Sought]:
            response = broker_pb2.SeekSubscriptionResponse.FromString(reply)
            # An older node does not tell the lags.
            lags = [*response.lags, *(broker_pb2.Lag() for _ in response.offsets)]
            return [
                Sought(one.partition, one.offset, lag.messages, lag.behind_ms)
                for one, lag in zip(response.offsets, lags, strict=False)
            ]

        return await self._caller.at_owner(topic, _COORDINATOR, "SeekSubscription", request, parse)

    async def describe(self, topic: str) -> list[broker_pb2.PartitionDescription]:
        """See :meth:`mom_client.engine.Engine.describe`."""
        route = await self._caller.routing.topic(topic)
        by_address: dict[str, list[int]] = {}
        for index, owner in enumerate(route.owners):
            by_address.setdefault(self._caller.routing.address(owner), []).append(index)
        by_address.pop("", None)
        everything = range(len(route.owners))
        parts = await asyncio.gather(
            *(
                # The coordinator knows of its groups for all partitions.
                self._describe_at(topic, some[0], everything if _COORDINATOR in some else some)
                for some in by_address.values()
            ),
            return_exceptions=True,
        )
        found: dict[int, broker_pb2.PartitionDescription] = {}
        groups: list[broker_pb2.PartitionDescription] = []
        for part in parts:
            if isinstance(part, MomError):
                if not part.retriable:
                    raise part
            elif isinstance(part, BaseException):
                raise part
            else:
                found.update((one.partition, one) for one in part if one.node_id)
                groups += [one for one in part if not one.node_id]
        for index, owner in enumerate(route.owners):
            if index not in found:
                found[index] = broker_pb2.PartitionDescription(partition=index, epoch=owner.epoch)
        for one in groups:
            found[one.partition].subscriptions.extend(one.subscriptions)
        return [found[index] for index in everything]

    async def _describe_at(
        self, topic: str, partition: int, partitions: Sequence[int]
    ) -> list[broker_pb2.PartitionDescription]:
        def request(route: TopicRoute) -> bytes:
            return broker_pb2.DescribePartitionsRequest(
                topic_id=route.topic_id, partitions=partitions
            ).SerializeToString()

        parse: Callable[[bytes], list[broker_pb2.PartitionDescription]] = lambda reply: list(  # noqa: E731
            broker_pb2.DescribePartitionsResponse.FromString(reply).partitions
        )
        return await self._caller.at_owner(topic, partition, "DescribePartitions", request, parse)
