"""The operator: its parts put together, and the way of an event to the queue.

    kopf ──▶ registry ──▶ queue ◀── mirrors of children
                            │
             cluster_reconciler, topic_reconciler ──▶ kube, admin

Both replicas watch, so that the one that takes over knows everything already; only the leader's
queue runs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from functools import partial
from typing import Any, Final

import msgspec

from mom_core.errors import MomError
from mom_core.ports import Clock, Random
from mom_operator.children import MIRRORED, Children
from mom_operator.cluster_reconciler import ClusterReconciler
from mom_operator.election import Election
from mom_operator.events import Events
from mom_operator.handlers import ResourceWatch
from mom_operator.health import Hearing, alive
from mom_operator.informer import Informer, slim, slim_pod
from mom_operator.kube import KINDS as API_KINDS
from mom_operator.kube import ApiConfiguration, Kube, credentials
from mom_operator.machines import Machines
from mom_operator.metrics import Metrics
from mom_operator.names import CLUSTER_LABEL, MANAGED_BY, Names
from mom_operator.registry import KINDS, Change, Key, Registry
from mom_operator.resources import OperatorSettings
from mom_operator.spec import API_VERSION, CLUSTER_KIND
from mom_operator.topic_reconciler import COUNTS_KIND, TopicReconciler
from mom_operator.work_queue import WorkQueue

CLUSTER_LANE: Final = "cluster"
TOPIC_LANE: Final = "topic"
COUNT_LANE: Final = "count"
# A cluster's turn may wait seconds for a master that is gone: the others go on beside it.
CLUSTER_WORKERS: Final = 8
TOPIC_WORKERS: Final = 16
# A count waits for a master, too, and keeps neither clusters nor topics from their turns.
COUNT_WORKERS: Final = 4
# A burst of children's events becomes one turn.
CHILD_EVENT_MS: Final = 100
# Between two listings of our resources, which find what the watch has missed.
RELIST_MS: Final = 120_000
# Until the definitions of our kinds are installed.
DEFINITIONS_MS: Final = 2_000

_LANES: Final = {CLUSTER_KIND: CLUSTER_LANE, COUNTS_KIND: COUNT_LANE}

SELECTOR: Final = f"app.kubernetes.io/managed-by={MANAGED_BY}"

_log = logging.getLogger(__name__)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the process was told."""

    identity: str
    namespace: str
    lease: str
    watch_namespaces: tuple[str, ...] = ()
    """Empty: all of them."""
    clusters: OperatorSettings = OperatorSettings()


