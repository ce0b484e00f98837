"""A node, wired together."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from prometheus_client import CollectorRegistry

from mom_broker.node.administration_service import AdministrationService
from mom_broker.node.cache import BatchCache
from mom_broker.node.dead_letter_target import DeadLetterTarget
from mom_broker.node.floors import AckedFloors
from mom_broker.node.forwarding import Forwarder
from mom_broker.node.log_service import LogService
from mom_broker.node.metrics import NodeMetrics
from mom_broker.node.operations import Operations
from mom_broker.node.ownership import Ownership
from mom_broker.node.placed import PlacedPartitions
from mom_broker.node.rate_loans import RateLoans
from mom_broker.node.receive_stream import ReceiveStreams
from mom_broker.node.registration import Registration
from mom_broker.node.reschedule_service import RescheduleService
from mom_broker.node.retention import Retention
from mom_broker.node.service import BrokerService
from mom_broker.node.settings import NodeSettings
from mom_broker.node.signal import WaitingRoom
from mom_broker.node.stalls import StallWatch
from mom_broker.node.subscription_service import SubscriptionService
from mom_broker.node.totals import Totals
from mom_broker.rpc.auth import Authenticator
from mom_broker.rpc.network import Network
from mom_broker.rpc.peers import GrpcTransport
from mom_broker.rpc.server import RpcServer
from mom_broker.storage.catalog_view import CatalogView
from mom_core.ports import Clock, Random, Store
from mom_process.addresses import parse_address
from mom_proto.v1 import broker_pb2_grpc

_log = logging.getLogger(__name__)

# Calls under way when the server stops: waits have ended, so what is left is a commit or two.
STOP_GRACE_MS = 2_000


class Node:
    """One MOM node. The store is the caller's to open and close."""

    def __init__(
        self,
        settings: NodeSettings,
        store: Store,
        clock: Clock,
        random: Random,
        registry: CollectorRegistry | None = None,
        network: Network | None = None,
    ) -> None:
        self.settings = settings
        self.registry = registry if registry is not None else CollectorRegistry()
        self._clock = clock
        self._random = random
        self._view = CatalogView(store, clock)
        self._transport = GrpcTransport(settings.cluster_token, network)
        self._authenticator = Authenticator(
            store, clock, settings.open_to_all, settings.cluster_token
        )
        self._room = WaitingRoom()
        self._cache = BatchCache(settings.cache_bytes_max)
        self.ownership = Ownership(
            settings.node_id, self._view, store, self._cache, clock=clock, random=random
        )
        metrics = NodeMetrics(self.registry)
        placed = PlacedPartitions(
            self._view,
            self.ownership,
            Forwarder(settings.node_id, self._view, self._transport),
            metrics,
            clock,
        )
        self._server = RpcServer(
            parse_address(settings.listen), self._authenticator, ("mom.v1.Broker",), network
        )
        logs = LogService(placed, self._room, metrics)
        target = DeadLetterTarget(self._view, logs)
        self.ownership.dead_letters = target
        self.operations = Operations(self._view, self.ownership, store, target, clock)
        self._rate_loans = RateLoans(settings.node_id, placed)
        self.ownership.rates.on_held_back = self._rate_loans.ask
        subscriptions = SubscriptionService(placed, self._room, metrics, store)
        self._service = BrokerService(
            settings.node_id,
            self._view,
            self._authenticator,
            logs,
            subscriptions,
            ReceiveStreams(subscriptions, placed, self._room),
            AdministrationService(placed, self.operations, store),
            Totals(self._view, self.ownership, store),
            RescheduleService(placed),
            self._rate_loans,
            settings.cadence.routing_beat_ms,
        )
        broker_pb2_grpc.add_BrokerServicer_to_server(self._service, self._server.grpc)
        self._retention = Retention(
            self.ownership,
            AckedFloors(placed),
            store,
            clock,
            settings.cadence.retention_sweep_ms,
        )
        self._stalls = StallWatch(self.ownership, self._view, store, clock)
        self._registration: Registration | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.address = settings.advertise or settings.listen
        self._add_gauges(metrics)

    def _add_gauges(self, metrics: NodeMetrics) -> None:
        metrics.gauge("partitions", "Partitions served.", lambda: len(self.ownership.owned))
        metrics.gauge(
            "partitions_opening",
            "Partitions assigned and not served yet.",
            lambda: self.ownership.opening_count,
        )
        metrics.gauge(
            "tails_lost",
            "Openings of a partition whose newest messages the store may have lost.",
            lambda: self.ownership.tails_lost,
        )
        metrics.gauge("waiting_calls", "Long polls and streams waiting.", lambda: self._room.count)
        metrics.gauge(
            "stalled_subscriptions",
            "Subscriptions with messages and workers and without progress.",
            lambda: len(self._stalls.stalled),
        )
        metrics.gauge(
            "pending_bytes", "Bytes waiting for the store.", lambda: self.ownership.budget.bytes
        )
        metrics.gauge(
            "cache_bytes",
            "Bytes of batches in memory.",
            lambda: self._cache.tail_bytes + self._cache.chunk_bytes,
        )

    def ready(self) -> tuple[bool, str]:
        """Whether the node serves what it has, and one line that says why or why not."""
        if self._registration is None:
            return False, "starting"
        if self.ownership.opening_count:
            return False, f"{self.ownership.opening_count} partitions are being opened"
        if not self._registration.registered and not self.ownership.owned:
            return False, "not registered with a master yet"
        return True, f"serving {len(self.ownership.owned)} partitions"

    @property
    def local_address(self) -> str:
        """Where processes of this machine reach it, after :meth:`start`."""
        return str(self._server.address.local)

    async def start(self) -> None:
        """Serve, and register with the master."""
        await self._view.start()
        await self._authenticator.start()
        await self._server.start()
        self.address = self._server.reached_at(self.settings.advertise)
        self.ownership.start()
        self.operations.start()
        self._registration = Registration(
            self.settings,
            self.address,
            self._view,
            self._transport,
            clock=self._clock,
            random=self._random,
            serving=lambda: len(self.ownership.owned),
        )
        self._tasks = [
            asyncio.create_task(self._registration.run(), name="registration"),
            asyncio.create_task(self._retention.run(), name="retention"),
            asyncio.create_task(self._stalls.run(), name="stalls"),
        ]
        _log.info("node %s serves at %s", self.settings.node_id, self.address)

    async def stop(self, drain: bool = True) -> None:
        """Hand the partitions over, if asked to, and stop. Accepted work is committed."""
        if drain and self._registration is not None:
            await self._registration.leave(self.settings.drain_timeout_ms)
        await self._server.set_serving(False)
        self._room.close()
        self._service.stop()
        await self._server.stop(STOP_GRACE_MS)
        for task in self._tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await self._rate_loans.close()
        await self.operations.close()
        await self.ownership.close()
        await self._transport.close()
        await self._authenticator.close()
        await self._view.close()
