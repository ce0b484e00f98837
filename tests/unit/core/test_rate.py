"""Rate limits: what buckets let out in any span of time, and that they never block for good."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mom_core import limits
from mom_core.delivery.rate import Loan, RateBucket, RateShare
from mom_core.errors import InvalidArgumentError
from mom_core.quantities import format_rate, parse_rate_per_s

STEPS = st.lists(
    st.tuples(st.integers(0, 900), st.integers(0, 50)),  # milliseconds pass, so many are wanted
    max_size=40,
)
RATES = st.sampled_from([0.5, 1.0, 7.0, 100.0, 2_500.0])


def bucket_size(rate_per_s: float) -> float:
    return max(1.0, rate_per_s * limits.RATE_BUCKET_MS / 1000)


def share_of(rate_per_s: float, indexes: list[int], partitions: int, now_ms: int = 0) -> RateShare:
    """A node's share, with these partitions."""
    share = RateShare()
    share.set_rate(rate_per_s, partitions, now_ms)
    for index in indexes:
        share.own(index, None, now_ms, full=True)
    return share


def lent(share: RateShare, index: int, now_ms: int, borrower: str = "b") -> Loan | None:
    """What a node lends of a partition."""
    loan = share.offer(index, borrower, now_ms)
    if loan is not None:
        share.lend(index, loan, now_ms)
    return loan


def used_up(share: RateShare, now_ms: int) -> int:
    """Take all that may be had."""
    count = share.allows(now_ms) or 0
    share.take(count, now_ms)
    return count


def test_a_borrower_has_the_whole_rate_until_the_loan_ends_and_then_the_lender_its_own() -> None:
    lender, borrower = share_of(100.0, [0], 2), share_of(100.0, [1], 2)
    used_up(borrower, 0)
    loan = lent(lender, 0, 0)
    assert loan == Loan("b", limits.RATE_PARTS, limits.RATE_LOAN_MS)
    borrower.borrow(0, loan, 0)
    assert used_up(borrower, 50) == 5
    assert used_up(lender, 1_000) == 1, "it keeps one message, and nothing comes to it"
    assert used_up(lender, loan.until_ms + limits.RATE_LOAN_SKEW_MS) == 0
    used_up(borrower, loan.until_ms)
    assert used_up(borrower, loan.until_ms + 40) == 2, "its own share"
    assert used_up(lender, loan.until_ms + limits.RATE_LOAN_SKEW_MS + 40) == 2


def test_a_loan_that_ended_long_ago_filled_nothing_since() -> None:
    borrower = share_of(10.0, [1], 10)
    used_up(borrower, 0)
    borrower.borrow(0, Loan("b", limits.RATE_PARTS, 100), 0)
    # A fifth of a message in the first 100 ms, and a tenth of one in the next.
    assert borrower.next_ms(200) == 900


def test_what_a_lender_uses_it_keeps() -> None:
    lender = share_of(100.0, [0], 2)
    for now_ms in range(0, 4_000, 50):
        lender.take(1, now_ms)  # 20 of its 50 a second
    loan = lent(lender, 0, 4_000)
    assert loan is not None
    assert loan.parts == limits.RATE_PARTS // 2
    assert lent(lender, 0, 4_100, "c") is None, "one borrower at a time"


def test_a_lender_that_is_held_back_lends_no_more() -> None:
    lender = share_of(100.0, [0], 2)
    loan = lent(lender, 0, 0)
    assert loan is not None
    lender.held_back(500)
    assert lent(lender, 0, 1_000) is None
    used_up(lender, loan.back_ms)
    assert used_up(lender, loan.back_ms + 100) == 5


def test_a_loan_is_made_longer_and_never_less() -> None:
    lender, borrower = share_of(100.0, [0], 2), share_of(100.0, [1], 2)
    first = lent(lender, 0, 0)
    assert first is not None
    second = lent(lender, 0, 1_000)
    assert second == Loan("b", first.parts, 3_000)
    borrower.borrow(0, second, 1_010)
    borrower.borrow(0, first, 1_020)  # Answers may come late.
    used_up(borrower, 2_900)
    assert used_up(borrower, 2_950) == 5


