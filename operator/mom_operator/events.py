"""Events: what happened to a resource, for ``kubectl describe``. Each is told once in a while."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, Final

from mom_core.errors import MomError
from mom_core.ports import Clock
from mom_operator.kube import FIELD_MANAGER, Kube, KubeError, Object

# The same again is left out for this long.
SILENT_MS: Final = 600_000
# Events of which the time is remembered.
REMEMBERED_MAX: Final = 4_096
MESSAGE_LENGTH_MAX: Final = 1_000

_log = logging.getLogger(__name__)


class Events:
    """Writes events. One that can't be written is no failure of anything else."""

    def __init__(self, kube: Kube, clock: Clock) -> None:
        self._kube = kube
        self._clock = clock
        self._told_ms: dict[str, int] = {}

    async def tell(self, about: Object, kind: str, reason: str, message: str) -> None:
        """Tell an event of type ``kind`` (Normal or Warning) about a resource."""
        metadata = about["metadata"]
        digest = blake2b(
            "\0".join((metadata["uid"], kind, reason, message)).encode(), digest_size=8
        ).hexdigest()
        now_ms = self._clock.monotonic_ms()
        told_ms = self._told_ms.get(digest)
        if told_ms is not None and now_ms - told_ms < SILENT_MS:
            return
        if len(self._told_ms) >= REMEMBERED_MAX:
            self._told_ms.clear()
        self._told_ms[digest] = now_ms
        try:
            await self._write(_event(about, digest, kind, reason, message))
        except MomError as error:
            _log.debug("an event could not be written: %s", error.message)

    async def _write(self, event: Object) -> None:
        try:
            await self._kube.create(event)
        except KubeError as error:
            if error.http_code != 409:
                raise
            await self._repeat(event)

    async def _repeat(self, event: Object) -> None:
        """The same stands there from before our start: count it up."""
        metadata = event["metadata"]
        standing = await self._kube.get("Event", metadata["namespace"], metadata["name"])
        if standing is not None:
            patch = {
                "count": int(standing.get("count") or 1) + 1,
                "lastTimestamp": event["lastTimestamp"],
            }
            await self._kube.patch("Event", metadata["namespace"], metadata["name"], patch)


def _event(about: Object, digest: str, kind: str, reason: str, message: str) -> Object:
    metadata: dict[str, Any] = about["metadata"]
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": f"{metadata['name'][:200]}.{digest}",
            "namespace": metadata["namespace"],
        },
        "involvedObject": {
            "apiVersion": about["apiVersion"],
            "kind": about["kind"],
            "namespace": metadata["namespace"],
            "name": metadata["name"],
            "uid": metadata["uid"],
            "resourceVersion": metadata.get("resourceVersion", ""),
        },
        "type": kind,
        "reason": reason,
        "message": message[:MESSAGE_LENGTH_MAX],
        "count": 1,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "source": {"component": FIELD_MANAGER},
        "reportingComponent": FIELD_MANAGER,
        "reportingInstance": FIELD_MANAGER,
    }
