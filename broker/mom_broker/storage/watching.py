"""Watches of engines that live in one process: changes go from the writer to each watcher's queue.

A watcher that falls behind does not grow without bound: its queue is dropped, and it begins again
with a snapshot. Since snapshot and changes both carry the store's revision, a change that the
snapshot already shows is left out.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final

from mom_core.ports import KeyEvent, KeySnapshot

# Changes that wait for one slow watcher; beyond it a snapshot is cheaper anyway.
WATCH_EVENTS_MAX: Final = 4_096


class _Watcher:
    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.events: deque[KeyEvent] = deque()
        self.missed = True
        self.wake = asyncio.Event()

    def put(self, events: Sequence[KeyEvent]) -> None:
        if self.missed:
            self.wake.set()
            return
        self.events.extend(event for event in events if event.key.startswith(self.prefix))
        if len(self.events) > WATCH_EVENTS_MAX:
            self.events.clear()
            self.missed = True
        self.wake.set()


class WatchHub:
    """Hands each change to all watchers of its prefix. Call it from the event loop only."""

    def __init__(self, snapshot: Callable[[str], Awaitable[KeySnapshot]]) -> None:
        self._snapshot = snapshot
        # In the order in which they came, so that a simulation runs the same each time.
        self._watchers: dict[_Watcher, None] = {}
        self._closed = False

    def publish(self, events: Sequence[KeyEvent]) -> None:
        """Hand on changes, in the order of their revisions."""
        for watcher in self._watchers:
            watcher.put(events)

    def begin_again(self) -> None:
        """Changes may have been missed: every watch goes on with a snapshot."""
        for watcher in self._watchers:
            watcher.events.clear()
            watcher.missed = True
            watcher.wake.set()

    def close(self) -> None:
        """End every watch."""
        self._closed = True
        for watcher in self._watchers:
            watcher.wake.set()

    async def watch(self, prefix: str) -> AsyncIterator[KeySnapshot | KeyEvent]:
        """See :meth:`mom_core.ports.Store.watch`."""
        watcher = _Watcher(prefix)
        self._watchers[watcher] = None
        revision = 0
        try:
            while not self._closed:
                if watcher.missed:
                    # Cleared first: a change during the read is queued, and left out if shown.
                    watcher.missed = False
                    snapshot = await self._snapshot(prefix)
                    revision = snapshot.revision
                    yield snapshot
                while watcher.events and not watcher.missed:
                    event = watcher.events.popleft()
                    if event.revision > revision:
                        yield event
                if not watcher.missed:
                    watcher.wake.clear()
                    await watcher.wake.wait()
        finally:
            self._watchers.pop(watcher, None)
