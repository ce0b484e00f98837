"""Kubernetes nodes: their failure domains, and which of them are gone. Read by name, seldom.

An operator that may only see one namespace can't read them: racks are then empty, and no pod is
deleted by force, since nobody says that its machine is gone.
"""

from __future__ import annotations

import logging
from typing import Final, NamedTuple

from mom_core.errors import ErrorCode, MomError
from mom_core.ports import Clock
from mom_operator.kube import Kube, Object
from mom_operator.observed import machine_is_gone

# A machine's labels hardly ever change.
RACK_MS: Final = 600_000
# Whether it is gone is asked only while a pod can't leave it.
GONE_MS: Final = 5_000
REMEMBERED_MAX: Final = 10_000

_log = logging.getLogger(__name__)


class _Read(NamedTuple):
    at_ms: int
    machine: Object | None


class Machines:
    """What is known of Kubernetes nodes."""

    def __init__(self, kube: Kube, clock: Clock) -> None:
        self._kube = kube
        self._clock = clock
        self._read: dict[str, _Read] = {}
        self._forbidden = False

    async def rack(self, machine: str, label: str) -> str:
        """The failure domain of a machine, empty where it is not known."""
        if not machine or not label:
            return ""
        found = await self._machine(machine, RACK_MS)
        if found is None:
            return ""
        return str((found["metadata"].get("labels") or {}).get(label, ""))

    async def gone(self, machines: set[str]) -> frozenset[str]:
        """Those of the machines that are not there or not ready."""
        gone = set()
        for machine in machines:
            found = await self._machine(machine, GONE_MS)
            if not self._forbidden and machine_is_gone(found):
                gone.add(machine)
        return frozenset(gone)

    async def _machine(self, name: str, age_ms_max: int) -> Object | None:
        now_ms = self._clock.monotonic_ms()
        read = self._read.get(name)
        if self._forbidden or (read is not None and now_ms - read.at_ms < age_ms_max):
            return read.machine if read is not None else None
        try:
            machine = await self._kube.get("Node", "", name)
        except MomError as error:
            if error.code is not ErrorCode.FORBIDDEN:
                raise
            _log.warning("Kubernetes nodes may not be read: racks are not known, %s", error.message)
            self._forbidden = True
            return None
        if len(self._read) >= REMEMBERED_MAX:
            self._read.clear()
        self._read[name] = _Read(now_ms, machine)
        return machine
