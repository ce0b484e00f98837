"""Dead letters: what their headers tell, which ones are meant, and how they become messages again.

A dead letter is a message with the headers ``mom-dead-…``, whatever queue or topic it is in. They
say why it is there, how often it was tried, when, and where it comes from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from mom_core.errors import InvalidArgumentError
from mom_core.limits import REDRIVE_PICKS_MAX
from mom_core.message import Message
from mom_core.names import check_name

HEADER_PREFIX: Final = "mom-dead-"
REDRIVES_HEADER: Final = "mom-redrives"
"""How many times a message was sent back from the dead letters."""
MAX_DELIVERIES: Final = "max_deliveries"
EXPIRED: Final = "expired"
HANDLER_FAILED: Final = "handler_failed"
"""A subscriber's handler failed too often."""
PAYLOAD: Final = "payload"
"""A subscriber's handler could not read it."""
REASONS: Final = (MAX_DELIVERIES, EXPIRED, HANDLER_FAILED, PAYLOAD)
"""Why messages die."""
REASONS_TEXT: Final = f"{', '.join(REASONS[:-1])} or {REASONS[-1]}"
ID_BYTES: Final = 16


class DeathFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the headers of a dead letter tell. Numbers that are damaged are 0."""

    reason: str
    deliveries: int
    first_delivered_at_ms: int
    """0: it was never delivered."""
    died_at_ms: int
    topic: str
    """Where it died: a queue, or a topic."""
    subscription: str
    partition: int
    offset: int
    redrives: int
    """How many times it was sent back before it died again."""


def facts_of(headers: Mapping[str, str] | None) -> DeathFacts | None:
    """What the headers tell; None when the message is no dead letter."""
    if not headers or HEADER_PREFIX + "reason" not in headers:
        return None
    return DeathFacts(
        reason=headers[HEADER_PREFIX + "reason"],
        deliveries=_number(headers, HEADER_PREFIX + "deliveries"),
        first_delivered_at_ms=_number(headers, HEADER_PREFIX + "first-delivered-at-ms"),
        died_at_ms=_number(headers, HEADER_PREFIX + "at-ms"),
        topic=headers.get(HEADER_PREFIX + "topic", ""),
        subscription=headers.get(HEADER_PREFIX + "subscription", ""),
        partition=_number(headers, HEADER_PREFIX + "partition"),
        offset=_number(headers, HEADER_PREFIX + "offset"),
        redrives=_number(headers, REDRIVES_HEADER),
    )


def _number(headers: Mapping[str, str], name: str) -> int:
    text = headers.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 16 else 0


def alive_again(message: Message) -> Message:
    """The message as it was before it died, with one more redrive in its headers."""
    headers = message.headers or {}
    kept = {name: value for name, value in headers.items() if not name.startswith(HEADER_PREFIX)}
    kept[REDRIVES_HEADER] = str(_number(headers, REDRIVES_HEADER) + 1)
    return Message(
        message.value,
        message.key,
        kept,
        message.content_type,
        message.timestamp_ms,
        message.id,
    )


class DeadLetterFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which dead letters are meant; each that is set has to hold."""

    reason: str = ""
    topic: str = ""
    """Where they died."""
    subscription: str = ""
    offsets: tuple[int, ...] = ()
    """Only these, by their offsets in the queue that holds them."""
    ids: tuple[str, ...] = ()
    """Only these, by their ids, in hex digits."""

    def check(self) -> None:
        """Raise InvalidArgumentError that names the field when no dead letter can be meant."""
        if self.reason and self.reason not in REASONS:
            raise InvalidArgumentError(
                f"reason is {self.reason[:64]!r}; {REASONS_TEXT} is allowed",
                field="reason",
            )
        if self.topic:
            check_name(self.topic, "topic")
        if self.subscription:
            check_name(self.subscription, "subscription")
        for field, picked in (("offsets", self.offsets), ("ids", self.ids)):
            if len(picked) > REDRIVE_PICKS_MAX:
                raise InvalidArgumentError(
                    f"{len(picked)} {field} are named; at most {REDRIVE_PICKS_MAX} are allowed. "
                    "Choose by reason, topic or subscription, or in several calls",
                    field=field,
                )
        if any(len(one) != 2 * ID_BYTES for one in self.ids):
            raise InvalidArgumentError("ids must be of 16 bytes each", field="ids")

    def holds(self, offset: int, message: Message, facts: DeathFacts) -> bool:
        """Whether a dead letter is meant."""
        if self.offsets and offset not in self.offsets:
            return False
        if self.ids and (message.id or b"").hex() not in self.ids:
            return False
        return (
            self.reason in ("", facts.reason)
            and self.topic in ("", facts.topic)
            and self.subscription in ("", facts.subscription)
        )
