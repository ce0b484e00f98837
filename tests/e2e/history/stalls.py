"""The rules of stalls: what stands still is told, and what flows is not.

As all rules, each says only what is certain: see :mod:`e2e.history.checker`. They are for queues
of one partition, whose own lease is not longer than STALLED_AFTER_MS.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from e2e.history import flow
from e2e.history.history import History, LeaseRecord
from mom_core.limits import STALL_LOOK_MS, STALLED_AFTER_MS

if TYPE_CHECKING:  # It gathers these rules.
    from e2e.history.checker import Settings

_Found = Iterator[tuple[float, str, str, str]]

STALLED_AFTER_S: Final = STALLED_AFTER_MS / 1000
# One look finds that it may stand still, another that it does; each may be a little late.
LOOKS_S: Final = 3 * STALL_LOOK_MS / 1000


def untold_stall(history: History, settings: Settings) -> _Found:
    """A queue with messages, a worker and no progress is told as stalled."""
    for one in history.descriptions:
        since = one.begin - STALLED_AFTER_S - LOOKS_S
        if one.stalled or not _is_calm(history, one.target, since, one.end):
            continue
        leases = _leases_of(history, one.target)
        hangs = next((lease for lease in leases if _hangs(lease, since, one.end)), None)
        progress = any(_may_move(lease, since, one.end) for lease in leases)
        waiting = _waiting(history, one.target, since, one.end)
        if hangs is None or waiting is None or progress:
            continue
        yield (
            one.end,
            hangs.client,
            hangs.id,
            f"{one.target} was not told as stalled at {one.end:.3f} s, though since {since:.3f} s "
            f"{waiting} waits, {hangs.client} has {hangs.id} and nothing moves",
        )


def told_as_stalled(history: History, settings: Settings) -> _Found:
    """A queue from which something was received is not told as stalled."""
    for one in history.descriptions:
        since, until = one.end - STALLED_AFTER_S, one.begin - LOOKS_S
        for lease in _leases_of(history, one.target) if one.stalled else ():
            if since < lease.begin and lease.end < until:
                yield (
                    one.end,
                    lease.client,
                    lease.id,
                    f"{one.target} was told as stalled at {one.end:.3f} s, though {lease.client} "
                    f"received {lease.id} between {lease.begin:.3f} and {lease.end:.3f} s",
                )
                break


def _is_calm(history: History, target: str, since: float, until: float) -> bool:
    """Whether all leases are known, and one owner has looked at it all the time."""
    if target not in history.queues or target in history.pauses_of:
        return False
    calm = flow.calm_times(history, target)
    return any(begin <= since and until <= end for begin, end in calm)


def _leases_of(history: History, target: str) -> list[LeaseRecord]:
    return [one for one in history.leases.values() if one.position.target == target]


def _hangs(lease: LeaseRecord, since: float, until: float) -> bool:
    return lease.end < since and lease.certain_until() > until


def _may_move(lease: LeaseRecord, since: float, until: float) -> bool:
    """Whether a lease or a settling of it may have been within a time."""
    calls = [(lease.begin, lease.end), *((one.begin, one.end) for one in lease.settles)]
    return any(begin <= until and end >= since for begin, end in calls)


def _waiting(history: History, target: str, since: float, until: float) -> str | None:
    """A message that was there for all that time and that nobody had; None when none was."""
    for send, position, end in history.acked():
        plain = not (send.delay_s or send.ttl_s or send.dedup_id)
        leases = history.leases_at.get(position, ())
        untouched = all(one.begin > until for one in leases)
        if position.target == target and plain and end < since and untouched:
            return send.id
    return None
