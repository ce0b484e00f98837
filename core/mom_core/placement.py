"""Which node owns which partition.

:func:`place` is a pure function from what stands to what should stand. Active nodes own numbers of
partitions that differ by one at most. A cordoned node keeps what it has and gets nothing; a
draining or lost node, and one that is not known at all, gives everything away. Within these rules:

- **Fewest moves.** A partition on an active node stays unless its node owns more than its share,
  and the larger shares go to the nodes that own the most already. No other placement that keeps the
  balance moves fewer. What is placed already is left alone: ``place`` of its own result is no move.
- **Topics spread.** An overloaded node gives away partitions of the topics that it has too many of,
  and each partition goes to the node that has the fewest of its topic. From nothing, the partitions
  of every topic differ by one at most, too. After nodes came and went this can drift, since a
  partition is never moved for the spread of its topic alone.
- **Racks alternate.** Nodes take turns in an order that goes round the racks, so that neighbouring
  partitions are in different racks where there are several.

With no active node, draining nodes keep theirs (better served there than nowhere) and the rest have
no owner.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from heapq import heapify, heapreplace
from itertools import chain, groupby, zip_longest
from operator import attrgetter
from typing import Final, NamedTuple

from mom_core.names import PartitionId

_ORDER: Final = attrgetter("topic_id", "index")
_TOPIC: Final = attrgetter("topic_id")
# The preference of a node for a partition is one number, lowest first: partitions of its topic on
# the node, then room on the node (more is better), then partitions of its topic in the rack, then
# the node's turn. One integer compares faster than a tuple.
_COUNT_UNIT: Final = 1 << 56
_ROOM_UNIT: Final = 1 << 28
_RACK_UNIT: Final = 1 << 12
_FULL: Final = 1 << 80


class NodeState(StrEnum):
    """What may be placed on a node."""

    ACTIVE = "active"
    """Owns its share."""
    CORDONED = "cordoned"
    """Keeps what it owns, gets nothing new."""
    DRAINING = "draining"
    """Gives everything away while it still serves."""
    LOST = "lost"
    """Serves nothing any more."""


class PlacementNode(NamedTuple):
    """A node as far as placement is concerned."""

    node_id: str
    rack: str
    """Its failure domain; nodes of no known rack share the empty name."""
    state: NodeState


class Move(NamedTuple):
    """A partition that gets another owner."""

    partition: PartitionId
    source: str | None
    target: str | None
    """None only when there is no node that could own it."""


class Placement(NamedTuple):
    """The outcome of :func:`place`."""

    assignment: dict[PartitionId, str | None]
    moves: tuple[Move, ...]
    """Sorted by partition: what differs from the assignment that was given."""


def place(current: Mapping[PartitionId, str | None], nodes: Iterable[PlacementNode]) -> Placement:
    """Give each partition in ``current`` an owner. The order of the inputs makes no difference."""
    states = {node.node_id: node for node in nodes}
    active = _alternate_racks([node for node in states.values() if node.state is NodeState.ACTIVE])
    staying = {NodeState.CORDONED} if active else {NodeState.CORDONED, NodeState.DRAINING}
    board = _Board(active)
    homeless: list[PartitionId] = []
    assignment: dict[PartitionId, str | None] = dict(current)
    for partition, owner in current.items():
        node = None if owner is None else states.get(owner)
        if node is not None and node.state is NodeState.ACTIVE:
            board.hold(partition, node.node_id)
        elif node is None or node.state not in staying:
            homeless.append(partition)
    if active:
        homeless += board.release(board.held_count + len(homeless))
        assignment.update(board.settle(sorted(homeless, key=_ORDER)))
    else:
        assignment.update(dict.fromkeys(homeless))
    return Placement(assignment, _moves(current, assignment))


def _moves(
    before: Mapping[PartitionId, str | None], after: Mapping[PartitionId, str | None]
) -> tuple[Move, ...]:
    changed = [partition for partition, owner in before.items() if after[partition] != owner]
    return tuple(Move(p, before[p], after[p]) for p in sorted(changed, key=_ORDER))


def _alternate_racks(nodes: Sequence[PlacementNode]) -> list[PlacementNode]:
    """The nodes in turns over their racks: a1 b1 c1 a2 b2 c2 and so on."""
    in_order = sorted(nodes, key=lambda node: (node.rack, node.node_id))
    racks = [list(group) for _, group in groupby(in_order, key=lambda node: node.rack)]
    return [node for node in chain.from_iterable(zip_longest(*racks)) if node is not None]


class _Board:
    """The active nodes by position, with what each holds and how much more it takes."""

    def __init__(self, active: Sequence[PlacementNode]) -> None:
        self._ids = [node.node_id for node in active]
        self._positions = {node_id: position for position, node_id in enumerate(self._ids)}
        # For each node, those of its rack, itself included.
        self._neighbours = [
            [at for at, other in enumerate(active) if other.rack == node.rack] for node in active
        ]
        self._held: list[list[PartitionId]] = [[] for _ in active]
        self._free: list[int] = []

    @property
    def held_count(self) -> int:
        return sum(map(len, self._held))

    def hold(self, partition: PartitionId, node_id: str) -> None:
        self._held[self._positions[node_id]].append(partition)

    def release(self, total: int) -> list[PartitionId]:
        """Set the shares of ``total`` partitions and take back what is above them."""
        least, larger = divmod(total, len(self._ids))
        by_load = sorted(range(len(self._ids)), key=lambda at: (-len(self._held[at]), at))
        shares = dict.fromkeys(by_load, least) | dict.fromkeys(by_load[:larger], least + 1)
        topic_sizes = Counter(p.topic_id for held in self._held for p in held)
        released: Counter[str] = Counter()
        taken: list[PartitionId] = []
        for at in range(len(self._ids)):
            excess = len(self._held[at]) - shares[at]
            if excess > 0:
                taken += self._take(at, excess, topic_sizes, released)
        self._free = [shares[at] - len(held) for at, held in enumerate(self._held)]
        return taken

    def _take(
        self, at: int, excess: int, topic_sizes: Counter[str], released: Counter[str]
    ) -> list[PartitionId]:
        """Take ``excess`` partitions of the topics that the node has the most too many of.

        Among equals, those of topics that other nodes have released least, so that the receiving
        nodes get a mix.
        """
        by_topic: defaultdict[str, list[PartitionId]] = defaultdict(list)
        for partition in sorted(self._held[at], key=_ORDER):
            by_topic[partition.topic_id].append(partition)

        def surplus(topic_id: str) -> tuple[int, int, str]:
            held_times_nodes = len(by_topic[topic_id]) * len(self._ids)
            return (topic_sizes[topic_id] - held_times_nodes, released[topic_id], topic_id)

        heap = [surplus(topic_id) for topic_id in by_topic]
        heapify(heap)
        taken = []
        for _ in range(excess):
            topic_id = heap[0][2]
            taken.append(by_topic[topic_id].pop())
            released[topic_id] += 1
            # A topic without partitions left sorts last for good: nothing of it is a surplus.
            left = by_topic[topic_id]
            heapreplace(heap, surplus(topic_id) if left else (1 << 62, 0, topic_id))
        self._held[at] = [partition for left in by_topic.values() for partition in left]
        return taken

    def settle(self, homeless: Sequence[PartitionId]) -> dict[PartitionId, str]:
        """Give every partition, sorted, to a node that has room, and return the owners."""
        wanted = {partition.topic_id for partition in homeless}
        held_at: defaultdict[str, list[int]] = defaultdict(list)
        for at, held in enumerate(self._held):
            for partition in held:
                if partition.topic_id in wanted:
                    held_at[partition.topic_id].append(at)
        room_keys = [
            at - room * _ROOM_UNIT if room else _FULL for at, room in enumerate(self._free)
        ]
        owners: dict[PartitionId, str] = {}
        for topic_id, group in groupby(homeless, key=_TOPIC):
            self._settle_topic(group, held_at.get(topic_id, ()), room_keys, owners)
        return owners

    def _settle_topic(
        self,
        group: Iterable[PartitionId],
        held_at: Iterable[int],
        room_keys: list[int],
        owners: dict[PartitionId, str],
    ) -> None:
        free, neighbours = self._free, self._neighbours
        keys = room_keys.copy()
        for at in held_at:
            keys[at] += _COUNT_UNIT
            for neighbour in neighbours[at]:
                keys[neighbour] += _RACK_UNIT
        for partition in group:
            at = keys.index(min(keys))
            owners[partition] = self._ids[at]
            free[at] -= 1
            room_keys[at] = room_keys[at] + _ROOM_UNIT if free[at] else _FULL
            keys[at] = keys[at] + _COUNT_UNIT + _ROOM_UNIT if free[at] else _FULL
            for neighbour in neighbours[at]:
                keys[neighbour] += _RACK_UNIT
