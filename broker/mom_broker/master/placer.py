"""Keeps every partition on a node that is there.

Whatever changes in topics or nodes wakes the placer. It waits ``placement_debounce_ms``, so that
nodes that start together cause one round, asks :func:`mom_core.placement.place` for what should be,
and writes each topic's assignment under the revision it was read at, with the next epoch for each
partition that moves. Rounds are idempotent: one that was interrupted is simply made again.

A partition whose owner is gone, with nobody to take it, stays with that owner on paper: when the
owner is back it serves again at once, also without a master.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter

from mom_broker.master.writer import ControlWriter
from mom_broker.rpc.messages import NOBODY
from mom_broker.storage.catalog_view import CatalogView
from mom_core import catalog, placement
from mom_core.cadence import STANDARD, Cadence
from mom_core.catalog import ASSIGNMENTS_PREFIX, NODES_PREFIX, TOPICS_PREFIX, Assignment, Owner
from mom_core.errors import ConflictError, MomError
from mom_core.names import PartitionId
from mom_core.placement import Move, PlacementNode
from mom_core.ports import Clock, KeyWrite
from mom_core.topics import TopicConfig

# Between two attempts while the store does not answer.
RETRY_MS: Final = 200
# Assignments in one atomic write: some 50 KB with four partitions each, a few milliseconds.
WRITE_KEYS_MAX: Final = 256
# Partitions in one atomic write, where topics have many.
WRITE_PARTITIONS_MAX: Final = 4_096

_log = logging.getLogger(__name__)


class Placer:
    """Places partitions while its master leads."""

    def __init__(
        self,
        view: CatalogView,
        writer: ControlWriter,
        clock: Clock,
        metrics: CollectorRegistry,
        cadence: Cadence = STANDARD,
    ) -> None:
        self._debounce_ms = cadence.placement_debounce_ms
        self._view = view
        self._writer = writer
        self._clock = clock
        self._dirty = asyncio.Event()
        view.subscribe(self._on_change)
        self._moved_count = Counter(
            "mom_master_partitions_moved", "Partitions given to another node.", registry=metrics
        )

    def _on_change(self, keys: frozenset[str] | None) -> None:
        prefixes = (TOPICS_PREFIX, NODES_PREFIX, ASSIGNMENTS_PREFIX)
        if keys is None or any(key.startswith(prefixes) for key in keys):
            self._dirty.set()

    async def run(self) -> None:
        """Place whenever something changes, until cancelled."""
        self._dirty.set()
        while True:
            await self._dirty.wait()
            await self._clock.sleep(self._debounce_ms)
            self._dirty.clear()
            try:
                await self.place()
            except ConflictError:
                self._dirty.set()  # An owner raised an epoch meanwhile: look again.
            except MomError as error:
                _log.warning("placing partitions failed and is tried again: %s", error.message)
                self._dirty.set()
                await self._clock.sleep(RETRY_MS)

    async def place(self) -> int:
        """Make one round; returns how many partitions moved."""
        moved = 0
        async with self._writer.turn():
            for writes, moves in list(_chunks(self._plan())):
                await self._writer.write(writes)
                moved += moves
        if moved:
            self._moved_count.inc(moved)
            _log.info("partitions placed", extra={"moves": moved})
        return moved

    def _plan(self) -> Iterator[tuple[KeyWrite, int]]:
        """An assignment to write, and how many of its partitions move."""
        moves: defaultdict[str, list[Move]] = defaultdict(list)
        for move in self._moves(()):
            if move.target is not None:
                moves[move.partition.topic_id].append(move)
        for topic in self._view.topics.values():
            found = self._view.assignments.get(topic.topic_id)
            placed = len(found.assignment.owners) if found is not None else 0
            if moves[topic.topic_id] or placed < topic.partitions:
                revision = found.revision if found is not None else 0
                assignment = self._moved(topic, moves[topic.topic_id])
                key = catalog.assignment_key(topic.topic_id)
                yield (
                    KeyWrite(key, catalog.encode(assignment), revision),
                    len(moves[topic.topic_id]),
                )

    def assignment_for(self, topic: TopicConfig) -> Assignment:
        """Owners for a new topic, or for the partitions that a topic gets, moving no other."""
        moves = [
            move
            for move in self._moves((topic,))
            if move.partition.topic_id == topic.topic_id
            and move.target is not None
            and self._owner(topic.topic_id, move.partition.index) is NOBODY
        ]
        return self._moved(topic, moves)

    def _moves(self, extra: Iterable[TopicConfig]) -> Sequence[Move]:
        topics = self._view.topics_by_id | {topic.topic_id: topic for topic in extra}
        current = {
            PartitionId(topic.topic_id, index): owner.node_id or None
            for topic in topics.values()
            for index, owner in enumerate(self._owners(topic))
        }
        nodes = [
            PlacementNode(one.node_id, one.rack, placement.NodeState(one.state.value))
            for one in self._view.nodes.values()
        ]
        return placement.place(current, nodes).moves

    def _owners(self, topic: TopicConfig) -> list[Owner]:
        found = self._view.assignments.get(topic.topic_id)
        owners = list(found.assignment.owners) if found is not None else []
        return owners + [NOBODY] * (topic.partitions - len(owners))

    def _owner(self, topic_id: str, index: int) -> Owner:
        found = self._view.assignments.get(topic_id)
        if found is None or index >= len(found.assignment.owners):
            return NOBODY
        return found.assignment.owners[index]

    def _moved(self, topic: TopicConfig, moves: Iterable[Move]) -> Assignment:
        owners = self._owners(topic)
        for move in moves:
            epoch = owners[move.partition.index].epoch + 1
            owners[move.partition.index] = Owner(move.target or "", epoch)
        return Assignment(topic_id=topic.topic_id, owners=tuple(owners))


def _chunks(plan: Iterable[tuple[KeyWrite, int]]) -> Iterator[tuple[list[KeyWrite], int]]:
    """The plan in writes of bounded size."""
    writes: list[KeyWrite] = []
    moves = 0
    for write, count in plan:
        if writes and (len(writes) >= WRITE_KEYS_MAX or moves + count > WRITE_PARTITIONS_MAX):
            yield writes, moves
            writes, moves = [], 0
        writes.append(write)
        moves += count
    if writes:
        yield writes, moves
