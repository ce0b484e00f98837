"""Which master leads.

A lease in the store decides: whoever holds it leads, and writes its address under the key
``leader``. The holder renews it every ``leader_renew_ms`` for ``leader_lease_ms``. By its own
monotonic clock, counted from before each renewal was asked for, it stops leading before the lease
can have ended in the store, so a master that was paused or cut off never leads beside another.

That record is also the fence: every write of a leader names the record's revision (see
:mod:`mom_broker.master.writer`), so even a write that was under way when the lease ended is refused
once the next leader has signed.

The others ask for the lease when it runs out, and at once when the record vanishes: a leader that
stops in good order releases the lease and deletes its record. A holder also says which process it
is (:mod:`mom_process.process_identity`), and whoever can prove that this process has ended
releases the lease in its name, so a single master that was killed leads again at once. What the
dead one had sent to the store is refused by the fence like any late write.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, NamedTuple

from mom_broker.master.waiting import within, woken
from mom_broker.storage.catalog_view import CatalogView
from mom_core import catalog
from mom_core.cadence import STANDARD, Cadence
from mom_core.catalog import LEADER_KEY, LEADER_LEASE, LeaderRecord
from mom_core.errors import ConflictError, ErrorCode, MomError, RoutingError
from mom_core.ports import Clock, KeyWrite, LeaseGrant, Store

# Stop leading this long before the lease can end, for clocks that run at different speeds.
LEASE_MARGIN_MS: Final = 200
# Between two attempts while the store does not answer.
RETRY_MS: Final = 100
# A stopping leader tries this long to hand over; else its lease runs out.
RELEASE_MS_MAX: Final = 500
# What a caller is told to wait while nobody leads.
NO_LEADER_RETRY_MS: Final = 250
# Parts the two halves of a lease's holder: a unique name, and which process that is.
PROCESS_MARK: Final = "@"

_log = logging.getLogger(__name__)


class Fence(NamedTuple):
    """The leader's signature, and the revision at which it stands."""

    record: LeaderRecord
    revision: int


