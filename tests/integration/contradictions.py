"""Settings that make no sense, alone or together: what every interface refuses, with a reason.

Each is written once, in the shown form, and said to REST, to the command line and to the API server
in their own words.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

# Replaced by the name of what is made.
ITSELF: Final = "ITSELF"

NEEDS_DEAD_LETTER: Final = "needs a deadLetter"


class Contradiction(NamedTuple):
    """Settings, with durations as text, and how their refusal reads."""

    settings: dict[str, Any]
    field: str
    """Which of them is to blame, in the shown form."""
    words: str
    """What the API server says."""

    @property
    def name(self) -> str:
        """For the name of a test."""
        return ",".join(f"{field}={value}" for field, value in self.settings.items())


OF_DELIVERY: Final = [
    Contradiction({"dead_letter": ITSELF}, "dead_letter", "deadLetter"),
    Contradiction({"dead_letter": "not a name"}, "dead_letter", "deadLetter"),
    Contradiction({"dead_letter_expired": True}, "dead_letter_expired", NEEDS_DEAD_LETTER),
    Contradiction(
        {"dead_letter_expired": True, "dead_letter": ""},
        "dead_letter_expired",
        NEEDS_DEAD_LETTER,
    ),
    Contradiction(
        {"retry_backoff_ms": "10s", "retry_backoff_max_ms": "1s"},
        "retry_backoff_max_ms",
        "can't be shorter than the first",
    ),
    Contradiction({"retry_backoff_ms": "25h"}, "retry_backoff_ms", "must be from 1ms to 24h"),
    Contradiction(
        {"retry_backoff_multiplier": 0.5}, "retry_backoff_multiplier", "retryBackoffMultiplier"
    ),
    Contradiction({"max_deliveries": 0}, "max_deliveries", "maxDeliveries"),
    Contradiction({"max_deliveries": 3}, "max_deliveries", NEEDS_DEAD_LETTER),
    Contradiction(
        {"retry_backoff_multiplier": 2}, "retry_backoff_multiplier", "needs a retryBackoff"
    ),
    Contradiction({"retry_backoff_max_ms": "1m"}, "retry_backoff_max_ms", "needs a retryBackoff"),
    Contradiction(
        {"retry_backoff_ms": "1m", "message_ttl_ms": "1m"},
        "retry_backoff_ms",
        "expire before the wait",
    ),
    Contradiction(
        {"retry_backoff_ms": "1s", "retry_backoff_max_ms": "2m", "message_ttl_ms": "1m"},
        "retry_backoff_max_ms",
        "expire before the wait",
    ),
    Contradiction({"message_ttl_ms": "1ms"}, "message_ttl_ms", "must be from 100ms"),
    Contradiction({"lease_ms": "13h"}, "lease_ms", "must be from 1s to 12h"),
    Contradiction({"ordering": "random"}, "ordering", "ordering"),
    Contradiction({"fair_by": "header:tenant"}, "fair_by", "needs ordering fair"),
    Contradiction(
        {"ordering": "fifo", "fair_by": "header:tenant"}, "fair_by", "needs ordering fair"
    ),
    Contradiction({"ordering": "fair", "fair_by": "tenant"}, "fair_by", "fairBy"),
    Contradiction({"rate": "0.5/h"}, "rate", "must be from 1/h to 1000000/s"),
    Contradiction({"rate": "0.01/m"}, "rate", "must be from 1/h to 1000000/s"),
    Contradiction({"rate": "2000000/s"}, "rate", "must be from 1/h to 1000000/s"),
    Contradiction({"rate": "100/d"}, "rate", "rate"),
]
"""Of a queue and of a queue-mode subscription alike."""

OF_QUEUES: Final = [
    *OF_DELIVERY,
    Contradiction({"messages_max": -1}, "messages_max", "messagesMax"),
    Contradiction({"dedup_window_ms": "25h"}, "dedup_window_ms", "must be from 1s to 24h"),
]

_IN_RESOURCES: Final = {"lease_ms": "ackTimeout"}


def in_resource(settings: dict[str, Any], own_name: str) -> dict[str, Any]:
    """The settings in the words of MomQueue and of a MomTopic's subscriptions."""
    return {
        _IN_RESOURCES.get(field, _camel(field.removesuffix("_ms"))): _said(value, own_name)
        for field, value in settings.items()
    }


def in_rest(settings: dict[str, Any], own_name: str) -> dict[str, Any]:
    """The settings as a JSON body."""
    return {
        "rate_per_s" if field == "rate" else field: _said(value, own_name)
        for field, value in settings.items()
    }


def on_command_line(settings: dict[str, Any], own_name: str) -> list[str]:
    """The settings as options of `mom`."""
    words: list[str] = []
    for field, value in settings.items():
        option = f"--{field.removesuffix('_ms').replace('_', '-')}"
        words += [option] if value is True else [option, str(_said(value, own_name))]
    return words


def _said(value: Any, own_name: str) -> Any:
    return own_name if value == ITSELF else value


def _camel(field: str) -> str:
    first, *others = field.split("_")
    return first + "".join(map(str.capitalize, others))
