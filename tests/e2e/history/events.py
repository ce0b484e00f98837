"""What a history is made of: one JSON object a line, one line an event.

Times are seconds of the clock that all clients of a history share (CLOCK_MONOTONIC of one machine).
Every call has the moment before its request left (``begin``) and the moment after its reply was
there (``end``): what the cluster did, it did in between.

A send is two lines: its intent before the call, and what became of it. So a history that breaks off
still tells everything that may have been sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Final

import msgspec

from mom_core.dead_letters import DeathFacts


class Event(msgspec.Struct, tag_field="event", frozen=True, gc=False):
    """Something that happened."""


class Client(Event, tag="client", frozen=True):
    """A client begins. Comes before its other events."""

    client: str
    kind: str
    idempotent: bool
    """Its sends land once, however often it had to try."""
    ordered_by_call: bool
    """Sends of one key keep the order of their calls, awaited or not.

    Without it only a send that began after another one had ended comes after it.
    """


class Send(Event, tag="send", frozen=True):
    """A send begins. The pair of client and call is its name."""

    client: str
    call: int
    target: str
    id: str
    key: str | None
    begin: float
    delay_s: float = 0.0
    """It may be delivered so long after this call, and not before."""
    ttl_s: float = 0.0
    """It expires so long after this call. 0: never."""
    dedup_id: str | None = None
    priority: int = 0
    group: str | None = None
    """Whose turn it takes in a fair queue. None: nobody's that is known."""


class Queue(Event, tag="queue", frozen=True):
    """How a queue delivers. Without this it is judged by its leases alone."""

    target: str
    ordering: str = "priority"
    max_deliveries: int = 0
    dead_letter: str = ""
    """A queue whose messages are looked at, too. Empty: there is none."""
    expired_are_dead: bool = False
    """Whether a message whose time is over goes to the dead letters."""
    retry_backoff_s: float = 0.0
    """A message that failed waits at least so long before it comes again."""
    priorities: bool = False
    """Whether its messages have priorities, and are judged by them."""
    rate_per_s: float = 0.0
    """0: no limit."""
    burst: int = 0
    """How many messages beyond the rate may come at once, see :func:`e2e.history.flow.too_fast`."""
    messages_max: int = 0
    """How many messages it may hold. 0: no bound. One with a bound has one partition, and its
    messages leave it by acknowledgements alone."""
    retry_backoff_multiplier: float = 1.0
    """The wait grows by it from one failure to the next."""
    retry_backoff_s_max: float = 0.0
    """The longest wait. 0: no bound."""
    crashes: bool = False
    """Whether its workers crash at some messages, and give none back."""

    def backoff_s(self, deliveries: int) -> float:
        """How long a message waits at least when its delivery of this number has failed."""
        wait_s = self.retry_backoff_s * self.retry_backoff_multiplier ** max(deliveries - 1, 0)
        return min(wait_s, self.retry_backoff_s_max or wait_s)


class Topic(Event, tag="topic", frozen=True):
    """How long a topic keeps what it has. Without this it is judged as one that keeps all."""

    target: str
    retention_s: float


class Sent(Event, tag="sent", frozen=True):
    """The cluster took the message."""

    client: str
    call: int
    end: float
    partition: int
    offset: int
    durability: str


class SendFailed(Event, tag="send_failed", frozen=True):
    """The client got an error, or gave up at its deadline."""

    client: str
    call: int
    end: float
    error: str
    may_have_landed: bool


class ReadMode(StrEnum):
    """How somebody reads a topic."""

    LOG = "log"
    """By offset, alone: each offset once, in order."""
    GROUP = "group"
    """As members of a subscription: nothing left out; what was not committed comes again."""


class Reader(Event, tag="reader", frozen=True):
    """A reader begins, at the beginning of a topic. Comes before its reads."""

    reader: str
    mode: ReadMode
    target: str


class Read(Event, tag="read", frozen=True):
    """A reader got a message of a topic. Members of a group are one reader."""

    client: str
    reader: str
    mode: ReadMode
    target: str
    partition: int
    offset: int
    id: str
    at: float


class Lease(Event, tag="lease", frozen=True):
    """A worker got a message of a queue, for ``lease_s`` from ``begin`` on."""

    client: str
    lease: str
    """A name for it, unique in the history."""
    target: str
    partition: int
    offset: int
    id: str
    deliveries: int
    begin: float
    end: float
    lease_s: float
    redrives: int = 0
    """How often its message says that it was sent back from the dead letters."""


class Action(StrEnum):
    """What a worker asks for a message under lease."""

    ACK = "ack"
    NACK = "nack"
    EXTEND = "extend"


class Outcome(StrEnum):
    """What became of it."""

    OK = "ok"
    REFUSED = "refused"
    """It certainly has no effect."""
    UNKNOWN = "unknown"


