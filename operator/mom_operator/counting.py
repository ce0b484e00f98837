"""When a cluster is asked what waits in it, and which resources are told of it next.

One call to a cluster's master counts all of its queues and subscriptions, so it may be made every
few seconds. What it costs the cluster grows with what is in it, and shows in how long it takes: the
interval grows with that. An answer is compared with what the statuses say, and only those that
differ are written, some at a time: where everything moves all the time, each is written less often.

Pure: times are given, milliseconds of a monotonic clock.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Final, Generic, TypeVar

KeyT = TypeVar("KeyT", bound=Hashable)

# Between two calls for one cluster: soon enough for who watches a queue, or a test that waits.
COUNT_MS_MIN: Final = 5_000
# However long a call takes, statuses are not older than they always were.
COUNT_MS_MAX: Final = 60_000
# A cluster counts for at most one part in so many of the time.
COUNT_SHARE: Final = 50
# Statuses written after one call, ten a second of one cluster: fewer than all of a thousand topics
# took when each was looked at once a minute.
TOLD_MAX: Final = 50
# Before every time of a clock.
_NEVER: Final = -1


class Counting(Generic[KeyT]):
    """The turns of one cluster."""

    def __init__(self) -> None:
        self._took_ms: int | None = None
        self._failures = 0
        self._told_ms: dict[KeyT, int] = {}

    def counted(self, took_ms: int) -> int:
        """A call succeeded after ``took_ms``; how long to wait before the next one.

        The shorter of the last two calls decides, since one may have waited for a new master.
        """
        self._failures = 0
        shorter_ms = took_ms if self._took_ms is None else min(took_ms, self._took_ms)
        self._took_ms = took_ms
        return min(max(COUNT_MS_MIN, shorter_ms * COUNT_SHARE), COUNT_MS_MAX)

    def failed(self) -> int:
        """A call failed; how long to wait before the next one, each time twice as long."""
        self._failures += 1
        return min(COUNT_MS_MIN << min(self._failures - 1, 16), COUNT_MS_MAX)

    def choose(self, differing: Iterable[tuple[KeyT, bool]], now_ms: int) -> list[KeyT]:
        """The resources to be told now, of those whose status differs from what was counted.

        With each comes whether it is urgent: a stall began or is over. Then whoever was told
        longest ago comes first, so that none is passed over for ever.
        """
        order = sorted(differing, key=lambda one: (not one[1], self._told_ms.get(one[0], _NEVER)))
        chosen = [key for key, _ in order[:TOLD_MAX]]
        self._told_ms.update(dict.fromkeys(chosen, now_ms))
        return chosen

    def keep_only(self, keys: Iterable[KeyT]) -> None:
        """Forget resources that are gone."""
        there = set(keys)
        self._told_ms = {key: ms for key, ms in self._told_ms.items() if key in there}
