"""What stands in the API server, mirrored here for one kind: listed once, then followed by a watch.

A watch that ends goes on from the last version seen; one that is too old, or a jittered interval,
leads to a new listing, which also finds what a watch has missed. So reading costs the API server
nothing, and a resync is a comparison in memory.

Only objects with our label are mirrored, and of each only what a decision reads: `slim` drops the
rest, most of which is bookkeeping of the API server.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from typing import Final, Protocol

from mom_core.errors import MomError
from mom_core.ports import Clock, Random
from mom_operator.kube import Listing, Object, WatchEvent, WatchExpiredError

# A watch is ended by the server after this, give or take, so that not all end at once.
WATCH_S: Final = 300
# Bookmarks come each minute: a connection that is silent for longer is dead.
SILENCE_S_MAX: Final = 100
# Between two listings of everything.
RELIST_S: Final = 600
# Between two tries when the API server does not answer.
RETRY_MS_FIRST: Final = 200
RETRY_MS_MAX: Final = 10_000
# Objects of a kind; more means that the label is not ours alone.
OBJECTS_MAX: Final = 50_000

_log = logging.getLogger(__name__)

ObjectKey = tuple[str, str]
"""Namespace and name."""


class Source(Protocol):
    """The reading half of :class:`mom_operator.kube.Kube`."""

    async def list_all(self, kind: str, namespace: str = "", selector: str = "") -> Listing:
        """All objects."""

    def watch(
        self,
        kind: str,
        namespace: str,
        selector: str,
        resource_version: str,
        *,
        server_timeout_s: int,
        silence_s_max: int,
    ) -> AsyncGenerator[WatchEvent, None]:
        """Changes."""


Slim = Callable[[Object], Object]


_POD_STATUS: Final = (
    "phase",
    "podIP",
    "reason",
    "message",
    "conditions",
    "containerStatuses",
    "initContainerStatuses",
)


def slim(obj: Object) -> Object:
    """Without the API server's bookkeeping of who set which field."""
    obj["metadata"].pop("managedFields", None)
    return obj


def slim_pod(obj: Object) -> Object:
    """A pod's place and state, without what is in its template anyway."""
    slim(obj)
    spec = obj.get("spec", {})
    obj["spec"] = {"nodeName": spec.get("nodeName", "")}
    status = obj.get("status", {})
    obj["status"] = {field: status[field] for field in _POD_STATUS if field in status}
    return obj


