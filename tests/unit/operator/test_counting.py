"""How often a cluster is counted, and whose status is written of it: times are moved by hand."""

from __future__ import annotations

import random

import pytest

from mom_operator.counting import (
    COUNT_MS_MAX,
    COUNT_MS_MIN,
    COUNT_SHARE,
    TOLD_MAX,
    Counting,
)


def topics(count: int) -> list[str]:
    return [f"topic-{number:04}" for number in range(count)]


def calm(keys: list[str]) -> list[tuple[str, bool]]:
    return [(key, False) for key in keys]


def test_what_is_quickly_counted_is_counted_soon() -> None:
    counting: Counting[str] = Counting()
    assert counting.counted(0) == COUNT_MS_MIN
    assert counting.counted(COUNT_MS_MIN // COUNT_SHARE) == COUNT_MS_MIN


@pytest.mark.parametrize("took_ms", [1, 40, 150, 700, COUNT_MS_MAX // COUNT_SHARE])
def test_counting_takes_its_share_of_the_time_at_most(took_ms: int) -> None:
    counting: Counting[str] = Counting()
    now_ms = calls = 0
    while now_ms < 3_600_000:
        now_ms += took_ms + counting.counted(took_ms)
        calls += 1
    assert calls <= now_ms / COUNT_MS_MIN
    assert calls * took_ms <= now_ms / COUNT_SHARE


def test_it_never_rests_for_long_however_slow_the_calls() -> None:
    counting: Counting[str] = Counting()
    assert counting.counted(10 * COUNT_MS_MAX) == COUNT_MS_MAX


def test_one_slow_call_changes_nothing_and_two_do() -> None:
    counting: Counting[str] = Counting()
    counting.counted(20)
    assert counting.counted(4_000) == COUNT_MS_MIN
    assert counting.counted(400) == 400 * COUNT_SHARE
    assert counting.counted(20) == COUNT_MS_MIN


def test_failures_are_further_and_further_apart_until_one_succeeds() -> None:
    counting: Counting[str] = Counting()
    waits = [counting.failed() for _ in range(30)]
    assert waits[:3] == [COUNT_MS_MIN, 2 * COUNT_MS_MIN, 4 * COUNT_MS_MIN]
    assert waits == sorted(waits)
    assert waits[-1] == COUNT_MS_MAX
    counting.counted(20)
    assert counting.failed() == COUNT_MS_MIN


def test_a_few_that_differ_are_all_told_at_once() -> None:
    keys = topics(TOLD_MAX)
    assert sorted(Counting[str]().choose(calm(keys), 0)) == keys


def test_of_many_that_move_all_the_time_each_is_told_in_turn() -> None:
    counting, keys = Counting[str](), topics(TOLD_MAX * 4)
    told: dict[str, list[int]] = {key: [] for key in keys}
    order = random.Random(1)
    for look in range(20):
        shown = calm(keys)
        order.shuffle(shown)
        chosen = counting.choose(shown, look * COUNT_MS_MIN)
        assert len(chosen) == TOLD_MAX
        for key in chosen:
            told[key].append(look)
    for looks in told.values():
        assert [one // 4 for one in looks] == [0, 1, 2, 3, 4], "once in each round of four"


def test_a_stall_does_not_wait_behind_counts() -> None:
    counting, keys = Counting[str](), topics(TOLD_MAX * 2)
    stalled = keys[-1]
    counting.choose([(stalled, True)], 0)
    chosen = counting.choose([*calm(keys[:-1]), (stalled, True)], 1)
    assert chosen[0] == stalled


def test_resources_that_are_gone_are_forgotten() -> None:
    counting, keys = Counting[str](), topics(2)
    counting.choose(calm(keys), 5)
    counting.keep_only(keys[1:])
    assert counting.choose(calm(keys), 6)[0] == keys[0], "made again, it was never told"
