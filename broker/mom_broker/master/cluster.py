"""The cluster at a glance, and its identity."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from mom_broker.master.leadership import Leadership
from mom_broker.master.registry import Registry
from mom_broker.master.throughput import SAMPLE_INTERVAL_MS, FillEstimate
from mom_broker.master.writer import ControlWriter
from mom_broker.rpc.messages import DURABILITIES, node_messages
from mom_broker.storage.catalog_view import CatalogView
from mom_core import catalog
from mom_core.catalog import CLUSTER_KEY, ClusterRecord, NodeState
from mom_core.errors import MomError
from mom_core.ports import Clock, KeyWrite, Random, Store
from mom_proto.v1 import master_pb2

CLUSTER_ID_BYTES = 16

_log = logging.getLogger(__name__)


def mom_version() -> str:
    """The version of this installation."""
    try:
        return version("mom-mq")
    except PackageNotFoundError:  # Run from a source tree that is not installed.
        return "0"


class Cluster:
    """Describes the cluster, and gives it its id at its first start."""

    def __init__(
        self,
        store: Store,
        view: CatalogView,
        writer: ControlWriter,
        registry: Registry,
        leadership: Leadership,
        *,
        clock: Clock,
        random: Random,
    ) -> None:
        self._store = store
        self._view = view
        self._writer = writer
        self._registry = registry
        self._leadership = leadership
        self._clock = clock
        self._random = random
        self._estimate = FillEstimate()

    async def run(self) -> None:
        """Sample how full the store is, until cancelled."""
        while True:
            try:
                await self._name_cluster()
                self._estimate.add(await self._store.usage(), self._clock.monotonic_ms())
            except MomError as error:
                _log.debug("no sample of the store's usage: %s", error.message)
            await self._clock.sleep(SAMPLE_INTERVAL_MS)

    async def _name_cluster(self) -> None:
        if self._view.cluster is not None:
            return
        record = ClusterRecord(
            cluster_id=self._random.bytes(CLUSTER_ID_BYTES).hex(),
            created_at_ms=self._store.now_ms(),
            version=mom_version(),
        )

        def plan() -> tuple[Sequence[KeyWrite], None]:
            if self._view.cluster is not None:
                return (), None
            return [KeyWrite(CLUSTER_KEY, catalog.encode(record), 0)], None

        await self._writer.apply(plan)

    async def describe(self) -> master_pb2.GetClusterResponse:
        """The cluster as it is now. Raises RoutingError when this master does not lead."""
        fence = self._leadership.require()
        await self._name_cluster()
        usage = await self._store.usage()
        placed = self._registry.placed()
        capabilities = self._store.capabilities
        cluster = self._view.cluster
        return master_pb2.GetClusterResponse(
            cluster_id=bytes.fromhex(cluster.cluster_id) if cluster is not None else b"",
            version=mom_version(),
            nodes=node_messages(self._view.nodes, placed),
            master_address=fence.record.address,
            topics=len(self._view.topics),
            partitions=sum(topic.partitions for topic in self._view.topics.values()),
            partitions_without_owner=self._without_owner(),
            store_engine=capabilities.engine,
            durability=DURABILITIES[capabilities.durability],
            store_used_bytes=usage.used_bytes,
            store_limit_bytes=usage.limit_bytes or 0,
            store_full_in_ms=self._estimate.full_in_ms() or 0,
            nodes_missing=self._registry.missing(),
        )

    def _without_owner(self) -> int:
        """Partitions that nobody serves: without an owner, or with one that is not there."""
        there = {
            one.node_id for one in self._view.nodes.values() if one.state is not NodeState.LOST
        }
        served = sum(
            count for node_id, count in self._registry.placed().items() if node_id in there
        )
        return sum(topic.partitions for topic in self._view.topics.values()) - served
