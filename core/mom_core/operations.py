"""Operations: work of an administrator that goes on by itself and can be asked about.

An operation is an entry of the control plane, so that it outlives the node which does it. The owner
of the queue's first partition, where all dead letters are, does it and writes how far it is.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final

import msgspec

from mom_core.dead_letters import DeadLetterFilter
from mom_core.errors import InvalidArgumentError
from mom_core.limits import REDRIVE_RATE_MAX, REDRIVE_RATE_MIN
from mom_core.quantities import parse_rate_per_s


class OperationState(StrEnum):
    """How an operation is."""

    RUNNING = "running"
    CANCELLING = "cancelling"
    """Somebody asked for its end; what is on its way still arrives."""
    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"

    @property
    def is_open(self) -> bool:
        """Whether it goes on."""
        return self in (OperationState.RUNNING, OperationState.CANCELLING)


class OperationRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One operation, as the store keeps it."""

    operation_id: str
    """32 hex digits, chosen by whoever began it."""
    kind: str = "redrive"
    queue: str
    """The queue that holds the dead letters."""
    topic_id: str
    """That queue's."""
    filter: DeadLetterFilter = DeadLetterFilter()
    to: str = ""
    """Where they go; empty: each to where it died."""
    rate_per_s: float = 0
    """0: as fast as it goes."""
    state: OperationState = OperationState.RUNNING
    end_offset: int | None = None
    """Those at and above came after the begin; None: it has not begun."""
    next_offset: int = 0
    """Everything below was looked at."""
    total: int = 0
    """Dead letters that it was asked for."""
    done: int = 0
    left: int = 0
    """At its end: those that stayed."""
    error: str = ""
    created_at_ms: int
    ended_at_ms: int = 0


_OPERATION_ID: Final = re.compile(r"[0-9a-f]{32}")


def check_operation_id(text: str) -> str:
    """Raise InvalidArgumentError unless the text is an operation's id."""
    if not _OPERATION_ID.fullmatch(text):
        raise InvalidArgumentError(
            f"operation_id {text[:64]!r} is none: it has 32 hex digits", field="operation_id"
        )
    return text


def parse_rate(value: object, field: str = "rate") -> float:
    """Messages a second of ``100/s``, ``30/m``, ``5/h`` or a number of messages a second.

    Raises InvalidArgumentError when it is none, or outside the bounds; 0 is no bound.
    """
    rate = parse_rate_per_s(value, field)
    if rate and not REDRIVE_RATE_MIN <= rate <= REDRIVE_RATE_MAX:
        raise InvalidArgumentError(
            f"{field} is {rate:g} messages a second; {REDRIVE_RATE_MIN:g} to {REDRIVE_RATE_MAX:g}, "
            "or 0 for no bound, is allowed",
            field=field,
        )
    return rate
