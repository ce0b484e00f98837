"""Which nodes are there.

A node keeps a stream to the leader. It is lost when its heartbeats stop for a whole
``heartbeat_timeout_ms``, or when its stream breaks and no other comes within RECONNECT_GRACE_MS: a
killed process costs little time, and a hiccup of the network moves nothing. A node that says it is
leaving becomes ``draining``, is told how many partitions it still has, and is forgotten when its
stream ends.

Every node has one deadline, and each of the rules above only sets it: a heartbeat, a broken stream,
or the beginning of a term, since a new leader can't know how long a node has been silent and so
gives each a full ``heartbeat_timeout_ms``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge

from mom_broker.master.expected import Expected, expected_write, load_expected
from mom_broker.master.intents import ANY_NODE, INTENTS_PREFIX, Intent, intent_write, load_intents
from mom_broker.master.waiting import woken
from mom_broker.master.writer import ControlWriter
from mom_broker.rpc.messages import partitions_by_node
from mom_broker.storage.catalog_view import CatalogView
from mom_core import catalog
from mom_core.cadence import STANDARD, Cadence
from mom_core.catalog import ASSIGNMENTS_PREFIX, NODES_PREFIX, NodeRecord, NodeState
from mom_core.errors import ConflictError, InvalidArgumentError, MomError, NotFoundError
from mom_core.names import check_name
from mom_core.ports import Clock, KeyWrite, Store
from mom_process.addresses import parse_address
from mom_proto.v1 import master_pb2

# A node whose stream broke may come back within this time and keep its partitions.
RECONNECT_GRACE_MS: Final = 300
# Between two attempts to write down that a node is lost.
RETRY_MS: Final = 100
NODES_MAX: Final = 1_000
# A lost node's record is shown until this many others are lost, too.
LOST_NODES_MAX: Final = 32

_log = logging.getLogger(__name__)


class Session:
    """One node's stream to this master."""

    def __init__(self, node_id: str, address: str, rack: str, incarnation: int) -> None:
        self.node_id = node_id
        self.address = address
        self.rack = rack
        self.incarnation = incarnation
        self.leaving = False
        self.wake = asyncio.Event()
        """Set when there is something to tell the node."""
        self.error: MomError | None = None
        """Why the stream is to end."""

    def end(self, error: MomError) -> None:
        """Have the stream end with an error."""
        self.error = error
        self.wake.set()


def _session_of(beat: master_pb2.NodeBeat) -> Session:
    if not beat.HasField("node"):
        raise InvalidArgumentError("the first message of a node must say who it is", field="node")
    check_name(beat.node.node_id, "node_id")
    parse_address(beat.node.address, "address")
    return Session(beat.node.node_id, beat.node.address, beat.node.rack, beat.incarnation)