class Leadership:
    """Takes the lead when it can, and gives it up before it loses it."""

    def __init__(
        self,
        store: Store,
        view: CatalogView,
        clock: Clock,
        *,
        holder: str,
        process: str,
        is_gone: Callable[[str], bool],
        master_id: str,
        on_start: Callable[[], Awaitable[None]],
        on_end: Callable[[], Awaitable[None]],
        cadence: Cadence = STANDARD,
    ) -> None:
        """``holder`` must be another one each time a process starts.

        ``process`` is what ``is_gone`` is asked about later, by another master; empty: never.
        ``on_start`` and ``on_end`` frame each term; ``leading`` is true before the one and false
        before the other.
        """
        self._cadence = cadence
        # How long one question to the store may take before the attempt counts as failed.
        self._attempt_ms_max = cadence.leader_lease_ms - LEASE_MARGIN_MS
        self._store = store
        self._view = view
        self._clock = clock
        self._holder = f"{holder}{PROCESS_MARK}{process}"
        self._is_gone = is_gone
        self._master_id = master_id
        self._on_start = on_start
        self._on_end = on_end
        self._ends_at_ms = 0
        self._deposed = asyncio.Event()
        self._leader_changed = asyncio.Event()
        self.started = asyncio.Event()
        """Set while a term is under way."""
        self.address = ""
        """What to sign with: where this master is reached. Set before :meth:`run`."""
        self.fence: Fence | None = None
        """Set while this master leads."""

    @property
    def leading(self) -> bool:
        """Whether this master leads, by its own clock."""
        return self.fence is not None and self._clock.monotonic_ms() < self._ends_at_ms

    def require(self) -> Fence:
        """The fence to write under. Raises RoutingError (not_leader, with the leader's address)."""
        if self.fence is None or not self.leading:
            raise self.not_leader()
        return self.fence

    def not_leader(self) -> RoutingError:
        """The error of a call that only the leader can serve."""
        leader = self._view.leader
        if leader is None or leader.address == self.address:
            return RoutingError(
                "no master leads at the moment; try again shortly",
                code=ErrorCode.NOT_LEADER,
                retry_after_ms=NO_LEADER_RETRY_MS,
            )
        return RoutingError(
            f"this master does not lead; {leader.address} does, ask there",
            code=ErrorCode.NOT_LEADER,
            details={"leader": leader.address},
        )

    def depose(self) -> None:
        """Stop leading at once: another master has signed."""
        self._ends_at_ms = 0
        self._deposed.set()

    async def run(self) -> None:
        """Lead whenever possible, until cancelled; then hand over."""
        stop_watching = self._view.subscribe(self._on_change)
        try:
            while True:
                grant = await self._ask(self._attempt_ms_max)
                if grant is not None and grant.holder == self._holder:
                    await self._term(grant.token)
                else:
                    await woken(self._clock, self._leader_changed, self._patience_ms(grant))
        finally:
            stop_watching()

    def _on_change(self, keys: frozenset[str] | None) -> None:
        if (keys is None or LEADER_KEY in keys) and self._view.leader is None:
            self._leader_changed.set()

    def _patience_ms(self, grant: LeaseGrant | None) -> int:
        if grant is None:
            return RETRY_MS
        left_ms = grant.expires_at_ms - self._store.now_ms()
        return max(RETRY_MS // 4, min(self._cadence.leader_renew_ms, left_ms + 1))

    async def _ask(self, timeout_ms: int) -> LeaseGrant | None:
        """Take or renew the lease; None when the store does not answer."""
        asked_at_ms = self._clock.monotonic_ms()
        ask = self._acquire()
        try:
            grant = await within(self._clock, ask, timeout_ms, "the lease")
        except MomError as error:
            _log.warning("the store gives no word on the lead: %s", error.message)
            return None
        if grant.holder == self._holder:
            self._ends_at_ms = asked_at_ms + self._attempt_ms_max
        return grant

    async def _acquire(self) -> LeaseGrant:
        lease_ms = self._cadence.leader_lease_ms
        grant = await self._store.acquire_lease(LEADER_LEASE, self._holder, lease_ms)
        process = grant.holder.rpartition(PROCESS_MARK)[2]
        if grant.holder == self._holder or not process or not self._is_gone(process):
            return grant
        _log.info(
            "the leader's process has ended: its lease is released", extra={"holder": grant.holder}
        )
        # In the dead one's name: nothing happens if another has the lease by now.
        await self._store.release_lease(LEADER_LEASE, grant.holder)
        return await self._store.acquire_lease(LEADER_LEASE, self._holder, lease_ms)

    async def _term(self, token: int) -> None:
        self._deposed.clear()
        try:
            self.fence = await within(
                self._clock, self._sign(token), self._left_ms(), "signing as leader"
            )
            _log.info("master %s leads", self._master_id, extra={"term": token})
            await self._on_start()
            self.started.set()
            await self._keep(token)
        except MomError as error:
            _log.warning("the lead could not be taken up: %s", error.message)
            await self._clock.sleep(RETRY_MS)
        finally:
            fence, self.fence = self.fence, None
            self.started.clear()
            await self._on_end()
            _log.info("master %s no longer leads", self._master_id, extra={"term": token})
            if fence is not None:
                await self._release(fence)

    async def _sign(self, token: int) -> Fence:
        """Write the leader's record, over whatever stands there."""
        record = LeaderRecord(master_id=self._master_id, address=self.address, token=token)
        while True:
            standing = await self._store.get(LEADER_KEY)
            revision = standing.revision if standing is not None else 0
            with suppress(ConflictError):
                signed = await self._store.write(
                    [KeyWrite(LEADER_KEY, catalog.encode(record), revision)]
                )
                await self._view.reached(signed)
                return Fence(record, signed)

    async def _keep(self, token: int) -> None:
        """Renew until the lease is lost or about to end."""
        wait_ms = self._cadence.leader_renew_ms
        while self.leading and not await woken(
            self._clock, self._deposed, min(wait_ms, self._left_ms())
        ):
            grant = await self._ask(self._left_ms())
            wait_ms = self._cadence.leader_renew_ms if grant is not None else RETRY_MS
            if grant is not None and (grant.holder, grant.token) != (self._holder, token):
                self._ends_at_ms = 0

    def _left_ms(self) -> int:
        return max(1, self._ends_at_ms - self._clock.monotonic_ms())

    async def _release(self, fence: Fence) -> None:
        """Let another master lead at once, if this one still could."""
        if self._clock.monotonic_ms() >= self._ends_at_ms:
            return
        self._ends_at_ms = 0
        try:
            await within(self._clock, self._hand_over(fence), RELEASE_MS_MAX, "the hand-over")
        except MomError as error:
            _log.warning("the lead could not be handed over: %s", error.message)

    async def _hand_over(self, fence: Fence) -> None:
        await self._store.release_lease(LEADER_LEASE, self._holder)
        # Last, since it is what the others wait for; a new signature is not touched.
        with suppress(ConflictError):
            await self._store.write([KeyWrite(LEADER_KEY, None, fence.revision)])
