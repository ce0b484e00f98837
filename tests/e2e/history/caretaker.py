"""Whoever looks after the dead letters of a load: now and then sends them back to where they died.

They gather for a while and are looked at. Then they are sent back at a rate, while a worker takes
some of them: what one of the two has, the other can't get. One redrive is under way at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from e2e.history.messengers import Messenger
from e2e.history.recorder import CallError, ClientRecorder

GATHER_S: Final = 3.0
# So slow that processes die in the middle, and the worker has its share.
REDRIVE_PER_S: Final = 4.0
PAUSE_S: Final = 0.3
_GOES_ON: Final = ("running", "cancelling")


class Caretaker:
    """Of one queue of dead letters."""

    def __init__(
        self,
        queue: str,
        messenger: Messenger,
        recorder: ClientRecorder,
        *,
        deadline_s: float,
        end_s: float,
        take: Callable[[], Awaitable[None]],
    ) -> None:
        """``deadline_s`` is of a call, ``end_s`` of a redrive; ``take`` takes and handles one."""
        self._queue = queue
        self._messenger = messenger
        self._recorder = recorder
        self._deadline_s = deadline_s
        self._end_s = end_s
        self._take = take

    async def run(self, stopping: asyncio.Event) -> None:
        """Look after them until ``stopping``, and until the last redrive has ended."""
        while not await _within(stopping, GATHER_S):
            await self._look()
            sending = asyncio.create_task(self._send_back())
            try:
                while not sending.done():
                    await self._take()
                    await asyncio.wait([sending], timeout=PAUSE_S)
                await sending
            finally:
                sending.cancel()

    async def _look(self) -> None:
        recorder = self._recorder
        with suppress(CallError, TimeoutError), recorder.call("dead letters") as begin:
            async with asyncio.timeout(self._deadline_s):
                found = await self._messenger.dead_letters(self._queue)
            end = recorder.now()
            for one in found:
                recorder.dead_letter(
                    self._queue,
                    one.partition,
                    one.offset,
                    one.body,
                    begin=begin,
                    end=end,
                    facts=one.facts,
                )

    async def _send_back(self) -> None:
        begin = self._recorder.now()
        state, done = "", 0
        with suppress(CallError, TimeoutError):
            with self._recorder.call("redrive"):
                async with asyncio.timeout(self._deadline_s):
                    operation_id = await self._messenger.redrive(self._queue, REDRIVE_PER_S)
            state, done = await self._ended(operation_id)
        self._recorder.redriven(self._queue, begin, state, done)

    async def _ended(self, operation_id: str) -> tuple[str, int]:
        """The last that is told of an operation, at its end if it comes in time."""
        state, done = "", 0
        until = self._recorder.now() + self._end_s
        while self._recorder.now() < until:
            with suppress(CallError, TimeoutError), self._recorder.call("operation"):
                async with asyncio.timeout(self._deadline_s):
                    state, done = await self._messenger.operation(operation_id)
            if state and state not in _GOES_ON:
                break
            await asyncio.sleep(PAUSE_S)
        return state, done


async def _within(happens: asyncio.Event, seconds: float) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await happens.wait()
    return happens.is_set()