class Registry:
    """The nodes of one leader's term after the other."""

    def __init__(
        self,
        store: Store,
        view: CatalogView,
        writer: ControlWriter,
        clock: Clock,
        metrics: CollectorRegistry,
        cadence: Cadence = STANDARD,
    ) -> None:
        self._cadence = cadence
        self._store = store
        self._view = view
        self._writer = writer
        self._clock = clock
        self._sessions: dict[str, Session] = {}
        self._deadlines_ms: dict[str, int] = {}
        self._intents: dict[str, Intent] = {}
        self._expected = Expected()
        self._wake = asyncio.Event()
        self._placed: tuple[int, dict[str, int]] = (-1, {})
        view.subscribe(self._on_change)
        Gauge(
            "mom_master_node_streams", "Nodes with a stream to this master.", registry=metrics
        ).set_function(lambda: len(self._sessions))
        self._lost_count = Counter("mom_master_nodes_lost", "Nodes found lost.", registry=metrics)

    # Terms.

    async def begin_term(self) -> None:
        """Expect every node that is not known to be lost."""
        self._intents = await load_intents(self._store)
        self._expected = await load_expected(self._store)
        deadline_ms = self._clock.monotonic_ms() + self._cadence.heartbeat_timeout_ms
        self._deadlines_ms = {
            node_id: deadline_ms
            for node_id, record in self._view.nodes.items()
            if record.state is not NodeState.LOST
        }

    def end_term(self, error: MomError) -> None:
        """Send all nodes to the next leader."""
        for session in self._sessions.values():
            session.end(error)
        self._sessions.clear()
        self._deadlines_ms.clear()

    # What streams report.

    async def join(self, beat: master_pb2.NodeBeat) -> Session:
        """Register the node of a new stream.

        Raises InvalidArgumentError for an ill-formed first message, and what a write raises.
        """
        session = _session_of(beat)
        known = self._view.nodes
        if session.node_id not in known and len(known) >= NODES_MAX:
            raise ConflictError(f"the cluster has {len(known)} nodes, and more are not supported")
        before = self._sessions.get(session.node_id)
        if before is not None:
            before.end(
                ConflictError(
                    f"a new stream came from {session.address} as node {session.node_id!r}; if "
                    "that is another process, give one of them another id"
                )
            )
        self._sessions[session.node_id] = session
        await self.beat(session, beat)
        _log.info("node registered", extra={"node_id": session.node_id, "address": session.address})
        return session

    async def beat(self, session: Session, beat: master_pb2.NodeBeat) -> None:
        """Take a heartbeat, and write down what it changes."""
        if self._sessions.get(session.node_id) is not session:
            return
        self._deadlines_ms[session.node_id] = (
            self._clock.monotonic_ms() + self._cadence.heartbeat_timeout_ms
        )
        session.leaving = session.leaving or beat.leaving
        if self._record_of(session) != self._view.nodes.get(session.node_id):
            await self._writer.apply(lambda: (self._record_writes(session), None))
        session.wake.set()

    def gone(self, session: Session) -> None:
        """Take note that a stream has ended."""
        if self._sessions.get(session.node_id) is not session:
            return
        del self._sessions[session.node_id]
        grace_ms = 0 if session.leaving else RECONNECT_GRACE_MS
        self._deadlines_ms[session.node_id] = self._clock.monotonic_ms() + grace_ms
        self._wake.set()

    def _intent_of(self, session: Session) -> Intent:
        intent = self._intents.get(session.node_id, ANY_NODE)
        if session.leaving:
            # Who drained it will still undo that when it is back.
            return Intent(state=NodeState.DRAINING, by=intent.by)
        return intent

    def _record_of(self, session: Session) -> NodeRecord:
        standing = self._view.nodes.get(session.node_id)
        same = standing is not None and standing.incarnation == session.incarnation
        intent = self._intent_of(session)
        return NodeRecord(
            node_id=session.node_id,
            address=session.address,
            rack=session.rack or self._expected.racks.get(session.node_id, ""),
            state=intent.state,
            state_by=intent.by,
            incarnation=session.incarnation,
            registered_at_ms=(
                standing.registered_at_ms if standing is not None and same else self._store.now_ms()
            ),
        )

    def _record_writes(self, session: Session) -> Sequence[KeyWrite]:
        if self._sessions.get(session.node_id) is not session:
            return ()
        return self._writes_of(self._record_of(session))

    def _writes_of(self, record: NodeRecord) -> Sequence[KeyWrite]:
        key = catalog.node_key(record.node_id)
        if self._view.nodes.get(record.node_id) == record:
            return ()
        return [KeyWrite(key, catalog.encode(record), self._view.revisions.get(key, 0))]

    # What nodes are told.

    def placed(self) -> dict[str, int]:
        """How many partitions are placed on each node."""
        if self._placed[0] != self._view.revision:
            assignments = (found.assignment for found in self._view.assignments.values())
            self._placed = (self._view.revision, partitions_by_node(assignments))
        return self._placed[1]

    def reply(self, session: Session) -> master_pb2.MasterBeat:
        """What to tell a node now."""
        placed = self.placed().get(session.node_id, 0)
        if session.leaving and not self._others_active(session.node_id):
            # Nobody could take them: waiting would not help. They stay the node's, so that it has
            # them again as soon as it is back.
            placed = 0
        return master_pb2.MasterBeat(
            heartbeat_interval_ms=self._cadence.heartbeat_interval_ms, partitions_placed=placed
        )

    def _others_active(self, node_id: str) -> bool:
        return any(
            one.state is NodeState.ACTIVE and one.node_id != node_id
            for one in self._view.nodes.values()
        )

    def _on_change(self, keys: frozenset[str] | None) -> None:
        moved = keys is None or any(
            key.startswith((ASSIGNMENTS_PREFIX, NODES_PREFIX)) for key in keys
        )
        if moved:
            for session in self._sessions.values():
                if session.leaving:
                    session.wake.set()

    # What administrators want.

    async def set_state(self, node_id: str, state: NodeState, by: str = "") -> NodeRecord:
        """Change what a node is to be; ``by`` names the program that asks. Raises NotFoundError."""
        intent = Intent(state=state, by=by if state is not NodeState.ACTIVE else "")

        def plan() -> tuple[Sequence[KeyWrite], NodeRecord]:
            record = self._view.nodes.get(node_id)
            if record is None:
                known = ", ".join(sorted(self._view.nodes)) or "none"
                raise NotFoundError(f"no node {node_id!r}; known are: {known}", field="node_id")
            session = self._sessions.get(node_id)
            if record.state is not NodeState.LOST and not (session and session.leaving):
                record = msgspec.structs.replace(record, state=state, state_by=intent.by)
            return [intent_write(node_id, intent), *self._writes_of(record)], record

        record = await self._writer.apply(plan)
        self._intents[node_id] = intent
        return record

    async def expect(self, racks: dict[str, str]) -> list[str]:
        """Say which nodes there should be, with their racks; returns those that are missing.

        Nodes that are not expected and gone are forgotten, with what was wanted of them.
        """
        before, self._expected = self._expected, Expected(racks=racks)

        def plan() -> tuple[Sequence[KeyWrite], None]:
            writes = [] if before.racks == racks else [expected_write(Expected(racks=racks))]
            for session in self._sessions.values():
                writes += self._record_writes(session)
            return [*writes, *self._unexpected_writes()], None

        try:
            await self._writer.apply(plan)
        except MomError:
            self._expected = before
            raise
        self._intents = {
            node_id: intent
            for node_id, intent in self._intents.items()
            if node_id in racks or node_id in self._view.nodes
        }
        return self.missing()

    def missing(self) -> list[str]:
        """Ids of the expected nodes that are not there."""
        there = {
            one.node_id for one in self._view.nodes.values() if one.state is not NodeState.LOST
        }
        return sorted(self._expected.racks.keys() - there)

    def _unexpected_writes(self) -> Sequence[KeyWrite]:
        """Forget nodes that were lost, have nothing and are not awaited any more."""
        return [
            write
            for record in self._view.nodes.values()
            if record.state is NodeState.LOST and self._is_unexpected(record)
            for write in self._forget_write(record)
        ]

    def _is_unexpected(self, record: NodeRecord) -> bool:
        """Whether somebody says which nodes there should be, and this empty one is none of them."""
        expected = self._expected.racks
        placed = self.placed().get(record.node_id)
        return bool(expected) and record.node_id not in expected and not placed

    def _forget_write(self, record: NodeRecord) -> Sequence[KeyWrite]:
        return (
            KeyWrite(catalog.node_key(record.node_id), None),
            KeyWrite(INTENTS_PREFIX + record.node_id, None),
        )

    def _revision_of(self, node_id: str) -> int | None:
        return self._view.revisions.get(catalog.node_key(node_id))

    # Deadlines.

    async def run(self) -> None:
        """Find the nodes that are lost, until cancelled."""
        while True:
            wait_ms = self._next_ms() - self._clock.monotonic_ms()
            planned_ms = self._clock.monotonic_ms() + max(1, wait_ms)
            if not await woken(self._clock, self._wake, max(1, wait_ms)):
                self._forgive(self._clock.monotonic_ms() - planned_ms)
            now_ms = self._clock.monotonic_ms()
            for node_id, deadline_ms in tuple(self._deadlines_ms.items()):
                if deadline_ms <= now_ms:
                    await self._expire(node_id)

    def _next_ms(self) -> int:
        idle_ms = self._clock.monotonic_ms() + self._cadence.heartbeat_timeout_ms
        return min(self._deadlines_ms.values(), default=idle_ms)

    def _forgive(self, late_ms: int) -> None:
        """When this process itself stood still, heartbeats lie unread: nobody is to blame."""
        if late_ms > self._cadence.heartbeat_interval_ms:
            _log.warning("this process stood still for %d ms; nodes get that time again", late_ms)
            for node_id in self._deadlines_ms:
                self._deadlines_ms[node_id] += late_ms

    async def _expire(self, node_id: str) -> None:
        try:
            await self._writer.apply(lambda: (self._expiry_writes(node_id), None))
        except MomError as error:
            _log.warning("node %s is lost, which can't be written: %s", node_id, error.message)
            if node_id in self._deadlines_ms:
                self._deadlines_ms[node_id] = self._clock.monotonic_ms() + RETRY_MS

    def _expiry_writes(self, node_id: str) -> Sequence[KeyWrite]:
        deadline_ms = self._deadlines_ms.get(node_id)
        if deadline_ms is None or deadline_ms > self._clock.monotonic_ms():
            return ()  # It came back while this waited for its turn.
        del self._deadlines_ms[node_id]
        record = self._view.nodes.get(node_id)
        if record is None or record.state is NodeState.LOST:
            return ()
        if self._has_left(record):
            _log.info("node left", extra={"node_id": node_id})
            return [KeyWrite(catalog.node_key(node_id), None, self._revision_of(node_id))]
        if self._is_unexpected(record):
            _log.info("node left, and is not expected back", extra={"node_id": node_id})
            self._intents.pop(node_id, None)
            return self._forget_write(record)
        _log.warning("node lost", extra={"node_id": node_id, "address": record.address})
        self._lost_count.inc()
        lost = msgspec.structs.replace(record, state=NodeState.LOST)
        return [*self._writes_of(lost), *self._forget_writes()]

    def _has_left(self, record: NodeRecord) -> bool:
        """Whether it went in good order: it said so, and nothing is placed on it."""
        wanted = self._intents.get(record.node_id, ANY_NODE).state
        said_so = record.state is NodeState.DRAINING and wanted is not NodeState.DRAINING
        return said_so and not self.placed().get(record.node_id)

    def _forget_writes(self) -> Sequence[KeyWrite]:
        """Drop the records of the nodes that were lost longest ago and have nothing any more."""
        lost = [
            record
            for record in self._view.nodes.values()
            if record.state is NodeState.LOST and not self.placed().get(record.node_id)
        ]
        lost.sort(key=lambda record: record.registered_at_ms)
        return [
            KeyWrite(catalog.node_key(record.node_id), None)
            for record in lost[: max(0, len(lost) - LOST_NODES_MAX)]
        ]
