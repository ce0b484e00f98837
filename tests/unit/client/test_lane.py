"""A lane: order, numbering, and which failures are tried again."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mom_client.lane import Lane, OutgoingBatch, expired
from mom_core.batch import decode, parse_header
from mom_core.errors import ErrorCode, MomError, ProducerError, TimedOutError, error_of
from mom_core.limits import PRODUCER_WINDOW_BATCHES
from mom_core.message import Message
from mom_core.ports import AppendOutcome
from mom_core.producers import ProducerState, appended, check_sequence

DEADLINE_MS = 1_000_000


class _NoSink:
    def settle(self, outcome: object, first_index: int, tokens: list[object]) -> None:
        pass


def _add(lane: Lane, *values: bytes, deadline_ms: int = DEADLINE_MS) -> OutgoingBatch:
    batch = lane.open(bytes(16), 1, 0, deadline_ms)
    for value in values:
        batch.builder.add(Message(value), None)
    batch.runs.append((_NoSink(), list(values)))
    lane.close_batch()
    return batch


def _take_all(lane: Lane, now_ms: int = 0) -> list[OutgoingBatch]:
    taken = []
    while lane.ready(now_ms, 0, flushing=False) is not None:
        if lane.needs_producer_id:
            lane.producer_id = 999
        taken.append(lane.take(compress=False))
    return taken


def _error(code: ErrorCode) -> MomError:
    return error_of(code.value, "of the test")


def test_first_batch_goes_alone_then_a_window() -> None:
    lane = Lane("t", bytes(16), 0, 7)
    for number in range(9):
        _add(lane, b"%d" % number)
    first = _take_all(lane)
    assert [one.sequence for one in first] == [0]
    lane.landed(first[0])
    rest = _take_all(lane)
    assert [one.sequence for one in rest] == list(range(1, 1 + PRODUCER_WINDOW_BATCHES))
    assert {parse_header(one.data).producer_id for one in rest} == {7}


def test_an_open_batch_goes_at_once_when_idle_and_gathers_while_one_is_on_its_way() -> None:
    lane = Lane("t", bytes(16), 0, 7)
    batch = lane.open(bytes(16), 1, 100, DEADLINE_MS)
    batch.builder.add(Message(b"a"), None)
    assert lane.ready(100, 5, flushing=False) is batch
    lane.landed(lane.take(compress=False))
    _add(lane, b"b")
    lane.take(compress=False)
    gathering = lane.open(bytes(16), 1, 100, DEADLINE_MS)
    assert lane.ready(104, 5, flushing=False) is None
    assert lane.ready(104, 5, flushing=True) is gathering
    assert lane.ready(105, 5, flushing=False) is gathering


def test_failures_go_back_to_their_place_and_wait_for_the_others() -> None:
    lane = Lane("t", bytes(16), 0, 7)
    _add(lane, b"0")
    lane.landed(_take_all(lane)[0])
    for number in range(1, 5):
        _add(lane, b"%d" % number)
    a, b, c, d = _take_all(lane)
    assert lane.failed(b, _error(ErrorCode.OVERLOADED), 0) is None
    assert lane.ready(0, 0, flushing=True) is None
    assert lane.failed(d, _error(ErrorCode.OUT_OF_ORDER_SEQUENCE), 0) is None
    assert lane.failed(c, _error(ErrorCode.OUT_OF_ORDER_SEQUENCE), 0) is None
    lane.landed(a)
    again = _take_all(lane)
    assert again == [b, c, d]
    assert [one.sequence for one in again] == [2, 3, 4]


def test_a_refused_batch_makes_the_others_number_anew() -> None:
    lane = Lane("t", bytes(16), 0, 7)
    _add(lane, b"0")
    lane.landed(_take_all(lane)[0])
    for number in range(1, 3):
        _add(lane, b"%d" % number)
    a, b = _take_all(lane)
    refused = _error(ErrorCode.TOO_LARGE)
    assert lane.failed(a, refused, 0) is refused
    assert lane.failed(b, _error(ErrorCode.OUT_OF_ORDER_SEQUENCE), 0) is None
    (again,) = _take_all(lane)
    assert (again, again.producer_id, again.sequence) == (b, 999, 0)


def test_forgotten_producer_is_safe_only_for_a_batch_that_surely_did_not_land() -> None:
    lane = Lane("t", bytes(16), 0, 7)
    _add(lane, b"0")
    lane.landed(_take_all(lane)[0])
    _add(lane, b"1")
    (batch,) = _take_all(lane)
    assert lane.failed(batch, _error(ErrorCode.UNKNOWN_PRODUCER), 0) is None
    (batch,) = _take_all(lane)
    assert batch.sequence == 0
    assert lane.failed(batch, _error(ErrorCode.UNAVAILABLE), 0) is None
    (batch,) = _take_all(lane)
    final = lane.failed(batch, _error(ErrorCode.UNKNOWN_PRODUCER), 0)
    assert isinstance(final, ProducerError)
    assert "may or may not have landed" in final.message


def test_delivery_timeout_says_whether_it_may_have_landed() -> None:
    lane = Lane("t", bytes(16), 0, 7)
    _add(lane, b"0", deadline_ms=10)
    (batch,) = _take_all(lane)
    final = lane.failed(batch, _error(ErrorCode.TIMEOUT), 10)
    assert isinstance(final, TimedOutError)
    assert final.details["may_have_landed"] == "true"
    assert final.message == (
        "1 message for 't' partition 0 was not acknowledged within the delivery timeout, after "
        "1 try: of the test. It may have landed all the same"
    )
    _add(lane, b"0", b"1", deadline_ms=10)
    (several,) = lane.expire(10)
    assert expired(lane, several, None).message == (
        "2 messages for 't' partition 0 were not acknowledged within the delivery timeout, after "
        "0 tries: the partition has no owner that answers. They did not land; publish them again"
    )


def test_a_batch_that_is_given_up_on_its_way_leaves_no_gap_behind_it() -> None:
    lane = Lane("t", bytes(16), 0, 7)
    _add(lane, b"0")
    (batch,) = _take_all(lane)
    _add(lane, b"1")
    lane.give_up(batch)
    (following,) = _take_all(lane)
    assert (following.producer_id, following.sequence) == (999, 0)


class _Store:
    """One partition of a store, which may lose a reply or refuse."""

    def __init__(self) -> None:
        self.producers: dict[int, ProducerState] = {}
        self.values: list[bytes] = []

    def append(self, data: bytes) -> ErrorCode | None:
        header = parse_header(data)
        state = self.producers.get(header.producer_id)
        outcome = check_sequence(state, header.sequence).outcome
        if outcome is AppendOutcome.OUT_OF_ORDER:
            return ErrorCode.OUT_OF_ORDER_SEQUENCE
        if outcome is AppendOutcome.UNKNOWN_PRODUCER:
            return ErrorCode.UNKNOWN_PRODUCER
        if outcome is AppendOutcome.APPENDED:
            base = len(self.values)
            self.producers[header.producer_id] = appended(state, header.sequence, base)
            self.values += [message.value for message in decode(data)]
        return None


FATES = st.sampled_from(["ok", "ok", "ok", "lost before", "lost after", "overloaded", "swap"])


@given(st.integers(1, 30), st.lists(FATES, max_size=60))
def test_whatever_fails_everything_lands_once_and_in_order(
    count: int, fates: Sequence[str]
) -> None:
    lane = Lane("t", bytes(16), 0, 1)
    store = _Store()
    for number in range(count):
        _add(lane, b"%d" % number)
    fate = iter(fates)
    while not lane.idle:
        calls = _take_all(lane)
        assert calls, "the lane is stuck"
        outcomes: list[tuple[OutgoingBatch, ErrorCode | None]] = []
        for batch in calls:
            match next(fate, "ok"):
                case "lost before":
                    outcomes.append((batch, ErrorCode.UNAVAILABLE))
                case "lost after":
                    store.append(batch.data)
                    outcomes.append((batch, ErrorCode.UNAVAILABLE))
                case "overloaded":
                    outcomes.append((batch, ErrorCode.OVERLOADED))
                case "swap":
                    outcomes.insert(0, (batch, store.append(batch.data)))
                case _:
                    outcomes.append((batch, store.append(batch.data)))
        for batch, code in outcomes:
            if code is None:
                lane.landed(batch)
            else:
                assert lane.failed(batch, _error(code), 0) is None
    assert store.values == [b"%d" % number for number in range(count)]


@pytest.mark.parametrize("code", [ErrorCode.NOT_FOUND, ErrorCode.FORBIDDEN, ErrorCode.INTERNAL])
def test_what_is_not_retriable_ends_the_batch(code: ErrorCode) -> None:
    lane = Lane("t", bytes(16), 0, 7)
    _add(lane, b"0")
    (batch,) = _take_all(lane)
    assert lane.failed(batch, _error(code), 0) is not None
    assert lane.idle
