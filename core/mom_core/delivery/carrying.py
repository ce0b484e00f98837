"""When the bodies of few messages are kept apart, so that the log behind them can go.

A log is trimmed from its front only, so one message that waits for a day, or is leased for hours,
holds all that came after it. Its body is then carried over, provided that this frees much more of
the log than it copies: the longest front of the log of which only a small share is still needed.
"""

from __future__ import annotations

from collections.abc import Iterable

from mom_core.limits import CARRY_MESSAGES_MAX, CARRY_SHARE


def worth_carrying(
    needed: Iterable[tuple[int, int]], log_start: int, end: int
) -> list[tuple[int, int]]:
    """The lowest of the ``needed`` ranges (ascending, below ``end``) to carry over.

    Carried to the last one, at most one in CARRY_SHARE messages of the log before the next needed
    one was copied. Up to CARRY_MESSAGES_MAX messages at a time; empty when it is not worth it.
    """
    ranges = list(needed)
    count = worth = 0
    for place, (first, stop) in enumerate(ranges, start=1):
        count += stop - first
        front_end = ranges[place][0] if place < len(ranges) else end
        if count * CARRY_SHARE <= front_end - log_start:
            worth = place
    return lowest(ranges[:worth], CARRY_MESSAGES_MAX)


def lowest(ranges: Iterable[tuple[int, int]], messages_max: int) -> list[tuple[int, int]]:
    """The first ``messages_max`` offsets of ascending ranges."""
    taken: list[tuple[int, int]] = []
    for first, end in ranges:
        if messages_max <= 0:
            break
        end = min(end, first + messages_max)
        messages_max -= end - first
        taken.append((first, end))
    return taken
