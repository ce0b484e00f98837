"""Follows the control plane's change log in Redis and feeds the watches of this process.

Every write adds one entry, numbered by its revision, to a capped Stream; one connection reads on in
it with XREAD BLOCK. Revisions have no holes, so a hole means that the cap was overrun; and a new
connection may reach a server that lost its tail and numbered other changes alike. In both cases
every watch begins again with a snapshot.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

from redis import exceptions

from mom_broker.storage.redis_lanes import CONNECT_TIMEOUT_MS, REPLY_TIMEOUT_MS, Link, Session
from mom_broker.storage.watching import WatchHub
from mom_core.errors import StoreError
from mom_core.ports import Clock, KeyEvent

_log = logging.getLogger(__name__)

# A server that has nothing to tell answers after this long, so that a dead connection shows.
BLOCK_MS: Final = 2_000
CHANGES_PER_READ_MAX: Final = 256
RECONNECT_MS: Final = 200


class ChangeFollower:
    """One task that reads the change log as long as the store is open."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[Link]],
        hub: WatchHub,
        clock: Clock,
        changes_key: str,
        revision_key: str,
    ) -> None:
        self._connect = connect
        self._hub = hub
        self._clock = clock
        self._changes_key = changes_key
        self._revision_key = revision_key
        self._task: asyncio.Task[None] | None = None
        self._following = asyncio.Event()

    async def started(self) -> None:
        """Return once changes from now on will be seen."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())
        await self._following.wait()

    async def close(self) -> None:
        """Stop."""
        self._following.set()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        quiet = False
        while True:
            session: Session | None = None
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_MS / 1000):
                    session = (await self._connect()).session
                await self._follow(session)
            except (exceptions.RedisError, OSError, TimeoutError, StoreError) as error:
                if not quiet:
                    _log.warning("the watch of the control plane is interrupted: %s", error)
                quiet = True
            finally:
                if session is not None:
                    await session.close()
            await self._clock.sleep(RECONNECT_MS)

    async def _follow(self, session: Session) -> None:
        last = int(await session.run("GET", self._revision_key) or 0)
        self._hub.begin_again()
        self._following.set()
        while True:
            async with asyncio.timeout((BLOCK_MS + REPLY_TIMEOUT_MS) / 1000):
                reply = await session.run(
                    "XREAD", "COUNT", CHANGES_PER_READ_MAX, "BLOCK", BLOCK_MS,
                    "STREAMS", self._changes_key, f"{last}-0",
                )  # fmt: skip
            if not reply:
                continue
            for entry_id, fields in reply[0][1]:
                revision = int(entry_id.partition(b"-")[0])
                if revision != last + 1:
                    self._hub.begin_again()
                self._hub.publish(_events(revision, fields))
                last = revision


def _events(revision: int, fields: list[Any]) -> list[KeyEvent]:
    return [
        KeyEvent(mark[1:].decode(), bytes(value) if mark[:1] == b"s" else None, revision)
        for mark, value in zip(fields[::2], fields[1::2], strict=True)
    ]
