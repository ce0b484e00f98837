"""The Broker service: who calls, what for, and the reply. What happens is in the services
behind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial
from typing import Any

import grpc

from mom_broker.node.administration_service import AdministrationService
from mom_broker.node.log_service import LogService
from mom_broker.node.rate_loans import RateLoans
from mom_broker.node.receive_stream import ReceiveStreams
from mom_broker.node.reschedule_service import RescheduleService
from mom_broker.node.subscription_service import SubscriptionService
from mom_broker.node.totals import Totals
from mom_broker.routing.watch import RoutingWatch
from mom_broker.rpc.auth import Authenticator
from mom_broker.storage.catalog_view import CatalogView
from mom_core.access import Identity
from mom_core.limits import ROUTING_BEAT_MS, TOKEN_CACHE_MS
from mom_proto.v1 import broker_pb2, broker_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]


class BrokerService(broker_pb2_grpc.BrokerServicer):
    """Speaks gRPC for one node."""

    def __init__(
        self,
        node_id: str,
        view: CatalogView,
        authenticator: Authenticator,
        logs: LogService,
        subscriptions: SubscriptionService,
        streams: ReceiveStreams,
        administration: AdministrationService,
        totals: Totals,
        reschedules: RescheduleService,
        rate_loans: RateLoans,
        routing_beat_ms: int = ROUTING_BEAT_MS,
    ) -> None:
        self._node_id = node_id
        self._authenticator = authenticator
        self._logs = logs
        self._subscriptions = subscriptions
        self._administration = administration
        self._totals = totals
        self._reschedules = reschedules
        self._rate_loans = rate_loans
        self._streams = streams
        self._watch = RoutingWatch(view, beat_ms=routing_beat_ms)

    def stop(self) -> None:
        """End the routing streams; clients go on with another node."""
        self._watch.stop()

    def _who(self, context: Context) -> Identity:
        return self._authenticator.identity_of(context)

    async def WatchRouting(
        self, request: broker_pb2.WatchRoutingRequest, context: Context
    ) -> AsyncIterator[broker_pb2.RoutingUpdate]:
        """The routing table and its changes, as far as the caller may see them."""
        async with aclosing(
            self._watch.updates(partial(self._who, context), request)  # type: ignore[type-var]
        ) as updates:
            async for update in updates:
                yield update

    async def Produce(
        self, request: broker_pb2.ProduceRequest, context: Context
    ) -> broker_pb2.ProduceResponse:
        """See the proto."""
        return await self._logs.produce(self._who(context), request)

    async def Fetch(
        self, request: broker_pb2.FetchRequest, context: Context
    ) -> broker_pb2.FetchResponse:
        """See the proto."""
        return await self._logs.fetch(self._who(context), request)

    async def Subscribe(
        self, request_iterator: AsyncIterator[broker_pb2.SubscribeRequest], context: Context
    ) -> AsyncIterator[broker_pb2.FetchResult]:
        """See the proto."""
        async with aclosing(
            self._logs.subscribe(self._who(context), request_iterator)  # type: ignore[type-var]
        ) as results:
            async for result in results:
                # A stream lasts longer than its token may be good.
                self._who(context)
                yield result

    async def Receive(
        self, request: broker_pb2.ReceiveRequest, context: Context
    ) -> broker_pb2.ReceiveResponse:
        """See the proto."""
        return await self._subscriptions.receive(self._who(context), request)

    async def ReceiveStream(
        self, request_iterator: AsyncIterator[broker_pb2.ReceiveStreamRequest], context: Context
    ) -> AsyncIterator[broker_pb2.ReceiveStreamResponse]:
        """See the proto."""
        async with aclosing(
            self._streams.receive(self._who(context), request_iterator)  # type: ignore[type-var]
        ) as responses:
            async for response in responses:
                # A stream lasts longer than its token may be good.
                self._who(context)
                yield response

    async def Settle(
        self, request: broker_pb2.SettleRequest, context: Context
    ) -> broker_pb2.SettleResponse:
        """See the proto."""
        return await self._subscriptions.settle(self._who(context), request)

    async def Reschedule(
        self, request: broker_pb2.RescheduleRequest, context: Context
    ) -> broker_pb2.RescheduleResponse:
        """See the proto."""
        return await self._reschedules.reschedule(self._who(context), request)

    async def Browse(
        self, request: broker_pb2.BrowseRequest, context: Context
    ) -> broker_pb2.BrowseResponse:
        """See the proto."""
        return await self._subscriptions.browse(self._who(context), request)

    async def AcquirePartitions(
        self, request: broker_pb2.AcquirePartitionsRequest, context: Context
    ) -> broker_pb2.AcquirePartitionsResponse:
        """See the proto."""
        return await self._subscriptions.acquire(self._who(context), request)

    async def CommitOffsets(
        self, request: broker_pb2.CommitOffsetsRequest, context: Context
    ) -> broker_pb2.CommitOffsetsResponse:
        """See the proto."""
        return await self._subscriptions.commit(self._who(context), request)

    async def ReleasePartitions(
        self, request: broker_pb2.ReleasePartitionsRequest, context: Context
    ) -> broker_pb2.ReleasePartitionsResponse:
        """See the proto."""
        return await self._subscriptions.release(self._who(context), request)

    async def SeekSubscription(
        self, request: broker_pb2.SeekSubscriptionRequest, context: Context
    ) -> broker_pb2.SeekSubscriptionResponse:
        """See the proto."""
        return await self._subscriptions.seek(self._who(context), request)

    async def DescribePartitions(
        self, request: broker_pb2.DescribePartitionsRequest, context: Context
    ) -> broker_pb2.DescribePartitionsResponse:
        """See the proto."""
        return await self._subscriptions.describe(self._who(context), request, self._node_id)

    async def PurgeSubscription(
        self, request: broker_pb2.PurgeSubscriptionRequest, context: Context
    ) -> broker_pb2.PurgeSubscriptionResponse:
        """See the proto."""
        return await self._administration.purge(self._who(context), request)

    async def StartRedrive(
        self, request: broker_pb2.StartRedriveRequest, context: Context
    ) -> broker_pb2.Operation:
        """See the proto."""
        return await self._administration.start_redrive(self._who(context), request)

    async def GetOperation(
        self, request: broker_pb2.GetOperationRequest, context: Context
    ) -> broker_pb2.Operation:
        """See the proto."""
        return await self._administration.get_operation(self._who(context), request)

    async def ListOperations(
        self, request: broker_pb2.ListOperationsRequest, context: Context
    ) -> broker_pb2.ListOperationsResponse:
        """See the proto."""
        return await self._administration.list_operations(self._who(context), request)

    async def CancelOperation(
        self, request: broker_pb2.CancelOperationRequest, context: Context
    ) -> broker_pb2.Operation:
        """See the proto."""
        return await self._administration.cancel_operation(self._who(context), request)

    async def CountMessages(
        self, request: broker_pb2.CountMessagesRequest, context: Context
    ) -> broker_pb2.CountMessagesResponse:
        """See the proto."""
        self._authenticator.require_cluster(context)
        return await self._totals.count()

    async def LendRate(
        self, request: broker_pb2.LendRateRequest, context: Context
    ) -> broker_pb2.LendRateResponse:
        """See the proto."""
        self._authenticator.require_cluster(context)
        return await self._rate_loans.lend(request)

    async def Authenticate(
        self, request: broker_pb2.AuthenticateRequest, context: Context
    ) -> broker_pb2.AuthenticateResponse:
        """See the proto."""
        self._authenticator.require_cluster(context)
        identity = self._authenticator.identity_of_token(request.token)
        return broker_pb2.AuthenticateResponse(
            name=identity.name, scopes=identity.scopes, cache_ms=TOKEN_CACHE_MS
        )