class Settle(Event, tag="settle", frozen=True):
    """An acknowledgement, a return or an extension of a lease, with its result."""

    client: str
    lease: str
    action: Action
    begin: float
    end: float
    outcome: Outcome
    lease_s: float = 0.0
    """The length asked for from ``begin`` on (extend)."""


class Crash(Event, tag="crash", frozen=True):
    """A worker vanishes without a word: these leases, all of one call, are left to run out."""

    client: str
    leases: tuple[str, ...]
    at: float


class DeadLetter(Event, tag="dead_letter", frozen=True):
    """A dead letter is seen in the queue that holds it: leased, or only looked at."""

    client: str
    target: str
    partition: int
    offset: int
    id: str
    begin: float
    end: float
    facts: DeathFacts


class Redrive(Event, tag="redrive", frozen=True):
    """All dead letters that a queue holds are sent back to where they died, or maybe not."""

    client: str
    target: str
    begin: float
    end: float
    state: str
    """The last that was told of it: ``done`` at its end. Empty: nobody knows."""
    done: int
    """How many it sent back."""


class Cancel(Event, tag="cancel", frozen=True):
    """A cancellation of a message that waits, with its result."""

    client: str
    target: str
    partition: int
    offset: int
    begin: float
    end: float
    outcome: Outcome


class Move(Event, tag="move", frozen=True):
    """A message that waits was moved to another time, with the result."""

    client: str
    target: str
    partition: int
    offset: int
    begin: float
    end: float
    delay_s: float
    """It may be delivered so long after this call, and not before."""
    outcome: Outcome


class Purge(Event, tag="purge", frozen=True):
    """All that waits in a queue and all that is leased was taken away, or maybe not."""

    client: str
    target: str
    begin: float
    end: float
    outcome: Outcome


class Pause(Event, tag="pause", frozen=True):
    """A queue was paused, or goes on, or maybe not."""

    client: str
    target: str
    paused: bool
    begin: float
    end: float
    outcome: Outcome


class Reading(Event, tag="reading", frozen=True):
    """A reader, which reads nothing else, has read all that a partition holds. Comes after its
    reads."""

    client: str
    reader: str
    target: str
    partition: int
    begin: float
    end: float


class Described(Event, tag="described", frozen=True):
    """Whether a queue was told as stalled."""

    client: str
    target: str
    begin: float
    end: float
    stalled: bool


class Call(Event, tag="call", frozen=True):
    """A call that is no send, as a whole: how long it took and whether it failed."""

    client: str
    what: str
    begin: float
    end: float
    wait_s: float
    """How long the cluster was asked to wait, at most, for something to come."""
    error: str | None


class LogEnd(Event, tag="log_end", frozen=True):
    """This reader has read a partition from its beginning to its end, after all sends."""

    reader: str
    target: str
    partition: int
    next_offset: int
    at: float


class Drained(Event, tag="drained", frozen=True):
    """What the queue still held when its workers stopped, after all sends."""

    target: str
    left: int
    at: float


class Mark(Event, tag="mark", frozen=True):
    """A disruption begins, or is over."""

    disruption: str
    begins: bool
    at: float


AnyEvent = (
    Client
    | Send
    | Sent
    | SendFailed
    | Reader
    | Read
    | Lease
    | Settle
    | Queue
    | Crash
    | DeadLetter
    | Redrive
    | Cancel
    | Move
    | Purge
    | Topic
    | Pause
    | Reading
    | Described
    | Call
    | LogEnd
    | Drained
    | Mark
)

_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(AnyEvent)


def encode(event: Event) -> bytes:
    """An event as a line."""
    return _encoder.encode(event) + b"\n"


def read_events(*paths: Path) -> Iterator[AnyEvent]:
    """The events of one history in one or several files.

    The last line of a file may be cut short, as by a crash. Raises ValueError for any other line
    that is no event.
    """
    for path in paths:
        with path.open("rb") as file:
            yield from decode_lines(file, str(path))


def decode_lines(lines: Iterable[bytes], source: str) -> Iterator[AnyEvent]:
    """See :func:`read_events`."""
    for number, line in enumerate(lines, start=1):
        if not line.endswith(b"\n"):
            return
        try:
            yield _decoder.decode(line)
        except msgspec.DecodeError as error:
            raise ValueError(f"{source}, line {number} is no event: {error}") from None


def body_of(message_id: str, size: int) -> str:
    """The value of a message: its id, filled up to about ``size`` with what only it has."""
    return _body(message_id, max(1, size // (len(message_id) + 1) - 1))


def _body(message_id: str, repeats: int) -> str:
    return f"{message_id}|{repeats}" + f"|{message_id}" * repeats


def id_of(body: str) -> str:
    """The id in a value. A value that is not as it was sent has an id that nobody sent."""
    message_id, _, filling = body.partition("|")
    repeats, _, _ = filling.partition("|")
    if repeats == str(body.count("|") - 1) and body == _body(message_id, int(repeats)):
        return message_id
    return f"damaged: {body[:40]!r}"