def key_of(obj: Object) -> ObjectKey:
    """Namespace and name of an object."""
    metadata = obj["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


class Informer:
    """A mirror of the objects of one kind."""

    def __init__(
        self,
        source: Source,
        kind: str,
        *,
        namespace: str,
        selector: str,
        changed: Callable[[str, Object], None],
        clock: Clock,
        random: Random,
        slimming: Slim = slim,
    ) -> None:
        """``changed`` is told the kind and the object that was made, changed or removed."""
        self.kind = kind
        self.synced = asyncio.Event()
        """Set after the first listing."""
        self.contact_ms: int | None = None
        """When the API server last said anything about this kind, monotonic."""
        self._source = source
        self._namespace = namespace
        self._selector = selector
        self._changed = changed
        self._clock = clock
        self._random = random
        self._slim = slimming
        self._objects: dict[ObjectKey, Object] = {}
        self._passed = 0
        """The version up to which the watch has told everything."""

    def __len__(self) -> int:
        return len(self._objects)

    def get(self, namespace: str, name: str) -> Object | None:
        """The object as last seen."""
        return self._objects.get((namespace, name))

    def all(self) -> Iterable[Object]:
        """All objects as last seen."""
        return self._objects.values()

    def learn(self, obj: Object) -> None:
        """Take the answer to our own write, which the watch will repeat.

        An answer that the watch has already passed, of an object that is not there, comes after the
        news that it was deleted.
        """
        known = self._objects.get(key_of(obj))
        same = known is not None and known["metadata"].get("uid") == obj["metadata"].get("uid")
        if same or version_number(obj["metadata"].get("resourceVersion", "")) > self._passed:
            self._put(self._slim(obj))

    async def run(self) -> None:
        """Follow the API server until cancelled."""
        retry_ms = RETRY_MS_FIRST
        while True:
            try:
                listing = await self._source.list_all(self.kind, self._namespace, self._selector)
                self.replace(listing.items)
                self._passed = version_number(listing.resource_version)
                self.synced.set()
                retry_ms = RETRY_MS_FIRST
                await self._follow(listing.resource_version)
            except WatchExpiredError:
                _log.debug("the watch of %s expired, listing again", self.kind)
            except MomError as error:
                _log.warning("%s can't be watched: %s", self.kind, error.message)
                await self._clock.sleep(int(retry_ms * (0.5 + self._random.fraction())))
                retry_ms = min(2 * retry_ms, RETRY_MS_MAX)

    async def _follow(self, resource_version: str) -> None:
        """Watch, and watch on, until it is time to list again."""
        until_ms = self._clock.monotonic_ms() + self._jittered_s(RELIST_S) * 1000
        while self._clock.monotonic_ms() < until_ms:
            watch = self._source.watch(
                self.kind,
                self._namespace,
                self._selector,
                resource_version,
                server_timeout_s=self._jittered_s(WATCH_S),
                silence_s_max=SILENCE_S_MAX,
            )
            # Closed at once also when this task is cancelled, and with it the connection.
            async with aclosing(watch) as events:
                async for event in events:
                    resource_version = event.object["metadata"]["resourceVersion"]
                    self.take(event)
            self.contact_ms = self._clock.monotonic_ms()

    def _jittered_s(self, interval_s: int) -> int:
        return int(interval_s * (0.8 + 0.4 * self._random.fraction()))

    # Changes.

    def take(self, event: WatchEvent) -> None:
        """One event of the watch."""
        self.contact_ms = self._clock.monotonic_ms()
        version = event.object["metadata"].get("resourceVersion", "")
        self._passed = max(self._passed, version_number(version))
        if event.type == "BOOKMARK":
            return
        obj = self._slim(event.object)
        if event.type == "DELETED":
            self._objects.pop(key_of(obj), None)
            self._changed(self.kind, obj)
        elif self._put(obj):
            self._changed(self.kind, obj)

    def replace(self, items: list[Object]) -> None:
        """A whole listing: what it lacks is gone, and what differs was missed by the watch."""
        self.contact_ms = self._clock.monotonic_ms()
        before, self._objects = self._objects, {}
        for item in items[:OBJECTS_MAX]:
            obj = self._slim(item)
            key = key_of(obj)
            old = before.pop(key, None)
            self._objects[key] = obj
            if old is None or is_newer(obj, old):
                self._changed(self.kind, obj)
        for gone in before.values():
            self._changed(self.kind, gone)
        if len(items) > OBJECTS_MAX:
            _log.error(
                "more than %d objects of kind %s: the rest is not seen", OBJECTS_MAX, self.kind
            )

    def _put(self, obj: Object) -> bool:
        key = key_of(obj)
        old = self._objects.get(key)
        if old is not None and not is_newer(obj, old):
            return False
        if old is None and len(self._objects) >= OBJECTS_MAX:
            return False
        self._objects[key] = obj
        return True


def is_newer(obj: Object, known: Object) -> bool:
    """Whether ``obj`` is a later version than the known one.

    Versions are opaque by the book; all API servers count them up, which is relied on only to tell
    a late event from news. An object made again under its name is news.
    """
    new, old = obj["metadata"], known["metadata"]
    if new.get("uid") != old.get("uid"):
        return True
    return version_number(new.get("resourceVersion", "")) > version_number(
        old.get("resourceVersion", "")
    )


def version_number(resource_version: str) -> int:
    """A version as a number; one that is none counts as the oldest."""
    return int(resource_version) if resource_version.isdecimal() else 0