def test_a_slow_rate_is_lent_for_longer() -> None:
    lender = share_of(1 / 30, [0], 2)
    assert lent(lender, 0, 0) == Loan("b", limits.RATE_PARTS, 30_000)


@given(RATES, STEPS, st.booleans())
def test_no_span_of_time_sees_more_than_the_rate_and_one_bucket(
    rate_per_s: float, steps: list[tuple[int, int]], full: bool
) -> None:
    now_ms = 1_700_000_000_000
    bucket = RateBucket(rate_per_s, now_ms, full=full)
    taken: list[tuple[int, int]] = []
    for elapsed_ms, wanted in steps:
        now_ms += elapsed_ms
        count = min(wanted, bucket.allows(now_ms) or 0)
        bucket.take(count, now_ms)
        taken.append((now_ms, count))
    for place, (first_ms, _) in enumerate(taken):
        total = 0
        for at_ms, count in taken[place:]:
            total += count
            span_s = (at_ms - first_ms) / 1000
            assert total <= rate_per_s * span_s + bucket_size(rate_per_s) + 0.001
    if not full:
        begun_ms = 1_700_000_000_000
        total = sum(count for _, count in taken)
        assert total <= rate_per_s * (now_ms - begun_ms) / 1000 + 0.001, "it began with a burst"


@given(RATES, STEPS)
def test_it_lets_the_next_one_through_when_it_says(
    rate_per_s: float, steps: list[tuple[int, int]]
) -> None:
    now_ms = 0
    bucket = RateBucket(rate_per_s, now_ms, full=True)
    for elapsed_ms, wanted in steps:
        now_ms += elapsed_ms
        bucket.take(min(wanted, bucket.allows(now_ms) or 0), now_ms)
        if bucket.allows(now_ms) == 0:
            next_ms = bucket.next_ms(now_ms)
            assert next_ms is not None
            assert next_ms > now_ms
            assert next_ms - now_ms <= 1000 / rate_per_s + 1
            assert bucket.allows(next_ms) == 1
            now_ms = next_ms


def test_a_share_that_grows_is_no_burst() -> None:
    bucket = RateBucket(10.0, 0, full=True)
    bucket.take(1, 0)
    bucket.set_rate(1_000.0, 0)
    assert bucket.allows(0) == 0
    assert bucket.allows(50) == 50
    bucket.set_rate(10.0, 50)
    assert bucket.allows(50) == 1, "a smaller share has a smaller bucket"


def test_what_nobody_began_is_given_back() -> None:
    bucket = RateBucket(100.0, 0, full=True)
    bucket.take(10, 0)
    bucket.give_back(4, 0)
    assert bucket.allows(0) == 4
    bucket.give_back(100, 0)
    assert bucket.allows(0) == 10, "no more than a bucket"


def test_a_clock_that_goes_back_fills_nothing_twice() -> None:
    bucket = RateBucket(100.0, 1_000, full=False)
    assert bucket.allows(1_050) == 5
    assert bucket.allows(1_000) == 5
    assert bucket.allows(1_050) == 5


def test_without_a_rate_anything_goes() -> None:
    share = share_of(0.0, [0], partitions=1)
    assert share.allows(0) is None
    assert share.next_ms(7) == 7


@pytest.mark.parametrize(
    ("text", "rate_per_s", "shown"),
    [
        ("100/s", 100.0, "100/s"),
        ("6000/m", 100.0, "100/s"),
        ("1/m", 1 / 60, "1/m"),
        ("10/h", 10 / 3_600, "10/h"),
        ("0.5/s", 0.5, "30/m"),
        (25, 25.0, "25/s"),
        ("25", 25.0, "25/s"),
    ],
)
def test_rates_as_people_write_them(text: object, rate_per_s: float, shown: str) -> None:
    assert parse_rate_per_s(text) == pytest.approx(rate_per_s)
    assert format_rate(rate_per_s) == shown
    assert parse_rate_per_s(shown) == pytest.approx(rate_per_s)


@pytest.mark.parametrize("text", ["fast", "100/d", "-1/s", "1/s/s", True, None, "", "1e3/s"])
def test_what_is_no_rate_is_refused(text: object) -> None:
    with pytest.raises(InvalidArgumentError, match="is not a rate"):
        parse_rate_per_s(text, "rate_per_s")
