"""One partition's way out: batches in order, numbered so that each lands once. No I/O.

A lane has a producer id of its own, random, and numbers its batches 0, 1, 2 and so on when they are
first sent. The store appends a batch only after the one before it and knows the last few again, so
a batch may be sent as often as it takes (KIP-98). At most PRODUCER_WINDOW_BATCHES are on their way.

- A batch that failed goes back to its place; nothing is sent until all on their way have returned,
  then they go in order.
- ``out_of_order_sequence`` or ``unknown_producer`` for a batch behind another unresolved one only
  means that the other is missing: it goes back too.
- For the first unresolved batch, they mean that the number before it is gone for good (a batch was
  given up, or the store forgot the producer): the lane takes a new producer id and numbers anew.
  That is safe only for a batch that surely did not land. After ``unknown_producer``, one that was
  sent before without an answer may have: it fails, and the caller decides.
"""

from __future__ import annotations

from collections import deque
from typing import Final, Protocol

from mom_client.causes import CAUSES, telling
from mom_client.results import PublishedBatch
from mom_core import limits
from mom_core.batch import COMPRESSION_NONE, COMPRESSION_ZLIB, BatchBuilder
from mom_core.errors import ErrorCode, MomError, ProducerError, error_of

# Answers that say for certain that a batch did not land by this try.
_DID_NOT_LAND: Final = frozenset(
    {
        ErrorCode.NOT_OWNER,
        ErrorCode.OVERLOADED,
        ErrorCode.STORE_FULL,
        ErrorCode.OUT_OF_ORDER_SEQUENCE,
        ErrorCode.UNKNOWN_PRODUCER,
    }
)
_SEQUENCE_ERRORS: Final = (ErrorCode.OUT_OF_ORDER_SEQUENCE, ErrorCode.UNKNOWN_PRODUCER)


class Sink(Protocol):
    """Who gets the results of published messages."""

    def settle(
        self, outcome: PublishedBatch | MomError, first_index: int, tokens: list[object]
    ) -> None:
        """The messages of ``tokens`` stand in the batch from ``first_index`` on."""


class OutgoingBatch:
    """Messages of one partition that go together, and whom to tell."""

    __slots__ = (
        "attempts", "base_id", "builder", "data", "deadline_ms", "last_error", "may_have_landed",
        "number", "opened_ms", "own_ids", "producer_id", "runs", "sequence", "size", "timestamp_ms",
    )  # fmt: skip

    def __init__(
        self, number: int, base_id: bytes, timestamp_ms: int, opened_ms: int, deadline_ms: int
    ) -> None:
        self.number = number
        """Its place in the lane."""
        self.base_id = base_id
        self.timestamp_ms = timestamp_ms
        self.opened_ms = opened_ms
        self.deadline_ms = deadline_ms
        self.builder = BatchBuilder()
        self.runs: list[tuple[Sink, list[object]]] = []
        self.own_ids: dict[int, bytes] | None = None
        self.size = 0
        self.producer_id = 0
        self.sequence = -1
        self.data = b""
        self.attempts = 0
        self.may_have_landed = False
        self.last_error: MomError | None = None

    def settle(self, outcome: PublishedBatch | MomError) -> None:
        """Tell everyone."""
        first = 0
        for sink, tokens in self.runs:
            sink.settle(outcome, first, tokens)
            first += len(tokens)
        self.runs = []

    def forget_number(self) -> None:
        """To be numbered anew."""
        self.sequence = -1
        self.data = b""


