"""What goes wrong in a simulation, by the numbers of a seed."""

from __future__ import annotations

import asyncio
import inspect
import random
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from mom_broker.rpc.in_process import failure
from mom_broker.storage import refusals
from mom_core.ports import Store


class SeededRandom:
    """The Random port over a seed."""

    def __init__(self, numbers: random.Random) -> None:
        self._numbers = numbers

    def bytes(self, count: int) -> bytes:
        """See :class:`mom_core.ports.Random`."""
        return self._numbers.randbytes(count)

    def fraction(self) -> float:
        """See :class:`mom_core.ports.Random`."""
        return self._numbers.random()


class Weather:
    """How bad it is. All shares are of calls."""

    def __init__(self, numbers: random.Random) -> None:
        self._numbers = numbers
        self.broken_share = 0.0
        """Fail before they begin, and as many after they were carried out."""
        self.slow_share = 0.3
        self.delay_s_max = 0.02

    async def delay(self) -> None:
        """Take some time, or none."""
        if self._numbers.random() < self.slow_share:
            await asyncio.sleep(self._numbers.random() * self.delay_s_max)

    def breaks(self) -> bool:
        """Whether this one fails."""
        return self._numbers.random() < self.broken_share


class CallFaults:
    """Calls that are delayed, or fail before or after they were carried out."""

    def __init__(self, weather: Weather) -> None:
        self._weather = weather

    async def request(self, address: str, method: str) -> None:
        """See :class:`mom_broker.rpc.in_process.Faults`."""
        await self._pass(address)

    async def reply(self, address: str, method: str) -> None:
        """See :class:`mom_broker.rpc.in_process.Faults`."""
        await self._pass(address)

    async def _pass(self, address: str) -> None:
        await self._weather.delay()
        if self._weather.breaks():
            raise failure(grpc.StatusCode.UNAVAILABLE, f"the connection to {address} broke")


class Door:
    """The store as one process has it: with delays, failures, and shut when the process dies."""

    def __init__(self, store: Store, weather: Weather) -> None:
        self._store = store
        self._weather = weather
        self.shut = False

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        return self._through(found) if inspect.iscoroutinefunction(found) else found

    def _through(self, method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def call(*arguments: Any, **named: Any) -> Any:
            await self._pass()
            result = await method(*arguments, **named)
            await self._pass()
            return result

        return call

    async def _pass(self) -> None:
        await self._weather.delay()
        if self.shut or self._weather.breaks():
            raise refusals.store_unavailable("the store can't be reached")
