"""The history checker finds what is wrong, and nothing in what is right."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import dead_letter_histories
import history_model
import msgspec
import pytest
from history_model import QUEUE, TOPIC
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from e2e.history import events
from e2e.history.checker import RULES, Finding, Settings, check
from e2e.history.events import Action, AnyEvent, Outcome, ReadMode
from e2e.history.history import History

SDK = events.Client("sdk-1", "sdk", True, True)
OTHER = events.Client("sdk-2", "sdk", True, True)
HTTP = events.Client("http-1", "http", False, False)
FSYNC = Settings(durabilities=frozenset({"fsync"}))


def sent(
    call: int,
    offset: int,
    *,
    at: float,
    target: str = TOPIC,
    key: str | None = None,
    client: str = "sdk-1",
    partition: int = 0,
    took: float = 0.1,
    durability: str = "fsync",
    message: str = "",
    **wishes: Any,
) -> list[AnyEvent]:
    """A send of message ``m<call>``, unless another is named, that was acknowledged."""
    return [
        events.Send(client, call, target, message or f"m{call}", key, at, **wishes),
        events.Sent(client, call, at + took, partition, offset, durability),
    ]


def read(
    offset: int, message: str, *, at: float, reader: str = "final", mode: ReadMode = ReadMode.LOG
) -> AnyEvent:
    return events.Read("sdk-1", reader, mode, TOPIC, 0, offset, message, at)


def log_end(next_offset: int, at: float = 90.0) -> AnyEvent:
    return events.LogEnd("final", TOPIC, 0, next_offset, at)


def lease(
    name: str,
    begin: float,
    *,
    client: str = "sdk-1",
    message: str = "m1",
    offset: int = 0,
    deliveries: int = 1,
    end: float | None = None,
    target: str = QUEUE,
) -> AnyEvent:
    end = begin + 0.1 if end is None else end
    return events.Lease(client, name, target, 0, offset, message, deliveries, begin, end, 5.0)


def settle(
    name: str,
    begin: float,
    action: Action = Action.ACK,
    outcome: Outcome = Outcome.OK,
    client: str = "sdk-1",
) -> AnyEvent:
    lease_s = 5.0 if action is Action.EXTEND else 0.0
    return events.Settle(client, name, action, begin, begin + 0.1, outcome, lease_s)


def drained(left: int = 0, target: str = QUEUE) -> AnyEvent:
    return events.Drained(target, left, 90.0)


def cancel(begin: float, outcome: Outcome = Outcome.OK) -> AnyEvent:
    return events.Cancel("sdk-1", QUEUE, 0, 0, begin, begin + 0.1, outcome)


def move(begin: float, delay_s: float, outcome: Outcome = Outcome.OK) -> AnyEvent:
    return events.Move("sdk-1", QUEUE, 0, 0, begin, begin + 0.1, delay_s, outcome)


def purge(begin: float, outcome: Outcome = Outcome.OK) -> AnyEvent:
    return events.Purge("sdk-1", QUEUE, begin, begin + 0.1, outcome)


def pause(begin: float, outcome: Outcome = Outcome.OK) -> AnyEvent:
    return events.Pause("sdk-1", QUEUE, True, begin, begin + 0.1, outcome)


def resume(begin: float, outcome: Outcome = Outcome.OK) -> AnyEvent:
    return events.Pause("sdk-1", QUEUE, False, begin, begin + 0.1, outcome)


def refused(
    call: int, begin: float, error: str = "overloaded", *, may_have_landed: bool = False
) -> list[AnyEvent]:
    """A send of message ``m<call>`` that failed."""
    return [
        events.Send("sdk-1", call, QUEUE, f"m{call}", None, begin),
        events.SendFailed("sdk-1", call, begin + 0.5, error, may_have_landed),
    ]


def handled(*offsets: int, begin: float) -> list[AnyEvent]:
    """The messages at these offsets are received and acknowledged."""
    return [
        event
        for offset in offsets
        for event in (
            lease(f"h{offset}", begin, message=f"m{offset + 1}", offset=offset),
            settle(f"h{offset}", begin + 0.2),
        )
    ]


def read_again(*offsets: int, begin: float, end: float) -> list[AnyEvent]:
    """All that the log holds was read, and it was these offsets."""
    return [
        *(read(one, f"m{one + 1}", at=end, reader="again") for one in offsets),
        events.Reading("sdk-1", "again", TOPIC, 0, begin, end),
    ]


def long_lease(name: str, begin: float, offset: int = 0) -> AnyEvent:
    one = lease(name, begin, message=f"m{offset + 1}", offset=offset)
    return msgspec.structs.replace(one, lease_s=200.0)


def described(begin: float, *, stalled: bool) -> AnyEvent:
    return events.Described("sdk-1", QUEUE, begin, begin + 0.1, stalled)


PLAIN = events.Queue(QUEUE)
BOUNDED = events.Queue(QUEUE, messages_max=2)
BOTH = [*sent(1, 0, at=1, target=QUEUE), *sent(2, 1, at=1, target=QUEUE)]
HANGS = long_lease("a", 2)
ENDS = [settle("a", 60), *handled(1, begin=60), drained()]
SHORT = events.Topic(TOPIC, retention_s=20.0)
DEAD = "dead"
FRAIL = events.Queue(QUEUE, max_deliveries=2, dead_letter=DEAD)
FIFO = events.Queue(QUEUE, ordering="fifo")
PATIENT = events.Queue(QUEUE, retry_backoff_s=2.0)
RATED = events.Queue(QUEUE, rate_per_s=2.0, burst=1)
PRIORITIES = events.Queue(QUEUE, priorities=True)
FAIR = events.Queue(QUEUE, ordering="fair")


def with_priorities(*priorities: int) -> list[AnyEvent]:
    """A message at each offset, all there before the first is delivered."""
    return [
        event
        for offset, priority in enumerate(priorities)
        for event in sent(offset + 1, offset, at=1, target=QUEUE, priority=priority)
    ]


def of_groups(groups: str) -> list[AnyEvent]:
    """A message at each offset, whose group is a letter."""
    return [
        event
        for offset, group in enumerate(groups)
        for event in sent(offset + 1, offset, at=1, target=QUEUE, group=group)
    ]


def delivered(*offsets: int, begin: float = 10.0, each_s: float = 1.0) -> list[AnyEvent]:
    """The messages of these offsets, one after the other; the queue is empty in the end."""
    return [
        *(
            event
            for place, offset in enumerate(offsets)
            for event in (
                lease(
                    f"at-{offset}", begin + place * each_s, message=f"m{offset + 1}", offset=offset
                ),
                settle(f"at-{offset}", begin + place * each_s + 0.2),
            )
        ),
        drained(),
    ]


# Of 40 messages the oldest has the lowest priority, and an owner that forgot it.
STARVING = (0, *([9] * 40))
OLDEST_LAST = [*range(1, 41), 0]
# One that keeps the rule: every tenth is the oldest, twice in a row after a change of the owner.
IN_ORDER = [*range(1, 10), 0, *range(10, 41)]


def failed(*begins: float) -> list[AnyEvent]:
    """A delivery of m1 at each of these times, that was given back."""
    return [
        event
        for number, begin in enumerate(begins, start=1)
        for event in (
            lease(f"failed-{number}", begin, deliveries=number),
            settle(f"failed-{number}", begin + 0.2, Action.NACK),
        )
    ]


def died(
    begin: float,
    offset: int = 0,
    *,
    message: str = "m1",
    origin: int = 0,
    first: float = 2.05,
    at: float = 3.25,
    **facts: Any,
) -> list[AnyEvent]:
    """A copy of m1 is taken from the dead letters: see :mod:`dead_letter_histories`."""
    name = f"dead-{offset}"
    facts |= {"first": first, "at": at, "place": offset}
    seen = dead_letter_histories.dead(begin, origin, **facts)
    assert isinstance(seen, events.DeadLetter)
    return [
        msgspec.structs.replace(seen, id=message),
        lease(name, begin, message=message, target=DEAD, offset=offset),
        settle(name, begin + 1),
    ]


def found(*history: AnyEvent | list[AnyEvent]) -> list[Finding]:
    """The findings in a history of the three clients."""
    flat: list[AnyEvent] = [SDK, OTHER, HTTP]
    for part in history:
        flat += part if isinstance(part, list) else [part]
    return check(flat, FSYNC).findings


def rules(*history: AnyEvent | list[AnyEvent]) -> set[str]:
    return {one.rule for one in found(*history)}


IN_QUEUE = sent(1, 0, at=1, target=QUEUE)

BAD: dict[str, tuple[str, list[AnyEvent | list[AnyEvent]]]] = {
    "an acked message is not in the log": (
        "lost from a log",
        [sent(1, 0, at=1), sent(2, 1, at=2), read(0, "m1", at=3), log_end(1)],
    ),
    "another message is in its place": (
        "lost from a log",
        [
            events.Send("sdk-1", 3, TOPIC, "m3", None, 1.0),
            sent(1, 0, at=1),
            read(0, "m3", at=3),
            log_end(1),
        ],
    ),
    "a queue's message never came": ("lost from a queue", [IN_QUEUE, drained()]),
    "a queue's message came and was not acked": (
        "lost from a queue",
        [IN_QUEUE, lease("a", 2), settle("a", 3, outcome=Outcome.REFUSED), drained()],
    ),
    "a message whose send failed came and was not acked": (
        "lost from a queue",
        [
            events.Send("sdk-1", 1, QUEUE, "m1", None, 1.0),
            events.SendFailed("sdk-1", 1, 2.0, "timeout", True),
            lease("a", 3),
            drained(),
        ],
    ),
    "a queue is not emptied": ("not drained", [IN_QUEUE, drained(1)]),
    "nobody sent it": ("from nowhere", [read(0, "m1", at=3)]),
    "it was sent elsewhere": ("from nowhere", [IN_QUEUE, read(0, "m1", at=3)]),
    "it was read before it was sent": ("from nowhere", [sent(1, 0, at=4), read(0, "m1", at=3)]),
    "it was refused": (
        "from nowhere",
        [
            events.Send("sdk-1", 1, TOPIC, "m1", None, 1.0),
            events.SendFailed("sdk-1", 1, 2.0, "too_large", False),
            read(0, "m1", at=3),
        ],
    ),
    "its bytes were changed": (
        "from nowhere",
        [sent(1, 0, at=1), read(0, events.id_of("m1|m1|mX"), at=3)],
    ),
    "two sends are acked at one offset": (
        "two values at one offset",
        [sent(1, 0, at=1), sent(2, 0, at=2)],
    ),
    "a queue delivers another value than was acked there": (
        "two values at one offset",
        [IN_QUEUE, sent(2, 1, at=1, target=QUEUE), lease("a", 3, message="m2")],
    ),
    "a producer's message is there twice": (
        "duplicate",
        [sent(1, 0, at=1), read(0, "m1", at=3), read(1, "m1", at=3)],
    ),
    "a failed send of a producer landed twice": (
        "duplicate",
        [
            events.Send("sdk-1", 1, TOPIC, "m1", None, 1.0),
            events.SendFailed("sdk-1", 1, 2.0, "timeout", True),
            read(0, "m1", at=3),
            read(1, "m1", at=3),
        ],
    ),
    "an ack is not durable": ("weaker than asked", [sent(1, 0, at=1, durability="memory")]),
    "a later call of a key is earlier in the log": (
        "order of a key",
        [sent(1, 1, at=1, key="k"), sent(2, 0, at=2, key="k")],
    ),
    "calls that overlap are in another order": (
        "order of a key",
        [sent(1, 1, at=1, took=5, key="k"), sent(2, 0, at=2, key="k")],
    ),
    "replies over HTTP are in another order": (
        "order of a key",
        [
            sent(1, 1, at=1, key="k", client="http-1"),
            sent(2, 0, at=2, key="k", client="http-1"),
        ],
    ),
    "a key changes its partition": (
        "order of a key",
        [sent(1, 0, at=1, key="k"), sent(2, 0, at=2, key="k", client="sdk-2", partition=1)],
    ),
    "a reader goes back": (
        "order of a log reader",
        [sent(1, 0, at=1), sent(2, 1, at=1), read(1, "m2", at=3), read(0, "m1", at=4)],
    ),
    "a reader gets an offset twice": (
        "order of a log reader",
        [sent(1, 0, at=1), read(0, "m1", at=3), read(0, "m1", at=4)],
    ),
    "a reader skips an offset": (
        "order of a log reader",
        [sent(1, 0, at=1), sent(2, 2, at=1), read(0, "m1", at=3), read(2, "m2", at=4)],
    ),
    "a subscription skips an offset": (
        "skipped by a subscription",
        [
            *(sent(call, call - 1, at=1) for call in (1, 2, 3)),
            read(0, "m1", at=3, reader="group", mode=ReadMode.GROUP),
            read(2, "m3", at=4, reader="group", mode=ReadMode.GROUP),
            read(1, "m2", at=5, reader="group", mode=ReadMode.GROUP),
        ],
    ),
    "a reader stops before the end": (
        "unfinished reader",
        [
            events.Reader("follow", ReadMode.LOG, TOPIC),
            sent(1, 0, at=1),
            sent(2, 1, at=1),
            read(0, "m1", at=3, reader="follow"),
            read(0, "m1", at=4),
            read(1, "m2", at=4),
            log_end(2),
        ],
    ),
    "a subscription gets nothing": (
        "unfinished reader",
        [
            events.Reader("group", ReadMode.GROUP, TOPIC),
            sent(1, 0, at=1),
            read(0, "m1", at=4),
            log_end(1),
        ],
    ),
    "a subscription misses the beginning": (
        "unfinished reader",
        [
            events.Reader("group", ReadMode.GROUP, TOPIC),
            sent(1, 0, at=1),
            sent(2, 1, at=1),
            read(1, "m2", at=3, reader="group", mode=ReadMode.GROUP),
            read(0, "m1", at=4),
            read(1, "m2", at=4),
            log_end(2),
        ],
    ),
    "two workers have one message": (
        "second lease",
        [IN_QUEUE, lease("a", 2), lease("b", 4, client="sdk-2", deliveries=2)],
    ),
    "an extended lease is not honoured": (
        "second lease",
        [
            IN_QUEUE,
            lease("a", 2),
            settle("a", 6, Action.EXTEND),
            lease("b", 8, client="sdk-2", deliveries=2),
        ],
    ),
    "a message comes after its ack": (
        "delivered after its ack",
        [IN_QUEUE, lease("a", 2), settle("a", 3), lease("b", 4, deliveries=2)],
    ),
    "a waiting call gets a message that was acked meanwhile": (
        "delivered after its ack",
        [IN_QUEUE, lease("b", 1, end=4, deliveries=2), lease("a", 2), settle("a", 3)],
    ),
    "an ack is refused within the lease": (
        "lease cut short",
        [IN_QUEUE, lease("a", 2), settle("a", 3, outcome=Outcome.REFUSED)],
    ),
    "a delayed message comes too soon": (
        "early",
        [sent(1, 0, at=1, target=QUEUE, delay_s=3.0), lease("a", 3)],
    ),
    "a message comes after its time": (
        "delivered after its expiry",
        [sent(1, 0, at=1, target=QUEUE, ttl_s=1.0), lease("a", 3)],
    ),
    "a cancelled message comes": (
        "delivered after its cancellation",
        [sent(1, 0, at=1, target=QUEUE, delay_s=5.0), cancel(2), lease("a", 7)],
    ),
    "a message that was not cancelled never came": (
        "lost from a queue",
        [IN_QUEUE, cancel(2, Outcome.REFUSED), drained()],
    ),
    "a dedup id has two places": (
        "landed again",
        [
            sent(1, 0, at=1, target=QUEUE, client="http-1", dedup_id="d"),
            sent(2, 1, at=2, target=QUEUE, client="http-1", dedup_id="d", message="m1"),
        ],
    ),
    "a message under a dedup id landed twice": (
        "landed again",
        [
            sent(1, 0, at=1, target=QUEUE, client="http-1", dedup_id="d"),
            lease("a", 2),
            lease("b", 2, offset=1),
        ],
    ),
    "a key's later message comes first": (
        "order of a FIFO key",
        [
            FIFO,
            sent(1, 0, at=1, target=QUEUE, key="k"),
            sent(2, 1, at=1, target=QUEUE, key="k"),
            lease("b", 2, message="m2", offset=1),
            settle("b", 3),
            lease("a", 4),
        ],
    ),
    "a nack lets a later one of its key pass": (
        "order of a FIFO key",
        [
            FIFO,
            sent(1, 0, at=1, target=QUEUE, key="k"),
            sent(2, 1, at=1, target=QUEUE, key="k"),
            failed(2.0),
            lease("b", 3, message="m2", offset=1),
            settle("b", 4),
            lease("a", 5, deliveries=2),
        ],
    ),
    "two of a key are under way": (
        "two of a FIFO key",
        [
            FIFO,
            sent(1, 0, at=1, target=QUEUE, key="k"),
            sent(2, 1, at=1, target=QUEUE, key="k"),
            lease("a", 2),
            lease("b", 3, message="m2", offset=1, client="sdk-2"),
        ],
    ),
    "two copies are among the dead letters": (
        "dead letters",
        [FRAIL, IN_QUEUE, failed(2.0, 3.0), died(4), died(6, offset=1)],
    ),
    "a dead one is still in its queue": (
        "dead letters",
        [FRAIL, IN_QUEUE, failed(2.0), died(4), lease("a", 5, deliveries=2)],
    ),
    "a message that was handled is dead": (
        "dead letters",
        [FRAIL, IN_QUEUE, lease("a", 2), settle("a", 3), died(4)],
    ),
    "a message that failed is in neither of both": (
        "lost from a queue",
        [FRAIL, IN_QUEUE, failed(2.0, 3.0), drained(), drained(target=DEAD)],
    ),
    "a message fails more often than it may": (
        "delivered too often",
        [FRAIL, IN_QUEUE, failed(2.0, 3.0, 4.0)],
    ),
    "a dead letter is of nowhere": ("from nowhere", [FRAIL, died(4)]),
    "an expired one is in neither of both": (
        "lost from a queue",
        [
            msgspec.structs.replace(FRAIL, expired_are_dead=True),
            sent(1, 0, at=1, target=QUEUE, ttl_s=1.0),
            drained(),
            drained(target=DEAD),
        ],
    ),
    "what died first is not the first of the dead letters": (
        "order of dead letters",
        [
            FRAIL,
            IN_QUEUE,
            sent(2, 1, at=1, target=QUEUE),
            failed(2.0, 3.0),
            lease("b1", 4, message="m2", offset=1),
            settle("b1", 4.2, Action.NACK),
            lease("b2", 5, message="m2", offset=1, deliveries=2),
            settle("b2", 5.2, Action.NACK),
            died(6, offset=1),
            died(8, message="m2", origin=1, first=4.05, at=5.25),
        ],
    ),
    "a message comes before the time it was moved to": (
        "early",
        [IN_QUEUE, move(2, 5.0), lease("a", 3)],
    ),
    "a message comes before the last time it was moved to": (
        "early",
        [
            sent(1, 0, at=1, target=QUEUE, delay_s=1.0),
            move(2, 5.0),
            move(3, 9.0),
            lease("a", 8),
        ],
    ),
    "a message that failed comes at once": (
        "too soon after a failure",
        [PATIENT, IN_QUEUE, failed(2.0), lease("b", 3, deliveries=2)],
    ),
    "a message was purged and comes": (
        "delivered after a purge",
        [IN_QUEUE, purge(2), lease("a", 3), settle("a", 4)],
    ),
    "a message that came after a purge is lost": (
        "lost from a queue",
        [purge(1), sent(1, 0, at=2, target=QUEUE), drained()],
    ),
    "a paused queue delivers": (
        "delivered while paused",
        [IN_QUEUE, pause(2), lease("a", 3.5), resume(9)],
    ),
    "a queue takes more than its bound": (
        "beyond its bound",
        [BOUNDED, BOTH, sent(3, 2, at=2, target=QUEUE)],
    ),
    "a lease makes room in a queue": (
        "beyond its bound",
        [BOUNDED, BOTH, lease("a", 2), sent(3, 2, at=3, target=QUEUE), settle("a", 4)],
    ),
    "a queue refuses though one was acked": (
        "refused below its bound",
        [BOUNDED, BOTH, handled(0, begin=2), refused(3, 5), handled(1, begin=7), drained()],
    ),
    "a queue refuses for messages that it refused": (
        "refused below its bound",
        [BOUNDED, IN_QUEUE, refused(2, 5), refused(3, 5.2), handled(0, begin=7), drained()],
    ),
    "a queue refuses for one that was tried before and never came": (
        "refused below its bound",
        [
            BOUNDED,
            IN_QUEUE,
            refused(2, 4, "timeout", may_have_landed=True),
            refused(3, 5),
            handled(0, begin=7),
            drained(),
        ],
    ),
    "a topic forgets what is young": (
        "gone before its time",
        [SHORT, sent(1, 0, at=1), sent(2, 1, at=2), read_again(1, begin=10, end=11)],
    ),
    "a topic has another message in its place": (
        "gone before its time",
        [SHORT, sent(7, 0, at=1), read_again(0, begin=10, end=11)],
    ),
    "a stall is not told": (
        "untold stall",
        [PLAIN, BOTH, long_lease("a", 2), described(50, stalled=False), drained()],
    ),
    "a queue that flows is told as stalled": (
        "told as stalled",
        [BOTH, long_lease("a", 30), described(50, stalled=True)],
    ),
    "a queue is faster than its rate": (
        "faster than its rate",
        [RATED, with_priorities(*[0] * 6), delivered(*range(6), each_s=0.3)],
    ),
    "a queue is too fast for a moment of a long time": (
        "faster than its rate",
        [
            RATED,
            with_priorities(*[0] * 12),
            delivered(0, 1, 2, begin=10, each_s=9),
            delivered(*range(3, 9), begin=40, each_s=0.2),
            delivered(9, 10, 11, begin=60, each_s=9),
        ],
    ),
    "the lowest and newest comes first": (
        "out of turn",
        [PRIORITIES, with_priorities(5, 9, 1), delivered(2, 1, 0)],
    ),
    "of equals the newer comes first": (
        "out of turn",
        [PRIORITIES, with_priorities(5, 5), delivered(1, 0)],
    ),
    "a redelivered one passes by what is older and higher": (
        "out of turn",
        [
            PRIORITIES,
            with_priorities(0, 1),
            lease("x", 2, message="m2", offset=1),
            settle("x", 3, Action.NACK),
            sent(3, 2, at=4, target=QUEUE, priority=5),
            lease("y", 6, message="m2", offset=1, deliveries=2),
            settle("y", 7),
            delivered(2, 0),
        ],
    ),
    "the oldest comes first though others are higher": (
        "low before high",
        [PRIORITIES, with_priorities(*[0] * 4, 9), delivered(*range(5))],
    ),
    "the oldest waits while all others come": (
        "starved",
        [PRIORITIES, with_priorities(*STARVING), delivered(*OLDEST_LAST)],
    ),
    "a noisy group goes on while another waits": (
        "beyond its turn",
        [FAIR, of_groups("aaaab"), delivered(0, 1, 2, 3, 4)],
    ),
    "between two turns of a group another has three": (
        "beyond its turn",
        [FAIR, of_groups("aaaabb"), delivered(4, 0, 1, 2, 5, 3)],
    ),
}


BAD |= dead_letter_histories.BAD


@pytest.mark.parametrize("case", BAD)
def test_a_bad_history_is_found(case: str) -> None:
    rule, history = BAD[case]
    named = [one for one in found(*history) if one.rule == rule]
    assert named, found(*history)
    for one in named:
        assert one.message or one.client or rule in ("not drained", "unfinished reader")
        assert " s" in one.sentence
        assert one.at > 0


def test_every_rule_has_a_bad_history() -> None:
    assert {rule for rule, _ in BAD.values()} == set(RULES)


INNOCENT: dict[str, list[AnyEvent | list[AnyEvent]]] = {
    "a history that broke off": [
        sent(1, 0, at=1),
        IN_QUEUE,
        events.Send("sdk-1", 9, TOPIC, "m9", None, 2.0),
        read(0, "m1", at=3),
        read(1, "m9", at=3),
    ],
    "a message is read before its reply is there": [sent(1, 0, at=1, took=9), read(0, "m1", at=3)],
    "calls over HTTP that overlap land in any order": [
        sent(1, 1, at=1, took=5, key="k", client="http-1"),
        sent(2, 0, at=2, took=1, key="k", client="http-1"),
    ],
    "producers of one key have no common order": [
        sent(1, 1, at=1, key="k"),
        sent(2, 0, at=2, key="k", client="sdk-2"),
    ],
    "a lease that ran out": [
        IN_QUEUE,
        lease("a", 2),
        lease("b", 7.01, client="sdk-2", deliveries=2),
        settle("b", 8),
    ],
    "the reply came after the lease's end": [
        IN_QUEUE,
        lease("a", 2, end=9),
        lease("b", 7, client="sdk-2", deliveries=2),
    ],
    "a lease that was given back": [
        IN_QUEUE,
        lease("a", 2),
        settle("a", 3, Action.NACK),
        lease("b", 3, client="sdk-2", deliveries=2),
    ],
    "a lease that was given back while it was extended": [
        IN_QUEUE,
        lease("a", 2),
        settle("a", 3, Action.NACK, Outcome.UNKNOWN),
        settle("a", 3.05, Action.EXTEND),
        lease("b", 4, client="sdk-2", deliveries=2),
    ],
    "an ack without a reply, then another delivery": [
        IN_QUEUE,
        lease("a", 2),
        settle("a", 3, outcome=Outcome.UNKNOWN),
        lease("b", 7.5, deliveries=2),
        settle("b", 8),
        drained(),
    ],
    "an ack that was tried until another worker had acked": [
        IN_QUEUE,
        lease("a", 2),
        events.Settle("sdk-1", "a", Action.ACK, 3.0, 12.0, Outcome.OK),
        lease("b", 8, client="sdk-2", deliveries=2),
        settle("b", 9, client="sdk-2"),
        drained(),
    ],
    "a late ack is refused": [
        IN_QUEUE,
        lease("a", 2),
        settle("a", 7.2, outcome=Outcome.REFUSED),
        lease("b", 8, deliveries=2),
        settle("b", 9),
        drained(),
    ],
    "a delayed message comes at its time": [
        sent(1, 0, at=1, target=QUEUE, delay_s=3.0),
        lease("a", 1, end=4),
        settle("a", 5),
        drained(),
    ],
    "a message expired unseen": [sent(1, 0, at=1, target=QUEUE, ttl_s=1.0), drained()],
    "a poll that waits gets a message just before it expires": [
        sent(1, 0, at=1, target=QUEUE, ttl_s=1.0),
        lease("a", 1.5, end=4),
        settle("a", 5),
    ],
    "a cancelled message is gone": [
        sent(1, 0, at=1, target=QUEUE, delay_s=9.0),
        cancel(2),
        drained(),
    ],
    "nobody knows whether it was cancelled": [IN_QUEUE, cancel(2, Outcome.UNKNOWN), drained()],
    "a message came, and was then cancelled": [IN_QUEUE, failed(2.0), cancel(4), drained()],
    "sent again under its dedup id it stays where it was": [
        sent(1, 0, at=1, target=QUEUE, key="k", dedup_id="d"),
        sent(2, 1, at=2, target=QUEUE, key="k"),
        sent(3, 0, at=3, target=QUEUE, key="k", dedup_id="d", message="m1"),
    ],
    "a dedup id is used again after its window": [
        sent(1, 0, at=1, target=QUEUE, dedup_id="d"),
        sent(2, 1, at=400, target=QUEUE, dedup_id="d"),
    ],
    "a FIFO queue goes on to the next of a key": [
        FIFO,
        sent(1, 0, at=1, target=QUEUE, key="k"),
        sent(2, 1, at=1, target=QUEUE, key="k"),
        sent(3, 2, at=1, target=QUEUE, key="other"),
        failed(2.0),
        lease("a", 3, deliveries=2),
        lease("c", 3, message="m3", offset=2),
        settle("a", 4),
        lease("b", 4, message="m2", offset=1),
    ],
    "a message that failed too often is among the dead letters": [
        FRAIL,
        IN_QUEUE,
        failed(2.0, 3.0),
        died(4),
        drained(),
        drained(target=DEAD),
    ],
    "an expired one is dead": [
        msgspec.structs.replace(FRAIL, expired_are_dead=True),
        sent(1, 0, at=1, target=QUEUE, ttl_s=1.0),
        died(4, reason="expired", deliveries=0, first=0.0, at=2.1),
        drained(),
        drained(target=DEAD),
    ],
    "what died at the same time is in any order": [
        FRAIL,
        IN_QUEUE,
        sent(2, 1, at=1, target=QUEUE),
        failed(2.0, 3.0),
        lease("b1", 1.5, message="m2", offset=1),
        settle("b1", 1.7, Action.NACK),
        lease("b2", 2, message="m2", offset=1, deliveries=2, client="sdk-2"),
        settle("b2", 3.25, Action.NACK, client="sdk-2"),
        died(6, offset=1),
        died(8, message="m2", origin=1, first=1.55, at=3.3),
    ],
    "a delayed message is moved to an earlier time": [
        sent(1, 0, at=1, target=QUEUE, delay_s=9.0),
        move(2, 1.0),
        lease("a", 3),
    ],
    "nobody knows whether it was moved": [IN_QUEUE, move(2, 5.0, Outcome.UNKNOWN), lease("a", 3)],
    "it was on its way when it was moved": [IN_QUEUE, move(2, 5.0), lease("a", 2.05)],
    "two moves at a time, of which either is the last": [
        IN_QUEUE,
        move(2, 9.0),
        move(2.05, 1.0),
        lease("a", 4),
    ],
    "a message that failed waits": [
        PATIENT,
        IN_QUEUE,
        failed(2.0),
        lease("b", 4.15, deliveries=2),
    ],
    "a failure of which nobody knows needs no wait": [
        PATIENT,
        IN_QUEUE,
        lease("a", 2),
        settle("a", 2.2, Action.NACK, Outcome.UNKNOWN),
        lease("b", 3),
    ],
    "purged messages do not come": [IN_QUEUE, purge(2), drained()],
    "a purge may have taken what came meanwhile": [
        purge(1.05),
        IN_QUEUE,
        sent(2, 1, at=1.08, target=QUEUE),
        lease("b", 3, message="m2", offset=1),
        settle("b", 4),
        drained(),
    ],
    "a purge whose end nobody knows may still go on": [
        purge(1, Outcome.UNKNOWN),
        sent(1, 0, at=5, target=QUEUE),
        drained(),
    ],
    "a rate and a burst": [
        RATED,
        with_priorities(*[0] * 7),
        delivered(*range(7), begin=10, each_s=0.5),
    ],
    "calls that are long prove no haste": [
        RATED,
        with_priorities(*[0] * 6),
        *(
            lease(f"at-{offset}", 7, end=10, message=f"m{offset + 1}", offset=offset)
            for offset in range(6)
        ),
    ],
    "every tenth is the oldest": [
        PRIORITIES,
        with_priorities(*STARVING),
        delivered(*IN_ORDER),
    ],
    "a new owner counts anew": [
        PRIORITIES,
        with_priorities(*[0] * 3, *[9] * 20),
        delivered(*range(3, 12), 0, 1, *range(12, 21), 2, 21, 22),
    ],
    "higher ones first, and the oldest of them": [
        PRIORITIES,
        with_priorities(1, 9, 5, 9),
        delivered(1, 3, 2, 0),
    ],
    "a higher one comes while a lower one is asked for": [
        PRIORITIES,
        with_priorities(1, 1),
        sent(3, 2, at=9.95, target=QUEUE, priority=9),
        delivered(0, 2, 1),
    ],
    "two workers ask at a time": [
        PRIORITIES,
        with_priorities(5, 9, 1),
        lease("low", 10, end=12, message="m3", offset=2),
        lease("high", 11, end=11.5, message="m2", offset=1),
        lease("middle", 11.6, end=11.9, message="m1", offset=0),
    ],
    "an order is certain only where no lease can be lost": [
        PRIORITIES,
        with_priorities(5, 9, 1),
        events.Call("sdk-2", "receive", 8.0, 9.0, 0.0, "unavailable"),
        delivered(2, 1, 0),
    ],
    "a poll that was cut may lease until its wait is over": [
        PRIORITIES,
        with_priorities(5, 9, 1),
        events.Call("sdk-2", "receive", 1.0, 2.0, 3.0, "unavailable"),
        delivered(2, 1, 0),
    ],
    "a disruption hides leases as well": [
        FAIR,
        of_groups("aaaab"),
        events.Mark("a node is killed", True, 3.0),
        events.Mark("a node is killed", False, 8.0),
        delivered(0, 1, 2, 3, 4),
    ],
    "a message whose first delivery was lost has waited since": [
        PRIORITIES,
        with_priorities(5, 9),
        lease("old", 10, message="m1", offset=0),
        settle("old", 10.2),
        lease("high", 12, message="m2", offset=1, deliveries=2),
        settle("high", 12.2),
        drained(),
    ],
    "a pause has not reached everyone yet": [
        IN_QUEUE,
        pause(2),
        lease("a", 2.9),
        settle("a", 3),
        resume(9),
        drained(),
    ],
    "a poll was answered when the pause began": [IN_QUEUE, pause(2), lease("a", 2, end=5)],
    "a poll waits through a pause": [IN_QUEUE, pause(2), lease("a", 4, end=9.05), resume(9)],
    "an ack while it is paused": [
        IN_QUEUE,
        lease("a", 1.5),
        pause(2),
        settle("a", 4),
        resume(9),
        drained(),
    ],
    "nobody knows whether it is paused": [
        IN_QUEUE,
        pause(2, Outcome.UNKNOWN),
        lease("a", 4),
        resume(9),
    ],
    "nobody knows whether it goes on": [
        IN_QUEUE,
        pause(2),
        resume(4, Outcome.UNKNOWN),
        lease("a", 6),
        resume(9),
    ],
    "nobody knows when an earlier pause ended": [
        IN_QUEUE,
        resume(1, Outcome.UNKNOWN),
        pause(2),
        lease("a", 4),
        resume(9),
    ],
    "a pause without an end": [IN_QUEUE, pause(2), lease("a", 4)],
    "a full queue refuses": [
        BOUNDED,
        BOTH,
        refused(3, 5),
        handled(0, 1, begin=7),
        drained(),
    ],
    "a full queue refuses while one is acked": [
        BOUNDED,
        BOTH,
        lease("a", 5),
        settle("a", 5.2),
        refused(3, 5.25),
        handled(1, begin=7),
        drained(),
    ],
    "a queue is full by one that is under way": [
        BOUNDED,
        IN_QUEUE,
        refused(2, 4.8, "timeout", may_have_landed=True),
        refused(3, 5),
        handled(0, begin=7),
        drained(),
    ],
    "a queue is full by one that failed and landed": [
        BOUNDED,
        IN_QUEUE,
        refused(2, 2, may_have_landed=True),
        refused(3, 5),
        handled(0, 1, begin=7),
        drained(),
    ],
    "what a full queue holds was not seen": [BOUNDED, IN_QUEUE, refused(3, 5)],
    "an ack without a reply makes room": [
        BOUNDED,
        BOTH,
        lease("a", 2),
        settle("a", 3, outcome=Outcome.UNKNOWN),
        sent(3, 2, at=4, target=QUEUE),
    ],
    "a topic forgets what is old": [
        SHORT,
        sent(1, 0, at=1),
        sent(2, 1, at=9),
        read_again(1, begin=22, end=23),
    ],
    "what becomes old while a topic is read": [
        SHORT,
        sent(1, 0, at=1),
        read_again(begin=20, end=22),
    ],
    "a message comes while a topic is read": [
        SHORT,
        sent(1, 0, at=3, took=3),
        read_again(begin=5, end=7),
    ],
    "a topic of which nobody knows what it keeps": [
        sent(1, 0, at=1),
        read_again(begin=5, end=7),
    ],
    "a stall is too short to be told": [PLAIN, BOTH, HANGS, described(34, stalled=False), ENDS],
    "a worker hangs and nothing waits": [
        PLAIN,
        IN_QUEUE,
        long_lease("a", 2),
        described(50, stalled=False),
        settle("a", 60),
        drained(),
    ],
    "messages wait and nobody works": [
        PLAIN,
        BOTH,
        described(50, stalled=False),
        handled(0, 1, begin=60),
        drained(),
    ],
    "messages wait for a worker whose lease ran out": [
        PLAIN,
        BOTH,
        lease("a", 2),
        described(50, stalled=False),
        lease("b", 60, deliveries=2),
        settle("b", 61),
        handled(1, begin=60),
        drained(),
    ],
    "a worker hangs and another goes on": [
        PLAIN,
        BOTH,
        sent(3, 2, at=1, target=QUEUE),
        HANGS,
        handled(2, begin=30),
        described(50, stalled=False),
        ENDS,
    ],
    "a worker hangs and extends its lease": [
        PLAIN,
        BOTH,
        HANGS,
        settle("a", 30, Action.EXTEND),
        described(32, stalled=False),
        ENDS,
    ],
    "a worker of a paused queue hangs": [
        PLAIN,
        BOTH,
        HANGS,
        pause(3),
        described(50, stalled=False),
        resume(55),
        ENDS,
    ],
    "a worker hangs and the owner is new": [
        PLAIN,
        BOTH,
        HANGS,
        events.Mark("a node is killed", True, 20.0),
        described(50, stalled=False),
        events.Mark("a node is killed", False, 51.0),
        ENDS,
    ],
    "a stall is told": [PLAIN, BOTH, HANGS, described(50, stalled=True), ENDS],
    "a stall is told in the moment in which it ends": [
        PLAIN,
        BOTH,
        HANGS,
        handled(1, begin=48),
        described(50, stalled=True),
        settle("a", 60),
        drained(),
    ],
    "a delayed one is passed by": [
        PRIORITIES,
        sent(1, 0, at=1, target=QUEUE, priority=9, delay_s=12.0),
        sent(2, 1, at=1, target=QUEUE),
        delivered(1, begin=5),
        delivered(0, begin=14),
    ],
    "turns": [FAIR, of_groups("aaaabcb"), delivered(0, 4, 5, 1, 6, 2, 3)],
    "turns begin anew at a new owner": [FAIR, of_groups("aaaab"), delivered(0, 1, 4, 2, 3)],
    "a group comes back to the end of the turns": [
        FAIR,
        of_groups("abab"),
        delivered(0, 1, 2, 3),
    ],
    "the dead letters were not read": [
        FRAIL,
        IN_QUEUE,
        failed(2.0, 3.0),
        drained(),
    ],
    "a message that plain HTTP sent twice died twice": [
        FRAIL,
        events.Send("http-1", 1, QUEUE, "m1", None, 1.0),
        events.SendFailed("http-1", 1, 2.0, "timeout", True),
        sent(2, 1, at=3, target=QUEUE, client="http-1", message="m1"),
        failed(2.0, 3.0),
        died(6),
        lease("b1", 4, offset=1),
        settle("b1", 4.2, Action.NACK),
        lease("b2", 5, offset=1, deliveries=2),
        settle("b2", 5.2, Action.NACK),
        died(8, offset=1, origin=1, first=4.05, at=5.25),
    ],
    "members get again what was not committed": [
        sent(1, 0, at=1),
        sent(2, 1, at=1),
        *(
            read(offset, f"m{offset + 1}", at=3 + place, reader="group", mode=ReadMode.GROUP)
            for place, offset in enumerate((0, 1, 0, 1))
        ),
    ],
}


INNOCENT |= dead_letter_histories.INNOCENT


@pytest.mark.parametrize("case", INNOCENT)
def test_what_may_be_innocent_is_no_finding(case: str) -> None:
    assert found(*INNOCENT[case]) == []


def test_duplicates_of_plain_http_are_counted() -> None:
    resent = [
        events.Send("http-1", 1, TOPIC, "m1", None, 1.0),
        events.SendFailed("http-1", 1, 2.0, "timeout", True),
        events.Send("http-1", 2, TOPIC, "m1", None, 3.0),
        events.Sent("http-1", 2, 4.0, 0, 1, "fsync"),
    ]
    verdict = check([HTTP, *resent, read(0, "m1", at=5), read(1, "m1", at=5), log_end(2)])
    assert verdict.findings == []
    assert verdict.duplicates == {"http": 1}
    assert (verdict.acked, verdict.failed_sends, verdict.landed_though_failed) == (1, 1, 0)


def test_clients_together_may_not_pass_a_bound() -> None:
    """Nor by a batch that a gateway makes of the messages of several."""
    second = events.Client("http-2", "http", False, False)
    history = [SDK, OTHER, HTTP, second, BOUNDED, *BOTH]
    assert check(history).findings == []
    assert check([*history, *sent(3, 2, at=2, target=QUEUE)]).of("beyond its bound")


def test_a_refusal_is_an_answer_and_no_failed_call() -> None:
    of_full_queue = History([SDK, BOUNDED, *refused(1, 1)])
    assert check(of_full_queue).failed_sends == 0
    assert [one.error for one in of_full_queue.calls] == [None]
    for history in (History([SDK, *refused(1, 1)]), History([SDK, BOUNDED, *refused(1, 1, "x")])):
        assert check(history).failed_sends == 1
        assert [one.error for one in history.calls if one.error] != []


def test_a_declared_gap_is_no_skip_unless_something_is_known_in_it() -> None:
    gap = 1 << 24
    skip: list[AnyEvent] = [
        SDK, *sent(1, 0, at=1), *sent(2, gap, at=2), read(0, "m1", at=3), read(gap, "m2", at=3),
    ]  # fmt: skip
    allowing = Settings(gap_offsets_min=1 << 20)
    assert check(skip, allowing).findings == []
    assert check(skip).of("order of a log reader")
    assert check([*skip, *sent(3, 7, at=1.5)], allowing).of("order of a log reader")


# Random histories.

SEEDS = st.integers(0, 2**32 - 1)
STEPS = st.integers(0, 120)
PROFILE = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


@PROFILE
@given(SEEDS, STEPS)
def test_good_histories_have_no_finding(seed: int, steps: int) -> None:
    verdict = check(history_model.run(Random(seed), steps), FSYNC)
    assert verdict.findings == []


@PROFILE
@given(SEEDS, STEPS, st.data())
def test_a_history_that_breaks_off_anywhere_has_no_finding(
    seed: int, steps: int, data: st.DataObject
) -> None:
    history = history_model.run(Random(seed), steps)
    end = data.draw(st.integers(0, len(history)))
    assert check(history[:end], FSYNC).findings == []


Spoil = Callable[[list[AnyEvent], Random], None]


def _choose(history: list[AnyEvent], random: Random, kind: type[AnyEvent]) -> int:
    places = [place for place, one in enumerate(history) if isinstance(one, kind)]
    assume(places)
    return random.choice(places)


def _acked_of(history: list[AnyEvent], random: Random, target: str) -> events.Sent:
    targets = {(o.client, o.call): o.target for o in history if isinstance(o, events.Send)}
    sent_ones = [
        one
        for one in history
        if isinstance(one, events.Sent) and targets[one.client, one.call] == target
    ]
    assume(sent_ones)
    return random.choice(sent_ones)


def lose_from_log(history: list[AnyEvent], random: Random) -> None:
    """The log misses its tail from an acked message on."""
    one = _acked_of(history, random, TOPIC)
    history[:] = [
        o
        for o in history
        if not (
            isinstance(o, events.Read)
            and o.reader == "final"
            and (o.partition, o.offset >= one.offset) == (one.partition, True)
        )
    ]


def lose_from_queue(history: list[AnyEvent], random: Random) -> None:
    """No worker ever got an acked message."""
    one = _acked_of(history, random, QUEUE)
    gone = {
        o.lease
        for o in history
        if isinstance(o, events.Lease) and (o.partition, o.offset) == (one.partition, one.offset)
    }
    history[:] = [
        o for o in history if not (isinstance(o, events.Lease | events.Settle) and o.lease in gone)
    ]


def invent(history: list[AnyEvent], random: Random) -> None:
    """A reader gets a value that nobody sent."""
    place = _choose(history, random, events.Read)
    history[place] = msgspec.structs.replace(history[place], id="invented")


def swap_offsets(history: list[AnyEvent], random: Random) -> None:
    """Two acks of one partition name each other's offset."""
    first = _choose(history, random, events.Sent)
    one = history[first]
    targets = {(o.client, o.call): o.target for o in history if isinstance(o, events.Send)}
    others = [
        place
        for place, o in enumerate(history)
        if isinstance(o, events.Sent)
        and place != first
        and o.partition == one.partition
        and targets[o.client, o.call] == targets[one.client, one.call]
    ]
    assume(others)
    second = random.choice(others)
    other = history[second]
    history[first] = msgspec.structs.replace(one, offset=other.offset)
    history[second] = msgspec.structs.replace(other, offset=one.offset)


