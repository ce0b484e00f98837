"""What counts as standing still."""

from __future__ import annotations

from mom_core.watchdog import Watchdog, earliest_ms


def test_work_and_workers_without_progress_is_a_stall() -> None:
    watchdog = Watchdog()
    assert watchdog.look(True, 1_000, 500) == 0
    assert watchdog.look(True, 1_499, 500) == 0
    assert watchdog.look(True, 1_500, 500) == 1_000
    assert watchdog.look(True, 9_000, 500) == 1_000, "since when, not for how long"


def test_progress_ends_it() -> None:
    watchdog = Watchdog()
    watchdog.look(True, 1_000, 500)
    watchdog.progress()
    assert watchdog.look(True, 1_600, 500) == 0
    assert watchdog.look(True, 2_100, 500) == 1_600


def test_nothing_to_do_is_no_stall() -> None:
    watchdog = Watchdog()
    watchdog.look(True, 1_000, 500)
    assert watchdog.look(False, 5_000, 500) == 0
    assert watchdog.look(True, 6_000, 500) == 0, "it counts anew"


def test_of_several_stalls_the_first_counts() -> None:
    assert earliest_ms() == earliest_ms(0, 0) == 0
    assert earliest_ms(0, 7, 5) == 5
