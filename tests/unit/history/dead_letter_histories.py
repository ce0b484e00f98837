"""Histories of attempts, crashes, dead letters and redrives: bad ones, and innocent ones near them.

All are of one queue with one of dead letters. The cluster's clock shows what the history's does.
"""

from __future__ import annotations

from typing import Any

import msgspec

from e2e.history import events
from e2e.history.events import Action, AnyEvent, Outcome
from mom_core.dead_letters import DeathFacts

QUEUE, DEAD = "queue", "dead"
LEASE_S = 5.0
FRAIL = events.Queue(QUEUE, max_deliveries=2, dead_letter=DEAD)
GROWING = events.Queue(
    QUEUE, retry_backoff_s=1.0, retry_backoff_multiplier=2.0, retry_backoff_s_max=3.0
)

History = list[AnyEvent | list[AnyEvent]]


def sent(message: int = 1, client: str = "sdk-1", **wishes: Any) -> list[AnyEvent]:
    """Message ``m1``, which lands at offset 1, and so on."""
    return [
        events.Send(client, message, QUEUE, f"m{message}", None, 1.0, **wishes),
        events.Sent(client, message, 1.1, 0, message, "fsync"),
    ]


def lease(
    name: str,
    begin: float,
    message: int = 1,
    *,
    deliveries: int = 1,
    offset: int | None = None,
    redrives: int = 0,
    target: str = QUEUE,
    client: str = "sdk-1",
) -> AnyEvent:
    place = message if offset is None else offset
    return events.Lease(
        client, name, target, 0, place, f"m{message}", deliveries, begin, begin + 0.1, LEASE_S,
        redrives,
    )  # fmt: skip


def nack(name: str, begin: float, outcome: Outcome = Outcome.OK) -> AnyEvent:
    return events.Settle("sdk-1", name, Action.NACK, begin, begin + 0.1, outcome)


def ack(name: str, begin: float, outcome: Outcome = Outcome.OK) -> AnyEvent:
    return events.Settle("sdk-1", name, Action.ACK, begin, begin + 0.1, outcome)


def crash(*leases: str) -> AnyEvent:
    return events.Crash("sdk-1", leases, 2.2)


def failed(*begins: float, message: int = 1, offset: int = 1, redrives: int = 0) -> list[AnyEvent]:
    """A delivery at each of these times, that was given back."""
    return [
        event
        for number, begin in enumerate(begins, start=1)
        for event in (
            lease(
                f"f{message}-{offset}-{number}", begin, message,
                deliveries=number, offset=offset, redrives=redrives,
            ),
            nack(f"f{message}-{offset}-{number}", begin + 0.2),
        )
    ]  # fmt: skip


def dead(
    seen: float,
    message: int = 1,
    *,
    at: float = 3.25,
    first: float = 2.05,
    place: int = 0,
    **facts: Any,
) -> AnyEvent:
    """A dead letter at offset ``place`` is looked at: by default of what :func:`failed` at 2 and 3
    seconds."""
    told = DeathFacts(
        reason="max_deliveries",
        deliveries=2,
        first_delivered_at_ms=int(first * 1000),
        died_at_ms=int(at * 1000),
        topic=QUEUE,
        subscription=QUEUE,
        partition=0,
        offset=message,
        redrives=0,
    )
    told = msgspec.structs.replace(told, **facts)
    return events.DeadLetter("sdk-1", DEAD, 0, place, f"m{message}", seen, seen + 0.1, told)


def redrive(begin: float, done: int, state: str = "done") -> AnyEvent:
    return events.Redrive("sdk-1", DEAD, begin, begin + 1, state, done)


def back(begin: float, offset: int = 7, message: int = 1, redrives: int = 1) -> AnyEvent:
    """What was sent back comes, and is acknowledged by :data:`HANDLED`."""
    return lease("back", begin, message, offset=offset, redrives=redrives)


HANDLED = ack("back", 20)
EMPTY: list[AnyEvent] = [events.Drained(QUEUE, 0, 90.0), events.Drained(DEAD, 0, 91.0)]
DIED: History = [FRAIL, sent(), failed(2.0, 3.0), dead(4)]
TWO_CRASHED: History = [
    FRAIL,
    sent(1),
    sent(2),
    lease("a1", 2),
    lease("a2", 2, 2),
    crash("a1", "a2"),
]
WRONG = "a dead letter tells it wrongly"

