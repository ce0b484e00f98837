"""How long ago a lease was made, by two clocks that know nothing of one another."""

from __future__ import annotations

from mom_client.lease_ages import WINDOW_MS, LeaseAges

STORE_MS = 1_700_000_000_000


def test_what_lay_in_a_buffer_is_old() -> None:
    ages = LeaseAges()
    assert ages.age_ms(STORE_MS, 500) == 0
    assert ages.age_ms(STORE_MS + 1_000, 1_503) == 3
    # The process was stopped for ten minutes while these two arrived.
    assert ages.age_ms(STORE_MS + 2_000, 602_500) == 600_000
    assert ages.age_ms(STORE_MS + 600_000, 602_500) == 2_000
    assert ages.age_ms(STORE_MS + 602_000, 602_501) == 1


def test_clocks_that_run_apart_make_no_lease_old() -> None:
    ages = LeaseAges()
    drift = 1.001  # Far more than clocks do.
    oldest = 0
    for second in range(0, 3_600, 10):
        oldest = max(oldest, ages.age_ms(STORE_MS + second * 1_000, int(second * 1_000 * drift)))
    assert oldest <= 2 * WINDOW_MS * (drift - 1) + 20
