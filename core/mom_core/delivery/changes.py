"""What can happen to a delivery state, as the journal holds it."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum, StrEnum
from typing import Final, NamedTuple

import msgspec

from mom_core.errors import ErrorCode


class SettleAction(StrEnum):
    """What a worker says of a message it holds."""

    ACK = "ack"
    NACK = "nack"
    EXTEND = "extend"
    RELEASE = "release"
    """Give back unhandled: the delivery does not count."""
    BEGIN = "begin"
    """The handler begins: from now on the delivery counts if its lease runs out."""


class SettleOutcome(NamedTuple):
    """The result for the offsets [first, end): None is success."""

    first: int
    end: int
    error: ErrorCode | None


class DeadReason(IntEnum):
    """Why a message goes to the dead letters."""

    MAX_DELIVERIES = 1
    """It was delivered as often as the queue allows, and not acknowledged."""
    EXPIRED = 2
    """Its time was over before it was acknowledged."""


class LeasedRange(msgspec.Struct, array_like=True, frozen=True):
    """Offsets [first, end) that were leased together."""

    first: int
    end: int
    deliveries: int
    """How many deliveries of these count, this one included."""
    alone: bool = False
    """It is one message, under suspicion of having ended a worker."""


class Leased(msgspec.Struct, array_like=True, tag="lease", frozen=True):
    """Ranges went to a worker until the deadline."""

    lease_id: int
    deadline_ms: int
    at_ms: int
    ranges: tuple[LeasedRange, ...]
    tells_begin: bool = False
    """Whether the worker says when it begins with a message that is delivered alone."""


class Begun(msgspec.Struct, array_like=True, tag="begin", frozen=True):
    """The worker's handler began with part of a lease."""

    lease_id: int
    first: int
    end: int


class Extended(msgspec.Struct, array_like=True, tag="extend", frozen=True):
    """Part of a lease has a new deadline."""

    lease_id: int
    first: int
    end: int
    deadline_ms: int


class Settled(msgspec.Struct, array_like=True, tag="settle", frozen=True):
    """Part of a lease was acknowledged."""

    lease_id: int
    first: int
    end: int


class Returned(msgspec.Struct, array_like=True, tag="return", frozen=True):
    """Part of a lease waits again, to be leased from a time on."""

    lease_id: int
    first: int
    end: int
    available_at_ms: int
    counted: bool
    """Whether this delivery counts as an attempt."""
    alone: bool = False
    """Each of these is delivered by itself from now on: one of them may have crashed its worker."""


class Died(msgspec.Struct, array_like=True, tag="die", frozen=True):
    """[first, end) go to the dead letters, numbered from ``number`` on."""

    lease_id: int
    """Whose lease they were under; 0: nobody's."""
    first: int
    end: int
    number: int
    reason: DeadReason
    at_ms: int


class DeadSent(msgspec.Struct, array_like=True, tag="sent", frozen=True):
    """The dead messages numbered below ``number`` have landed among the dead letters."""

    number: int


class Addressed(msgspec.Struct, array_like=True, tag="to", frozen=True):
    """Dead messages numbered ``base`` and above go to this topic."""

    topic_id: str
    base: int


class Skipped(msgspec.Struct, array_like=True, tag="skip", frozen=True):
    """Offsets [first, end) are no more: trimmed, lost by the store, or expired."""

    first: int
    end: int


class Moved(msgspec.Struct, array_like=True, tag="move", frozen=True):
    """The waiting [first, end) can be leased from another time on."""

    first: int
    end: int
    available_at_ms: int


class Cancelled(msgspec.Struct, array_like=True, tag="cancel", frozen=True):
    """The waiting [first, end) are not delivered any more."""

    first: int
    end: int


class Purged(msgspec.Struct, array_like=True, tag="purge", frozen=True):
    """An administrator took away [first, end), which waited."""

    first: int
    end: int
    leased: bool = False
    """Whether what was under lease went, too."""


class Leaving(msgspec.Struct, array_like=True, tag="leave", frozen=True):
    """Waiting messages are on their way to another queue or topic, as one batch of a redrive."""

    operation_id: str
    lane: str
    ranges: tuple[tuple[int, int], ...]


class Left(msgspec.Struct, array_like=True, tag="left", frozen=True):
    """The batch that was on its way has landed, or its messages wait again."""

    landed: bool
    ranges: tuple[tuple[int, int], ...] = ()
    """What was left of it: the journal may outlive the log that held these messages."""


class Carried(msgspec.Struct, array_like=True, tag="carry", frozen=True):
    """The bodies of ranges are kept apart: the log need not hold them any more."""

    ranges: tuple[tuple[int, int], ...]


Change = (
    Leased
    | Begun
    | Extended
    | Settled
    | Returned
    | Died
    | DeadSent
    | Addressed
    | Skipped
    | Moved
    | Cancelled
    | Carried
    | Purged
    | Leaving
    | Left
)


_changes_encoder: Final = msgspec.msgpack.Encoder()
_changes_decoder: Final = msgspec.msgpack.Decoder(list[Change])


def encode_changes(changes: Sequence[Change]) -> bytes:
    """Changes as a journal holds them."""
    return _changes_encoder.encode(changes)


def decode_changes(data: bytes) -> list[Change]:
    """The changes that :func:`encode_changes` wrote."""
    return _changes_decoder.decode(data)
