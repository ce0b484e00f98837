"""Which of the operator's replicas works: the holder of a Lease of ``coordination.k8s.io``.

The holder renews every RENEW_MS. The others take over when the record has stood still for LEASE_MS
by their own clock: clocks of machines are not compared. The holder counts from before its last
renewal was sent, and stops STOP_MS before the others may begin, so that two never work at a time
unless a process stands still in the middle of a call; every write carries preconditions for that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, Protocol

from mom_core.errors import MomError
from mom_core.ports import Clock
from mom_operator.kube import KubeError, Object

LEASE_MS: Final = 15_000
RENEW_MS: Final = 2_500
STOP_MS: Final = 5_000
# The others look this often.
LOOK_MS: Final = 1_000

_log = logging.getLogger(__name__)


class LeaseApi(Protocol):
    """What is needed of :class:`mom_operator.kube.Kube`."""

    async def get(self, kind: str, namespace: str, name: str) -> Object | None:
        """The lease."""

    async def create(self, manifest: Object) -> Object:
        """Make it."""

    async def replace(self, manifest: Object) -> Object:
        """Write it under its version."""


class Sighting(NamedTuple):
    """A version of the lease, and when it was first seen, monotonic."""

    resource_version: str
    since_ms: int


def may_take(spec: dict[str, Any], identity: str, sighting: Sighting, now_ms: int) -> bool:
    """Whether the lease is ours already, free, or has stood still for its whole duration."""
    holder = spec.get("holderIdentity") or ""
    if holder in ("", identity):
        return True
    duration_ms = int(spec.get("leaseDurationSeconds") or LEASE_MS // 1000) * 1000
    return now_ms - sighting.since_ms >= duration_ms


def record(
    spec: dict[str, Any], identity: str, now: datetime, duration_ms: int = LEASE_MS
) -> dict[str, Any]:
    """The lease as its taker writes it; keeps the count of changes of hands."""
    changed = (spec.get("holderIdentity") or "") != identity
    moment = now.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {
        "holderIdentity": identity,
        "leaseDurationSeconds": max(1, duration_ms // 1000),
        "acquireTime": moment if changed else spec.get("acquireTime", moment),
        "renewTime": moment,
        "leaseTransitions": int(spec.get("leaseTransitions") or 0) + (1 if changed and spec else 0),
    }


class Election:
    """Stands for leader for as long as it runs."""

    def __init__(
        self,
        api: LeaseApi,
        *,
        namespace: str,
        name: str,
        identity: str,
        clock: Clock,
        lead: Callable[[], None],
        stop: Callable[[], Awaitable[None]],
    ) -> None:
        """``lead`` begins the work, ``stop`` ends it at once."""
        self._api = api
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._clock = clock
        self._lead = lead
        self._stop = stop
        self._sighting = Sighting("", 0)
        self._until_ms = 0
        self.leading = False

    async def run(self) -> None:
        """Stand for leader until cancelled; then stop working and let the lease go."""
        try:
            while True:
                await self._turn()
                await self._clock.sleep(RENEW_MS if self.leading else LOOK_MS)
        finally:
            await self._step_down()

    async def _turn(self) -> None:
        began_ms = self._clock.monotonic_ms()
        left_s = (self._until_ms - began_ms) / 1000 if self.leading else None
        try:
            async with asyncio.timeout(left_s):
                taken = await self._try()
        except TimeoutError:
            taken = False
        except MomError as error:
            _log.warning("the leader's lease can't be reached: %s", error.message)
            if self.leading and self._clock.monotonic_ms() < self._until_ms:
                return  # The lease still holds, and the next turn comes before it ends.
            taken = False
        if taken:
            self._until_ms = began_ms + LEASE_MS - STOP_MS
        await self._become(taken)

    async def _become(self, leading: bool) -> None:
        if leading and not self.leading:
            _log.info("leading", extra={"identity": self._identity})
            self.leading = True
            self._lead()
        elif self.leading and not leading:
            _log.warning("no longer leading", extra={"identity": self._identity})
            self.leading = False
            await self._stop()

    async def _try(self) -> bool:
        """Take or renew the lease; False when another holds it or was faster."""
        standing = await self._api.get("Lease", self._namespace, self._name)
        if standing is None:
            return await self._write(self._api.create, {"metadata": self._metadata()}, {})
        version = standing["metadata"]["resourceVersion"]
        now_ms = self._clock.monotonic_ms()
        if version != self._sighting.resource_version:
            self._sighting = Sighting(version, now_ms)
        spec = standing.get("spec") or {}
        if not may_take(spec, self._identity, self._sighting, now_ms):
            return False
        return await self._write(self._api.replace, standing, spec)

    async def _write(
        self,
        write: Callable[[Object], Awaitable[Object]],
        standing: Object,
        spec: dict[str, Any],
        *,
        identity: str | None = None,
    ) -> bool:
        lease = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": standing["metadata"],
            "spec": record(spec, self._identity if identity is None else identity, _now()),
        }
        try:
            await write(lease)
        except KubeError as error:
            if error.http_code == 409:  # Another one wrote first.
                return False
            raise
        return True

    def _metadata(self) -> dict[str, Any]:
        return {"namespace": self._namespace, "name": self._name}

    async def _step_down(self) -> None:
        if not self.leading:
            return
        self.leading = False
        await self._stop()
        with suppress(MomError, TimeoutError):
            async with asyncio.timeout(2):
                standing = await self._api.get("Lease", self._namespace, self._name)
                if standing and standing["spec"].get("holderIdentity") == self._identity:
                    await self._write(self._api.replace, standing, standing["spec"], identity="")
                    _log.info("the leader's lease is free again")


def _now() -> datetime:
    return datetime.now(UTC)
