"""What some messages of a load wish for, and how its queues deliver: what the rules are about."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple


class Fate(StrEnum):
    """What is to become of a message that wishes for something."""

    DELAYED = "delayed"
    CANCELLED = "cancelled"
    """Delayed, and cancelled as soon as it is there."""
    AGAIN = "again"
    """Sent twice under one dedup id."""
    EXPIRES = "expires"
    """It fails until its time is over."""
    FAILS = "fails"
    """It fails until it is dead."""


DELAY_S: Final = 1.0
# Longer than the call that cancels it, unless something is wrong.
CANCELLED_DELAY_S: Final = 4.0
TTL_S: Final = 0.15
MAX_DELIVERIES: Final = 4
RETRY_BACKOFF_MS: Final = 100

# One of so many messages of a queue has a fate of its own, each in turn.
FATE_EACH: Final = 7
_FATES: Final = tuple(Fate)
_MARK: Final = "!"


class Wish(NamedTuple):
    """What goes with a message. Times are seconds from its call on; 0: none."""

    delay_s: float = 0.0
    ttl_s: float = 0.0
    dedup_id: str | None = None


NO_WISH: Final = Wish()


def fate_of(number: int, ordering: str) -> Fate | None:
    """The fate of a client's message number ``number`` to a queue."""
    turn, rest = divmod(number, FATE_EACH)
    if rest:
        return None
    # A key's order is what a FIFO queue is about, so there is only what holds up a key.
    return Fate.FAILS if ordering == "fifo" else _FATES[turn % len(_FATES)]


def wish_of(fate: Fate | None, message_id: str) -> Wish:
    """What a message of a fate is sent with."""
    match fate:
        case Fate.DELAYED:
            return Wish(delay_s=DELAY_S)
        case Fate.CANCELLED:
            return Wish(delay_s=CANCELLED_DELAY_S)
        case Fate.AGAIN:
            return Wish(dedup_id=message_id)
        case Fate.EXPIRES:
            return Wish(ttl_s=TTL_S)
        case _:
            return NO_WISH


def id_with(fate: Fate | None, message_id: str) -> str:
    """The id of a message, by which a worker knows one that is to fail."""
    return message_id + (_MARK if fate in (Fate.EXPIRES, Fate.FAILS) else "")


def fails(body: str) -> bool:
    """Whether a worker gives this message back."""
    message_id, _, _ = body.partition("|")
    return message_id.endswith(_MARK)
