"""Tells a subscription that waits for messages from one that stands still. Pure."""

from __future__ import annotations


class Watchdog:
    """Knows since when there is work, and somebody to do it, and nothing happens."""

    def __init__(self) -> None:
        self._since_ms: int | None = None

    def progress(self) -> None:
        """Something was handed out, handled or committed."""
        self._since_ms = None

    def look(self, could_work: bool, now_ms: int, bound_ms: int) -> int:
        """Since when it stands still, milliseconds since the Unix epoch; 0: it does not.

        ``could_work``: whether there is work now, and a worker. It counts from the first look that
        finds both, so somebody has to look every now and then.
        """
        if not could_work:
            self._since_ms = None
            return 0
        if self._since_ms is None:
            self._since_ms = now_ms
        return self._since_ms if now_ms - self._since_ms >= bound_ms else 0


def earliest_ms(*since_ms: int) -> int:
    """Since when the first of several stalls lasts; 0 where there is none, as with each of them."""
    return min(filter(None, since_ms), default=0)
