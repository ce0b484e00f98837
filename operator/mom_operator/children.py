"""The objects that a cluster consists of: applied when they differ, never taken over, pruned.

An apply is left out when the manifest is the one that was applied last and the object still looks
as it did right after that, so a resync of a cluster that is in order calls nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any, Final, NamedTuple

import msgspec

from mom_core.ports import Clock
from mom_operator.informer import Informer, slim
from mom_operator.kube import FormerOwnerError, Kube, Object, check_owner, owner_uids

# Kinds that are mirrored by a watch of our label.
MIRRORED: Final = (
    "Pod",
    "StatefulSet",
    "Deployment",
    "Service",
    "ServiceAccount",
    "ConfigMap",
    "Ingress",
    "NetworkPolicy",
    "PodDisruptionBudget",
)
# Kinds of which a child may go when the spec wants it no more. What holds data is not among them.
PRUNED: Final = (
    "ConfigMap",
    "Ingress",
    "NetworkPolicy",
    "PodDisruptionBudget",
    "Service",
    "ServiceAccount",
)
# Secrets and others that are read by name, again after this.
READ_AGAIN_MS: Final = 15_000
# What is remembered of applied objects: some twenty for a cluster.
REMEMBERED_MAX: Final = 20_000


class ChildKey(NamedTuple):
    """One object."""

    kind: str
    namespace: str
    name: str


class _Read(NamedTuple):
    at_ms: int
    obj: Object | None


class Children:
    """Applies and removes objects, from mirrors where there are any."""

    def __init__(
        self, kube: Kube, mirrors: Mapping[str, Mapping[str, Informer]], clock: Clock
    ) -> None:
        """``mirrors``: by kind, then by namespace; an empty one is of all namespaces."""
        self._kube = kube
        self._mirrors = mirrors
        self._clock = clock
        self._applied: dict[ChildKey, tuple[bytes, bytes]] = {}
        self._read: dict[ChildKey, _Read] = {}

    # Reading.

    def mirrored(self, kind: str, namespace: str) -> Informer | None:
        """The mirror of a kind that has a namespace."""
        mirrors = self._mirrors.get(kind, {})
        return mirrors.get(namespace) or mirrors.get("")

    async def find(self, key: ChildKey) -> Object | None:
        """An object as it stands: mirrored, or read by name not long ago."""
        mirror = self.mirrored(key.kind, key.namespace)
        if mirror is not None:
            found = mirror.get(key.namespace, key.name)
            if found is not None:
                return found
        now_ms = self._clock.monotonic_ms()
        read = self._read.get(key)
        # What a mirror lacks is asked for each time: it may be someone's, without our label.
        if mirror is None and read is not None and now_ms - read.at_ms < READ_AGAIN_MS:
            return read.obj
        obj = await self._kube.get(*key)
        if mirror is None:
            self._remember_read(key, obj)
        return obj

    def owned(self, kind: str, namespace: str, owner_uid: str) -> Iterable[Object]:
        """The mirrored objects of a kind that belong to an owner."""
        mirror = self.mirrored(kind, namespace)
        if mirror is None:
            return ()
        return [
            obj
            for obj in mirror.all()
            if obj["metadata"].get("namespace") == namespace and owner_uid in owner_uids(obj)
        ]

    # Writing.

    async def apply(self, manifest: Object) -> Object:
        """Make an object as the manifest says. Raises OwnershipError, FormerOwnerError, KubeError.

        A Secret is applied without being looked into: its data is the manifest's.
        """
        metadata = manifest["metadata"]
        key = ChildKey(manifest["kind"], metadata["namespace"], metadata["name"])
        existing = await self.find(key)
        wanted = _digest(manifest)
        if existing is not None:
            try:
                check_owner(manifest, existing)
            except FormerOwnerError:
                self._read.pop(key, None)  # It goes any moment.
                raise
            if self._applied.get(key) == (wanted, fingerprint(existing)):
                return existing
        applied = slim(await self._kube.apply(manifest, existing))
        mirror = self.mirrored(key.kind, key.namespace)
        if mirror is not None:
            mirror.learn(applied)
        else:
            self._remember_read(key, applied)
        if len(self._applied) >= REMEMBERED_MAX:
            self._applied.clear()
        self._applied[key] = (wanted, fingerprint(applied))
        return applied

    async def prune(self, namespace: str, owner_uid: str, wanted: set[ChildKey]) -> None:
        """Remove an owner's objects that are not wanted any more, of kinds that hold no data."""
        for kind in PRUNED:
            for obj in tuple(self.owned(kind, namespace, owner_uid)):
                metadata = obj["metadata"]
                key = ChildKey(kind, namespace, metadata["name"])
                if key not in wanted and not metadata.get("deletionTimestamp"):
                    await self._kube.delete(kind, namespace, key.name, metadata["uid"])

    def forget_reads(self, namespace: str, names: Iterable[str]) -> None:
        """Read these Secrets again at their next use."""
        for name in names:
            self._read.pop(ChildKey("Secret", namespace, name), None)

    def _remember_read(self, key: ChildKey, obj: Object | None) -> None:
        if len(self._read) >= REMEMBERED_MAX:
            self._read.clear()
        self._read[key] = _Read(self._clock.monotonic_ms(), obj)


# What the API server and controllers change all the time.
_VOLATILE: Final = frozenset({"resourceVersion", "managedFields", "generation"})


def fingerprint(obj: Mapping[str, Any]) -> bytes:
    """A digest of everything in an object that someone may set on purpose."""
    metadata = {key: value for key, value in obj["metadata"].items() if key not in _VOLATILE}
    rest = {key: value for key, value in obj.items() if key not in ("status", "metadata")}
    return _digest(rest | {"metadata": metadata})


def _digest(obj: Mapping[str, Any]) -> bytes:
    return blake2b(msgspec.json.encode(obj, order="deterministic"), digest_size=16).digest()
