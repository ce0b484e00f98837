"""The Clock and Random ports over the operating system: what every real process passes."""

from __future__ import annotations

import asyncio
import os
import random
import time


class SystemClock:
    """The machine's clocks."""

    def now_ms(self) -> int:
        """Wall clock, milliseconds since the Unix epoch."""
        return time.time_ns() // 1_000_000

    def monotonic_ms(self) -> int:
        """A clock that never goes back, milliseconds from an arbitrary start."""
        return time.monotonic_ns() // 1_000_000

    async def sleep(self, delay_ms: int) -> None:
        """Wait at least ``delay_ms``."""
        await asyncio.sleep(delay_ms / 1000)


class SystemRandom:
    """The machine's entropy for secrets and ids, and a plain generator for jitter."""

    def bytes(self, count: int) -> bytes:
        """``count`` bytes that can't be guessed."""
        return os.urandom(count)

    def fraction(self) -> float:
        """A number from 0 (included) to 1 (excluded), for jitter."""
        return random.random()
