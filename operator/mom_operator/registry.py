"""Our own resources as last seen, and who refers to whom.

The watch hands every event over to here; reconciling reads only from here. What an event changed
decides whether there is anything to do: a status that we wrote ourselves comes back as an event,
too, and is no news.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

from mom_core.errors import MomError
from mom_operator.informer import is_newer, version_number
from mom_operator.spec import (
    CLUSTER_KIND,
    QUEUE_KIND,
    TOPIC_KIND,
    SpecError,
    parse_queue,
    parse_topic,
)
from mom_operator.topics import AnyTopic, Claim, claim_of, name_of

Object = dict[str, Any]

KINDS: Final = (CLUSTER_KIND, TOPIC_KIND, QUEUE_KIND)


class Key(NamedTuple):
    """One resource."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


class TopicKey(NamedTuple):
    """A name of a topic or queue in a cluster."""

    cluster: Key
    name: str


class Change(NamedTuple):
    """What an event means: whose turn it is now."""

    key: Key
    fresh: bool
    """What is asked for changed, and not only a status."""
    others: tuple[Key, ...] = ()
    """Resources that looked at what changed."""


class Registry:
    """Resources by key, topics and queues by cluster and by name."""

    def __init__(self) -> None:
        self._objects: dict[Key, Object] = {}
        self._topics: dict[Key, AnyTopic] = {}
        self._by_cluster: dict[Key, set[Key]] = {}
        self._by_name: dict[TopicKey, set[Key]] = {}

    def get(self, key: Key) -> Object | None:
        """A resource as last seen."""
        return self._objects.get(key)

    def topic(self, key: Key) -> AnyTopic | None:
        """A MomTopic or MomQueue, if it is there and can be read."""
        return self._topics.get(key)

    def keys(self, kind: str) -> Iterable[Key]:
        """All keys of a kind."""
        return [key for key in self._objects if key.kind == kind]

    def topics_of(self, cluster: Key) -> Iterable[Key]:
        """The topics and queues that refer to a cluster."""
        return tuple(self._by_cluster.get(cluster, ()))

    def rivals_of(self, key: Key) -> Iterator[Claim]:
        """Claims of the other resources that ask for the same name of the same cluster."""
        own = self._topics.get(key)
        if own is None:
            return
        for other in self._by_name.get(_topic_key(own), ()):
            rival = self._topics[other]
            if other != key and not rival.deleting:
                yield claim_of(rival)

    # Changes.

    def put(self, obj: Object) -> Change | None:
        """Take a resource; None when it is the one that is known."""
        obj["metadata"].pop("managedFields", None)
        key = key_of(obj)
        before = self._objects.get(key)
        if before is not None and not is_newer(obj, before):
            return None
        self._objects[key] = obj
        fresh = before is None or _asked(before) != _asked(obj)
        others = self._reindex(key) if fresh else ()
        if not fresh and key.kind != CLUSTER_KIND:
            self._index(key)
        return Change(key, fresh, others)

    def remove(self, key: Key) -> Change:
        """A resource is gone."""
        others = self._unindex(key)
        self._objects.pop(key, None)
        if key.kind == CLUSTER_KIND:
            others = tuple(self.topics_of(key))
        return Change(key, True, others)

    def replace(
        self, kind: str, namespace: str, items: Iterable[Object], resource_version: str
    ) -> Iterator[Change]:
        """A whole listing of a kind in a namespace, or in all (an empty one).

        What it lacks is gone, unless it is younger than the listing.
        """
        there = set()
        for item in items:
            there.add(key_of(item))
            change = self.put(item)
            if change is not None:
                yield change
        listed = version_number(resource_version)
        for key in self.keys(kind):
            known = version_number(self._objects[key]["metadata"].get("resourceVersion", ""))
            covered = namespace in ("", key.namespace)
            if covered and key not in there and known <= listed:
                yield self.remove(key)

    def _reindex(self, key: Key) -> tuple[Key, ...]:
        if key.kind == CLUSTER_KIND:
            return tuple(self.topics_of(key))
        others = self._unindex(key)
        self._index(key)
        own = self._topics.get(key)
        if own is None:
            return others
        return tuple({*others, *self._by_name[_topic_key(own)]} - {key})

    def _index(self, key: Key) -> None:
        parse = parse_topic if key.kind == TOPIC_KIND else parse_queue
        try:
            resource: AnyTopic = parse(self._objects[key])
        except SpecError:
            return
        self._topics[key] = resource
        self._by_cluster.setdefault(cluster_of(resource), set()).add(key)
        self._by_name.setdefault(_topic_key(resource), set()).add(key)

    def _unindex(self, key: Key) -> tuple[Key, ...]:
        own = self._topics.pop(key, None)
        if own is None:
            return ()
        _discard(self._by_cluster, cluster_of(own), key)
        name = _topic_key(own)
        _discard(self._by_name, name, key)
        return tuple(self._by_name.get(name, ()))


def key_of(obj: Object) -> Key:
    """The key of one of our resources."""
    metadata = obj["metadata"]
    return Key(obj["kind"], metadata["namespace"], metadata["name"])


def cluster_of(resource: AnyTopic) -> Key:
    """The cluster that a topic or queue refers to."""
    return Key(CLUSTER_KIND, *resource.cluster_key)


def refusal_of(obj: Object) -> MomError | None:
    """Why a topic or queue can't be read, if it can't."""
    parse = parse_topic if obj["kind"] == TOPIC_KIND else parse_queue
    try:
        parse(obj)
    except SpecError as error:
        return error
    return None


def _topic_key(resource: AnyTopic) -> TopicKey:
    return TopicKey(cluster_of(resource), name_of(resource))


def _discard(index: dict[Any, set[Key]], at: Any, key: Key) -> None:
    keys = index.get(at)
    if keys is not None:
        keys.discard(key)
        if not keys:
            del index[at]


def _asked(obj: Object) -> tuple[Any, ...]:
    """What of a resource decides what is to be done."""
    metadata = obj["metadata"]
    return (
        metadata["uid"],
        metadata.get("generation"),
        metadata.get("deletionTimestamp"),
        metadata.get("annotations"),
        metadata.get("finalizers"),
    )
