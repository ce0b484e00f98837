"""The control plane as one process sees it: a watch of the store, kept as plain dicts.

Nodes route by it and learn from it which partitions are theirs; masters place by it. It may lag
behind the store by a moment, never more than a watch does, so whoever decides by it writes under
the revision that it showed: a decision on old facts is then refused, and made again.

The dicts are live and belong to the view: readers look at them between two awaits and change
nothing. Changes that arrive together are told together, once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing, suppress
from typing import Final, NamedTuple, TypeVar

import msgspec

from mom_core import catalog
from mom_core.catalog import Assignment, ClusterRecord, LeaderRecord, NodeRecord
from mom_core.errors import MomError
from mom_core.operations import OperationRecord
from mom_core.ports import Clock, KeyEvent, KeySnapshot, Store
from mom_core.topics import SubscriptionConfig, TopicConfig, decode_subscription, decode_topic

# How long to wait before a watch that broke is begun again: short beside every timeout of the
# cluster, long enough not to spin on a store that fails at once.
WATCH_RETRY_MS: Final = 200

_log = logging.getLogger(__name__)

ValueT = TypeVar("ValueT")

Changed = Callable[[frozenset[str] | None], None]
"""Told the keys that changed; None: anything may have."""


class VersionedAssignment(NamedTuple):
    """An assignment and the revision to write its successor under."""

    assignment: Assignment
    revision: int


class CatalogView:
    """Topics, assignments, nodes, subscriptions and the leader, followed live."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._callbacks: list[Changed] = []
        self._task: asyncio.Task[None] | None = None
        self._synced = asyncio.Event()
        self._next_change = asyncio.Event()
        # None: everything changed.
        self._pending: set[str] | None = set()
        self._announcing = False
        self._snapshots = 0
        self.revision = 0
        self._clear()

    def _clear(self) -> None:
        self.revisions: dict[str, int] = {}
        """The revision of every entry that the view shows, by key."""
        self.topics: dict[str, TopicConfig] = {}
        self.topics_by_id: dict[str, TopicConfig] = {}
        self.assignments: dict[str, VersionedAssignment] = {}
        self.nodes: dict[str, NodeRecord] = {}
        self.subscriptions: dict[str, dict[str, SubscriptionConfig]] = {}
        """By topic id, then by name."""
        self.operations: dict[str, dict[str, OperationRecord]] = {}
        """By the queue's topic id, then by their own id."""
        self.leader: LeaderRecord | None = None
        self.cluster: ClusterRecord | None = None

    async def start(self) -> None:
        """Begin to follow the store; returns when the view shows all of it."""
        assert self._task is None, "a view is started once"
        self._task = asyncio.create_task(self._follow(), name="catalog view")
        await self._synced.wait()

    async def close(self) -> None:
        """Stop following; the dicts keep what they last showed."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def subscribe(self, callback: Changed) -> Callable[[], None]:
        """Call ``callback`` after each change, from the event loop; returns how to stop that."""
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    async def changed(self) -> None:
        """Wait for the next change that is told."""
        await self._next_change.wait()

    async def reached(self, revision: int) -> None:
        """Wait until the view shows the store as of ``revision`` or later, or began again.

        A view begins again after a break. The store may then have lost that revision in a failover,
        so whoever waited looks at what the view shows.
        """
        snapshots = self._snapshots
        while self.revision < revision and self._snapshots == snapshots:
            await self.changed()

    async def _follow(self) -> None:
        while True:
            try:
                async with aclosing(self._store.watch("")) as changes:  # type: ignore[type-var]
                    async for change in changes:
                        self._apply(change)
                return  # The store was closed.
            except MomError as error:
                _log.warning("the watch of the store broke and begins again: %s", error.message)
            await self._clock.sleep(WATCH_RETRY_MS)

    def _apply(self, change: KeySnapshot | KeyEvent) -> None:
        if isinstance(change, KeySnapshot):
            self._clear()
            for entry in change.entries:
                self._put(entry.key, entry.value, entry.revision)
            self._pending = None
            self._snapshots += 1
            self._synced.set()
        else:
            if change.value is None:
                self._remove(change.key)
            else:
                self._put(change.key, change.value, change.revision)
            if self._pending is not None:
                self._pending.add(change.key)
        self.revision = change.revision
        if not self._announcing:
            self._announcing = True
            asyncio.get_running_loop().call_soon(self._announce)

    def _announce(self) -> None:
        self._announcing = False
        keys = None if self._pending is None else frozenset(self._pending)
        self._pending = set()
        self._next_change.set()
        self._next_change = asyncio.Event()
        for callback in tuple(self._callbacks):
            callback(keys)

    def _put(self, key: str, value: bytes, revision: int) -> None:
        """Show an entry. One that can't be read is left as it was, and said."""
        prefix, _, rest = key.partition("/")
        show = self._shows.get(prefix)
        if show is None:
            return
        try:
            show(self, rest, value, revision)
        except (MomError, msgspec.MsgspecError) as error:
            _log.error("the store's entry %r can't be read and is left out: %s", key, error)
            return
        self.revisions[key] = revision

    def _show_cluster(self, _rest: str, value: bytes, _revision: int) -> None:
        self.cluster = catalog.decode(value, ClusterRecord)

    def _show_leader(self, _rest: str, value: bytes, _revision: int) -> None:
        self.leader = catalog.decode(value, LeaderRecord)

    def _show_node(self, node_id: str, value: bytes, _revision: int) -> None:
        self.nodes[node_id] = catalog.decode(value, NodeRecord)

    def _show_topic(self, name: str, value: bytes, _revision: int) -> None:
        topic = decode_topic(value)
        before = self.topics.get(name)
        if before is not None:
            self.topics_by_id.pop(before.topic_id, None)
        self.topics[name] = topic
        self.topics_by_id[topic.topic_id] = topic

    def _show_assignment(self, topic_id: str, value: bytes, revision: int) -> None:
        assignment = catalog.decode(value, Assignment)
        self.assignments[topic_id] = VersionedAssignment(assignment, revision)

    def _show_subscription(self, rest: str, value: bytes, _revision: int) -> None:
        topic_id, _, name = rest.partition("/")
        self.subscriptions.setdefault(topic_id, {})[name] = decode_subscription(value)

    def _show_operation(self, rest: str, value: bytes, _revision: int) -> None:
        topic_id, _, operation_id = rest.partition("/")
        record = catalog.decode(value, OperationRecord)
        self.operations.setdefault(topic_id, {})[operation_id] = record

    _shows: Final = {
        "cluster": _show_cluster,
        "leader": _show_leader,
        "nodes": _show_node,
        "topics": _show_topic,
        "assignments": _show_assignment,
        "subscriptions": _show_subscription,
        "operations": _show_operation,
    }

    def _remove(self, key: str) -> None:
        self.revisions.pop(key, None)
        prefix, _, rest = key.partition("/")
        match prefix:
            case "cluster":
                self.cluster = None
            case "leader":
                self.leader = None
            case "nodes":
                self.nodes.pop(rest, None)
            case "topics":
                topic = self.topics.pop(rest, None)
                if topic is not None:
                    self.topics_by_id.pop(topic.topic_id, None)
            case "assignments":
                self.assignments.pop(rest, None)
            case "subscriptions":
                _remove_below(self.subscriptions, rest)
            case "operations":
                _remove_below(self.operations, rest)


def _remove_below(entries: dict[str, dict[str, ValueT]], rest: str) -> None:
    """Remove the entry of a key ``topic_id/name``."""
    topic_id, _, name = rest.partition("/")
    names = entries.get(topic_id, {})
    names.pop(name, None)
    if not names:
        entries.pop(topic_id, None)
