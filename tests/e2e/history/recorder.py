"""Writes a history as it happens, and keeps nothing of it in memory.

Each event is a write of its own, so that a history tells all up to the moment of a crash.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from e2e.history import events
from e2e.history.events import Action, Event, Outcome, ReadMode
from e2e.history.wishes import NO_WISH, Wish
from mom_core.dead_letters import DeathFacts


class CallError(Exception):
    """A call failed. ``code`` says how, for counting."""

    def __init__(self, code: str, may_have_landed: bool = True) -> None:
        super().__init__(code)
        self.code = code
        self.may_have_landed = may_have_landed


class Recorder:
    """The file of a history; a context manager."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self.now = clock
        self._file = path.open("ab", buffering=0)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, event: Event) -> None:
        """Append an event."""
        self._file.write(events.encode(event))

    def client(self, name: str, kind: str, *, idempotent: bool, ordered: bool) -> ClientRecorder:
        """A recorder of one client's events."""
        self.write(events.Client(name, kind, idempotent, ordered))
        return ClientRecorder(self, name)


class ClientRecorder:
    """Writes what one client does."""

    def __init__(self, recorder: Recorder, name: str) -> None:
        self._recorder = recorder
        self.name = name
        self._calls = 0
        self._leases = 0

    def now(self) -> float:
        """The time of the history."""
        return self._recorder.now()

    def send(self, target: str, message_id: str, key: str | None, wish: Wish = NO_WISH) -> int:
        """A send is about to begin; returns its number."""
        self._calls += 1
        call = self._calls
        begin = self.now()
        self._recorder.write(events.Send(self.name, call, target, message_id, key, begin, *wish))
        return call

    def sent(self, call: int, partition: int, offset: int, durability: str) -> None:
        """A send was acknowledged."""
        event = events.Sent(self.name, call, self.now(), partition, offset, durability)
        self._recorder.write(event)

    def send_failed(self, call: int, error: CallError) -> None:
        """A send failed."""
        event = events.SendFailed(self.name, call, self.now(), error.code, error.may_have_landed)
        self._recorder.write(event)

    def reader(self, reader: str, mode: ReadMode, target: str) -> None:
        """A reader begins, or one more member of it."""
        self._recorder.write(events.Reader(reader, mode, target))

    def read(
        self, reader: str, mode: ReadMode, target: str, partition: int, offset: int, body: str
    ) -> None:
        """A reader got a message."""
        message_id = events.id_of(body)
        self._recorder.write(
            events.Read(self.name, reader, mode, target, partition, offset, message_id, self.now())
        )

    def lease(
        self,
        target: str,
        partition: int,
        offset: int,
        body: str,
        *,
        deliveries: int,
        begin: float,
        end: float,
        lease_s: float,
        redrives: int = 0,
    ) -> str:
        """A worker got a message; returns the lease's name."""
        self._leases += 1
        lease = f"{self.name}/{self._leases}"
        self._recorder.write(
            events.Lease(
                self.name,
                lease,
                target,
                partition,
                offset,
                events.id_of(body),
                deliveries,
                begin,
                end,
                lease_s,
                redrives,
            )
        )
        return lease

    def crashed(self, leases: Sequence[str]) -> None:
        """A worker vanished with these leases."""
        self._recorder.write(events.Crash(self.name, tuple(leases), self.now()))

    def dead_letter(
        self,
        target: str,
        partition: int,
        offset: int,
        body: str,
        *,
        begin: float,
        end: float,
        facts: DeathFacts,
    ) -> None:
        """A dead letter was seen."""
        message_id = events.id_of(body)
        self._recorder.write(
            events.DeadLetter(self.name, target, partition, offset, message_id, begin, end, facts)
        )

    def redriven(self, target: str, begin: float, state: str, done: int) -> None:
        """A queue's dead letters were sent back, or maybe not."""
        self._recorder.write(events.Redrive(self.name, target, begin, self.now(), state, done))

    def settle(
        self, lease: str, action: Action, begin: float, outcome: Outcome, lease_s: float = 0.0
    ) -> None:
        """A lease was settled or extended, or not."""
        self._recorder.write(
            events.Settle(self.name, lease, action, begin, self.now(), outcome, lease_s)
        )

    def cancelled(
        self, target: str, partition: int, offset: int, begin: float, outcome: Outcome
    ) -> None:
        """A message that waits was cancelled, or maybe not."""
        event = events.Cancel(self.name, target, partition, offset, begin, self.now(), outcome)
        self._recorder.write(event)

    def moved(
        self,
        target: str,
        partition: int,
        offset: int,
        begin: float,
        delay_s: float,
        outcome: Outcome,
    ) -> None:
        """A message that waits was moved to another time, or maybe not."""
        end = self.now()
        self._recorder.write(
            events.Move(self.name, target, partition, offset, begin, end, delay_s, outcome)
        )

    def purged(self, target: str, begin: float, outcome: Outcome) -> None:
        """A queue was purged, or maybe not."""
        self._recorder.write(events.Purge(self.name, target, begin, self.now(), outcome))

    def paused(self, target: str, paused: bool, begin: float, outcome: Outcome) -> None:
        """A queue was paused, or goes on, or maybe not."""
        event = events.Pause(self.name, target, paused, begin, self.now(), outcome)
        self._recorder.write(event)

    def reading(self, reader: str, target: str, partition: int, begin: float) -> None:
        """A reader has read all that a partition holds."""
        event = events.Reading(self.name, reader, target, partition, begin, self.now())
        self._recorder.write(event)

    def described(self, target: str, begin: float, stalled: bool) -> None:
        """A queue was described."""
        event = events.Described(self.name, target, begin, self.now(), stalled)
        self._recorder.write(event)

    @contextmanager
    def call(self, what: str, wait_s: float = 0.0) -> Iterator[float]:
        """Record the call inside, and hand its beginning in. Errors go on as they are."""
        begin = self.now()
        error: str | None = None
        try:
            yield begin
        except CallError as failure:
            error = failure.code
            raise
        except TimeoutError:
            error = "deadline"
            raise
        finally:
            self._recorder.write(events.Call(self.name, what, begin, self.now(), wait_s, error))

    @contextmanager
    def iteration(self, what: str) -> Iterator[None]:
        """Record the failure of an iteration inside, which has no length that would say much."""
        try:
            yield
        except CallError as failure:
            now = self.now()
            self._recorder.write(events.Call(self.name, what, now, now, 0.0, failure.code))
            raise