BAD: dict[str, tuple[str, History]] = {
    "a failure leaves the number of a delivery": (
        "a failure that was not counted",
        [FRAIL, sent(), failed(2.0), lease("b", 3)],
    ),
    "a crash with one message leaves the number of its delivery": (
        "a failure that was not counted",
        [FRAIL, sent(), lease("a", 2), crash("a"), lease("b", 8)],
    ),
    "a failure is not in the count of the dead letter": (
        "a failure that was not counted",
        [FRAIL, sent(), failed(2.0, 3.0), dead(4, deliveries=1)],
    ),
    "a neighbour of a crash is tried by it": (
        "counted without a try",
        [*TWO_CRASHED, lease("b", 7.2, 2, deliveries=2)],
    ),
    "a neighbour of a crash dies by it": (
        "counted without a try",
        [*TWO_CRASHED, lease("b", 7.2, 2), dead(9, 2, at=8.5)],
    ),
    "a message dies unseen, sooner than leases run out": (
        "counted without a try",
        [FRAIL, sent(), sent(2), lease("a2", 2, 2), dead(9)],
    ),
    "suspects come together again": (
        "a suspect with others",
        [*TWO_CRASHED, lease("b1", 8), lease("b2", 8, 2)],
    ),
    "a dead letter came back twice": (
        "redriven twice",
        [*DIED, redrive(5, 2), back(7), lease("c", 8, offset=8, redrives=1)],
    ),
    "a second copy of what came back is dead again": (
        "redriven twice",
        [*DIED, redrive(5, 2), back(7), dead(9, place=1, offset=8, redrives=1)],
    ),
    "a dead letter was handled and came back": (
        "handled beside its redrive",
        [*DIED, lease("d", 5, offset=0, target=DEAD), ack("d", 6), redrive(7, 1), back(9)],
    ),
    "a dead letter is delivered after it came back": (
        "handled beside its redrive",
        [*DIED, redrive(5, 1), back(7), lease("d", 8, offset=0, target=DEAD)],
    ),
    "a message that was handled came back": (
        "handled beside its redrive",
        [FRAIL, sent(), lease("a", 2), ack("a", 3), redrive(5, 1), back(7)],
    ),
    "a dead letter is in neither of both": ("lost by a redrive", [*DIED, redrive(5, 1), EMPTY]),
    "a dead letter that somebody had is in neither of both": (
        "lost by a redrive",
        [*DIED, lease("d", 5, offset=0, target=DEAD), redrive(11, 1), EMPTY],
    ),
    "what died again is in neither of both": (
        "lost by a redrive",
        [
            *(*DIED, redrive(5, 1), failed(7.0, 8.0, offset=7, redrives=1)),
            dead(9, at=8.25, first=7.05, place=1, offset=7, redrives=1),
            EMPTY,
        ],
    ),
    "what came back was not acknowledged": (
        "lost from a queue",
        [*DIED, redrive(5, 1), back(7), EMPTY],
    ),
    "more come back than were sent": (
        "more redriven than told",
        [*DIED, redrive(5, 0), back(7), HANDLED, EMPTY],
    ),
    "one comes back without a redrive": (
        "more redriven than told",
        [*DIED, back(7), HANDLED, EMPTY],
    ),
    "a redrive goes on for ever": ("a redrive without an end", [*DIED, redrive(5, 0, "running")]),
    "a redrive fails": ("a redrive without an end", [*DIED, redrive(5, 0, "failed")]),
    "a dead letter miscounts": (WRONG, [*DIED[:-1], dead(4, deliveries=3)]),
    "a dead letter of another reason": (WRONG, [*DIED[:-1], dead(4, reason="expired")]),
    "a dead letter of another subscription": (WRONG, [*DIED[:-1], dead(4, subscription="other")]),
    "a dead letter of another queue": (WRONG, [*DIED[:-1], dead(4, topic="other")]),
    "a dead letter that somebody had says nobody did": (WRONG, [*DIED[:-1], dead(4, first=0.0)]),
    "a dead letter counts its redrives wrongly": (WRONG, [*DIED[:-1], dead(4, redrives=1)]),
    "a dead letter of another message's place": (
        "two values at one offset",
        [*DIED[:-1], sent(2), dead(4, offset=2)],
    ),
    "a dead letter of a place where it never was": (
        "duplicate",
        [*DIED[:-1], dead(4, offset=3)],
    ),
    "a dead letter has no headers": (
        "a dead letter without headers",
        [*DIED[:-1], lease("d", 4, offset=0, target=DEAD)],
    ),
    "a dead letter died later than it did": (
        "times of dead letters",
        [*DIED[:-1], dead(4, at=4.5)],
    ),
    "a dead letter died before its last delivery": (
        "times of dead letters",
        [*DIED[:-1], dead(4, at=2.9)],
    ),
    "a dead letter was delivered first before it was sent": (
        "times of dead letters",
        [*DIED[:-1], dead(4, first=0.5)],
    ),
    "a dead letter tells its last delivery as the first": (
        "times of dead letters",
        [*DIED[:-1], dead(4, first=3.05)],
    ),
    "the second wait is as short as the first": (
        "too soon after a failure",
        [GROWING, sent(), failed(2.0, 3.3), lease("b", 5, deliveries=3)],
    ),
    "the third wait is as short as the second": (
        "too soon after a failure",
        [GROWING, sent(), failed(2.0, 3.3, 5.6), lease("b", 7.9, deliveries=4)],
    ),
    "a message that killed its worker comes at once": (
        "too soon after a failure",
        [GROWING, sent(), lease("a", 2), crash("a"), lease("b", 7.2, deliveries=2)],
    ),
}

