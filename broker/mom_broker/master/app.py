"""A master: its parts put together, and what a term consists of."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from prometheus_client import CollectorRegistry, Gauge

from mom_broker.master.cluster import Cluster
from mom_broker.master.deletions import Deletions
from mom_broker.master.leadership import Leadership
from mom_broker.master.placer import Placer
from mom_broker.master.registry import Registry
from mom_broker.master.routing_service import RoutingService
from mom_broker.master.service import MasterService
from mom_broker.master.settings import MasterSettings
from mom_broker.master.tokens import TokenAdmin
from mom_broker.master.topics import TopicAdmin
from mom_broker.master.totals import Totals
from mom_broker.master.waiting import ended
from mom_broker.master.writer import ControlWriter
from mom_broker.rpc.auth import Authenticator
from mom_broker.rpc.network import Network
from mom_broker.rpc.peers import GrpcTransport
from mom_broker.rpc.server import RpcServer
from mom_broker.storage.catalog_view import CatalogView
from mom_core.catalog import NodeState
from mom_core.ports import Clock, Random, Store
from mom_process.addresses import parse_address
from mom_process.process_identity import is_gone, own_process
from mom_proto.v1 import broker_pb2_grpc, master_pb2_grpc

SERVICES: Final = ("mom.v1.Master", "mom.v1.Broker")
# Calls under way may finish for this long; the streams of nodes end at once, with the term.
STOP_GRACE_MS: Final = 1_000
# Tells apart the processes that lead under one id, one after the other.
HOLDER_BYTES: Final = 8

_log = logging.getLogger(__name__)


class Master:
    """One master process. Whoever gives the store opens it before, and closes it after."""

    def __init__(
        self,
        settings: MasterSettings,
        store: Store,
        clock: Clock,
        random: Random,
        registry: CollectorRegistry | None = None,
        network: Network | None = None,
    ) -> None:
        self.settings = settings
        self.registry = registry if registry is not None else CollectorRegistry()
        """Where this master's metrics are."""
        self.address = settings.advertise or settings.listen
        """Where it is reached, after :meth:`start`."""
        self._view = CatalogView(store, clock)
        self._authenticator = Authenticator(
            store, clock, settings.open_to_all, settings.cluster_token
        )
        self._server = RpcServer(
            parse_address(settings.listen), self._authenticator, SERVICES, network
        )
        unique = random.bytes(HOLDER_BYTES).hex()
        self._leadership = Leadership(
            store,
            self._view,
            clock,
            holder=f"{settings.master_id}/{unique}",
            process=own_process(),
            is_gone=is_gone,
            master_id=settings.master_id or f"master-{unique}",
            on_start=self._begin_term,
            on_end=self._end_term,
            cadence=settings.cadence,
        )
        writer = ControlWriter(store, self._view, self._leadership, clock)
        self._nodes = Registry(store, self._view, writer, clock, self.registry, settings.cadence)
        self._placer = Placer(self._view, writer, clock, self.registry, settings.cadence)
        self._deletions = Deletions(store, writer, clock)
        self._cluster = Cluster(
            store,
            self._view,
            writer,
            self._nodes,
            self._leadership,
            clock=clock,
            random=random,
        )
        self._transport = GrpcTransport(settings.cluster_token, network)
        topics = TopicAdmin(store, self._view, writer, self._placer, self._deletions, random)
        master_pb2_grpc.add_MasterServicer_to_server(
            MasterService(
                self._view,
                self._authenticator,
                self._leadership,
                self._nodes,
                topics,
                TokenAdmin(store, writer, random),
                self._cluster,
                Totals(self._view, self._transport),
            ),
            self._server.grpc,
        )
        # Its constructor makes the methods that seem to be missing.
        self._routing = RoutingService(  # type: ignore[abstract]
            self._view, self._authenticator, settings.cadence.routing_beat_ms
        )
        broker_pb2_grpc.add_BrokerServicer_to_server(self._routing, self._server.grpc)
        self._leading_task: asyncio.Task[None] | None = None
        self._term_tasks: list[asyncio.Task[None]] = []
        self._add_gauges()

    def _add_gauges(self) -> None:
        gauges = {
            "leading": ("1 while this master leads.", lambda: float(self.leading)),
            "topics": ("Topics and queues.", lambda: len(self._view.topics)),
            "partitions_without_node": (
                "Partitions whose owner is not there.",
                self.partitions_without_node,
            ),
        }
        for name, (text, read) in gauges.items():
            Gauge(f"mom_master_{name}", text, registry=self.registry).set_function(read)

    @property
    def leading(self) -> bool:
        """Whether this master leads."""
        return self._leadership.leading

    def partitions_without_node(self) -> int:
        """How many partitions have an owner that is not there, or none, and so are not served."""
        there = {
            node.node_id for node in self._view.nodes.values() if node.state is not NodeState.LOST
        }
        return sum(
            owner.node_id not in there
            for found in self._view.assignments.values()
            for owner in found.assignment.owners
        )

    async def until_leading(self) -> None:
        """Wait until this master leads."""
        await self._leadership.started.wait()

    def ready(self) -> tuple[bool, str]:
        """Whether it leads or stands by, and one line that says which."""
        if self._leading_task is None:
            return False, "starting"
        return True, "leads" if self.leading else "stands by"

    @property
    def local_address(self) -> str:
        """Where processes of this machine reach it, after :meth:`start`."""
        return str(self._server.address.local)

    async def start(self) -> None:
        """Listen, and lead when possible. Raises InvalidArgumentError when the port is taken."""
        await self._view.start()
        await self._authenticator.start()
        await self._server.start()
        self.address = self._server.reached_at(self.settings.advertise)
        self._leadership.address = self.address
        self._leading_task = asyncio.create_task(self._leadership.run(), name="leadership")
        _log.info("master serves at %s", self.address)

    async def stop(self) -> None:
        """Hand over the lead, end the calls under way, and stop."""
        if self._leading_task is not None:
            await ended([self._leading_task])
        self._routing.stop()
        await self._server.stop(STOP_GRACE_MS)
        await self._transport.close()
        await self._authenticator.close()
        await self._view.close()

    async def _begin_term(self) -> None:
        await self._nodes.begin_term()
        self._term_tasks = [
            asyncio.create_task(part.run(), name=f"{type(part).__name__} of a term")
            for part in (self._nodes, self._placer, self._deletions, self._cluster)
        ]
        for task in self._term_tasks:
            task.add_done_callback(self._on_part_ended)

    async def _end_term(self) -> None:
        tasks, self._term_tasks = self._term_tasks, []
        try:
            await ended(tasks)
        finally:
            self._nodes.end_term(self._leadership.not_leader())

    def _on_part_ended(self, task: asyncio.Task[None]) -> None:
        """A part never ends by itself, unless by a defect: then another master may do better."""
        if not task.cancelled():
            _log.error("%s ended by a defect", task.get_name(), exc_info=task.exception())
            self._leadership.depose()
