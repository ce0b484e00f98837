"""Retention of a partition: how much of its front a trim removes.

Batches go whole and from the front only. A trim is a bounded step, since removing a long backlog in
one go would hold up the store; the caller repeats it while ``more`` is set. The Redis engine states
the same rule in Lua; ``tests/conformance`` holds both to it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from mom_core.limits import OFFSET_GAP
from mom_core.ports import TrimRule


class BatchExtent(NamedTuple):
    """A held batch as retention sees it."""

    end_offset: int
    append_time_ms: int
    size_bytes: int


class TrimPlan(NamedTuple):
    """What one bounded trim does."""

    removed: int
    """Batches to remove from the front."""
    end_offset: int
    """The offset after the last removed batch; 0 when none is."""
    log_start: int
    size_bytes: int
    more: bool


def plan_trim(
    batches: Iterable[BatchExtent],
    rule: TrimRule,
    *,
    log_start: int,
    next_offset: int,
    size_bytes: int,
    batches_max: int,
) -> TrimPlan:
    """Decide which of ``batches`` (in order from the front, read lazily) the rule removes.

    A batch that ends at or below log_start always goes: an earlier bounded step left it. The byte
    rule never takes the last batch, and log_start never passes ``next_offset``.
    """
    start = max(log_start, min(rule.before_offset or 0, next_offset))
    removed = end = 0
    for batch in batches:
        goes = (
            batch.end_offset <= start
            or (rule.before_time_ms is not None and batch.append_time_ms < rule.before_time_ms)
            or (
                rule.keep_bytes is not None
                and size_bytes > rule.keep_bytes
                and size_bytes > batch.size_bytes
            )
        )
        if not goes:
            break
        if removed == batches_max:
            return TrimPlan(removed, end, max(start, end), size_bytes, True)
        removed += 1
        end = batch.end_offset
        size_bytes -= batch.size_bytes
    return TrimPlan(removed, end, max(start, end), size_bytes, False)


class Gapped(NamedTuple):
    """Where a partition goes on after its store lost its tail."""

    next_offset: int
    gaps: tuple[tuple[int, int], ...]


def skip_gap(next_offset: int, gaps: tuple[tuple[int, int], ...]) -> Gapped:
    """Skip OFFSET_GAP offsets, so that none that the lost tail had is given to other data.

    A gap right after another one is one gap: repeated failovers of an idle partition add no entry.
    """
    first, end = next_offset, next_offset + OFFSET_GAP
    if gaps and gaps[-1][1] == first:
        return Gapped(end, (*gaps[:-1], (gaps[-1][0], end)))
    return Gapped(end, (*gaps, (first, end)))