class Lane:
    """The batches of one partition, in order."""

    __slots__ = (
        "_number", "_numbers_anew", "_proven", "_recovering", "_sequence", "building",
        "hold_until_ms", "in_flight", "index", "producer_id", "queue", "topic_id", "topic_name",
    )  # fmt: skip

    def __init__(self, topic_name: str, topic_id: bytes, index: int, producer_id: int) -> None:
        self.topic_name = topic_name
        self.topic_id = topic_id
        self.index = index
        self.producer_id = producer_id
        self.building: OutgoingBatch | None = None
        """Still open for messages."""
        self.queue: deque[OutgoingBatch] = deque()
        """Closed and waiting to be sent, in order."""
        self.in_flight: list[OutgoingBatch] = []
        """On their way, in order."""
        self.hold_until_ms = 0
        """Not sent before, after a failure."""
        self._number = 0
        self._sequence = 0
        self._proven = False
        self._recovering = False
        self._numbers_anew = False

    @property
    def idle(self) -> bool:
        """Whether nothing is on its way or waiting."""
        return not (self.in_flight or self.queue or self.building)

    @property
    def troubled(self) -> bool:
        """Whether batches wait because of a failure."""
        return self._recovering or self.hold_until_ms > 0

    # Filling.

    def open(
        self, base_id: bytes, timestamp_ms: int, opened_ms: int, deadline_ms: int
    ) -> OutgoingBatch:
        """A new batch at the end of the lane."""
        self._number += 1
        self.building = OutgoingBatch(self._number, base_id, timestamp_ms, opened_ms, deadline_ms)
        return self.building

    def close_batch(self) -> None:
        """The open batch takes no more messages."""
        assert self.building is not None, "no batch is open"
        self.queue.append(self.building)
        self.building = None

    # Sending.

    def ready(self, now_ms: int, linger_ms: int, *, flushing: bool) -> OutgoingBatch | None:
        """The next batch to send, None while there is none or it has to wait."""
        if now_ms < self.hold_until_ms or not self._window_open():
            return None
        self.hold_until_ms = 0
        if not self.queue:
            building = self.building
            if building is None:
                return None
            waited = now_ms - building.opened_ms >= linger_ms
            if self.in_flight and not waited and not flushing:
                return None
            self.close_batch()
        first = self.queue[0]
        return first if not self.in_flight or self._follows(first) else None

    def _follows(self, batch: OutgoingBatch) -> bool:
        """Whether a batch may be sent while others are on their way."""
        oldest = self.in_flight[0]
        numbered = batch.sequence >= 0
        producer_id = batch.producer_id if numbered else self.producer_id
        sequence = batch.sequence if numbered else self._sequence
        # Counted from the oldest without an answer: were it further back, the store would no longer
        # know it and its second try could not be told from one that never landed.
        within = sequence - oldest.sequence < limits.PRODUCER_WINDOW_BATCHES
        return producer_id == oldest.producer_id and within

    def _window_open(self) -> bool:
        if not self.in_flight:
            if self._numbers_anew:
                self._number_anew()
            self._recovering = False
            return True
        # A producer's first batch goes alone: before it, the others are from an unknown producer.
        return self._proven and not self._recovering

    def _number_anew(self) -> None:
        self._numbers_anew = False
        self._proven = False
        self._sequence = 0
        self.producer_id = 0  # The caller gives a new one; see needs_producer_id.
        for batch in self.queue:
            if not batch.may_have_landed:
                batch.forget_number()

    @property
    def needs_producer_id(self) -> bool:
        """Whether :attr:`producer_id` is to be set before the next :meth:`take`."""
        return self.producer_id == 0

    def take(self, *, compress: bool) -> OutgoingBatch:
        """Take the batch that :meth:`ready` showed, with its bytes made, as on its way.

        When making them raises, the lane stays as it was.
        """
        batch = self.queue[0]
        if not batch.data:
            self._number_and_build(batch, COMPRESSION_ZLIB if compress else COMPRESSION_NONE)
        self.queue.popleft()
        batch.attempts += 1
        self.in_flight.append(batch)
        return batch

    def _number_and_build(self, batch: OutgoingBatch, compression: int) -> None:
        numbered = batch.sequence >= 0
        assert numbered or self.producer_id, "a lane without producer id"
        producer_id = batch.producer_id if numbered else self.producer_id
        sequence = batch.sequence if numbered else self._sequence
        batch.data = batch.builder.build(
            base_id=batch.base_id,
            timestamp_ms=batch.timestamp_ms,
            producer_id=producer_id,
            sequence=sequence,
            compression=compression,
        )
        batch.producer_id, batch.sequence = producer_id, sequence
        if not numbered:
            self._sequence += 1

    # Returning.

    def landed(self, batch: OutgoingBatch) -> None:
        """A batch is durable."""
        self.in_flight.remove(batch)
        self._proven = True

    def failed(self, batch: OutgoingBatch, error: MomError, now_ms: int) -> MomError | None:
        """A try failed. Returns the error to fail the batch with, None: it is tried again."""
        self.in_flight.remove(batch)
        self._recovering = True
        final = self._judge(batch, error, now_ms)
        if final is None:
            batch.last_error = telling(batch.last_error, error)
            self.queue = deque(sorted((batch, *self.queue), key=lambda one: one.number))
        elif batch.sequence >= 0:
            self._numbers_anew = True  # Its number stays empty, so those behind it can't land.
        return final

    def give_up(self, batch: OutgoingBatch) -> None:
        """Take a batch out, wherever it is; it is not tried again."""
        if batch in self.in_flight:
            self.in_flight.remove(batch)
        if batch in self.queue:
            self.queue.remove(batch)
        if batch is self.building:
            self.building = None
        if batch.sequence >= 0:
            self._recovering = True
            self._numbers_anew = True

    def _judge(self, batch: OutgoingBatch, error: MomError, now_ms: int) -> MomError | None:
        if error.code in _SEQUENCE_ERRORS:
            if not self._is_first(batch):
                return None
            if error.code is ErrorCode.UNKNOWN_PRODUCER and batch.may_have_landed:
                return ProducerError(
                    f"a batch for {self.topic_name!r} partition {self.index} was sent without an "
                    "answer, and the store has since forgotten this producer: the messages may or "
                    "may not have landed. Check before publishing them again",
                    code=ErrorCode.UNKNOWN_PRODUCER,
                )
            batch.may_have_landed = False
            batch.forget_number()
            self._numbers_anew = True
        elif not error.retriable:
            return error
        elif error.code not in _DID_NOT_LAND:
            batch.may_have_landed = True
        if now_ms < batch.deadline_ms:
            return None
        return expired(self, batch, telling(batch.last_error, error))

    def _is_first(self, batch: OutgoingBatch) -> bool:
        others = (*self.in_flight, *self.queue)
        return all(one.number > batch.number or one.sequence < 0 for one in others)

    def expire(self, now_ms: int) -> list[OutgoingBatch]:
        """Take out waiting batches whose time is over, the open one included."""
        if self.building is not None and now_ms >= self.building.deadline_ms:
            self.close_batch()
        gone = [batch for batch in self.queue if now_ms >= batch.deadline_ms]
        if gone:
            self.queue = deque(batch for batch in self.queue if now_ms < batch.deadline_ms)
            if any(batch.sequence >= 0 for batch in gone):
                self._numbers_anew = True
                self._recovering = True
        return gone

    def drain(self) -> list[OutgoingBatch]:
        """Take out all that is not on its way."""
        if self.building is not None:
            self.close_batch()
        gone = list(self.queue)
        self.queue.clear()
        return gone


def expired(lane: Lane, batch: OutgoingBatch, error: MomError | None) -> MomError:
    """The error of a batch whose time is over, with the code of what kept it if that is known."""
    count = batch.builder.count
    what = "1 message" if count == 1 else f"{count:,} messages"
    they, them = ("It", "it") if count == 1 else ("They", "them")
    doubt = (
        f"{they} may have landed all the same"
        if batch.may_have_landed
        else f"{they} did not land; publish {them} again"
    )
    reason = error.message if error is not None else "the partition has no owner that answers"
    code = error.code if error is not None and error.code in CAUSES else ErrorCode.TIMEOUT
    tries = "1 try" if batch.attempts == 1 else f"{batch.attempts} tries"
    return error_of(
        code.value,
        f"{what} for {lane.topic_name!r} partition {lane.index} "
        f"{'was' if count == 1 else 'were'} not acknowledged within the delivery timeout, after "
        f"{tries}: {reason}. {doubt}",
        retry_after_ms=error.retry_after_ms if error is not None else None,
        details={"may_have_landed": "true" if batch.may_have_landed else "false"},
    )