INNOCENT: dict[str, History] = {
    "a killer dies, and its neighbour is handled": [
        *TWO_CRASHED,
        lease("b1", 7.1),
        crash("b1"),
        lease("b2", 7.2, 2),
        ack("b2", 7.4),
        lease("c1", 12.2, deliveries=2),
        crash("c1"),
        dead(18, at=17.25),
        lease("d", 18, offset=0, target=DEAD),
        ack("d", 19),
        EMPTY,
    ],
    "whoever has the neighbour in another partition is another worker to the cluster": [
        FRAIL,
        sent(1),
        lease("a1", 2),
        events.Lease("sdk-1", "a2", QUEUE, 1, 0, "m2", 1, 2, 2.1, LEASE_S),
        events.Send("sdk-1", 2, QUEUE, "m2", None, 1.0),
        crash("a1", "a2"),
        lease("b", 7.2, deliveries=2),
        events.Lease("sdk-1", "b2", QUEUE, 1, 0, "m2", 2, 7.2, 7.3, LEASE_S),
    ],
    "nobody knows whether it crashed with one or with two": [
        FRAIL,
        sent(1),
        sent(2),
        lease("a1", 2),
        lease("a2", 2, 2),
        ack("a1", 2.2, Outcome.UNKNOWN),
        crash("a2"),
        lease("b", 7.2, 2),
    ],
    "nobody knows, and it was one": [
        FRAIL,
        sent(1),
        sent(2),
        lease("a1", 2),
        lease("a2", 2, 2),
        ack("a1", 2.2, Outcome.UNKNOWN),
        crash("a2"),
        lease("b", 7.2, 2, deliveries=2),
    ],
    "a suspect is lost on its way, and that counts": [
        *TWO_CRASHED,
        lease("b", 12.2, 2, deliveries=2),
    ],
    "it is lost on its way as often as it may be": [*TWO_CRASHED, dead(18, 2, at=17.5)],
    "a message is handled when its lease is over, and dies of that": [
        FRAIL,
        sent(),
        failed(2.0),
        lease("b", 3, deliveries=2),
        ack("b", 8.5),
        dead(9, at=8.0),
        redrive(10, 1),
        back(11),
        HANDLED,
        EMPTY,
    ],
    "a message is given back when its lease is over": [
        FRAIL,
        sent(),
        lease("a", 2),
        nack("a", 6.95),
        lease("b", 7.2),
    ],
    "a failure of which nobody knows may count or not": [
        FRAIL,
        sent(),
        lease("a", 2),
        nack("a", 3, Outcome.UNKNOWN),
        lease("b", 7.2),
    ],
    "a dead letter comes back and is handled": [
        *DIED,
        redrive(5, 1),
        back(7),
        HANDLED,
        EMPTY,
    ],
    "a dead letter comes back, and is dead again and handled there": [
        *DIED,
        redrive(5, 1),
        failed(7.0, 8.0, offset=7, redrives=1),
        dead(9, at=8.25, first=7.05, place=1, offset=7, redrives=1),
        lease("d", 10, offset=1, redrives=1, target=DEAD),
        ack("d", 11),
        EMPTY,
    ],
    "a dead letter comes back that nobody saw dead": [
        *DIED[:-1],
        redrive(5, 1),
        back(7),
        HANDLED,
        EMPTY,
    ],
    "a dead letter is handled while others are sent back": [
        *DIED,
        lease("d", 5, offset=0, target=DEAD),
        redrive(5.05, 0),
        ack("d", 6),
        EMPTY,
    ],
    "a worker had it, gave it back, and it came back": [
        *DIED,
        lease("d", 5, offset=0, target=DEAD),
        nack("d", 5.2),
        redrive(6, 1),
        back(8),
        HANDLED,
        EMPTY,
    ],
    "it was acknowledged after it came back, and that was refused": [
        *DIED,
        lease("d", 5, offset=0, target=DEAD),
        redrive(11, 1),
        back(12),
        ack("d", 13, Outcome.UNKNOWN),
        HANDLED,
        EMPTY,
    ],
    "both copies that plain HTTP sent come back": [
        FRAIL,
        events.Send("http-1", 1, QUEUE, "m1", None, 1.0),
        events.SendFailed("http-1", 1, 1.2, "timeout", True),
        events.Send("http-1", 2, QUEUE, "m1", None, 1.2),
        events.Sent("http-1", 2, 1.3, 0, 2, "fsync"),
        failed(2.0, 3.0),
        failed(2.0, 3.0, offset=2),
        dead(4),
        dead(4, place=1, offset=2),
        redrive(5, 2),
        back(7),
        HANDLED,
        lease("c", 8, offset=8, redrives=1),
        ack("c", 9),
        EMPTY,
    ],
    "nobody knows how a redrive ended": [*DIED, redrive(5, 0, ""), EMPTY],
    "nobody knows how a redrive ended, and it is in neither of both": [
        *DIED[:-1],
        redrive(5, 0, ""),
        EMPTY,
    ],
    "what came back was purged": [
        *DIED,
        redrive(5, 1),
        events.Purge("sdk-1", QUEUE, 7.0, 7.1, Outcome.OK),
        EMPTY,
    ],
    "the queue was not emptied after a redrive": [
        *DIED,
        redrive(5, 1),
        events.Drained(DEAD, 0, 91.0),
    ],
    "a history breaks off before a redrive has ended": [*DIED, back(7)],
    "what came back does not expire": [
        msgspec.structs.replace(FRAIL, expired_are_dead=True),
        sent(ttl_s=1.0),
        dead(4, at=2.1, first=0.0, deliveries=0, reason="expired"),
        redrive(5, 1),
        back(7),
        HANDLED,
        EMPTY,
    ],
    "what was sent twice under one dedup id comes back once": [
        FRAIL,
        sent(dedup_id="d"),
        events.Send("sdk-1", 9, QUEUE, "m1", None, 1.2, dedup_id="d"),
        events.Sent("sdk-1", 9, 1.3, 0, 1, "fsync"),
        failed(2.0, 3.0),
        redrive(5, 1),
        back(7),
        HANDLED,
        EMPTY,
    ],
    "what came back has no priority": [
        events.Queue(QUEUE, max_deliveries=2, dead_letter=DEAD, priorities=True),
        sent(priority=9),
        sent(2, priority=5),
        failed(2.0, 3.0),
        redrive(5, 1),
        lease("b", 7, 2),
        ack("b", 7.2),
        back(8),
        HANDLED,
        EMPTY,
    ],
    "the clocks show different times": [
        *DIED[:-1],
        dead(4, at=1_003.25, first=1_002.05),
        sent(2),
        failed(2.0, 3.0, message=2, offset=2),
        dead(4, 2, at=1_003.25, first=1_002.05, place=1),
    ],
    "waits grow up to their bound": [
        GROWING,
        sent(),
        failed(2.0, 3.3, 5.6),
        lease("b", 8.75, deliveries=4),
    ],
    "a message that killed its worker waits": [
        GROWING,
        sent(),
        lease("a", 2),
        crash("a"),
        lease("b", 8.0, deliveries=2),
    ],
    "suspects need no wait": [
        msgspec.structs.replace(GROWING, max_deliveries=2, dead_letter=DEAD),
        *TWO_CRASHED[1:],
        lease("b", 7.05, 2),
    ],
}
