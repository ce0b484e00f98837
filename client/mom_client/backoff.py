"""How long to wait before the next try."""

from __future__ import annotations

from mom_client.options import BACKOFF_MS_FIRST, BACKOFF_MS_MAX
from mom_core.errors import MomError
from mom_core.ports import Random


class Backoff:
    """Doubling waits, half of each random, so that clients do not come back in step."""

    __slots__ = ("_ceiling_ms", "_random")

    def __init__(self, random: Random) -> None:
        self._random = random
        self._ceiling_ms = BACKOFF_MS_FIRST

    def next_ms(self, error: MomError | None = None) -> int:
        """The next wait, milliseconds; not below what the server asked for in ``error``."""
        half = self._ceiling_ms / 2
        wait_ms = int(half + half * self._random.fraction())
        self._ceiling_ms = min(self._ceiling_ms * 2, BACKOFF_MS_MAX)
        if error is not None and error.retry_after_ms:
            return max(wait_ms, error.retry_after_ms)
        return wait_ms

    def reset(self) -> None:
        """Begin again with the shortest wait."""
        self._ceiling_ms = BACKOFF_MS_FIRST