def skip_in_log(history: list[AnyEvent], random: Random) -> None:
    """A follower leaves out an offset that is not its last."""
    last: dict[int, int] = {}
    for one in history:
        if isinstance(one, events.Read) and one.reader == "follow":
            last[one.partition] = one.offset
    places = [
        place
        for place, one in enumerate(history)
        if isinstance(one, events.Read)
        and one.reader == "follow"
        and 0 < one.offset < last[one.partition]
    ]
    assume(places)
    del history[random.choice(places)]


def stop_reading(history: list[AnyEvent], random: Random) -> None:
    """The subscription never gets the end of a partition."""
    reads = [o for o in history if isinstance(o, events.Read) and o.reader == "group"]
    assume(reads)
    one = random.choice(reads)
    history[:] = [
        o
        for o in history
        if not (o in reads and (o.partition, o.offset >= one.offset) == (one.partition, True))
    ]


def lease_again(history: list[AnyEvent], random: Random) -> None:
    """Another worker gets a message in the middle of a lease that is long enough."""
    place = _choose(history, random, events.Lease)
    one = history[place]
    settled = [o.begin for o in history if isinstance(o, events.Settle) and o.lease == one.lease]
    until = min([one.begin + one.lease_s, *settled])
    assume(until - one.end > 0.1)
    begin = one.end + 0.01
    history.append(
        msgspec.structs.replace(
            one, client="other", lease="again", begin=begin, end=begin + 0.01, deliveries=99
        )
    )


