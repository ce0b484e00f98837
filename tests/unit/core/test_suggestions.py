"""What is said about names that nobody knows."""

from __future__ import annotations

from mom_core.suggestions import known_instead

KNOWN = ("lease_ms", "max_deliveries", "retry_backoff_ms")
LIST = ", ".join(KNOWN)


def test_a_slip_finds_its_like() -> None:
    assert known_instead("maxdeliverys", KNOWN) == f"; did you mean max_deliveries? Known: {LIST}"


def test_camel_case_finds_snake_case() -> None:
    assert known_instead("retryBackoffMs", KNOWN).startswith("; did you mean retry_backoff_ms?")


def test_what_is_like_none_has_the_list_alone() -> None:
    assert known_instead("colour", KNOWN) == f"; known: {LIST}"


def test_a_name_of_any_length_is_compared_in_part() -> None:
    assert known_instead("lease_ms" * 1_000_000, KNOWN) == f"; known: {LIST}"
