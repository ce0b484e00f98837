"""How many messages a worker has leased at a time, where nobody says. Pure.

What was leased travels to the worker while it handles what came before. So a worker that handles a
message in 10 µs needs many at a time, or it waits for each portion; one that takes seconds needs
few, since what it holds no other worker gets. The room follows the speed: as much as was lately
handled in a tenth of a second, within bounds.
"""

from __future__ import annotations

from typing import Final

# A portion takes some 10 ms to be asked for, leased durably and sent on a busy machine, so a worker
# does not wait for it; and nobody waits longer than this for what another worker holds.
SPAN_MS: Final = 100
# What a slow worker has, and one whose speed is not known.
MESSAGES_LEAST: Final = 16
# A worker that only acknowledges has this many done in 10 ms. Not more: what one holds that dies
# comes again one by one.
MESSAGES_MOST: Final = 128


class LeaseRoom:
    """The room of one worker."""

    def __init__(self, fixed: int | None, now_ms: int) -> None:
        """``fixed`` messages, or by the worker's speed."""
        self.messages = MESSAGES_LEAST if fixed is None else fixed
        self._follows = fixed is None
        self._handled = 0
        self._since_ms = now_ms

    def handled(self, now_ms: int) -> None:
        """The worker handled another one."""
        if not self._follows:
            return
        self._handled += 1
        took_ms = now_ms - self._since_ms
        if self._handled < self.messages and took_ms < SPAN_MS:
            return
        fits = self._handled * SPAN_MS // max(took_ms, 1)
        self.messages = min(max(fits, MESSAGES_LEAST), MESSAGES_MOST)
        self._handled, self._since_ms = 0, now_ms
