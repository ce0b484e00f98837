"""Conditions, and the smallest patch from one status to the next."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

Status = dict[str, Any]

READY: Final = "Ready"
# A reason of all kinds: the operator itself failed.
INTERNAL_ERROR: Final = "InternalError"
# A condition's message is one sentence; what a program says at its end can be long.
MESSAGE_LENGTH_MAX: Final = 1_024


class Condition(msgspec.Struct, frozen=True):
    """One condition. ``reason`` is stable and for programs, ``message`` a sentence for people."""

    type: str
    holds: bool
    reason: str
    message: str = ""


def shown(
    conditions: Iterable[Condition], before: Status, generation: int, now: datetime
) -> list[dict[str, Any]]:
    """Conditions as they stand in a status, sorted by type.

    The time of the last transition is that of ``before`` where the status is the same, and else
    now, in whole seconds.
    """
    standing = {one.get("type"): one for one in before.get("conditions") or ()}
    return [
        _shown(one, standing.get(one.type, {}), generation, now)
        for one in sorted(conditions, key=lambda one: one.type)
    ]


def _shown(
    one: Condition, before: Mapping[str, Any], generation: int, now: datetime
) -> dict[str, Any]:
    status = "True" if one.holds else "False"
    same = before.get("status") == status and before.get("lastTransitionTime")
    return {
        "type": one.type,
        "status": status,
        "reason": one.reason,
        "message": one.message[:MESSAGE_LENGTH_MAX],
        "observedGeneration": generation,
        "lastTransitionTime": before["lastTransitionTime"] if same else timestamp(now),
    }


def find(status: Status, kind: str) -> Mapping[str, Any]:
    """A condition of a status; empty when there is none."""
    conditions: Iterable[Mapping[str, Any]] = status.get("conditions") or ()
    return next((one for one in conditions if one.get("type") == kind), {})


def kept(status: Status, kind: str) -> list[Condition]:
    """A condition as it stands, for a turn that can't judge it anew; none when there is none."""
    one = find(status, kind)
    if not one:
        return []
    return [Condition(kind, one.get("status") == "True", one["reason"], one.get("message", ""))]


def timestamp(moment: datetime) -> str:
    """RFC 3339 in whole seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def merge_patch(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON merge patch (RFC 7396) that makes ``after`` of ``before``; empty when equal."""
    patch: dict[str, Any] = {key: None for key in before if key not in after}
    for key, value in after.items():
        old = before.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            inner = merge_patch(old, value)
            if inner:
                patch[key] = inner
        elif key not in before or old != value:
            patch[key] = value
    return patch


def told_defect(error: Exception) -> str:
    """A defect of the operator in one sentence, for who waits for the object."""
    return (
        f"the operator has a defect: {type(error).__name__}: {error}. It tries again; its log has "
        "the whole, and an issue with that helps to mend it"
    )
