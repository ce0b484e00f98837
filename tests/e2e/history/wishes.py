"""What some messages of a load wish for, and how its queues deliver: what the rules are about."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple


class Fate(StrEnum):
    """What is to become of a message that wishes for something."""

    DELAYED = "delayed"
    CANCELLED = "cancelled"
    """Delayed, and cancelled as soon as it is there."""
    SOONER = "sooner"
    """Delayed, and moved to an earlier time as soon as it is there."""
    LATER = "later"
    """Delayed, and moved to a later time as soon as it is there."""
    AGAIN = "again"
    """Sent twice under one dedup id."""
    EXPIRES = "expires"
    """It fails until its time is over."""
    FAILS = "fails"
    """It fails until it is dead."""


DELAY_S: Final = 1.0
# Longer than the call that cancels it, unless something is wrong.
CANCELLED_DELAY_S: Final = 4.0
# From the move on: see MOVED_DELAY_S.
SOONER_DELAY_S: Final = 0.5
LATER_DELAY_S: Final = 3.0
# What is moved is delayed by so much at first.
MOVED_DELAY_S: Final = 2.0
TTL_S: Final = 0.15
MAX_DELIVERIES: Final = 4
# Longer than what clocks may differ by, so that a wait that is left out is seen.
RETRY_BACKOFF_MS: Final = 250
RETRY_BACKOFF_MULTIPLIER: Final = 2.0
# Below what the multiplier would come to.
RETRY_BACKOFF_MS_MAX: Final = 600

# Queues with a rate get so many messages at once from each client, and on average fewer than the
# rate: something waits most of the time, and soon nothing does when all have stopped.
RATE_PER_S: Final = 10.0
RATED_SENDS_PER_S: Final = 7.5
SURGE: Final = 20
# Of so many messages of the fair queue one is of a tenant who sends little.
_QUIET_EACH: Final = 5
_QUIET_TENANTS: Final = 2
TENANT_HEADER: Final = "tenant"

# The queue whose workers crash gets so many messages at once, so that several are leased together,
# and one of so many kills its worker.
CRASH_SURGE: Final = 5
KILLER_EACH: Final = 10
# Few, since each attempt of a killer lasts as long as a lease.
CRASH_MAX_DELIVERIES: Final = 2

# One of so many messages of a queue has a fate of its own, each in turn.
FATE_EACH: Final = 7
_FATES: Final = tuple(Fate)
_MARK: Final = "!"
_KILLER_MARK: Final = "*"


class Wish(NamedTuple):
    """What goes with a message. Times are seconds from its call on; 0: none."""

    delay_s: float = 0.0
    ttl_s: float = 0.0
    dedup_id: str | None = None
    priority: int = 0
    group: str | None = None
    """The value of its TENANT_HEADER."""


NO_WISH: Final = Wish()


def fate_of(number: int, ordering: str) -> Fate | None:
    """The fate of a client's message number ``number`` to a queue."""
    turn, rest = divmod(number, FATE_EACH)
    if rest:
        return None
    # A key's order is what a FIFO queue is about, so there is only what holds up a key.
    return Fate.FAILS if ordering == "fifo" else _FATES[turn % len(_FATES)]


def priority_of(number: int) -> int:
    """The priority of a client's message number ``number``: each of them in every ten."""
    return (number * 7 + 3) % 10


def tenant_of(number: int) -> str:
    """Whose a client's message number ``number`` is: mostly the noisy one's."""
    turn, rest = divmod(number, _QUIET_EACH)
    return "noisy" if rest else f"quiet-{turn % _QUIET_TENANTS}"


def moved_delay_s(fate: Fate | None) -> float | None:
    """How long a message of a fate waits from its move on; None: it is not moved."""
    return {Fate.SOONER: SOONER_DELAY_S, Fate.LATER: LATER_DELAY_S}.get(fate) if fate else None


def wish_of(fate: Fate | None, message_id: str) -> Wish:
    """What a message of a fate is sent with."""
    match fate:
        case Fate.DELAYED:
            return Wish(delay_s=DELAY_S)
        case Fate.CANCELLED:
            return Wish(delay_s=CANCELLED_DELAY_S)
        case Fate.SOONER | Fate.LATER:
            return Wish(delay_s=MOVED_DELAY_S)
        case Fate.AGAIN:
            return Wish(dedup_id=message_id)
        case Fate.EXPIRES:
            return Wish(ttl_s=TTL_S)
        case _:
            return NO_WISH


def id_with(fate: Fate | None, message_id: str) -> str:
    """The id of a message, by which a worker knows one that is to fail."""
    return message_id + (_MARK if fate in (Fate.EXPIRES, Fate.FAILS) else "")


def fails(body: str, redrives: int = 0) -> bool:
    """Whether a worker gives this message back: until it is dead, or until it is dead twice."""
    message_id, _, _ = body.partition("|")
    return message_id.endswith(_MARK) and redrives <= ord(message_id[-2]) % 2


def killer_id(number: int, message_id: str) -> str:
    """The id of a client's message number ``number`` to the queue whose workers crash."""
    return message_id + (_KILLER_MARK if number % KILLER_EACH == CRASH_SURGE // 2 else "")


def kills(body: str, redrives: int) -> bool:
    """Whether a worker crashes at this message: until it was dead once."""
    message_id, _, _ = body.partition("|")
    return message_id.endswith(_KILLER_MARK) and not redrives
