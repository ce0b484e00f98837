"""WatchRouting: the routing table and its changes, the same from every process that serves it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from mom_broker.routing import table
from mom_broker.storage.catalog_view import CatalogView
from mom_core.access import Action, Identity, allowed
from mom_core.limits import ROUTING_BEAT_MS
from mom_proto.v1 import broker_pb2


class RoutingWatch:
    """Tells callers the table of one process's view, as far as each may see it."""

    def __init__(
        self,
        view: CatalogView,
        *,
        from_master: bool = False,
        beat_ms: int = ROUTING_BEAT_MS,
    ) -> None:
        self._view = view
        self._beat_ms = beat_ms
        self._from_master = from_master
        # In the order in which they came: chance must not order whose stream ends first.
        self._watchers: dict[asyncio.Event, None] = {}
        self._stopping = False

    def stop(self) -> None:
        """End the streams; clients go on with another process."""
        self._stopping = True
        for wake in self._watchers:
            wake.set()

    async def updates(
        self, who: Callable[[], Identity], request: broker_pb2.WatchRoutingRequest
    ) -> AsyncIterator[broker_pb2.RoutingUpdate]:
        """The whole table, then what changes, until the caller goes or the process stops.

        ``who`` names the caller, and raises when its token is good no more.
        """
        names = frozenset(request.topics)
        pending: set[str] = set()
        everything = True
        wake = asyncio.Event()

        def on_change(keys: frozenset[str] | None) -> None:
            nonlocal everything
            everything = everything or keys is None
            pending.update(keys or ())
            wake.set()

        unsubscribe = self._view.subscribe(on_change)
        self._watchers[wake] = None
        try:
            while not self._stopping:
                identity = who()  # A stream lasts longer than its token may be good.
                if everything:
                    update: broker_pb2.RoutingUpdate = table.full_update(self._view, names)
                else:
                    update = table.changed_update(self._view, pending, names)
                everything = False
                pending.clear()
                wake.clear()
                update.from_master = self._from_master
                yield _visible(update, identity)
                try:
                    await asyncio.wait_for(wake.wait(), self._beat_ms / 1000)
                except TimeoutError:
                    continue
        finally:
            unsubscribe()
            self._watchers.pop(wake, None)


def _visible(update: broker_pb2.RoutingUpdate, identity: Identity) -> broker_pb2.RoutingUpdate:
    """The update without the topics that the caller may not know of."""

    def seen(name: str) -> bool:
        return allowed(identity, Action.DESCRIBE, name)

    topics = [one for one in update.topics if seen(one.topic.name)]
    if len(topics) < len(update.topics):
        del update.topics[:]
        update.topics.extend(topics)
    removed = [name for name in update.removed if seen(name)]
    if len(removed) < len(update.removed):
        update.removed[:] = removed
    return update
