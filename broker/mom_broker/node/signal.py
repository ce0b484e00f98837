"""Waking those who wait for messages."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable

from mom_core.errors import OverloadedError
from mom_core.limits import NODE_WAITERS_MAX


class Waiter:
    """One call that waits at several signals for the first of them."""

    __slots__ = ("future", "turn")

    def __init__(self, turn: int) -> None:
        self.turn = turn
        """Lower ones began to wait earlier."""
        self.future: asyncio.Future[Signal | None] = asyncio.get_running_loop().create_future()


class Signal:
    """A place to wait at. A woken waiter must look again: another may have been faster."""

    __slots__ = ("_waiters", "promised")

    def __init__(self) -> None:
        self._waiters: deque[Waiter] = deque()
        self.promised = 0
        """Waiters that were woken and have not looked yet: who comes now is behind them."""

    def __len__(self) -> int:
        return len(self._waiters)

    def add(self, waiter: Waiter) -> None:
        """Queue a waiter behind those who wait longer."""
        place = len(self._waiters)
        while place and self._waiters[place - 1].turn > waiter.turn:
            place -= 1
        self._waiters.insert(place, waiter)

    def discard(self, waiter: Waiter) -> None:
        """Take a waiter out, if it is still there."""
        if waiter in self._waiters:
            self._waiters.remove(waiter)

    def wake_one(self) -> bool:
        """Wake the waiter that has waited longest; whether there was one."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.future.done():
                self.promised += 1
                waiter.future.set_result(self)
                return True
        return False

    def wake_all(self) -> None:
        """Wake everyone."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.future.done():
                self.promised += 1
                waiter.future.set_result(self)


class WaitingRoom:
    """Counts the waiters of a node and holds them to their bound."""

    def __init__(self, waiters_max: int = NODE_WAITERS_MAX) -> None:
        self._waiters_max = waiters_max
        self.count = 0
        self.closed = False
        # In the order in which they came: chance must not order who is sent home first.
        self._here: dict[Waiter, None] = {}
        self._turns = 0

    def turn(self) -> int:
        """The place in line of who begins to wait now."""
        self._turns += 1
        return self._turns

    async def wait(
        self, signals: Iterable[Signal], timeout_ms: int, turn: int | None = None
    ) -> Signal | None:
        """Wait for the first of the signals; None at the timeout or when the node stops.

        ``turn`` is the place in line of one who was woken in vain, and waits again.

        Raises OverloadedError when too many wait already.
        """
        if self.closed or timeout_ms <= 0:
            return None
        if self.count >= self._waiters_max:
            raise OverloadedError(
                f"{self.count} calls wait on this node already, the most it takes; "
                "use fewer connections or shorter waits",
                retry_after_ms=1_000,
            )
        waiter = Waiter(self.turn() if turn is None else turn)
        places = tuple(signals)
        for signal in places:
            signal.add(waiter)
        self.count += 1
        self._here[waiter] = None
        try:
            await asyncio.wait((waiter.future,), timeout=timeout_ms / 1000)
            return waiter.future.result() if waiter.future.done() else None
        except asyncio.CancelledError:
            # The wake-up that came too late for this waiter belongs to the next one.
            if waiter.future.done() and not waiter.future.cancelled():
                woke = waiter.future.result()
                if woke is not None:
                    woke.wake_one()
            raise
        finally:
            woken_by = waiter.future.result() if waiter.future.done() else None
            if woken_by is not None:
                woken_by.promised -= 1
            self.count -= 1
            self._here.pop(waiter, None)
            for signal in places:
                signal.discard(waiter)

    def close(self) -> None:
        """Send everyone home: waits end as if their time was over."""
        self.closed = True
        for waiter in self._here:
            if not waiter.future.done():
                waiter.future.set_result(None)