def deliver_after_ack(history: list[AnyEvent], random: Random) -> None:
    """A message comes once more after its ack."""
    acks = [
        o
        for o in history
        if isinstance(o, events.Settle) and o.action is Action.ACK and o.outcome is Outcome.OK
    ]
    assume(acks)
    ack = random.choice(acks)
    one = next(o for o in history if isinstance(o, events.Lease) and o.lease == ack.lease)
    late = ack.end + 100
    history.append(msgspec.structs.replace(one, lease="again", begin=late, end=late + 0.1))


def send_twice(history: list[AnyEvent], random: Random) -> None:
    """An idempotent producer's message lies at the end of the log once more."""
    one = _acked_of(history, random, TOPIC)
    assume(history_model.CLIENTS[one.client].idempotent)
    (send,) = [
        o
        for o in history
        if isinstance(o, events.Send) and (o.client, o.call) == (one.client, one.call)
    ]
    history.append(
        events.Read("sdk-1", "late", ReadMode.LOG, TOPIC, one.partition, 10_000, send.id, 10_000.0)
    )


SPOILS: list[tuple[Spoil, set[str]]] = [
    (lose_from_log, {"lost from a log"}),
    (lose_from_queue, {"lost from a queue"}),
    (invent, {"from nowhere", "two values at one offset"}),
    (swap_offsets, {"two values at one offset"}),
    (skip_in_log, {"order of a log reader"}),
    (stop_reading, {"unfinished reader"}),
    (lease_again, {"second lease"}),
    (deliver_after_ack, {"delivered after its ack"}),
    (send_twice, {"duplicate"}),
]


@pytest.mark.parametrize(
    ("spoil", "expected"), SPOILS, ids=lambda one: getattr(one, "__name__", "")
)
@PROFILE
@given(seed=SEEDS, steps=st.integers(20, 120))
def test_a_spoiled_history_is_found(
    spoil: Spoil, expected: set[str], seed: int, steps: int
) -> None:
    random = Random(seed)
    history = history_model.run(random, steps)
    history.append(events.Client("other", "sdk", True, True))
    spoil(history, random)
    assert {one.rule for one in check(history, FSYNC).findings} & expected
