"""The leader's writes: one at a time, decided by what stands, refused after the lead was lost.

A change is a *plan*: a plain function that looks at the view and returns the writes to make, or
raises why not. It is run when the view shows all earlier writes of this leader, and run again when
a revision that it named has moved on meanwhile (owners raise the epochs of their own partitions).
Each write carries the leader's record under its last revision, so that the store itself refuses a
master that another one has replaced.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final, TypeVar

from mom_broker.master.leadership import Fence, Leadership
from mom_broker.master.waiting import within
from mom_broker.storage.catalog_view import CatalogView
from mom_core import catalog
from mom_core.catalog import LEADER_KEY, LeaderRecord
from mom_core.errors import ConflictError, ErrorCode, StoreError, TimedOutError
from mom_core.ports import Clock, KeyWrite, Store

ResultT = TypeVar("ResultT")
Plan = Callable[[], tuple[Sequence[KeyWrite], ResultT]]

# A plan whose revisions have moved on so often is given up, and the caller told to try again.
ATTEMPTS_MAX: Final = 5
# How long to wait for the view before a plan is made again.
REPLAN_WAIT_MS: Final = 200
WRITE_MS_MAX: Final = 5_000
# How long the view may lag behind the leader's own writes.
VIEW_LAG_MS_MAX: Final = 2_000

_log = logging.getLogger(__name__)


class ControlWriter:
    """Makes the leader's changes to the control plane."""

    def __init__(
        self, store: Store, view: CatalogView, leadership: Leadership, clock: Clock
    ) -> None:
        self._store = store
        self._view = view
        self._leadership = leadership
        self._clock = clock
        self._lock = asyncio.Lock()
        self._written = 0
        # Whether the outcome of the last write is open.
        self._unsure = False

    async def apply(self, plan: Plan[ResultT]) -> ResultT:
        """Make a change and return the plan's result when the view shows it.

        Raises what the plan raises, RoutingError when this master does not lead, StoreError, or
        ConflictError when other writers kept being first.
        """
        attempt = 0
        while True:
            attempt += 1
            try:
                async with self.turn():
                    writes, result = plan()
                    if writes:
                        await self.write(writes)
                        with suppress(TimedOutError):
                            await self._caught_up()
                    return result
            except ConflictError as error:
                # The plan's own refusals name no key; they are final.
                if "key" not in error.details or attempt >= ATTEMPTS_MAX:
                    raise
            with suppress(TimedOutError):
                await within(self._clock, self._view.changed(), REPLAN_WAIT_MS, "a change")

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Be the only one who writes, with a view that shows all written before."""
        async with self._lock:
            self._leadership.require()
            if self._unsure:
                await self._make_sure()
            try:
                await self._caught_up()
            except TimedOutError as error:
                raise StoreError(
                    "the master's watch of the store lags behind; try again shortly"
                ) from error
            yield

    async def write(self, writes: Sequence[KeyWrite]) -> None:
        """Write within a turn. Raises RoutingError, ConflictError (with ``key``) or StoreError."""
        assert self._lock.locked(), "writes are made in a turn"
        fence = self._leadership.require()
        signature = KeyWrite(LEADER_KEY, catalog.encode(fence.record), fence.revision)
        self._unsure = True
        work = self._store.write([signature, *writes])
        try:
            revision = await within(self._clock, work, WRITE_MS_MAX, "a write to the store")
        except ConflictError as error:
            if error.details.get("key") == LEADER_KEY:
                await self._make_sure()
                raise _unsettled() from None
            self._unsure = False
            raise
        except TimedOutError as error:
            raise StoreError(f"{error.message}; whether it was done is not known") from None
        self._unsure = False
        self._signed(fence.record, revision)

    async def _make_sure(self) -> None:
        """Learn where the signature stands after a write with an open outcome."""
        fence = self._leadership.require()
        entry = await self._store.get(LEADER_KEY)
        if entry is None or catalog.decode(entry.value, LeaderRecord) != fence.record:
            _log.warning("another master has signed as leader")
            self._leadership.depose()
            raise self._leadership.not_leader()
        self._signed(fence.record, entry.revision)
        self._unsure = False

    def _signed(self, record: LeaderRecord, revision: int) -> None:
        self._written = max(self._written, revision)
        if self._leadership.fence is not None and self._leadership.fence.record == record:
            self._leadership.fence = Fence(record, revision)

    async def _caught_up(self) -> None:
        if self._view.revision < self._written:
            await within(
                self._clock, self._view.reached(self._written), VIEW_LAG_MS_MAX, "the view"
            )


def _unsettled() -> StoreError:
    return StoreError(
        "an earlier change to the cluster ended in doubt and is settled now; try again",
        code=ErrorCode.STORE_UNAVAILABLE,
        retry_after_ms=0,
    )
