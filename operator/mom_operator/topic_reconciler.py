"""Reconciles MomTopics and MomQueues: what they ask for is made in MOM.

A cluster's topics are listed once for all of its resources and kept up to date by our own changes,
so a resync of a thousand topics costs one call. What waits in them is counted more often, by one
call of its own, and only resources whose status tells otherwise have a turn then. A resource whose
cluster is away waits; the cluster's own turn wakes it. One that stands in MOM already stays ready
while no master leads: sends and receives go on without one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from mom_core.errors import ConflictError, MomError
from mom_core.ports import Clock
from mom_operator import conditions, topics
from mom_operator.admin import Admin
from mom_operator.conditions import READY, Status
from mom_operator.counting import COUNT_MS_MIN, Counting
from mom_operator.events import Events
from mom_operator.kube import Kube, KubeError
from mom_operator.registry import Key, Registry, cluster_of, refusal_of
from mom_operator.spec import CLUSTER_KIND, FINALIZER, DeletionPolicy, SpecError, parse_cluster
from mom_operator.status_writer import write_status
from mom_operator.topics import (
    AlterSubscription,
    AlterTopic,
    AnyTopic,
    Counts,
    CreateSubscription,
    CreateTopic,
    Refusal,
    Standing,
    claim_of,
    conflict_with,
    decide,
    difference,
    in_sync_status,
    is_settled,
    name_of,
    normal_start,
    wanted_of,
    with_backlogs,
)

# A listing is good for this long: what others change over REST is mended within it.
LISTING_MS: Final = 30_000
# All resources of a cluster are compared with the listing this often.
RESYNC_MS: Final = 60_000
# A deletion waits for its cluster with this much patience between two tries.
DELETE_RETRY_MS: Final = 2_000
# Not a kind of Kubernetes: the turns of a cluster in which what waits is counted.
COUNTS_KIND: Final = "MomCluster counts"

_log = logging.getLogger(__name__)


def counts_key(cluster: Key) -> Key:
    """What stands in the queue for counting what waits in a cluster."""
    return Key(COUNTS_KIND, cluster.namespace, cluster.name)


class Listing:
    """What stands in one cluster's MOM."""

    def __init__(self, clock: Clock, store_id: str = "") -> None:
        self._clock = clock
        self.store_id = store_id
        self._lock = asyncio.Lock()
        self._standing: dict[str, Standing] = {}
        self._read_ms: int | None = None
        self.compared_ms: int | None = None
        """When all resources were last compared with it."""
        self.counting: Counting[Key] = Counting()
        self.counts: Counts | None = None
        """What waits, as it was last counted; None: that is not known now."""

    async def of(self, admin: Admin, name: str) -> Standing:
        """What stands under a name. Many that ask at a time share one call."""
        async with self._lock:
            now_ms = self._clock.monotonic_ms()
            if self._read_ms is None or now_ms - self._read_ms > LISTING_MS:
                self._standing = await admin.topics()
                self._read_ms = now_ms
        return self.known(name)

    def known(self, name: str) -> Standing:
        """What was last seen to stand under a name, with what waits there; it asks nobody."""
        standing = self._standing.get(name, Standing())
        return standing if self.counts is None else with_backlogs(standing, self.counts)

    def put(self, name: str, standing: Standing) -> None:
        """Take the result of our own change."""
        self._standing[name] = standing

    def drop(self) -> None:
        """Read again at the next use."""
        self._read_ms = None


