"""Valid histories from a tiny model of MOM, and what spoils them.

The model has one clock. Each call takes effect at one moment of it; its begin and end are drawn
around that moment, as a client's would lie.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from e2e.history import events
from e2e.history.events import Action, AnyEvent, Outcome, ReadMode

TOPIC, QUEUE = "log", "queue"
PARTITIONS = 2
LEASE_S = 5.0
CLIENTS = {
    "sdk-1": events.Client("sdk-1", "sdk", True, True),
    "sdk-2": events.Client("sdk-2", "sdk", True, True),
    "http-1": events.Client("http-1", "http", False, False),
}


@dataclass
class _Waiting:
    """A message of the queue."""

    id: str
    partition: int
    offset: int
    deliveries: int = 0
    leased_until: float = 0.0
    holder: str = ""
    acked: bool = False


@dataclass
class _HeldLease:
    """A lease as its worker knows it."""

    client: str
    lease: str
    message: _Waiting
    replied_at: float


@dataclass
class Model:
    """MOM as it should be. Every method does one thing and writes its events."""

    random: Random
    now: float = 100.0
    events: list[AnyEvent] = field(default_factory=lambda: list(CLIENTS.values()))
    logs: dict[tuple[str, int], list[str]] = field(default_factory=dict)
    messages: list[_Waiting] = field(default_factory=list)
    held: list[_HeldLease] = field(default_factory=list)
    calls: int = 0
    last_begin: dict[str, float] = field(default_factory=dict)
    reached: dict[tuple[str, int], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.events.append(events.Reader("follow", ReadMode.LOG, TOPIC))
        self.events.append(events.Reader("group", ReadMode.GROUP, TOPIC))
        self.events.append(events.Reader("final", ReadMode.LOG, TOPIC))

    def _around(self, earliest: float = 0.0) -> tuple[float, float]:
        """Begin and end of a call that takes effect now."""
        self.now += 0.001 + self.random.random() * 0.5
        begin = max(earliest, self.now - self.random.random() * 0.4)
        return begin, self.now + self.random.random() * 0.4

    def _append(self, target: str, partition: int, message_id: str) -> int:
        log = self.logs.setdefault((target, partition), [])
        log.append(message_id)
        offset = len(log) - 1
        if target == QUEUE:
            self.messages.append(_Waiting(message_id, partition, offset))
        return offset

    def send(self) -> None:
        """One message to one of the two, with any end."""
        self.calls += 1
        call, message_id = self.calls, f"m{self.calls}"
        client = self.random.choice(list(CLIENTS))
        target = self.random.choice([TOPIC, QUEUE])
        number = self.random.randrange(4)
        key = f"k{number}" if number else None
        partition = number % PARTITIONS if key else self.random.randrange(PARTITIONS)
        begin, end = self._around(self.last_begin.get(client, 0.0))
        self.last_begin[client] = begin
        self.events.append(events.Send(client, call, target, message_id, key, begin))
        match self.random.randrange(8):
            case 0:
                self.events.append(events.SendFailed(client, call, end, "timeout", True))
            case 1:
                self._append(target, partition, message_id)
                self.events.append(events.SendFailed(client, call, end, "timeout", True))
            case 2:
                self.events.append(events.SendFailed(client, call, end, "too_large", False))
            case 3 if not CLIENTS[client].idempotent:
                self._append(target, partition, message_id)
                offset = self._append(target, partition, message_id)
                self.events.append(events.Sent(client, call, end, partition, offset, "fsync"))
            case _:
                offset = self._append(target, partition, message_id)
                self.events.append(events.Sent(client, call, end, partition, offset, "fsync"))

    def read(self, reader: str = "", partition: int = -1) -> bool:
        """The next message of a reader; whether there was one."""
        reader = reader or self.random.choice(["follow", "group"])
        partition = self.random.randrange(PARTITIONS) if partition < 0 else partition
        log = self.logs.get((TOPIC, partition), [])
        offset = self.reached.get((reader, partition), 0)
        if reader == "group" and offset and self.random.random() < 0.2:
            offset -= 1  # It was not committed, and comes again.
        if offset == len(log):
            return False
        self.now += 0.41  # It is there for all to see: its send's end may still be to come.
        mode = ReadMode.GROUP if reader == "group" else ReadMode.LOG
        client = self.random.choice(list(CLIENTS)) if reader == "group" else "sdk-1"
        self.events.append(
            events.Read(client, reader, mode, TOPIC, partition, offset, log[offset], self.now)
        )
        before = self.reached.get((reader, partition), 0)
        self.reached[reader, partition] = max(before, offset + 1)
        return True

    def receive(self) -> None:
        """A lease of what is ready; sometimes its reply is lost."""
        begin, end = self._around()
        ready = [one for one in self.messages if not one.acked and one.leased_until <= self.now]
        if not ready:
            return
        message = self.random.choice(ready)
        message.deliveries += 1
        message.leased_until = self.now + LEASE_S
        self.calls += 1
        lease = f"lease-{self.calls}"
        message.holder = lease
        if self.random.random() < 0.1:
            return
        client = self.random.choice(list(CLIENTS))
        self.held.append(_HeldLease(client, lease, message, end))
        self.events.append(
            events.Lease(
                client,
                lease,
                QUEUE,
                message.partition,
                message.offset,
                message.id,
                message.deliveries,
                begin,
                end,
                LEASE_S,
            )
        )

    def settle(self, action: Action | None = None) -> None:
        """One settling of a lease that may be over; sometimes its reply is lost."""
        if not self.held:
            return
        one = self.random.choice(self.held)
        self.now = max(self.now, one.replied_at)
        begin, end = self._around(one.replied_at)
        message = one.message
        action = action or self.random.choice([Action.ACK, Action.ACK, *Action])
        lost_request = self.random.random() < 0.1
        taken = (
            not lost_request
            and not message.acked
            and message.holder == one.lease
            and message.leased_until > self.now
        )
        if taken:
            self._take(message, action)
        outcome = Outcome.OK if taken else Outcome.REFUSED
        if lost_request or self.random.random() < 0.1:
            outcome = Outcome.UNKNOWN
        if action is not Action.EXTEND and outcome is not Outcome.UNKNOWN:
            self.held.remove(one)
        lease_s = LEASE_S if action is Action.EXTEND else 0.0
        self.events.append(
            events.Settle(one.client, one.lease, action, begin, end, outcome, lease_s)
        )

    def _take(self, message: _Waiting, action: Action) -> None:
        match action:
            case Action.ACK:
                message.acked = True
            case Action.NACK:
                message.leased_until = 0.0
                message.holder = ""
            case Action.EXTEND:
                message.leased_until = self.now + LEASE_S

    def wait(self) -> None:
        """Leases run out."""
        self.now += self.random.random() * LEASE_S

    def drain(self) -> None:
        """Read everything to the end and empty the queue."""
        self.now += 1
        for partition in range(PARTITIONS):
            for reader in ("follow", "group", "final"):
                while self.read(reader, partition):
                    pass
            end = self.reached.get(("final", partition), 0)
            self.events.append(events.LogEnd("final", TOPIC, partition, end, self.now))
        while any(not one.acked for one in self.messages):
            self.wait()
            self.receive()
            self.settle(Action.ACK)
        self.now += 1
        self.events.append(events.Drained(QUEUE, 0, self.now))


def run(random: Random, steps: int) -> list[AnyEvent]:
    """The events of so many random steps, drained at the end."""
    model = Model(random)
    for _ in range(steps):
        random.choice(
            [model.send, model.send, model.read, model.receive, model.settle, model.wait]
        )()
    model.drain()
    return model.events
