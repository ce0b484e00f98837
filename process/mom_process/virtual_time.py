"""An asyncio event loop whose time moves only when it is told to.

For programs that live in memory: with nothing to wait for but each other and the time, they come to
rest, and rest can be seen. Then time may jump to the next timer, so that a day passes in
milliseconds, and all that depends on time (``call_later``, ``asyncio.timeout``, ``sleep``) needs no
change: it follows :meth:`VirtualLoop.time`.

Who moves time:

- :meth:`VirtualLoop.travel`, from any thread, while the loop runs in a thread of its own
  (``TestBroker``);
- the loop itself, with ``runs_free``: whenever all rest it jumps to the next timer, so that a run
  is as fast as its computing, and the same each time (the simulation).

There are no sockets, not even for waking it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Final

# Sums of floating-point seconds differ in their last digits: what is due within this is due.
_TOLERANCE_S: Final = 1e-6


class VirtualLoop(asyncio.BaseEventLoop):
    """See above. ``runs_free`` is for a loop in which everything takes place."""

    def __init__(self, *, runs_free: bool = False) -> None:
        super().__init__()
        self.on_long_rest: Callable[[], None] | None = None
        """Called in this loop's thread when a rest lasts ``long_rest_s`` of the machine's time."""
        self.long_rest_s = 5.0
        self._now_s = 0.0
        self._end_s = 0.0
        self.runs_free = runs_free
        self._pauses = False
        self._woken = threading.Condition()
        self._wakes = False
        self._travellers: list[Future[float]] = []
        # What BaseEventLoop asks for files: there are none, so it waits here.
        self._selector = self
        self._next: float | None = None

    # Time.

    def time(self) -> float:
        """Seconds since the loop was made, as far as it was told to go."""
        return self._now_s

    def travel(self, end_s: float) -> Future[float]:
        """Let time go on to ``end_s``, timer by timer; the future is done when all rest there.

        It is done earlier, with the time that was reached, when :meth:`pause` was called: travel
        again.
        """
        with self._woken:
            self._end_s = max(self._end_s, end_s)
            self._pauses = False
        return self.rest()

    def rest(self) -> Future[float]:
        """The future is done, with the time, when nothing is left to do but to let time go on."""
        traveller: Future[float] = Future()
        with self._woken:
            self._travellers.append(traveller)
        self._write_to_self()
        return traveller

    def pause(self) -> None:
        """Let time stand still at the next rest. For callbacks of this loop."""
        self._pauses = True

    def finish(self) -> None:
        """Cancel what is left, wait for its end, and close. For when the loop was stopped."""
        self.runs_free = True
        left = asyncio.all_tasks(self)
        for task in left:
            task.cancel()
        if left:
            self.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self.run_until_complete(self.shutdown_asyncgens())
        self.close()

    # What asyncio's own loop is built on.

    def _write_to_self(self) -> None:
        with self._woken:
            self._wakes = True
            self._woken.notify()

    def _process_events(self, event_list: Sequence[Any]) -> None:
        """There are no files."""

    def select(self, timeout: float | None) -> Sequence[Any]:
        """Called between turns; with a timeout of 0 there is more to do now."""
        if timeout is not None and timeout <= 0:
            return ()
        scheduled: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        next_s = scheduled[0].when() if scheduled else None
        self._rest(next_s)
        return ()

    def __del__(self) -> None:
        """One that was never run has nothing that would need closing."""

    def close(self) -> None:
        """As of any loop; who still travels is told so."""
        super().close()
        for traveller in self._arrivals():
            traveller.cancel()

    def _rest(self, next_s: float | None) -> None:
        """All rest: wait to be woken, or go on in time."""
        while True:
            with self._woken:
                if self._wakes:
                    self._wakes = False
                    return
                if self._goes_on(next_s):
                    return
            for traveller in self._arrivals():
                if traveller.set_running_or_notify_cancel():  # Else nobody waits any more.
                    traveller.set_result(self._now_s)
            self._wait()

    def _goes_on(self, next_s: float | None) -> bool:
        """Jump to the next timer, if time may go so far."""
        if self._pauses:
            self._end_s = self._now_s
            return False
        if next_s is not None and (self.runs_free or next_s <= self._end_s + _TOLERANCE_S):
            self._now_s = max(self._now_s, next_s)
            return True
        self._now_s = max(self._now_s, self._end_s)
        return False

    def _wait(self) -> None:
        with self._woken:
            if self._wakes or self._woken.wait(self.long_rest_s):
                return
        if self.on_long_rest is not None:
            self.on_long_rest()
        with self._woken:
            while not self._wakes:
                self._woken.wait()

    def _arrivals(self) -> list[Future[float]]:
        with self._woken:
            arrived, self._travellers = self._travellers, []
        return arrived


class VirtualClock:
    """The Clock port over a loop's time. ``start_ms`` is its wall clock at the loop's time 0."""

    def __init__(self, loop: VirtualLoop, start_ms: int) -> None:
        self._loop = loop
        self._start_ms = start_ms

    def now_ms(self) -> int:
        """Wall clock, milliseconds since the Unix epoch."""
        return self._start_ms + self.monotonic_ms()

    def monotonic_ms(self) -> int:
        """Milliseconds since the loop was made."""
        return int((self._loop.time() + _TOLERANCE_S) * 1000)

    async def sleep(self, delay_ms: int) -> None:
        """Wait at least ``delay_ms`` of this clock."""
        await asyncio.sleep(delay_ms / 1000)