class TopicReconciler:
    """Keeps topics and queues as their resources say."""

    def __init__(
        self,
        kube: Kube,
        registry: Registry,
        events: Events,
        *,
        clock: Clock,
        admin_of: Callable[[Key], Admin | None],
        enqueue: Callable[[Key], None],
    ) -> None:
        self._kube = kube
        self._registry = registry
        self._events = events
        self._clock = clock
        self._admin_of = admin_of
        self._enqueue = enqueue
        self._listings: dict[Key, Listing] = {}

    def cluster_turn(self, cluster: Key, store_id: str) -> None:
        """A cluster's turn ended: wake what waits for it, and now and then compare all.

        All is compared at once when the store is another one: what stood in it is gone.
        """
        keys = self._registry.topics_of(cluster)
        if self._registry.get(cluster) is None:
            self._listings.pop(cluster, None)
            due = keys
        else:
            listing = self._listing(cluster)
            if store_id and store_id != listing.store_id:
                listing = self._listings[cluster] = Listing(self._clock, store_id)
            now_ms = self._clock.monotonic_ms()
            whole = listing.compared_ms is None or now_ms - listing.compared_ms > RESYNC_MS
            if whole:
                listing.compared_ms = now_ms
                listing.drop()
            due = [key for key in keys if whole or not self._is_settled(key)]
            if whole:
                self._enqueue(counts_key(cluster))
        for key in due:
            self._enqueue(key)

    def _is_settled(self, key: Key) -> bool:
        resource = self._registry.topic(key)
        return resource is not None and is_settled(resource)

    def _listing(self, cluster: Key) -> Listing:
        if cluster not in self._listings:
            self._listings[cluster] = Listing(self._clock)
        return self._listings[cluster]

    async def count(self, key: Key) -> int | None:
        """Count what waits in a cluster, and have the resources told whose status says otherwise.

        ``key`` is of :func:`counts_key`. Returns after how many milliseconds to count again.
        """
        cluster = Key(CLUSTER_KIND, key.namespace, key.name)
        if self._registry.get(cluster) is None:
            return None
        listing = self._listing(cluster)
        admin = self._admin_of(cluster)
        keys = self._registry.topics_of(cluster)
        if admin is None or not keys:
            return COUNT_MS_MIN
        began_ms = self._clock.monotonic_ms()
        try:
            listing.counts = await admin.backlogs()
        except MomError as error:
            _log.debug("nobody tells what waits: %s", error.message)
            listing.counts = None
            return listing.counting.failed()
        now_ms = self._clock.monotonic_ms()
        listing.counting.keep_only(keys)
        for one in listing.counting.choose(self._differing(listing, keys), now_ms):
            self._enqueue(one)
        return listing.counting.counted(now_ms - began_ms)

    def _differing(self, listing: Listing, keys: Iterable[Key]) -> Iterator[tuple[Key, bool]]:
        """Resources whose status differs from what was counted, and whether that is urgent."""
        for key in keys:
            resource = self._registry.topic(key)
            if resource is None or resource.deleting or resource.paused:
                continue
            if not is_settled(resource):
                continue
            found = difference(resource, listing.known(name_of(resource)))
            if found.counts or found.flow:
                yield key, found.flow

    async def reconcile(self, key: Key) -> int | None:
        """One turn for one topic or queue; after how many milliseconds to look again."""
        obj = self._registry.get(key)
        if obj is None:
            return None
        now = datetime.now(UTC)
        try:
            return await self._reconcile(key, obj, now)
        except (MomError, TimeoutError):
            raise
        except Exception as error:  # Who waits for the topic does not read the operator's log.
            refusal = Refusal(conditions.INTERNAL_ERROR, conditions.told_defect(error))
            await self._wait(obj, obj.get("status") or {}, refusal, now)
            raise

    async def _reconcile(self, key: Key, obj: Any, now: datetime) -> int | None:
        resource = self._registry.topic(key)
        if resource is None:
            return await self._unreadable(obj, now)
        if resource.deleting:
            return await self._deletion(obj, resource, now)
        if resource.paused:
            return None
        await self._keep_finalizer(obj, resource)
        refusal = self._refusal(key, resource)
        if refusal is None:
            refusal = await self._in_mom(obj, resource, now)
        if refusal is not None and not self._goes_on(resource, refusal):
            await self._wait(obj, resource.status, refusal, now)
        return None

    async def _unreadable(self, obj: Any, now: datetime) -> int | None:
        metadata = obj["metadata"]
        if metadata.get("deletionTimestamp"):
            await self._set_finalizers(obj, present=False)
            return None
        error = refusal_of(obj)
        text = error.message if error is not None else "the spec can't be read"
        refusal = Refusal(topics.INVALID_SPEC, text)
        await self._wait(obj, obj.get("status") or {}, refusal, now)
        return None

    def _goes_on(self, resource: AnyTopic, refusal: Refusal) -> bool:
        """Whether a topic that stands is served all the same: it is only administered later."""
        return refusal.reason == topics.CLUSTER_NOT_READY and is_settled(resource)

    # What stands in the way.

    def _refusal(self, key: Key, resource: AnyTopic) -> Refusal | None:
        cluster_key = cluster_of(resource)
        found = self._registry.get(cluster_key)
        named = f"MomCluster {cluster_key.namespace}/{cluster_key.name}"
        if found is None or found["metadata"].get("deletionTimestamp"):
            return Refusal(topics.CLUSTER_NOT_FOUND, f"{named} is not there; waiting for it")
        try:
            cluster = parse_cluster(found)
        except SpecError as error:
            return Refusal(topics.CLUSTER_NOT_READY, f"{named} is not valid: {error.message}")
        if not cluster.allows(resource.namespace):
            return Refusal(
                topics.NAMESPACE_NOT_ALLOWED,
                f"{named} does not allow namespace {resource.namespace!r} in allowedNamespaces",
            )
        conflict = conflict_with(claim_of(resource), self._registry.rivals_of(key))
        if conflict is not None:
            return conflict
        if self._admin_of(cluster_key) is None:
            return Refusal(topics.CLUSTER_NOT_READY, f"{named} is not ready yet; waiting for it")
        return None

    # In MOM.

    async def _in_mom(self, obj: Any, resource: AnyTopic, now: datetime) -> Refusal | None:
        cluster = cluster_of(resource)
        admin = self._admin_of(cluster)
        assert admin is not None, "looked at just before"
        listing = self._listing(cluster)
        wanted = wanted_of(resource)
        try:
            try:
                standing = await self._as_wanted(admin, listing, wanted)
            except ConflictError:
                # Made since the listing, such as the queue for another one's dead letters.
                listing.drop()
                standing = await self._as_wanted(admin, listing, wanted)
        except MomError as error:
            listing.drop()
            if isinstance(error, KubeError):
                raise
            if error.retriable:
                return Refusal(topics.CLUSTER_NOT_READY, error.message)
            return Refusal(topics.REFUSED, error.message)
        if isinstance(standing, Refusal):
            return standing
        await write_status(self._kube, self._registry, obj, in_sync_status(resource, standing, now))
        return None

    async def _as_wanted(
        self, admin: Admin, listing: Listing, wanted: topics.Wanted
    ) -> Standing | Refusal:
        """Make it so; what stands then. Raises MomError."""
        standing = await listing.of(admin, wanted.name)
        decided = decide(wanted, standing)
        if isinstance(decided, Refusal):
            return decided
        for action in decided:
            standing = await self._act(admin, wanted, standing, action)
            listing.put(wanted.name, standing)
        left = decide(wanted, standing) if decided else []
        for action in left if isinstance(left, list) else ():
            # A new topic has the defaults where 0 was asked for.
            standing = await self._act(admin, wanted, standing, action)
            listing.put(wanted.name, standing)
        return standing

    async def _act(
        self, admin: Admin, wanted: topics.Wanted, standing: Standing, action: topics.Action
    ) -> Standing:
        if isinstance(action, CreateTopic):
            config = await admin.create_topic(wanted.name, wanted.kind, action.settings)
            return Standing(config=config)
        if isinstance(action, AlterTopic):
            config = await admin.alter_topic(wanted.name, wanted.kind, action.patch)
            return msgspec.structs.replace(standing, config=config)
        if isinstance(action, CreateSubscription):
            made = await admin.create_subscription(
                wanted.name, action.name, normal_start(action.settings)
            )
        else:
            assert isinstance(action, AlterSubscription)
            made = await admin.alter_subscription(wanted.name, action.name, action.patch)
        subscriptions = {**standing.subscriptions, action.name: made}
        return msgspec.structs.replace(standing, subscriptions=subscriptions)

    # Going away.

    async def _deletion(self, obj: Any, resource: AnyTopic, now: datetime) -> int | None:
        if FINALIZER not in resource.finalizers:
            return None
        if resource.spec.deletion_policy is DeletionPolicy.DELETE:
            waiting = await self._delete_in_mom(resource)
            if waiting is not None:
                await self._wait(obj, resource.status, waiting, now)
                return DELETE_RETRY_MS
        await self._set_finalizers(obj, present=False)
        return None

    async def _delete_in_mom(self, resource: AnyTopic) -> Refusal | None:
        """Delete the topic; why that has to wait. What can't be reached any more is done."""
        cluster = cluster_of(resource)
        found = self._registry.get(cluster)
        if found is None or found["metadata"].get("deletionTimestamp"):
            return None
        key = Key(claim_of(resource).kind, resource.namespace, resource.name)
        owns = conflict_with(claim_of(resource), self._registry.rivals_of(key)) is None
        if not owns or "topicId" not in resource.status:
            return None  # Another resource's, or never made: nothing of this one is there.
        admin = self._admin_of(cluster)
        if admin is None:
            return Refusal(topics.DELETING, "waiting for the cluster, to delete the data there")
        wanted = wanted_of(resource)
        try:
            await admin.delete_topic(wanted.name, wanted.kind)
        except MomError as error:
            return Refusal(topics.DELETING, f"the data can't be deleted yet: {error.message}")
        self._listing(cluster).put(wanted.name, Standing())
        return None

    async def _keep_finalizer(self, obj: Any, resource: AnyTopic) -> None:
        wanted = resource.spec.deletion_policy is DeletionPolicy.DELETE
        if wanted != (FINALIZER in resource.finalizers):
            await self._set_finalizers(obj, present=wanted)

    async def _set_finalizers(self, obj: Any, *, present: bool) -> None:
        metadata = obj["metadata"]
        others = [one for one in metadata.get("finalizers") or () if one != FINALIZER]
        patch = {
            "metadata": {
                "uid": metadata["uid"],
                "resourceVersion": metadata["resourceVersion"],
                "finalizers": [*others, FINALIZER] if present else others,
            }
        }
        try:
            written = await self._kube.patch(
                obj["kind"], metadata["namespace"], metadata["name"], patch
            )
        except KubeError as error:
            if error.http_code == 404:
                return
            raise
        if not written["metadata"].get("deletionTimestamp"):
            self._registry.put(written)

    # Telling.

    async def _wait(self, obj: Any, before: Status, refusal: Refusal, now: datetime) -> None:
        generation = obj["metadata"].get("generation", 0)
        after = topics.waiting_status(before, generation, refusal, now)
        was = conditions.find(before, READY).get("reason")
        await write_status(self._kube, self._registry, obj, after)
        if was != refusal.reason and refusal.reason in (topics.CONFLICT, topics.REFUSED):
            await self._events.tell(obj, "Warning", refusal.reason, refusal.message)
