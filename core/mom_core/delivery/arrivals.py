"""From a batch's columns to what delivery needs to know of its messages."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress, islice, pairwise
from operator import ne

import msgspec

from mom_core import batch as codec
from mom_core.delivery.policy import Ordering, Policy


class Run(msgspec.Struct, frozen=True, gc=False):
    """Consecutive messages that wish the same. Offsets [first, end)."""

    first: int
    end: int
    deliver_at_ms: int = 0
    expires_at_ms: int = 0
    priority: int = 0
    group: int = 0


def runs_of_batch(
    header: codec.BatchHeader,
    index: bytes,
    base_offset: int,
    append_time_ms: int,
    policy: Policy,
    ttl_ms: int = 0,
) -> list[Run]:
    """The messages of a batch in runs. ``index`` begins with the batch's header and columns.

    ``ttl_ms`` is the time to live that held at its append, which may differ from the policy's.
    """
    end = base_offset + header.count
    ttl_end_ms = append_time_ms + ttl_ms if ttl_ms else 0
    if not header.columns & policy.columns:
        return [Run(base_offset, end, expires_at_ms=ttl_end_ms)]
    nothing = (0,) * header.count
    if policy.ordering is Ordering.PRIORITY:
        groups, priorities = nothing, codec.column(header, index, codec.COLUMN_PRIORITY)
    else:
        groups, priorities = _groups(header, index, policy), nothing
    wishes = list(
        zip(
            codec.column(header, index, codec.COLUMN_DELIVER_AT),
            _expiries(header, index, ttl_end_ms),
            priorities,
            groups,
            strict=True,
        )
    )
    return [
        Run(base_offset + first, base_offset + end, *wishes[first])
        for first, end in pairwise(_bounds(wishes))
    ]


def _groups(header: codec.BatchHeader, index: bytes, policy: Policy) -> tuple[int, ...]:
    if policy.groups_by_header and header.columns & codec.COLUMN_GROUP:
        return codec.column(header, index, codec.COLUMN_GROUP)
    return codec.key_hashes(header, index)


def _expiries(header: codec.BatchHeader, index: bytes, ttl_end_ms: int) -> Sequence[int]:
    if not header.columns & codec.COLUMN_EXPIRES_AT:
        return (ttl_end_ms,) * header.count
    expiries = codec.column(header, index, codec.COLUMN_EXPIRES_AT)
    if not ttl_end_ms:
        return expiries
    return [min(one or ttl_end_ms, ttl_end_ms) for one in expiries]


def _bounds(wishes: Sequence[tuple[int, int, int, int]]) -> list[int]:
    """The places where a wish differs from the one before, between the first and the end."""
    # Without a loop of Python's: it is done for each message that has wishes.
    differs = map(ne, wishes, islice(wishes, 1, None))
    return [0, *compress(range(1, len(wishes)), differs), len(wishes)]
