"""Threads for handlers that are not async.

Daemons, unlike those of the standard library's executor: a handler that outlives the grace period
of a shutdown must not keep its process.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, NamedTuple


class _Call(NamedTuple):
    function: Callable[[], Any]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]


class HandlerThreads:
    """At most ``count_max`` threads, started when they are needed. For one event loop."""

    def __init__(self, name: str, count_max: int) -> None:
        self._name = name
        self._count_max = count_max
        self._count = 0
        self._busy = 0
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()

    def run(self, function: Callable[..., Any], *arguments: Any) -> asyncio.Future[Any]:
        """Call a function in a thread, in a copy of the current context."""
        loop = asyncio.get_running_loop()
        context = contextvars.copy_context()
        future: asyncio.Future[Any] = loop.create_future()
        self._calls.put(_Call(lambda: context.run(function, *arguments), loop, future))
        self._busy += 1
        if self._count < min(self._busy, self._count_max):
            self._count += 1
            threading.Thread(
                target=self._work, name=f"{self._name}-{self._count}", daemon=True
            ).start()
        return future

    def close(self) -> None:
        """End each thread when it has nothing left to do."""
        for _ in range(self._count):
            self._calls.put(None)
        self._count = 0

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            result, error = None, None
            try:
                result = call.function()
            except BaseException as raised:  # Whatever it is, its message was not handled.
                error = raised
            # A loop that is closed has nobody left who waits.
            with contextlib.suppress(RuntimeError):
                call.loop.call_soon_threadsafe(self._done, call.future, result, error)
            del call, result, error

    def _done(self, future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
        self._busy -= 1
        if future.done():
            return
        if error is None:
            future.set_result(result)
        elif isinstance(error, Exception) and not isinstance(error, StopIteration):
            future.set_exception(error)
        else:
            future.set_exception(RuntimeError(f"the handler raised {error!r}"))
