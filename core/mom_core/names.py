"""Names of topics, queues and subscriptions, and the ids behind them."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from mom_core.errors import InvalidArgumentError
from mom_core.limits import NAME_LENGTH_MAX

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_TOPIC_ID: Final = re.compile(r"[0-9a-f]{32}")


class PartitionId(msgspec.Struct, frozen=True, order=True):
    """One partition of one incarnation of a topic."""

    topic_id: str
    """32 lower-case hex digits: the topic's UUID."""
    index: int

    def __str__(self) -> str:
        return f"{self.topic_id}/{self.index}"


def check_name(name: object, field: str = "name") -> str:
    """Return ``name`` if it may name a topic, queue or subscription.

    Raises InvalidArgumentError otherwise.
    """
    if not isinstance(name, str):
        raise InvalidArgumentError(
            f"{field} {name!r} is not a valid name, but of type {type(name).__name__}", field=field
        )
    if len(name) > NAME_LENGTH_MAX or not _NAME.fullmatch(name):
        shown = name if len(name) <= 64 else f"{name[:61]}..."
        raise InvalidArgumentError(
            f"{field} {shown!r} is not a valid name: use 1 to {NAME_LENGTH_MAX} of the characters "
            "A-Z a-z 0-9 . _ - and begin with a letter or digit",
            field=field,
        )
    return name


def check_topic_id(topic_id: str) -> str:
    """Return ``topic_id`` if it is 32 lower-case hex digits, else raise InvalidArgumentError."""
    if not _TOPIC_ID.fullmatch(topic_id):
        raise InvalidArgumentError("topic_id must be 32 lower-case hex digits", field="topic_id")
    return topic_id
