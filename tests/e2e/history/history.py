"""A history, gathered by what the rules ask about: messages, positions, readers, leases."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from e2e.history import events
from e2e.history.events import Action, AnyEvent, Outcome, ReadMode
from mom_core.dead_letters import DeathFacts
from mom_core.errors import ErrorCode


class Position(NamedTuple):
    """A place in the log of a topic or queue."""

    target: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.target}[{self.partition}] offset {self.offset}"


@dataclass(slots=True)
class SendRecord:
    """A send and what became of it. Without an end it was under way when the history ended."""

    client: str
    call: int
    target: str
    id: str
    key: str | None
    begin: float
    delay_s: float = 0.0
    ttl_s: float = 0.0
    dedup_id: str | None = None
    priority: int = 0
    group: str | None = None
    end: float | None = None
    position: Position | None = None
    durability: str = ""
    error: str | None = None
    may_have_landed: bool = True
    refused: bool = False
    """Its queue was full: an answer, and no failed call."""


@dataclass(slots=True)
class LeaseRecord:
    """A lease and what its worker did with it."""

    client: str
    position: Position
    id: str
    deliveries: int
    begin: float
    end: float
    lease_s: float
    settles: list[events.Settle] = field(default_factory=list)
    redrives: int = 0

    @property
    def acks(self) -> list[events.Settle]:
        """Acknowledgements that have, or may have, been taken."""
        return [
            one
            for one in self.settles
            if one.action is Action.ACK and one.outcome is not Outcome.REFUSED
        ]

    def lasts_until(self) -> float:
        """Up to when it lasts for certain if nobody settles it."""
        extensions = [one for one in self.settles if one.action is Action.EXTEND]
        return min([self.begin + self.lease_s, *(one.begin + one.lease_s for one in extensions)])

    def certain_until(self) -> float:
        """Up to when the message is this worker's for certain; its lease is from ``end`` on.

        The worker counts from its requests, which the cluster can only have taken later. Once it
        has asked to settle the message, the lease may be over. What order calls that overlapped
        were taken in, and when one without a reply was, nobody knows.
        """
        valid = [one for one in self.settles if one.outcome is not Outcome.REFUSED]
        extensions = [one for one in valid if one.action is Action.EXTEND]
        until = min([self.begin + self.lease_s, *(one.begin + one.lease_s for one in extensions)])
        for one in extensions:
            if one.outcome is Outcome.OK:
                until = max(until, one.begin + min(other.lease_s for other in extensions))
        return min([until, *(one.begin for one in valid if one.action is not Action.EXTEND)])


class Witness(NamedTuple):
    """Who saw a value at a position first, when, and how."""

    client: str
    at: float
    how: str


class DeadLetterRecord(NamedTuple):
    """A dead letter as it was seen first."""

    position: Position
    id: str
    origin: Position
    facts: DeathFacts
    seen: events.DeadLetter


class CallRecord(NamedTuple):
    """Any call, as a user feels it."""

    client: str
    what: str
    begin: float
    end: float
    wait_s: float
    error: str | None


@dataclass(slots=True)
class Disruption:
    """A disruption's time. Without an end it was under way when the history ended."""

    name: str
    begin: float
    end: float = float("inf")


