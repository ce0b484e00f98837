"""From a batch's columns to what delivery needs to know of its messages."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from mom_core import batch as codec
from mom_core.delivery.policy import Ordering, Policy


class Run(NamedTuple):
    """Consecutive messages that wish the same. Offsets [first, end)."""

    first: int
    end: int
    deliver_at_ms: int = 0
    expires_at_ms: int = 0
    priority: int = 0
    group: int = 0


def runs_of_batch(
    header: codec.BatchHeader, index: bytes, base_offset: int, append_time_ms: int, policy: Policy
) -> list[Run]:
    """The messages of a batch in runs. ``index`` begins with the batch's header and columns."""
    end = base_offset + header.count
    ttl_end_ms = append_time_ms + policy.ttl_ms if policy.ttl_ms else 0
    if not header.columns & policy.columns:
        return [Run(base_offset, end, expires_at_ms=ttl_end_ms)]
    nothing = (0,) * header.count
    if policy.ordering is Ordering.PRIORITY:
        groups, priorities = nothing, codec.column(header, index, codec.COLUMN_PRIORITY)
    else:
        groups, priorities = _groups(header, index, policy), nothing
    expiries = codec.column(header, index, codec.COLUMN_EXPIRES_AT)
    wishes = zip(
        range(base_offset, end),
        codec.column(header, index, codec.COLUMN_DELIVER_AT),
        (_sooner(one, ttl_end_ms) for one in expiries),
        priorities,
        groups,
        strict=True,
    )
    return list(_runs(wishes))


def _groups(header: codec.BatchHeader, index: bytes, policy: Policy) -> tuple[int, ...]:
    if policy.groups_by_header and header.columns & codec.COLUMN_GROUP:
        return codec.column(header, index, codec.COLUMN_GROUP)
    return codec.key_hashes(header, index)


def _sooner(expires_at_ms: int, ttl_end_ms: int) -> int:
    if not expires_at_ms or not ttl_end_ms:
        return expires_at_ms or ttl_end_ms
    return min(expires_at_ms, ttl_end_ms)


def _runs(wishes: Iterator[tuple[int, int, int, int, int]]) -> Iterator[Run]:
    for alike, members in groupby(wishes, key=itemgetter(1, 2, 3, 4)):
        offsets = [member[0] for member in members]
        yield Run(offsets[0], offsets[-1] + 1, *alike)
