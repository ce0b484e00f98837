"""How often a handler is tried at one message, and how long to wait in between."""

from __future__ import annotations

import msgspec

from mom_client import arguments
from mom_core.limits import HANDLER_BACKOFF_MS_MAX, HANDLER_BACKOFF_MS_MIN, HANDLER_TRIES_MAX


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    """A retry policy. Times are seconds. There is always a wait: no handler runs in a hot loop.

    Raises InvalidArgumentError for values out of bounds.
    """

    tries: int | None = None
    """Runs of the handler before it gives up, the first one included. None: a worker's handler runs
    once a delivery, and a subscriber's 5 times if it has a way to give up, else for ever."""
    backoff: float = 1.0
    """The wait after the first failure."""
    multiplier: float = 2.0
    """By which the wait grows with each further one."""
    backoff_max: float = 60.0
    """The longest wait."""

    def __post_init__(self) -> None:
        if self.tries is not None:
            arguments.whole(self.tries, "tries", 1, HANDLER_TRIES_MAX)
        low, high = HANDLER_BACKOFF_MS_MIN / 1000, HANDLER_BACKOFF_MS_MAX / 1000
        arguments.number(self.backoff, "backoff", low, high)
        arguments.number(self.backoff_max, "backoff_max", self.backoff, high)
        arguments.number(self.multiplier, "multiplier", 1, 100)

    def wait_seconds(self, failures: int) -> float:
        """The wait after so many failures, at least one."""
        exponent = min(failures - 1, 64)  # 2 to that power is longer than any bound.
        return float(min(self.backoff * self.multiplier**exponent, self.backoff_max))