class History:
    """All events, gathered. ``sends`` and ``reads`` are in the order of their events."""

    def __init__(self, source: Iterable[AnyEvent] = ()) -> None:
        self.clients: dict[str, events.Client] = {}
        self.sends: dict[tuple[str, int], SendRecord] = {}
        self.by_id: dict[tuple[str, str], list[SendRecord]] = {}
        self.readers: dict[tuple[str, str], events.Reader] = {}
        self.reads: list[events.Read] = []
        self.leases: dict[str, LeaseRecord] = {}
        self.leases_at: dict[Position, list[LeaseRecord]] = {}
        self.queues: dict[str, events.Queue] = {}
        self.cancels_at: dict[Position, list[events.Cancel]] = {}
        self.moves_at: dict[Position, list[events.Move]] = {}
        self.purges_of: dict[str, list[events.Purge]] = {}
        self.topics: dict[str, events.Topic] = {}
        self.pauses_of: dict[str, list[events.Pause]] = {}
        self.readings: list[events.Reading] = []
        self.descriptions: list[events.Described] = []
        self.crashes: list[events.Crash] = []
        self.dead_at: dict[Position, DeadLetterRecord] = {}
        self.copies_of: dict[Position, list[DeadLetterRecord]] = {}
        """The dead letters of each place of a queue, by what their headers say."""
        self.redrives_of: dict[str, list[events.Redrive]] = {}
        self.redrives_at: dict[Position, int] = {}
        """How often what is there was sent back before. What is not here never was."""
        self.values: dict[Position, dict[str, Witness]] = {}
        self.calls: list[CallRecord] = []
        self.log_ends: list[events.LogEnd] = []
        self.drained: dict[str, events.Drained] = {}
        self.disruptions: list[Disruption] = []
        for event in source:
            self.add(event)

    def add(self, event: AnyEvent) -> None:
        """Take an event in. Raises KeyError for one whose beginning is missing."""
        match event:
            case events.Client():
                self.clients[event.client] = event
            case events.Send():
                self._begin_send(event)
            case events.Sent() | events.SendFailed():
                self._end_send(event)
            case events.Reader():
                self.readers[event.reader, event.target] = event
            case events.Read():
                self.reads.append(event)
                position = Position(event.target, event.partition, event.offset)
                self._saw(position, event.id, event.client, event.at, f"read as {event.reader}")
            case events.Lease():
                self._lease(event)
            case events.Settle():
                self.leases[event.lease].settles.append(event)
            case events.Queue():
                self.queues[event.target] = event
            case events.Cancel():
                place = Position(event.target, event.partition, event.offset)
                self.cancels_at.setdefault(place, []).append(event)
            case events.Move():
                place = Position(event.target, event.partition, event.offset)
                self.moves_at.setdefault(place, []).append(event)
            case events.Purge():
                self.purges_of.setdefault(event.target, []).append(event)
            case events.Topic():
                self.topics[event.target] = event
            case events.Pause():
                self.pauses_of.setdefault(event.target, []).append(event)
            case events.Reading():
                self.readings.append(event)
            case events.Described():
                self.descriptions.append(event)
            case events.Crash():
                self.crashes.append(event)
            case events.DeadLetter():
                self._dead_letter(event)
            case events.Redrive():
                self.redrives_of.setdefault(event.target, []).append(event)
            case events.Call():
                self.calls.append(
                    CallRecord(
                        event.client, event.what, event.begin, event.end, event.wait_s, event.error
                    )
                )
            case events.LogEnd():
                self.log_ends.append(event)
            case events.Drained():
                self.drained[event.target] = event
            case events.Mark():
                self._mark(event)

    def _begin_send(self, event: events.Send) -> None:
        record = SendRecord(
            event.client,
            event.call,
            event.target,
            event.id,
            event.key,
            event.begin,
            event.delay_s,
            event.ttl_s,
            event.dedup_id,
            event.priority,
            event.group,
        )
        self.sends[event.client, event.call] = record
        self.by_id.setdefault((event.target, event.id), []).append(record)

    def _end_send(self, event: events.Sent | events.SendFailed) -> None:
        record = self.sends[event.client, event.call]
        record.end = event.end
        if isinstance(event, events.Sent):
            record.position = Position(record.target, event.partition, event.offset)
            record.durability = event.durability
            self._saw(record.position, record.id, event.client, event.end, "acknowledged")
        else:
            record.error = event.error
            record.may_have_landed = event.may_have_landed
            record.refused = self._is_refusal(record)
        error = None if record.refused else record.error
        self._call(event.client, "send", record.begin, event.end, error)

    def _is_refusal(self, record: SendRecord) -> bool:
        queue = self.queues.get(record.target)
        bounded = queue is not None and queue.messages_max > 0
        return bounded and record.error == ErrorCode.OVERLOADED.value

    def _lease(self, event: events.Lease) -> None:
        position = Position(event.target, event.partition, event.offset)
        record = LeaseRecord(
            event.client,
            position,
            event.id,
            event.deliveries,
            event.begin,
            event.end,
            event.lease_s,
            redrives=event.redrives,
        )
        if event.redrives:
            self.redrives_at[position] = event.redrives
        self.leases[event.lease] = record
        self.leases_at.setdefault(position, []).append(record)
        self._saw(position, event.id, event.client, event.end, "received")

    def _dead_letter(self, event: events.DeadLetter) -> None:
        facts = event.facts
        position = Position(event.target, event.partition, event.offset)
        origin = Position(facts.topic, facts.partition, facts.offset)
        if position not in self.dead_at:
            record = DeadLetterRecord(position, event.id, origin, facts, event)
            self.dead_at[position] = record
            self.copies_of.setdefault(origin, []).append(record)
        if facts.redrives:
            self.redrives_at[position] = self.redrives_at[origin] = facts.redrives
        self._saw(position, event.id, event.client, event.end, "seen as a dead letter")
        self._saw(origin, event.id, event.client, event.end, "the origin of a dead letter")

    def _saw(self, position: Position, value: str, client: str, at: float, how: str) -> None:
        witnesses = self.values.setdefault(position, {})
        if value not in witnesses or at < witnesses[value].at:
            witnesses[value] = Witness(client, at, how)

    def _call(
        self, client: str, what: str, begin: float, end: float, error: str | None = None
    ) -> None:
        self.calls.append(CallRecord(client, what, begin, end, 0.0, error))

    def _mark(self, event: events.Mark) -> None:
        if event.begins:
            self.disruptions.append(Disruption(event.disruption, event.at))
            return
        for one in reversed(self.disruptions):
            if one.name == event.disruption:
                one.end = event.at
                return

    def sends_of(self, target: str, message_id: str) -> list[SendRecord]:
        """The sends of a message that is seen there: to it, or to a queue that it died in."""
        origins = [one.target for one in self.queues.values() if one.dead_letter == target]
        return [
            send for name in (target, *origins) for send in self.by_id.get((name, message_id), ())
        ]

    def acked(self) -> Iterator[tuple[SendRecord, Position, float]]:
        """The sends that were acknowledged, each with its place and the time of its reply."""
        for record in self.sends.values():
            if record.position is not None and record.end is not None:
                yield record, record.position, record.end

    def reads_of(self, mode: ReadMode) -> dict[tuple[str, str, int], list[events.Read]]:
        """The reads of each reader of a partition, in the order of time."""
        found: dict[tuple[str, str, int], list[events.Read]] = {}
        for one in self.reads:
            if one.mode is mode:
                found.setdefault((one.reader, one.target, one.partition), []).append(one)
        for reads in found.values():
            reads.sort(key=lambda read: read.at)
        return found