class Operator:
    """One replica."""

    def __init__(
        self,
        settings: Settings,
        configuration: ApiConfiguration,
        clock: Clock,
        random: Random,
        *,
        master_address: Callable[[Names], str] = lambda names: names.master_address,
    ) -> None:
        self._master_address = master_address
        self._settings = settings
        self._clock = clock
        self._random = random
        self.metrics = Metrics()
        self._configuration = configuration
        self._kube = Kube(configuration, self.metrics.called)
        self._registry = Registry()
        self._hearing = Hearing()
        self._listed = asyncio.Event()
        self._mirrors = {kind: self._mirrors_of(kind) for kind in MIRRORED}
        self._queue: WorkQueue[Key] = WorkQueue(
            {
                CLUSTER_LANE: (CLUSTER_WORKERS, self._reconcile_cluster),
                TOPIC_LANE: (TOPIC_WORKERS, self._reconcile_topic),
                COUNT_LANE: (COUNT_WORKERS, self._count),
            },
            lambda key: _LANES.get(key.kind, TOPIC_LANE),
            clock=clock,
            random=random,
            observer=self.metrics,
        )
        self._election = Election(
            self._kube,
            namespace=settings.namespace,
            name=settings.lease,
            identity=settings.identity,
            clock=clock,
            lead=self._queue.resume,
            stop=self._queue.pause,
        )
        self._make_reconcilers()
        self._watch: ResourceWatch | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._add_gauges()

    def _make_reconcilers(self) -> None:
        events = Events(self._kube, self._clock)
        self._clusters = ClusterReconciler(
            self._kube,
            self._registry,
            Children(self._kube, self._mirrors, self._clock),
            Machines(self._kube, self._clock),
            events,
            self._settings.clusters,
            clock=self._clock,
            random=self._random,
            topics_due=lambda key, store_id: self._topics.cluster_turn(key, store_id),
            master_address=self._master_address,
        )
        self._topics = TopicReconciler(
            self._kube,
            self._registry,
            events,
            clock=self._clock,
            admin_of=self._clusters.admin,
            enqueue=self._queue.add,
        )

    def _mirrors_of(self, kind: str) -> dict[str, Informer]:
        return {
            namespace: Informer(
                self._kube,
                kind,
                namespace=namespace,
                selector=SELECTOR,
                changed=self._child_changed,
                clock=self._clock,
                random=self._random,
                slimming=slim_pod if kind == "Pod" else slim,
            )
            for namespace in self._settings.watch_namespaces or ("",)
        }

    def _add_gauges(self) -> None:
        metrics, queue = self.metrics, self._queue
        metrics.show("queue_depth", "Objects that wait, resyncs included.", queue.depth)
        metrics.show("queue_late", "Lanes in which an object waits for a worker.", queue.due)
        metrics.show("stuck_objects", "Objects that fail again and again.", queue.stuck)
        metrics.show(
            "watch_restarts",
            "Times that the watch of our resources was begun anew.",
            lambda: self._watch.restarts if self._watch is not None else 0,
        )
        metrics.show("leading", "1 while this replica leads.", lambda: float(self.leading))
        for kind in KINDS:
            metrics.show(
                f"{kind.lower()}s",
                f"Resources of kind {kind}.",
                lambda kind=kind: len(tuple(self._registry.keys(kind))),  # type: ignore[misc]
            )

    @property
    def leading(self) -> bool:
        """Whether this replica leads."""
        return self._election.leading

    # Health.

    def well(self) -> tuple[bool, str]:
        """Whether to go on."""
        broken = [task.get_name() for task in self._tasks if task.done()]
        if broken:
            return False, f"{broken[0]} has ended"
        return alive(
            self._clock.monotonic_ms(),
            self._all_mirrors(),
            self._hearing,
            leading=self.leading,
            working=self._queue.running,
        )

    def ready(self) -> tuple[bool, str]:
        """Whether everything was seen once, so that this replica could lead."""
        if not self._listed.is_set():
            return False, "waiting for the definitions of MomCluster, MomTopic and MomQueue"
        missing = [one.kind for one in self._all_mirrors() if not one.synced.is_set()]
        if missing:
            return False, f"waiting for the first listing of {missing[0]}"
        return True, "leads" if self.leading else "stands by"

    def _all_mirrors(self) -> Collection[Informer]:
        return [one for by_namespace in self._mirrors.values() for one in by_namespace.values()]

    # Life.

    async def start(self) -> None:
        """Watch, and lead when possible."""
        for mirror in self._all_mirrors():
            self._begin(f"mirror of {mirror.kind}", mirror.run())
        self._begin("listings", self._list_resources())
        self._begin("election", self._stand())

    def _begin(self, name: str, work: Any) -> None:
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(_report)
        self._tasks.append(task)

    async def stop(self) -> None:
        """Stop working, let the lease go, and close all connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._watch is not None:
            await self._watch.stop()
        await self._clusters.close()
        await self._kube.close()

    async def _stand(self) -> None:
        """Stand for leader as soon as everything was seen."""
        await self._listed.wait()
        for mirror in self._all_mirrors():
            await mirror.synced.wait()
        await self._election.run()

    # Our resources.

    async def _list_resources(self) -> None:
        await self._until_defined()
        self._watch = ResourceWatch(
            partial(credentials, self._configuration),
            self._settings.watch_namespaces,
            self._told,
            asyncio.get_running_loop(),
        )
        self._watch.start()
        while True:
            try:
                await self._list_once()
                self._listed.set()
                interval_ms = int(RELIST_MS * (0.8 + 0.4 * self._random.fraction()))
            except MomError as error:
                _log.warning("our resources can't be listed: %s", error.message)
                interval_ms = DEFINITIONS_MS
            await self._clock.sleep(interval_ms)

    async def _until_defined(self) -> None:
        said = False
        while True:
            try:
                kinds = [API_KINDS[kind].plural for kind in KINDS]
                if all([await self._kube.served(API_VERSION, one) for one in kinds]):
                    monitor = API_KINDS["PodMonitor"]
                    self._clusters.settings = msgspec.structs.replace(
                        self._settings.clusters,
                        pod_monitors=await self._kube.served(monitor.api_version, monitor.plural),
                    )
                    return
                if not said:
                    _log.warning("the definitions of %s are not installed yet", API_VERSION)
                    said = True
            except MomError as error:
                _log.warning("the API server can't be asked: %s", error.message)
            await self._clock.sleep(DEFINITIONS_MS)

    async def _list_once(self) -> None:
        first, missed = not self._listed.is_set(), 0
        for kind in KINDS:
            for namespace in self._settings.watch_namespaces or ("",):
                listing = await self._kube.list_all(kind, namespace)
                for change in self._registry.replace(
                    kind, namespace, listing.items, listing.resource_version
                ):
                    missed += 1
                    self._take(change)
        if not first:
            self.metrics.missed.inc(missed)
            self._hearing.listed(missed)

    def _told(self, key: Key, event: str, obj: dict[str, Any]) -> None:
        """An event of the watch."""
        self._hearing.told()
        change = self._registry.remove(key) if event == "DELETED" else self._registry.put(obj)
        if change is not None:
            self._take(change)

    def _take(self, change: Change) -> None:
        if change.fresh:
            self._queue.add(change.key, fresh=True)
        for other in change.others:
            self._queue.add(other)

    def _child_changed(self, kind: str, obj: dict[str, Any]) -> None:
        metadata = obj["metadata"]
        cluster = (metadata.get("labels") or {}).get(CLUSTER_LABEL)
        key = Key(CLUSTER_KIND, metadata.get("namespace", ""), cluster or "")
        if self._registry.get(key) is not None:
            self._queue.add(key, CHILD_EVENT_MS)

    # The work.

    async def _reconcile_cluster(self, key: Key) -> int | None:
        return await self._clusters.reconcile(key)

    async def _reconcile_topic(self, key: Key) -> int | None:
        return await self._topics.reconcile(key)

    async def _count(self, key: Key) -> int | None:
        return await self._topics.count(key)


def _report(task: asyncio.Task[None]) -> None:
    """A part never ends by itself, unless by a defect: then ``/healthz`` has us started again."""
    if not task.cancelled():
        _log.error("%s ended by a defect", task.get_name(), exc_info=task.exception())
