"""A line on the terminal that says how far a long command is."""

from __future__ import annotations

import sys
import time
from typing import Final

from mom_cli.output import shown_rough_bytes

_UPDATE_SECONDS: Final = 0.1
_BAR_WIDTH: Final = 20


class Progress:
    """Drawn on standard error, at most ten times a second, and only on a terminal."""

    def __init__(self, total_bytes: int | None, wanted: bool) -> None:
        self._total_bytes = total_bytes
        self._on = wanted and sys.stderr.isatty()
        self._started = time.monotonic()
        self._drawn = 0.0
        self._width = 0

    def update(self, messages: int, size_bytes: int) -> None:
        """Draw what is done so far."""
        now = time.monotonic()
        if not self._on or now - self._drawn < _UPDATE_SECONDS:
            return
        self._drawn = now
        rate = messages / max(now - self._started, 0.001)
        text = f"{messages:,} messages  {shown_rough_bytes(size_bytes)}  {rate:,.0f}/s"
        if self._total_bytes:
            share = min(1.0, size_bytes / self._total_bytes)
            done = round(share * _BAR_WIDTH)
            text = f"[{'#' * done}{'.' * (_BAR_WIDTH - done)}] {share:4.0%}  {text}"
        self._draw(text)

    def clear(self) -> None:
        """Leave an empty line for what is said next."""
        if self._on and self._width:
            self._draw("")
            sys.stderr.write("\r")
            sys.stderr.flush()

    def _draw(self, text: str) -> None:
        sys.stderr.write(f"\r{text.ljust(self._width)}")
        sys.stderr.flush()
        self._width = len(text)
